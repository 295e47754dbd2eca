"""More than one Redis: what a replica, a Sentinel and a Cluster of the tests can do, once."""

from contextlib import ExitStack

import pytest
import redis

from stargate_tests.redis_groups import Sentinel, replica_of
from stargate_tests.waiting import wait_until


@pytest.fixture
def primary(own_redis):
    return own_redis(requirepass="word")


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def replica(primary, stack):
    return stack.enter_context(replica_of(primary, requirepass="word"))


def test_a_replica_lags_behind_and_catches_up(primary, replica):
    primary.ask("SET", "key", "old")
    replica.catch_up()
    replica.lag()
    primary.ask("SET", "key", "new")
    assert primary.ask("WAIT", 1, 50) == 0, "no replica has it"
    assert replica.ask("GET", "key") == "old"
    replica.catch_up()
    assert replica.ask("GET", "key") == "new"


def test_a_replica_that_lags_behind_becomes_a_primary_without_the_rest(primary, replica):
    primary.ask("SET", "key", "old")
    replica.catch_up()
    replica.lag()
    primary.ask("SET", "key", "new")
    assert primary.ask("WAIT", 1, 50) == 0, "no replica has it"
    primary.kill()
    replica.promote()
    assert replica.ask("GET", "key") == "old"
    assert replica.ask("SET", "key", "newer") == "OK"
    replica.restart()
    assert replica.info("replication")["role"] == "master"
    assert replica.ask("GET", "key") == "newer"


def test_a_sentinel_promotes_the_replica_of_one_that_is_gone(primary, replica, stack):
    sentinel = stack.enter_context(Sentinel(primary))
    assert sentinel.primary_port == primary.port
    wait_until(sentinel.sees_replicas)
    primary.kill()
    wait_until(lambda: sentinel.primary_port == replica.port)
    wait_until(lambda: replica.info("replication")["role"] == "master")
    assert sentinel.url == f"redis+sentinel://:word@127.0.0.1:{sentinel.port}/stargate/0"


def test_a_sentinel_fails_over_when_it_is_told(primary, replica, stack):
    sentinel = stack.enter_context(Sentinel(primary))
    sentinel.fail_over()
    assert sentinel.primary_port == replica.port
    sentinel.restart()
    assert sentinel.primary_port == replica.port


def test_a_slot_moves_with_its_keys(redis_cluster, namespace):
    key = f"{{{namespace}}}:key"
    slot, source = redis_cluster.slot(key), redis_cluster.node_of(key)
    target = next(node for node in redis_cluster.nodes if node is not source)
    source.ask("SET", key, "value")
    redis_cluster.move_slot(slot, source, target)
    assert redis_cluster.node_of(slot) is target
    assert target.ask("GET", key) == "value"
    with pytest.raises(redis.exceptions.MovedError, match=f"{slot} 127.0.0.1:{target.port}"):
        source.ask("GET", key)


def test_a_slot_that_moves_is_asked_for_there(redis_cluster, namespace):
    slot, source = redis_cluster.slot(namespace), redis_cluster.node_of(namespace)
    target = next(node for node in redis_cluster.nodes if node is not source)
    redis_cluster.begin_move(slot, source, target)
    with pytest.raises(redis.exceptions.AskError, match=f"{slot} 127.0.0.1:{target.port}"):
        source.ask("GET", namespace)
    redis_cluster.end_move(slot, source, target)
    assert target.ask("GET", namespace) is None


def test_a_cluster_is_one_for_those_who_know_of_clusters(redis_cluster, namespace):
    with redis.RedisCluster("127.0.0.1", redis_cluster.nodes[0].port) as client:
        for number in range(10):
            client.set(f"{namespace}{number}", number)
        assert client.get(f"{namespace}9") == b"9"
    assert redis_cluster.url.count("127.0.0.1:") == 3
