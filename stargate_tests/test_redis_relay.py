"""The relay in front of a Redis: each harm that it can do, once."""

import contextlib

import pytest
import redis

from stargate_tests.redis_relay import DOWN, UP, Frames
from stargate_tests.waiting import wait_until


@pytest.fixture
def between(redis_server, relay):
    return relay(redis_server)


@pytest.fixture
def client(between):
    """``client(**options)``: through the relay, trying nothing twice."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(
            redis.Redis(**{"port": between.port, "retry": None, "socket_timeout": 30, **options})
        )


@pytest.fixture(params=[2, 3])
def heard(request, client):
    """What one who listens to ``topic`` hears until it is told ``end``."""
    listening = client(protocol=request.param).pubsub(ignore_subscribe_messages=True)

    def heard(topic):
        found = []
        while not found or found[-1] != b"end":
            message = listening.get_message(timeout=30)
            if message is not None:
                found.append(message["data"])
        return found

    heard.subscribe = lambda topic: (listening.subscribe(topic), listening.get_message(timeout=30))
    yield heard
    listening.close()


def test_it_passes_on_and_counts(between, client):
    connection = client().connection_pool.get_connection()
    up, down = between.passed[UP], between.passed[DOWN]
    connection.send_command("PING")
    assert connection.read_response() == b"PONG"
    assert between.passed[UP] - up == len(b"*1\r\n$4\r\nPING\r\n")
    assert between.passed[DOWN] - down == len(b"+PONG\r\n")
    assert between.accepted == between.connections == 1


@pytest.mark.parametrize("direction", [UP, DOWN])
def test_one_direction_stalls_and_flows_again(between, client, direction):
    connection = client().connection_pool.get_connection()
    between.stall(direction)
    connection.send_command("PING")
    assert not connection.can_read(timeout=0.05)
    between.flow(direction)
    assert connection.read_response() == b"PONG"


def test_a_reply_is_cut_in_its_middle(between, client, redis_server, namespace):
    redis_server.ask("SET", namespace, "x" * 1000)
    reader = client()
    reader.ping()
    before = between.passed[DOWN]
    between.cut_after(500)
    with pytest.raises(redis.ConnectionError):
        reader.get(namespace)
    assert between.passed[DOWN] == before + 500
    assert reader.get(namespace) == b"x" * 1000


def test_all_connections_are_cut(between, client):
    reader = client()
    reader.ping()
    between.cut()
    assert between.connections == 0
    assert reader.ping()


def test_all_connections_are_reset(between, client):
    connection = client().connection_pool.get_connection()
    between.cut(reset=True)
    with pytest.raises(ConnectionResetError):
        connection._sock.recv(1)


def test_nobody_can_connect_and_then_everybody(between, client):
    between.refuse()
    with pytest.raises(redis.ConnectionError, match="refused"):
        client().ping()
    between.accept()
    assert client().ping()


def test_a_message_is_left_out_and_another_comes_twice(between, heard, redis_server, namespace):
    heard.subscribe(namespace)
    between.drop(b"two")
    between.repeat(b"three")
    for text in ("one", "two", "three", "two", "end"):
        redis_server.ask("PUBLISH", namespace, text)
    assert heard(namespace) == [b"one", b"three", b"three", b"two", b"end"]
    assert len(between.dropped) == len(between.repeated) == 1
    assert b"two" in between.dropped[0]


def test_a_reply_waits_as_long_as_it_is_told(between, client):
    connection = client().connection_pool.get_connection()
    between.delay[DOWN] = 0.2
    connection.send_command("PING")
    assert not connection.can_read(timeout=0.05)
    assert connection.read_response() == b"PONG"


def test_one_that_is_stalled_can_be_closed(between, client):
    connection = client().connection_pool.get_connection()
    between.stall()
    connection.send_command("PING")
    wait_until(lambda: between.passed[UP])
    between.close()
    assert between.connections == 0


def test_where_the_server_is_gone_a_connection_is_closed(own_redis, relay):
    server = own_redis()
    between = relay(server)
    server.kill()
    with redis.Redis(port=between.port, retry=None) as client:
        with pytest.raises(redis.ConnectionError):
            client.ping()
    assert between.connections == 0


def test_frames_are_whole_however_they_arrive():
    frames = [
        b"+OK\r\n",
        b"$-1\r\n",
        b"*2\r\n$3\r\nfoo\r\n*1\r\n:1\r\n",
        b">3\r\n$7\r\nmessage\r\n$1\r\nt\r\n$4\r\n\r\n\r\n\r\n",
        b"%1\r\n+a\r\n*0\r\n",
        b"|1\r\n+ttl\r\n:1\r\n_\r\n",
        b"=7\r\ntxt:abc\r\n",
    ]
    assert Frames().feed(b"".join(frames)) == frames
    one_by_one, found = Frames(), []
    for number in b"".join(frames):
        found += one_by_one.feed(bytes([number]))
    assert found == frames
