"""The end of a server that is busy: everybody is told, and what is under way is finished."""

import os
import resource as rlimits
import select
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from time import monotonic

import pytest

from stargate import WebSocketView
from stargate.engine import current_engine
from stargate.server.process import Server
from stargate.testing import LiveServer
from stargate_tests import raw, transports
from stargate_tests.functional.program import pserve
from stargate_tests.functional.tree import Node, make_app
from stargate_tests.waiting import threading, wait_until

#: WebSockets for each transport.
CROWD = {"tcp": 2000, "tls": 200, "unix": 200}

GOING_AWAY = b"\x03\xe9the server is stopping"


@pytest.fixture
def room():
    """Descriptors for the crowd, here and in the processes that are started from here."""
    soft, hard = rlimits.getrlimit(rlimits.RLIMIT_NOFILE)
    rlimits.setrlimit(rlimits.RLIMIT_NOFILE, (min(hard, max(soft, 6000)), hard))
    yield
    rlimits.setrlimit(rlimits.RLIMIT_NOFILE, (soft, hard))


class Load:
    """Somebody who sends to a crowd until told to stop, so that broadcasts are under way."""

    def __init__(self, url, path):
        self._url, self._path = url, path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = 0

    def _run(self):
        with raw.connect(self._url, self._path) as sock:
            while not self._stop.is_set():
                try:
                    sock.sendall(raw.frame(str(self.sent)))
                    self.sent += 1
                    opcode, _payload = raw.read_frame(sock)  # Its own words: one at a time.
                except (OSError, EOFError):
                    return
                if opcode == 8:
                    sock.sendall(raw.frame(b"\x03\xe9", 8))
                    return

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_error):
        self._stop.set()
        self._thread.join(20)


def last_words(sock):
    """What came before the close frame, the close frame, and what came behind it; says good-bye."""
    messages = []
    opcode, payload = raw.read_frame(sock)
    while opcode == 1:
        messages.append(payload)
        opcode, payload = raw.read_frame(sock)
    if opcode == 8:
        sock.sendall(raw.frame(payload[:2], 8))
    rest = raw.read_all(sock)
    sock.close()
    return messages, (opcode, payload), rest


@pytest.mark.parametrize("transport", transports.ALL)
def test_a_busy_server_says_1001_to_a_crowd_finishes_its_pages_and_exits(tmp_path, transport, room):
    server = transports.ini(transport, tmp_path, graceful_timeout=60, access_log="false")
    with pserve(tmp_path, server=server) as program, ExitStack() as stack:
        pages = [stack.enter_context(raw.dial(program.url)) for _ in range(5)]
        crowd = [
            stack.enter_context(raw.connect(program.url, f"/{number % 10}", timeout=60))
            for number in range(CROWD[transport])
        ]
        with Load(program.url, "/7") as load:
            for sock in pages:
                sock.sendall(b"GET /a/@@slow?seconds=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            for _ in pages:
                program.expect("a slow request begins")
            wait_until(lambda: load.sent > 5)
            began = monotonic()
            program.process.send_signal(signal.SIGTERM)
            found = [last_words(sock) for sock in crowd]
        assert {(close, rest) for _messages, close, rest in found} == {((8, GOING_AWAY), b"")}
        for number, (messages, _close, _rest) in enumerate(found):
            assert messages == [b"%d" % n for n in range(len(messages))]
            assert bool(messages) is (number % 10 == 7)
        with pytest.raises(OSError), closing(raw.dial(program.url)):
            pass  # pragma: no cover - it must not come to this
        for sock in pages:
            answer = raw.read_all(sock)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"done")
        assert program.wait() == 0
        ended = monotonic() - began
    assert ended < 60
    assert "Traceback" not in program.log
    assert "cut" not in program.log


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_exits_at_once_whatever_is_open(tmp_path, second):
    with pserve(tmp_path) as program:
        with raw.connect(program.url, "/a") as silent, raw.dial(program.url) as page:
            page.sendall(b"GET /a/@@slow?seconds=60 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            program.expect("a slow request begins")
            program.process.send_signal(signal.SIGTERM)
            assert raw.read_frame(silent) == (8, GOING_AWAY)
            assert program.stop(second) == 128 + second


def test_with_a_period_the_crowd_is_told_bit_by_bit(tmp_path):
    with pserve(tmp_path, app="stargate.drain_period = 0.8") as program:
        with ExitStack() as stack:
            crowd = [stack.enter_context(raw.connect(program.url, "/a")) for _ in range(40)]
            began = monotonic()
            program.process.send_signal(signal.SIGTERM)
            with ThreadPoolExecutor(len(crowd)) as pool:
                times = sorted(at - began for at in pool.map(told_at, crowd))
            assert program.wait() == 0
    assert times[-1] > 0.7
    first_half = sum(time < times[-1] / 2 for time in times)
    assert 5 < first_half < 35
    assert "Traceback" not in program.log


def told_at(sock):
    assert raw.read_frame(sock) == (8, GOING_AWAY)
    now = monotonic()
    sock.close()
    return now


def test_a_websocket_that_is_not_told_yet_is_served(tmp_path):
    with pserve(tmp_path, app="stargate.drain_period = 1") as program, ExitStack() as stack:
        one, two = (stack.enter_context(raw.connect(program.url, "/a")) for _ in range(2))
        program.process.send_signal(signal.SIGTERM)
        # One of them is told at once, the other half way through.
        told, served = (one, two) if readable(one, two) is one else (two, one)
        assert raw.read_frame(told) == (8, GOING_AWAY)
        served.sendall(raw.frame("x"))
        assert raw.read_frame(served) == (1, b"x")
        told.close()
        assert last_words(served)[1] == (8, GOING_AWAY)
        assert program.wait() == 0


def readable(*socks):
    found, _, _ = select.select(socks, [], [], 20)
    return found[0]


# What comes in the moment of the end.


@pytest.fixture(params=transports.ALL)
def start(live_server, request, tmp_path):
    return transports.over(request.param, live_server, tmp_path)


def in_that_moment(server, speak):
    """Stop ``server`` where ``speak()`` has been said and nobody has listened yet."""
    spoken, holds = threading.Event(), threading.Event()

    def stop():
        holds.set()
        assert spoken.wait(20)
        server.server.stop()

    engine = server.server.engine
    engine.call_from_thread(engine.start, stop)
    assert holds.wait(20)
    speak()
    spoken.set()


def test_a_handshake_that_comes_when_the_server_stops_is_503_and_no_view_is_made(start):
    made = []

    class View(WebSocketView):
        def __init__(self, request):
            made.append(request)
            super().__init__(request)

    server = start(make_app(lambda config: config.add_websocket_view(View, context=Node, name="v")))
    with raw.dial(server.url) as sock:
        wait_until(lambda: len(server.server.http._young) == 1)
        in_that_moment(server, lambda: sock.sendall(raw.handshake("localhost", "/a/@@v")))
        answer = raw.read_all(sock)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1\r\n" in answer
    assert not made
    assert server.gate.stats().refusals == {"stopping": 1}


def test_a_request_that_comes_when_the_server_stops_is_answered_and_no_other(start):
    server = start(make_app())
    request = b"GET /a/@@page HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with raw.dial(server.url) as sock:
        wait_until(lambda: len(server.server.http._young) == 1)
        in_that_moment(server, lambda: sock.sendall(request + request))
        answer = raw.read_all(sock)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 1
    assert answer.endswith(b"the page of /a")


def test_connections_between_two_requests_are_closed(start):
    server = start(make_app())
    with raw.dial(server.url) as sock:
        sock.sendall(b"GET /a/@@page HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert raw.read_head(sock).startswith(b"HTTP/1.1 200 ")
        (conversation,) = server.server.http._open
        wait_until(lambda: conversation._state[2] == "idle")
        server.stop()
        assert raw.read_all(sock) == b"the page of /a"


def test_a_handshake_whose_view_is_being_made_when_the_server_stops_is_503(start):
    class Last(WebSocketView):
        def __init__(self, request):
            super().__init__(request)
            engine = current_engine()
            engine.spawn(server.server.stop)
            engine.call_soon(engine.call_soon, engine.greenlet.switch)
            engine.park()

    server = start(make_app(lambda config: config.add_websocket_view(Last, context=Node, name="z")))
    with raw.dial(server.url) as sock:
        sock.sendall(raw.handshake("localhost", "/a/@@z"))
        assert raw.read_all(sock).startswith(b"HTTP/1.1 503 ")
    assert server.gate.stats().refusals == {"stopping": 1}


# Where others go on accepting.


def tell(server, function, **options):
    """Have the thread of a server call ``function`` in a greenlet."""
    engine = server.server.engine
    engine.call_from_thread(engine.spawn, lambda: function(**options))


def test_who_was_accepted_last_is_served_before_a_server_that_restarts_says_1012(
    live_server, monkeypatch
):
    monkeypatch.setattr(
        "stargate.server.process.HAND_OVER", 1.0
    )  # For this machine, however busy it is.
    server = live_server(make_app())
    with raw.dial(server.url) as sock:
        wait_until(lambda: server.server.http)
        tell(server, server.server.stop, restarts=True)
        wait_until(lambda: refused(server.url))
        sock.sendall(raw.handshake(path="/a"))
        assert raw.read_head(sock).startswith(b"HTTP/1.1 101 ")
        assert raw.read_frame(sock) == (8, b"\x03\xf4the server is restarting")
        sock.sendall(raw.frame(b"\x03\xf4", 8))
    server.stop()  # It has been told; this waits for its end.


def refused(url):
    try:
        raw.dial(url).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_server_that_is_cut_says_nothing_and_ends_at_once(live_server, caplog):
    server = live_server(make_app())
    with raw.connect(server.url, "/a") as sock:
        tell(server, server.server.cut)
        assert raw.read_all(sock) == b""
    server.stop()
    assert "cut" not in caplog.text


def test_cutting_ends_a_restart_that_has_not_said_anything_yet(live_server):
    server = live_server(make_app())
    with raw.connect(server.url, "/a") as sock:
        tell(server, server.server.stop, restarts=True)
        tell(server, server.server.cut)
        assert raw.read_all(sock) == b""
    server.stop()


def test_a_server_takes_sockets_that_listen_already_and_leaves_their_places(tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        listening.setblocking(False)
        ours = Listening(make_app(), listening.dup())
        with ours as server:
            assert server.server.urls == [f"unix:{path}"]
            with raw.connect(f"unix:{path}", "/a"):
                pass
        with raw.dial(f"unix:{path}"):
            pass  # It is listened to still.
    assert os.path.exists(path)


class Listening(LiveServer):
    """One on a socket that it was given."""

    def __init__(self, application, listening):
        super().__init__(application)
        self._listening = [listening]

    def _run(self):
        self.server = Server(self.application, self.settings, self._listening)
        self._ready.set()
        try:
            self.server.serve()
        finally:
            self.server.engine.close()
