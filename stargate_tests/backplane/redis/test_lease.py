import pytest
import redis

from stargate.backplane.redis.lease import Lease, Times
from stargate.backplane.redis.presence_scripts import LIST, UNLIST
from stargate_tests.backplane.redis.presences import CALM, Worker
from stargate_tests.waiting import wait_until

HASTY = Times(lease=0.05, beat=0.01, gather=0.0, verify=1.0, retry=0.01)


def lease(worker, times=CALM):
    return Lease(worker.commands, worker.keys, times)


def test_the_real_times_are_what_is_promised():
    times = Times()
    missed_at_most = times.beat + 2.0 + times.retry  # A call that was under way takes 2 s.
    assert times.lease - missed_at_most >= 15.0, "a pause of the network"
    assert times.lease + times.beat + 2.0 + times.retry <= 30.0, "a worker that is killed"


def test_who_renews_its_lease_is_not_swept_away_and_who_does_not_is(redis_server, workers):
    worker = workers(redis_server)
    one, other = lease(worker), lease(worker, HASTY)
    assert one.look(False)
    assert other.look(False)
    one._patient = 0.0
    assert one.take_gone() == []

    def found():
        one.look(False)
        return one.take_gone()

    wait_until(lambda: found() == [other.worker])
    assert one.take_gone() == [], "once a look"
    assert found() == [other.worker]


def test_a_lease_that_comes_back_from_a_pause_lets_others_come_back_as_well(redis_server, workers):
    worker = workers(redis_server)
    one, other = lease(worker), lease(worker, HASTY)
    other.look(False)
    one.look(False)
    one._patient = 0.0
    one._looked -= CALM.lease / 2
    wait_until(lambda: one.look(False) and one._run_out)
    assert one.take_gone() == []
    one._patient = 0.0
    assert one.take_gone() == [other.worker]


def test_who_was_called_gone_can_not_renew_its_lease(redis_server, workers):
    worker = workers(redis_server)
    one, other = lease(worker), lease(worker)
    one.look(False)
    other.look(False)
    one.end()
    assert list(worker.presence._ledger.sweep(one.worker, other.worker, 60.0)) == []
    assert not one.look(False)
    assert other.look(False)


def test_nothing_is_settled_before_all_that_were_there_have_written_everything(
    redis_server, workers
):
    worker = workers(redis_server)
    one, other = lease(worker), lease(worker)
    one.look(False)
    other.look(False)
    one.look(False)
    before = one.epoch
    redis_server.client().delete(*worker.keys)
    one.look(False)
    assert one.epoch != before
    assert not one.settled
    assert one.take_gone() == []
    one.filled = one.epoch
    one.look(False)
    assert not one.settled, "the other has not"
    other.look(False)
    assert other.epoch == one.epoch
    one.look(False)
    assert not one.settled, "nor has it now"
    other.filled = other.epoch
    other.look(False)
    assert other.settled
    one.look(False)
    assert one.settled


def test_a_lease_that_is_not_as_it_was_renewed_last_means_a_loss(redis_server, workers):
    worker = workers(redis_server)
    one = lease(worker)
    one.look(False)
    client = redis_server.client()
    for change in (
        lambda: client.zrem(worker.keys.workers, one.worker),
        lambda: client.zincrby(worker.keys.workers, -1, one.worker),
    ):
        one.look(False)
        before = one.epoch
        change()
        one.look(False)
        assert one.epoch != before
    before = one.epoch
    one.look(False)
    assert one.epoch == before


def test_who_never_comes_back_is_not_waited_for_longer_than_a_lease(redis_server, workers):
    worker = workers(redis_server)
    one, other = lease(worker), lease(worker)
    other.look(False)
    one.look(False)
    redis_server.client().delete(*worker.keys)
    one.look(False)
    assert not one.settled
    one._settle_by = 0.0
    one.look(False)
    assert one.settled


def test_what_comes_late_takes_no_address_out_of_the_set(redis_server, workers):
    worker = workers(redis_server)
    one = lease(worker)
    one.look(False)
    assert one.in_its_set(LIST, ["/a", "/b"])
    late = one._least
    wait_until(lambda: one.look(False) and one._least > late)
    newest, one._least = one._least, late
    assert not one.in_its_set(UNLIST, ["/a"])
    one._least = newest
    assert one.in_its_set(UNLIST, ["/b"])
    assert redis_server.client().smembers(worker.keys.addresses(one.worker)) == {"/a"}


def test_a_redis_without_memory_renews_leases(own_redis, namespace):
    server = own_redis()
    server.client().config_set("maxmemory", 1)
    worker = Worker(server.url, namespace)
    one = lease(worker)
    with pytest.raises(redis.ResponseError, match="used memory"):
        server.client().set("anything", "at all")
    assert one.look(False)
    assert one.look(False)
    worker.commands.close()
