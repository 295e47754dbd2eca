"""No descriptors, no memory: what cannot be had is refused to one peer, and the others go on."""

import errno
import re
import resource as rlimits
from contextlib import ExitStack

import pytest

from stargate.engine import accept
from stargate.engine.spare import UNAVAILABLE
from stargate.websocket.connection import Connection
from stargate_tests import raw, transports
from stargate_tests.functional.program import pserve
from stargate_tests.functional.tree import make_app
from stargate_tests.transports import connect, get
from stargate_tests.waiting import wait_until

LIMIT, ASKING = 100, 150


@pytest.mark.parametrize("transport", transports.ALL)
def test_without_descriptors_some_are_refused_and_the_others_served(tmp_path, transport):
    server = transports.ini(transport, tmp_path)
    app = "stargate.close_timeout = 0.2"
    with pserve(tmp_path, server=server, app=app) as program, ExitStack() as s:
        rlimits.prlimit(program.process.pid, rlimits.RLIMIT_NOFILE, (LIMIT, LIMIT))
        early = s.enter_context(raw.connect(program.url, "/a"))
        page = s.enter_context(raw.dial(program.url))
        served, refused = [], 0
        for _ in range(ASKING):
            try:
                served.append(s.enter_context(raw.connect(program.url, "/a")))
            except (AssertionError, OSError) as error:
                refused += 1
                answer = b"" if transport == "tls" else UNAVAILABLE
                if isinstance(error, AssertionError):
                    assert answer in error.args[0] or error.args[0] == b""
        assert len(served) > 50
        assert refused > 50
        early.sendall(raw.frame("still served"))
        for peer in (early, *served):
            assert raw.read_frame(peer) == (1, b"still served")
        assert page.recv(1) == b""  # It had asked for nothing, and made room for another.
        for peer in served[:10]:
            peer.close()
        assert once_there_is_room(program, refused).status == 200
        with connect(program, "/a") as late:
            late.send("x")
            assert late.recv(timeout=20) == "x"
        program.expect("no room for more connections: .*Too many open files")
        assert program.stop() == 0
        assert len(re.findall("no room for more connections", program.log)) <= 2, "one counts"
    assert "Traceback" not in program.log


def once_there_is_room(program, refused):
    """The answer with the refusals, once a page can be had again; none is forgotten."""
    found = []

    def ask():
        try:
            answer = get(program, "/a/@@refusals")
        except OSError:
            return False
        found.append(answer)
        return answer.status == 200

    wait_until(ask)
    counted = int(re.search(rb'"descriptors": ?(\d+)', found[-1].body).group(1))
    assert counted >= refused
    return found[-1]


@pytest.fixture
def server(live_server):
    return live_server(make_app())


def test_where_not_even_that_helps_it_pauses_and_begins_again(server, monkeypatch, caplog):
    monkeypatch.setattr(accept, "ACCEPT_PAUSE", 0.2)
    http, failures = server.server.http, []

    class Full:
        def accept(self):
            failures.append(1)
            raise OSError(errno.ENFILE, "Too many open files in system")

        def __getattr__(self, name):
            return getattr(listening, name)

    (listening,) = http._listening
    with raw.connect(server.url, "/a") as peer:
        server.server.engine.ask_from_thread(http._accept, Full(), 1)
        assert not http._accepting
        with raw.dial(server.url) as waiting:
            waiting.sendall(b"GET /a/@@page HTTP/1.1\r\nHost: localhost\r\n\r\n")
            server.gate.send("/a", "others are served")
            assert raw.read_frame(peer) == (1, b"others are served")
            assert raw.read_head(waiting).startswith(b"HTTP/1.1 200 ")
    assert len(failures) == 2  # Once with what there is, once with the spare one.
    assert "accept failed, pausing for a second" in caplog.text


def test_an_accept_that_fails_for_a_reason_unheard_of_pauses_too(server, caplog):
    http = server.server.http

    class Odd:
        def accept(self):
            raise OSError(errno.EINVAL, "Invalid argument")

    server.server.engine.ask_from_thread(http._accept, Odd(), 1)
    assert not http._accepting
    wait_until(lambda: "pausing" in caplog.text)


def test_a_peer_that_left_before_it_was_accepted_is_no_reason_to_pause(server):
    http, failures = server.server.http, []

    class Gone:
        def accept(self):
            failures.append(1)
            raise (BlockingIOError if len(failures) > 3 else ConnectionAbortedError)(
                errno.EAGAIN if len(failures) > 3 else errno.ECONNABORTED, ""
            )

    server.server.engine.ask_from_thread(http._accept, Gone(), 1)
    assert http._accepting
    assert len(failures) == 4


# Made anew for each test: a raised one keeps its frames, and so the application.
@pytest.mark.parametrize("error", [MemoryError, lambda: OSError(errno.ENOSPC, "No space left")])
def test_a_connection_that_cannot_be_watched_is_closed(server, monkeypatch, error, caplog):
    engine = server.server.engine

    def watch(fd, events, ready):
        monkeypatch.undo()
        raise error()

    with raw.connect(server.url, "/a") as early:
        wait_until(lambda: server.gate.listeners("/a"))
        monkeypatch.setattr(engine, "watch", watch)
        with raw.dial(server.url) as sock:
            assert raw.read_all(sock) == b""
        server.gate.send("/a", "x")
        assert raw.read_frame(early) == (1, b"x")
    assert engine.refusals == {"memory": 1}
    wait_until(lambda: "no room for a connection from" in caplog.text)
    assert get(server, "/a/@@page").status == 200


def test_a_request_for_which_there_is_no_memory_ends_its_connection(server, monkeypatch):
    engine = server.server.engine

    def lend(function, *args):
        monkeypatch.undo()
        raise MemoryError

    with raw.connect(server.url, "/a"):
        wait_until(lambda: server.gate.listeners("/a"))
        monkeypatch.setattr(engine, "lend", lend)
        with raw.dial(server.url) as sock:
            sock.sendall(b"GET /a/@@page HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert raw.read_all(sock) == b""
        wait_until(lambda: not server.server.http)
        assert get(server, "/a/@@page").status == 200
        assert len(engine.connections) == 1


@pytest.mark.parametrize("name", ["WebSocket", "_Life"])
def test_a_websocket_for_which_there_is_no_memory_is_closed(server, monkeypatch, name, caplog):
    from stargate import view

    def fail(*_args, **_options):
        monkeypatch.undo()
        raise MemoryError

    with raw.connect(server.url, "/a") as early:
        wait_until(lambda: server.gate.listeners("/a"))
        monkeypatch.setattr(view, name, fail)
        with raw.dial(server.url) as sock:
            sock.sendall(raw.handshake("localhost", "/b"))
            raw.read_all(sock)
        server.gate.send("/a", "x")
        assert raw.read_frame(early) == (1, b"x")
    assert "no room for a WebSocket at /b: MemoryError" in caplog.text
    assert server.gate.stats().refusals == {"memory": 1}
    wait_until(lambda: not server.server.engine.connections)


def test_a_websocket_that_cannot_be_watched_leaves_nothing_behind(server, monkeypatch, caplog):
    from stargate.engine.hub import Engine

    watch = Engine.watch

    def fail(self, fd, events, ready):
        if isinstance(getattr(ready, "__self__", None), Connection):
            raise OSError(errno.ENOSPC, "No space left on device")
        watch(self, fd, events, ready)

    monkeypatch.setattr(Engine, "watch", fail)
    with raw.dial(server.url) as sock:
        sock.sendall(raw.handshake("localhost", "/b"))
        assert raw.read_all(sock) == b""
    wait_until(lambda: not server.server.http)
    stats = server.gate.stats()
    assert (stats.connections, stats.refusals) == (0, {"memory": 1})
    assert not server.gate.listeners("/b")
    assert "no room for a WebSocket at /b: OSError" in caplog.text


def test_a_hand_off_without_a_descriptor_is_503(server, monkeypatch, caplog):
    from stargate import view

    def fail(_environ):
        monkeypatch.undo()
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(view, "take_over", fail)
    with raw.dial(server.url) as sock:
        sock.sendall(raw.handshake("localhost", "/b"))
        answer = raw.read_all(sock)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 10\r\n" in answer
    assert server.gate.stats().refusals == {"memory": 1}


def test_what_comes_in_when_there_is_no_memory_ends_its_connection_alone(
    server, monkeypatch, caplog
):
    def fail(_self, _data):
        monkeypatch.undo()
        raise MemoryError

    with raw.connect(server.url, "/a") as one, raw.connect(server.url, "/b") as two:
        wait_until(lambda: len(server.gate.listeners("/b")) == 1)
        (websocket,) = server.gate.listeners("/a")
        monkeypatch.setattr(Connection, "_receive", fail)
        one.sendall(raw.frame("x"))
        raw.read_all(one)
        wait_until(lambda: not server.gate.listeners("/a"))
        server.gate.send("/b", "others are served")
        assert raw.read_frame(two) == (1, b"others are served")
    assert websocket.close_code == 1006
    assert "MemoryError" in caplog.text


def test_what_comes_with_the_handshake_when_there_is_no_memory_ends_it_too(server, monkeypatch):
    def fail(_self, _data):
        monkeypatch.undo()
        raise MemoryError

    monkeypatch.setattr(Connection, "_receive", fail)
    with raw.connect(server.url, "/a", behind=raw.frame("x")) as sock:
        raw.read_all(sock)
    wait_until(lambda: not server.server.engine.connections)


def test_a_listener_for_whose_outbox_there_is_no_memory_is_lost_alone(server, monkeypatch):
    def fail(*_args, **_options):
        raise MemoryError

    with ExitStack() as stack:
        peers = [stack.enter_context(raw.connect(server.url, "/a")) for _ in range(3)]
        wait_until(lambda: len(server.gate.listeners("/a")) == 3)
        websockets = list(server.gate.listeners("/a"))
        monkeypatch.setattr(Connection, "_begin_outbox", fail)
        websockets[1]._write = fail
        websockets[0]._write = lambda _buffer: 1
        server.gate.send("/a", "x")
        wait_until(lambda: len(server.gate.listeners("/a")) == 1)
        (left,) = (peer for peer in peers if peer.recv(2) == b"\x81\x01" and peer.recv(1) == b"x")
        server.gate.send("/a", "y")
        assert raw.read_frame(left) == (1, b"y")
