"""Who has been refused, or takes an answer for ever, keeps no place and no turn of the others'."""

import socket
from contextlib import ExitStack, suppress

import pytest

from stargate.engine import answer, wsgi
from stargate.engine.hub import threading
from stargate.testing import LiveServer
from stargate_tests import raw, transports
from stargate_tests.functional.tree import make_app
from stargate_tests.gunicorns import Gunicorn
from stargate_tests.waiting import wait_until

PAGE = b"GET /page HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

#: Refused one after the other, each would hold the only place for two seconds.
MANY = 20


def application(environ, start_response):
    if environ["PATH_INFO"] == "/read":
        environ["wsgi.input"].read()
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/endless":
        return iter(lambda: b"x" * 10, None)
    return [b"page"]


@pytest.fixture(scope="module", params=["stargate", "gunicorn"])
def server(request, tmp_path_factory):
    """One with a single place."""
    if request.param == "stargate":
        with LiveServer(application, connection_limit="1") as server:
            yield server
    else:
        folder = tmp_path_factory.mktemp("places")
        app = f"{__name__}:application"
        with Gunicorn(folder, "--worker-connections", 1, app) as gunicorn:
            yield gunicorn


def page(server):
    with raw.dial(server.url) as sock:
        sock.sendall(PAGE)
        return raw.read_all(sock)


def head(line, *lines):
    return "\r\n".join((f"{line} HTTP/1.1", "Host: localhost", *lines, "", "")).encode()


REFUSED = {
    "no request": b"hello\r\n\r\n",
    "no length": head("POST /", "Content-Length: x"),
    "a long line": head("GET /" + "a" * 9000),
    "a failed upgrade": head("GET /", "Upgrade: websocket", "Connection: Upgrade"),
    "no chunk": head("POST /read", "Transfer-Encoding: chunked") + b"zz\r\n",
    "a body that is not asked for": head("POST /", "Content-Length: 5", "Expect: 100-continue"),
    "a body that nobody reads": head("POST /", "Content-Length: 5"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_refused_hold_no_place(server, name):
    with ExitStack() as stack:
        for _ in range(MANY):
            sock = stack.enter_context(raw.dial(server.url))
            sock.sendall(REFUSED[name])
        assert page(server).startswith(b"HTTP/1.1 200 ")


def test_a_fast_reader_of_small_pieces_holds_nobody_up(tmp_path_factory):
    with (
        LiveServer(application) as live,
        Gunicorn(tmp_path_factory.mktemp("fast"), f"{__name__}:application") as gunicorn,
    ):
        for server in (live, gunicorn):
            done = threading.Event()
            with raw.dial(server.url) as sock:
                sock.sendall(head("GET /endless"))
                thread = threading.Thread(target=read_on, args=(sock, done))
                thread.start()
                try:
                    for _ in range(20):
                        assert page(server).startswith(b"HTTP/1.1 200 ")
                finally:
                    done.set()
                    thread.join(30)


def read_on(sock, done):
    with suppress(OSError):
        while not done.is_set() and sock.recv(1 << 20):
            pass


class Taker:
    """A socket whose peer takes everything at once."""

    def __init__(self):
        self.sizes = []

    def send(self, buffer):
        self.sizes.append(len(buffer))
        return len(buffer)


@pytest.mark.parametrize(("size", "count"), [(10, 1000), (1 << 20, 5)])
def test_a_writer_gives_way_after_a_slice_of_work(engine, run, size, count):
    turns, sock = [], Taker()

    def tick():
        turns.append(len(sock.sizes))
        engine.call_soon(tick)

    def write():
        engine.call_soon(tick)
        stream = wsgi._Stream(sock, b"")
        for _ in range(count):
            left = memoryview(bytes(size))
            while left:
                left = left[stream.write(left) :]

    run(write)
    assert sum(sock.sizes) == size * count
    assert max(sock.sizes) <= wsgi.AT_ONCE
    most = max(1, wsgi.AT_ONCE // max(wsgi.AT_LEAST, min(size, wsgi.AT_ONCE)))
    assert all(after - before <= most for before, after in zip(turns, turns[1:], strict=False))
    assert len(turns) >= len(sock.sizes) // most - 1


@pytest.mark.parametrize("transport", transports.ALL)
def test_a_reader_that_takes_nothing_is_waited_for_once(
    live_server, tmp_path, transport, monkeypatch
):
    """What is still buffered then is not tried again, each time for ``socket_timeout``."""
    waits, write = [], wsgi._Stream.write

    def counted(stream, buffer):
        try:
            return write(stream, buffer)
        except TimeoutError:
            waits.append(len(buffer))
            raise

    monkeypatch.setattr(wsgi._Stream, "write", counted)
    server = transports.over(transport, live_server, tmp_path)(application, socket_timeout="0.3")
    with raw.dial(server.url) as sock:
        sock.sendall(head("GET /endless"))
        raw.read_head(sock)
        wait_until(lambda: not server.server.http)
    assert len(waits) == 1


def test_a_body_that_nobody_reads_is_not_waited_for_for_ever(live_server, monkeypatch):
    monkeypatch.setattr(answer, "DISCARD_SECONDS", 0.2)
    server = live_server(application, socket_timeout="60")
    with raw.dial(server.url) as sock:
        sock.sendall(head("POST /", "Content-Length: 5"))
        assert raw.read_head(sock).startswith(b"HTTP/1.1 200 ")
        assert raw._exactly(sock, 4) == b"page"
        assert sock.recv(1) == b""


@pytest.fixture(params=transports.ALL)
def start(request, live_server, tmp_path):
    return transports.over(request.param, live_server, tmp_path)


def test_where_descriptors_run_short_the_refused_go_first(start):
    server = start(make_app())
    http = server.server.http
    kept = head("GET /a/@@page")
    with raw.dial(server.url) as idle, raw.dial(server.url) as refused:
        idle.sendall(kept)
        assert raw.read_head(idle).startswith(b"HTTP/1.1 200 ")
        refused.sendall(REFUSED["no request"])
        assert raw.read_all(refused).startswith(b"HTTP/1.1 400 ")
        wait_until(lambda: len(http._leaving) == 1 and len(http._idle) == 1)
        http._descriptors = 2
        with raw.dial(server.url) as new:
            new.sendall(kept)
            assert raw.read_head(new).startswith(b"HTTP/1.1 200 ")
            assert len(http) == 2 and not http._leaving and len(http._idle) >= 1


def test_a_refused_peer_is_heard_to_its_end_and_not_for_ever(start):
    server = start(make_app())
    http = server.server.http
    with raw.dial(server.url) as ends, raw.dial(server.url) as floods, raw.dial(server.url) as goes:
        for sock in (ends, floods, goes):
            sock.sendall(REFUSED["no request"])
            assert raw.read_all(sock).startswith(b"HTTP/1.1 400 ")
        wait_until(lambda: len(http._leaving) == 3)
        with suppress(OSError):
            floods.sendall(bytes(1 << 22))
        wait_until(lambda: len(http._leaving) <= 2)
        ends.sendall(b"more")
        ends.close()
        wait_until(lambda: len(http) <= 1)
        if goes.family == socket.AF_INET:
            goes.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        goes.close()
        wait_until(lambda: not http)


def test_a_refused_peer_that_stays_is_closed_in_the_end(start):
    server = start(make_app())
    http = server.server.http
    http._leaving._seconds = 0.2
    with raw.dial(server.url) as sock:
        sock.sendall(REFUSED["no request"])
        assert raw.read_all(sock).startswith(b"HTTP/1.1 400 ")
        wait_until(lambda: not http)


def test_a_refused_peer_is_heard_out_while_the_server_stops(start):
    server = start(make_app())
    http = server.server.http
    with raw.dial(server.url) as sock:
        sock.sendall(REFUSED["no request"])
        wait_until(lambda: http._leaving)
        server.server.engine.ask_from_thread(http.stop)
        assert len(http) == 1
        assert raw.read_all(sock).startswith(b"HTTP/1.1 400 ")
        server.server.engine.ask_from_thread(http.cut)
        assert not http


def test_a_failure_does_not_end_the_sweep(live_server, monkeypatch, caplog):
    server = live_server(make_app(), header_timeout="0.3")
    engine = server.server.engine
    with raw.dial(server.url) as first, raw.dial(server.url) as second:
        first.sendall(b"GET / HTTP/1.1\r\n")
        wait_until(lambda: server.server.http._heads)

        def lend(*_args):
            monkeypatch.undo()
            raise MemoryError

        monkeypatch.setattr(engine, "lend", lend)
        assert raw.read_all(first) == b""
        second.sendall(b"GET / HTTP/1.1\r\n")
        assert raw.read_all(second)[9:12] in (b"408", b"")
        wait_until(lambda: not server.server.http)
    wait_until(lambda: "a sweep failed" in caplog.text)


def test_a_sweep_for_which_there_is_no_memory_begins_with_the_next_peer(live_server, monkeypatch):
    server = live_server(make_app(), header_timeout="0.3")
    engine = server.server.engine
    call_later = engine.call_later

    def fail(seconds, function, *args):
        if function != server.server.http._sweep:
            return call_later(seconds, function, *args)
        monkeypatch.undo()
        raise MemoryError

    monkeypatch.setattr(engine, "call_later", fail)
    with raw.dial(server.url) as first:
        wait_until(lambda: engine.call_later != fail and len(server.server.http) == 1)
        with raw.dial(server.url) as second:
            assert raw.read_all(first) == raw.read_all(second) == b""


def test_a_refused_peer_that_cannot_be_watched_is_closed(live_server, monkeypatch):
    server = live_server(make_app())
    engine, http = server.server.engine, server.server.http

    def watch(*_args):
        monkeypatch.undo()
        raise MemoryError

    with raw.dial(server.url) as sock:
        wait_until(lambda: len(http) == 1)
        monkeypatch.setattr(engine, "watch", watch)
        sock.sendall(REFUSED["no request"])
        assert raw.read_all(sock).startswith(b"HTTP/1.1 400 ")
        wait_until(lambda: not http)
