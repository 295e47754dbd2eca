"""Who waits holds no place: silent, idle and slow connections beside requests and handshakes."""

import errno
import json
import socket
from contextlib import ExitStack

import pytest

from stargate.engine import conversation
from stargate_tests import raw, transports
from stargate_tests.functional.tree import make_app
from stargate_tests.waiting import wait_until

PAGE = b"GET /a/@@page HTTP/1.1\r\nHost: localhost\r\n\r\n"

#: A request that is being read: the application waits for its body.
HALF = b"POST /a/@@body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"


@pytest.fixture
def start(live_server, request, tmp_path):
    return transports.over(getattr(request, "param", "tcp"), live_server, tmp_path)


over_all = pytest.mark.parametrize("start", transports.ALL, indirect=True)


def app():
    def body(context, request):
        return json.loads(request.body)

    return make_app(lambda config: config.add_view(body, name="body", renderer="json"))


def get(sock):
    """Ask for a page; returns the head of the answer."""
    sock.sendall(PAGE)
    return answer(sock)


def answer(sock):
    head = raw.read_head(sock)
    size = int(dict(line.split(b": ") for line in head.splitlines()[1:] if line)[b"Content-Length"])
    raw._exactly(sock, size)
    return head


def ok(head):
    return head.startswith(b"HTTP/1.1 200 ")


@over_all
def test_silent_idle_and_slow_connections_keep_nobody_out(start):
    server = start(app(), connection_limit="2")
    http = server.server.http
    with ExitStack() as stack:
        for number in range(30):
            sock = stack.enter_context(raw.dial(server.url))
            if number % 3 == 1:
                assert ok(get(sock))
            elif number % 3 == 2:
                sock.sendall(b"GET /a HTTP/1.1\r\nX: ")
        wait_until(lambda: len(http._heads) == 10)
        with raw.dial(server.url) as page, raw.connect(server.url, "/a") as websocket:
            for _ in range(3):
                assert ok(get(page))
            server.gate.send("/a", "in")
            assert raw.read_frame(websocket) == (1, b"in")
        assert len(http) >= 30


@over_all
def test_a_request_beyond_the_limit_waits_for_its_turn(start):
    server = start(app(), connection_limit="2")
    http = server.server.http
    with ExitStack() as stack:
        one, two, kept, new = (stack.enter_context(raw.dial(server.url)) for _ in range(4))
        assert ok(get(kept))
        for sock in (one, two):
            sock.sendall(HALF)
        wait_until(lambda: len(http._served) == 2)
        kept.sendall(PAGE)
        wait_until(lambda: len(http._asking) == 1)
        new.sendall(PAGE)
        wait_until(lambda: len(http._asking) == 2)
        one.sendall(b"11")
        for sock in (one, kept, new):
            assert ok(answer(sock))
        wait_until(lambda: len(http._served) == 1)
        two.sendall(b"22")
        assert ok(answer(two))


def test_a_request_that_finds_no_place_in_time_gets_503(start):
    server = start(app(), connection_limit="1", header_timeout="0.3")
    with raw.dial(server.url) as one, raw.dial(server.url) as two:
        one.sendall(HALF)
        wait_until(lambda: server.server.http._served)
        two.sendall(PAGE)
        found = raw.read_all(two)
        assert found.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: 10\r\n" in found
        assert server.server.engine.refusals["busy"] == 1
        one.sendall(b"11")
        assert ok(answer(one))


def test_a_request_that_waits_is_served_when_the_server_stops(start):
    server = start(app(), connection_limit="1")
    http = server.server.http
    with raw.dial(server.url) as one, raw.dial(server.url) as two, raw.dial(server.url) as kept:
        assert ok(get(kept))
        one.sendall(HALF)
        wait_until(lambda: http._served)
        two.sendall(PAGE)
        kept.sendall(PAGE)
        wait_until(lambda: len(http._asking) == 2)
        server.server.engine.call_from_thread(server.server.stop)
        wait_until(http.is_stopping)
        one.sendall(b"11")
        for sock in (one, two, kept):
            assert ok(answer(sock))
            assert raw.read_all(sock) == b""


def test_a_connection_that_is_idle_has_keepalive_timeout_and_a_new_one_header_timeout(start):
    server = start(app(), header_timeout="0.2", keepalive_timeout="60")
    with raw.dial(server.url) as kept, raw.dial(server.url) as silent:
        assert ok(get(kept))
        assert raw.read_all(silent) == b""
        assert ok(get(kept))
        kept.sendall(PAGE[:10])  # From here on it is a head.
        assert raw.read_all(kept).startswith(b"HTTP/1.1 408 ")


def test_a_connection_that_is_idle_for_too_long_is_closed_cleanly(start):
    server = start(app(), keepalive_timeout="0.2")
    with raw.dial(server.url) as kept:
        assert ok(get(kept))
        assert kept.recv(1) == b""  # No reset.


@over_all
def test_where_descriptors_run_short_the_longest_idle_goes_first(start):
    server = start(app())
    http = server.server.http
    with ExitStack() as stack:
        first, second, third, silent = (stack.enter_context(raw.dial(server.url)) for _ in range(4))
        for sock in (second, first, third):
            assert ok(get(sock))
        wait_until(lambda: len(http._idle) == 3)
        http._descriptors = 4
        new = stack.enter_context(raw.dial(server.url))
        assert ok(get(new))
        assert second.recv(1) == b""
        for sock in (first, third, silent):
            assert ok(get(sock))


def test_then_those_go_that_are_slowest_with_their_first_request(start):
    server = start(app())
    http = server.server.http
    with raw.dial(server.url) as silent, raw.dial(server.url) as slow:
        wait_until(lambda: len(http) == 2)
        slow.sendall(b"GET")
        wait_until(lambda: http._heads)
        http._descriptors = 2
        with raw.dial(server.url) as new:
            assert ok(get(new))
            assert silent.recv(1) == b""
            slow.sendall(PAGE[3:])
            assert ok(answer(slow))


def test_one_whose_request_has_just_come_is_served_and_another_goes(start):
    server = start(app())
    http = server.server.http
    with raw.dial(server.url) as first, raw.dial(server.url) as second:
        for sock in (first, second):
            assert ok(get(sock))
        wait_until(lambda: len(http._idle) == 2)

        def at_once():
            first.sendall(PAGE)
            assert http._make_room()

        server.server.engine.ask_from_thread(at_once)
        assert ok(answer(first))
        assert second.recv(1) == b""


def test_heads_that_are_not_whole_hold_no_more_memory_than_the_requests_may(start):
    server = start(app(), connection_limit="1", max_header_size="1000", max_request_line="100")
    http = server.server.http
    with raw.dial(server.url) as long, raw.dial(server.url) as short, raw.dial(server.url) as last:
        for sock, size in ((long, 800), (short, 200)):
            sock.sendall(b"GET /a/@@page HTTP/1.1\r\nX: " + b"x" * size)
        wait_until(lambda: len(http._heads) == 2)
        last.sendall(b"GET /a/@@page HTTP/1.1\r\nX: " + b"x" * 200)
        assert raw.read_all(long).startswith(b"HTTP/1.1 503 ")
        for sock in (short, last):
            sock.sendall(b"\r\nHost: localhost\r\n\r\n")
            assert ok(answer(sock))
        wait_until(lambda: not http._heads)
        assert http._heads_size == 0


@over_all
def test_a_connection_that_waits_can_be_cut(start):
    server = start(app(), connection_limit="1")
    http = server.server.http
    with ExitStack() as stack:
        silent, slow, idle, busy, asks = (
            stack.enter_context(raw.dial(server.url)) for _ in range(5)
        )
        assert ok(get(idle))
        slow.sendall(b"GET")
        busy.sendall(HALF)
        wait_until(lambda: http._heads and http._served)
        asks.sendall(PAGE)
        wait_until(lambda: http._asking)
        server.server.engine.call_from_thread(server.server.cut)
        for sock in (silent, slow, idle, busy, asks):
            with pytest.raises((EOFError, OSError)):
                raw._exactly(sock, 1)
        wait_until(lambda: not http)


def test_a_half_that_is_closed_behind_part_of_a_head_is_told_so(start):
    with raw.dial(start(app()).url) as sock:
        sock.sendall(PAGE[:-2])
        sock.shutdown(socket.SHUT_WR)
        found = raw.read_all(sock)
    assert found.startswith(b"HTTP/1.1 400 ") and found.endswith(b"the request has no end\n")


def test_a_kept_connection_that_cannot_be_watched_is_closed_cleanly(start, monkeypatch):
    server = start(app())
    engine, http = server.server.engine, server.server.http
    with raw.dial(server.url) as sock, raw.dial(server.url) as other:
        sock.sendall(HALF)
        wait_until(lambda: http._served)

        def watch(fd, events, ready):
            monkeypatch.undo()
            raise OSError(errno.ENOSPC, "No space left")

        monkeypatch.setattr(engine, "watch", watch)
        sock.sendall(b"11")
        assert ok(answer(sock))
        assert sock.recv(1) == b""
        assert ok(get(other))
        wait_until(lambda: len(http) == 1)


def test_a_request_for_which_there_is_no_memory_ends_its_connection_alone(start, monkeypatch):
    server = start(app())
    http = server.server.http

    def green(*args, **options):
        monkeypatch.undo()
        raise MemoryError

    with raw.dial(server.url) as sock, raw.dial(server.url) as other:
        wait_until(lambda: len(http) == 2)
        monkeypatch.setattr(conversation.eventlet.greenio, "GreenSocket", green)
        sock.sendall(PAGE)
        assert raw.read_all(sock) == b""
        assert ok(get(other))
        assert len(http) == 1
    wait_until(lambda: not http and not http._served)
