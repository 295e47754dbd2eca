import os
import socket
import ssl
import struct
import threading
import time

import pytest
from redis.exceptions import AuthenticationError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from stargate.backplane.redis.address import parse
from stargate.backplane.redis.commands import Deadline
from stargate.backplane.redis.errors import parsed, reason
from stargate_tests.certificates import certificate
from stargate_tests.redis_relay import UP
from stargate_tests.waiting import wait_until


@pytest.fixture
def connect():
    """``connect(url)``: a connection that is open; closed after the test."""
    made = []

    def connect(url, timeout=10.0):
        connection = parse(url).connection(timeout)
        made.append(connection)
        connection.connect()
        return connection

    yield connect
    for each in made:
        each.disconnect()


def ask(connection, *command):
    connection.send_command(*command)
    return connection.read(Deadline(10.0))


@pytest.fixture(params=["url", "unix_url"])
def url(request, redis_server):
    return getattr(redis_server, request.param)


def test_a_reply_comes_as_it_is(connect, url):
    connection = connect(url)
    assert ask(connection, "ECHO", b"\x00\xff") == b"\x00\xff"
    assert ask(connection, "EVAL", "return {1, {'a', false}}", 0) == [1, [b"a", None]]


def test_a_long_one_comes_whole_and_goes_whole(connect, url):
    assert len(ask(connect(url), "ECHO", b"x" * 10_000_000)) == 10_000_000


def test_an_error_of_the_server_is_raised_and_the_connection_is_good(connect, url):
    connection = connect(url)
    with pytest.raises(ResponseError, match="unknown command"):
        ask(connection, "NO-SUCH")
    assert connection.is_open()
    assert ask(connection, "PING") == b"PONG"


def test_an_idle_connection_that_the_server_has_closed_is_found(connect, redis_server, url):
    connection = connect(url)
    assert connection.is_open()
    id = ask(connection, "CLIENT", "ID")
    redis_server.ask("CLIENT", "KILL", "ID", id)
    wait_until(lambda: not connection.is_open())


def test_an_idle_connection_with_bytes_nobody_asked_for_is_found(connect, redis_server):
    connection = connect(redis_server.unix_url)
    connection.send_command("PING")
    wait_until(lambda: not connection.is_open())


def test_one_that_is_closed_is_not_open(connect, url):
    connection = connect(url)
    connection.disconnect()
    connection.disconnect()
    assert not connection.is_open()


def test_one_whose_socket_is_broken_is_not_open(connect, redis_server):
    connection = connect(redis_server.unix_url)
    os.close(connection._sock.detach())
    assert not connection.is_open()


def test_the_end_of_the_server_is_an_error(connect, own_redis):
    server = own_redis()
    connection = connect(server.url)
    connection.send_command("PING")
    assert connection.read(Deadline(10.0)) == b"PONG"
    server.kill()
    with pytest.raises(ConnectionError, match="the server has closed|reset by peer"):
        connection.read(Deadline(10.0))


def test_a_name_is_given(connect, redis_server):
    connection = connect(f"{redis_server.url}?client_name=shop")
    assert ask(connection, "CLIENT", "GETNAME") == b"shop"


@pytest.mark.parametrize("login", ["", "bob:word@", ":other@"])
def test_a_login_is_checked(connect, own_redis, login):
    server = own_redis(requirepass="other", user=["bob on >word ~* &* +@all"])
    url = f"redis://{login}127.0.0.1:{server.port}/0"
    if not login:
        with pytest.raises(AuthenticationError, match="wants a password"):
            ask(connect(url), "PING")
    else:
        name = ask(connect(url), "ACL", "WHOAMI")
        assert name == (b"bob" if login.startswith("bob") else b"default")


@pytest.mark.parametrize("login", ["bob:wrong", "bob", ":wrong", "nobody:other"])
def test_a_wrong_password_is_an_error_and_not_shown(connect, own_redis, login):
    server = own_redis(requirepass="other", user=["bob on >word ~* &* +@all"])
    with pytest.raises((AuthenticationError, ResponseError)) as caught:
        connect(f"redis://{login}@127.0.0.1:{server.port}/0")
    assert "wrong" not in str(caught.value).replace("WRONGPASS", "")


def test_logging_in_is_one_round_trip(own_redis, relay, connect):
    server = own_redis(requirepass="word")
    between = relay(server, frames=False)
    between.delay[UP] = 1.0
    began = time.monotonic()
    connect(between.url.removesuffix("/0") + "/3?client_name=x")
    assert 1.0 < time.monotonic() - began < 1.9


def test_a_server_that_accepts_and_never_answers_is_given_up(connect):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises((TimeoutError, RedisTimeoutError)):
            connect(f"redis://:word@127.0.0.1:{port}", 0.2)


def test_nobody_there_is_an_error(connect):
    with pytest.raises(ConnectionError, match="Connection refused"):
        connect("redis://127.0.0.1:1")


def test_a_reply_that_trickles_in_does_not_outlast_the_deadline(connect):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connection = connect(f"redis://127.0.0.1:{listening.getsockname()[1]}")
        peer, _address = listening.accept()
        ended = threading.Event()

        def trickle():
            peer.sendall(b"$1000\r\n")
            while not ended.wait(0.05):
                peer.sendall(b"x")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            with pytest.raises(TimeoutError):
                connection.read(Deadline(0.4))
        finally:
            ended.set()
            thread.join()
            peer.close()


def test_a_connection_too_many_is_an_answer_of_the_server():
    assert type(parsed("ERR max number of clients reached")) is ResponseError


def test_what_is_no_reply_is_an_error(connect):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connection = connect(f"redis://127.0.0.1:{listening.getsockname()[1]}")
        peer, _address = listening.accept()
        with peer:
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            with pytest.raises(ConnectionError, match="is no Redis"):
                connection.read(Deadline(10.0))


def test_the_deadline_of_logging_in_may_have_passed_already():
    from stargate.backplane.redis.connection import _Until

    with pytest.raises(TimeoutError, match="too long"):
        _Until(0.0).left()


@pytest.mark.parametrize("writes", [True, False])
def test_an_end_before_the_first_word_over_tls_is_told_as_what_it_means(connect, writes):
    """With TLS 1.3 it may overtake what the server says of our certificate."""
    found, context = certificate(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(found.certfile, found.keyfile)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        opened = threading.Event()

        def reset():
            with context.wrap_socket(listening.accept()[0], server_side=True) as sock:
                opened.wait(20)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        thread = threading.Thread(target=reset)
        thread.start()
        port = listening.getsockname()[1]
        connection = connect(f"rediss://localhost:{port}/0?ssl_ca_certs={found.authority}")
        if not writes:
            connection.send_command("PING")
        opened.set()
        thread.join()
        with pytest.raises(OSError) as ended:
            ask(connection, "PING") if writes else connection.read(Deadline(10.0))
    assert reason(ended.value).startswith("the server has ended TLS: where it wants a certificate")
