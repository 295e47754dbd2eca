import pytest

from stargate.exceptions import BackplaneError
from stargate_tests.backplane.redis.presences import DEADLINE
from stargate_tests.waiting import wait_until


def test_what_a_sweep_finds_it_finds_again_with_the_same_ids(redis_server, workers):
    one = workers(redis_server)
    other = workers(redis_server)
    one.enter("/a", "ann")
    one.told()
    one.vanish()
    other.enter("/b", "bob")
    other.told()
    redis_server.client().zadd(one.keys.workers, {one.presence.worker: 1})
    sweep = other.presence._ledger.sweep(one.presence.worker, "first", 0.001)
    first = next(sweep)
    sweep.close()  # As one that is killed in the middle of it.
    wait_until(lambda: not redis_server.client().exists(one.keys.sweeping(one.presence.worker)))
    other.presence._lease._patient = 0.0
    wait_until(lambda: other.signs() == ["+bob", "-ann"], DEADLINE)
    assert other.events[1] == first
    assert first.who == "ann"


def test_nobody_sweeps_what_another_is_sweeping(redis_server, workers):
    one = workers(redis_server)
    one.enter("/a", "ann")
    one.told()
    one.vanish()
    redis_server.client().zadd(one.keys.workers, {one.presence.worker: 1})
    ledger, worker = one.presence._ledger, one.presence.worker
    first = ledger.sweep(worker, "first", 60.0)
    assert next(first).who == "ann"
    assert list(ledger.sweep(worker, "second", 60.0)) == []
    assert list(first) == []
    assert list(ledger.sweep(worker, "second", 60.0)) == [], "it has ended"


def test_a_sweep_that_has_no_time_left_is_left_to_others(redis_server, workers):
    one = workers(redis_server)
    one.enter("/a", "ann")
    one.told()
    one.vanish()
    redis_server.client().zadd(one.keys.workers, {one.presence.worker: 1})
    ledger, worker = one.presence._ledger, one.presence.worker
    assert list(ledger.sweep(worker, "first", 60.0, until=1.0)) == []
    assert [each.who for each in ledger.sweep(worker, "first", 60.0)] == ["ann"]


def test_somebody_elses_key_keeps_nothing_from_being_swept(redis_server, workers):
    one = workers(redis_server)
    one.enter("/a", "ann")
    one.enter("/b", "ann")
    one.told()
    one.vanish()
    client, worker = redis_server.client(), one.presence.worker
    client.zadd(one.keys.workers, {worker: 1})
    client.set(one.place("/a"), "somebody else's")
    found = list(one.presence._ledger.sweep(worker, "first", 60.0))
    assert [each.topic for each in found] == ["/b"]
    assert not client.exists(one.keys.workers)


def test_what_could_not_be_swept_at_one_address_is_swept_later(redis_server, workers):
    one = workers(redis_server)
    one.enter("/a", "ann")
    one.enter("/b", "bob")
    one.told()
    one.vanish()
    ledger, worker = one.presence._ledger, one.presence.worker
    redis_server.client().zadd(one.keys.workers, {worker: 1})
    change = ledger.change
    lost = BackplaneError("unknown", "a node is out of reach")
    ledger.change = lambda calls: [lost, *change(calls[1:])]
    sweep = ledger.sweep(worker, "first", 60.0)
    first = next(sweep)
    with pytest.raises(BackplaneError, match="out of reach"):
        next(sweep)
    ledger.change = change
    (second,) = ledger.sweep(worker, "first", 60.0)
    assert {first.who, second.who} == {"ann", "bob"}
