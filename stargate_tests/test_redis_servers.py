"""The Redis servers of the tests: each thing that they can do, once."""

import pytest
import redis

from stargate_tests.certificates import certificate
from stargate_tests.redis_servers import RedisServer


@pytest.fixture
def server(own_redis):
    return own_redis()


def answers(url, **options):
    with redis.Redis.from_url(url, **options) as client:
        return client.ping()


def test_it_answers_on_its_port_and_on_its_socket(own_redis):
    server = own_redis(requirepass="sesame")
    assert answers(server.url)
    assert answers(server.unix_url)
    assert "Ready to accept connections" in server.log


def test_it_answers_over_tls(own_redis):
    assert answers(own_redis(tls=True).url, ssl_ca_certs=certificate().authority)


def test_users_are_let_in_as_they_are_written_down(own_redis):
    server = own_redis(user=["default off", "worker on >word ~stargate:* +@all"])
    assert answers(server.url.replace("redis://", "redis://worker:word@"))
    with pytest.raises(redis.AuthenticationError):
        answers(server.url)
    assert server.client().ping()


def test_the_server_of_all_tests_has_a_namespace_for_each(redis_server, namespace):
    client = redis_server.client()
    client.set(f"{namespace}:here", "1")
    assert client.keys(f"{namespace}*") == [f"{namespace}:here"]


def test_stopped_in_good_order_it_has_everything_when_it_comes_back(server):
    port, client = server.port, server.client()
    client.set("key", "value")
    server.stop()
    assert not server.running
    server.start()
    assert server.port == port
    assert client.get("key") == "value"


def test_killed_it_has_lost_what_was_not_on_its_disk(server):
    server.client().set("key", "value")
    server.kill()
    server.start()
    assert server.client().get("key") is None


def test_killed_it_keeps_all_where_it_writes_it_down(own_redis):
    server = own_redis(appendonly="yes")
    server.client().set("key", "value")
    server.kill()
    server.start()
    assert server.client().get("key") == "value"


@pytest.mark.parametrize("appendonly", ["yes", "no"])
def test_it_comes_back_with_an_older_state(own_redis, appendonly):
    server = own_redis(appendonly=appendonly)
    server.client().set("key", "old")
    snapshot = server.snapshot()
    server.client().set("key", "new")
    server.restore(snapshot)
    assert server.client().get("key") == "old"


def test_it_comes_back_with_nothing(own_redis):
    server = own_redis(appendonly="yes")
    server.client().set("key", "value")
    server.wipe()
    assert server.client().get("key") is None


def test_standing_still_it_answers_when_it_goes_on(server):
    server.pause()
    with pytest.raises(redis.TimeoutError):
        server.client(socket_timeout=0.05).ping()
    server.resume()
    assert server.client().ping()


def test_a_port_that_another_has_taken_is_not_used(monkeypatch, server):
    ports = iter([server.port, server.port, server.port + 1, server.port + 2])
    monkeypatch.setattr("stargate_tests.redis_servers.free_port", lambda: next(ports))
    with RedisServer() as other:
        assert other.port > server.port
        assert answers(other.url)


def test_one_that_does_not_start_says_why(redis_path):
    with pytest.raises(AssertionError, match="nonsense"):
        RedisServer(nonsense="yes")
