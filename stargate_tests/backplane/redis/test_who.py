from stargate.backplane.redis.address import parse
from stargate.backplane.redis.commands import Commands
from stargate.backplane.redis.who import Reader
from stargate_tests.backplane.redis.presences import DEADLINE


def test_a_reader_needs_no_worker_and_leaves_nothing(redis_server, namespace):
    commands = Commands(parse(redis_server.url), DEADLINE)
    reader = Reader(commands, namespace)
    assert reader.presence("/a") == {}
    assert reader.listener_count("/a") == 0
    assert redis_server.client().keys(f"*{namespace}*") == []
    commands.close()


def test_names_are_read_as_they_were_given(redis_server, workers):
    one = workers(redis_server)
    names = ["ann", "", "1", 1, -7, "ünï ☃", '"', "@worker", "a=1 b=2", "\ud800", "x" * 1000]
    one.enter("/ä☃}", *names)
    assert one.here("/ä☃}") == dict.fromkeys(names, 1)
    assert {each.who for each in one.events} == set(names)
    ids = [each.id for each in one.events]
    assert len(set(ids)) == len(ids)
    assert sorted(ids) == ids
    one.leave("/ä☃}", *names)
    assert one.here("/ä☃}") == {}


def test_workers_with_no_lease_have_nobody_here(redis_server, workers):
    one, other = workers(redis_server), workers(redis_server)
    one.enter("/a", "ann", None)
    one.told()
    other.enter("/a", "ann", "bob")
    other.told()
    redis_server.client().zadd(one.keys.workers, {one.presence.worker: 1})
    one.presence._closed = True
    assert other.here("/a") == {"ann": 1, "bob": 1}
    assert other.reader.listener_count("/a") == 2
