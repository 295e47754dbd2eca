from redis.crc import key_slot

from stargate.backplane.redis.presence_scripts import worker_keys


def test_all_that_workers_have_in_common_is_in_one_place_of_a_cluster():
    keys = worker_keys("shop")
    names = [*keys, keys.addresses("0123"), keys.sweeping("0123")]
    assert len(set(names)) == len(names)
    assert {key_slot(each.encode()) for each in names} == {key_slot(b"shop")}
