"""Peers and callers that are hostile, broken or merely in a hurry."""

import json
import logging
import socket
import struct
import threading
from contextlib import suppress

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Opcode
from websockets.sync.client import connect

from stargate import WebSocketView
from stargate_tests import raw
from stargate_tests.functional.test_send import joined
from stargate_tests.functional.tree import Node, make_app
from stargate_tests.waiting import wait_until

RESET = struct.pack("ii", 1, 0)


def test_pings_of_a_peer_that_reads_no_pongs_cost_no_memory(live_server):
    settings = {"stargate.outbox_size": "100000", "stargate.outbox_progress_timeout": "0"}
    server = live_server(make_app(**settings))
    pings = raw.frame(bytes(125), Opcode.PING) * 1000
    with raw.connect(server.url, "/a", rcvbuf=4096) as sock:
        wait_until(lambda: server.server.engine.connections)
        (websocket,) = server.server.engine.connections
        for _ in range(200):
            sock.sendall(pings)
        assert websocket.buffered < 200_000


def test_the_last_ping_is_answered_when_the_peer_reads_on(live_server):
    server = live_server(make_app())
    with raw.connect(server.url, "/a/@@echo", rcvbuf=4096) as sock:
        sock.sendall(raw.frame(b"x" * 900_000) * 2)
        for number in range(50):
            sock.sendall(raw.frame(b"%d" % number, Opcode.PING))
        seen = []
        while b"49" not in seen:
            opcode, payload = raw.read_frame(sock)
            if opcode is Opcode.PONG:
                seen.append(payload)
        assert seen == sorted(seen, key=int)


def test_a_peer_that_resets_in_the_handshake_leaves_no_traceback(live_server, caplog):
    caplog.set_level(logging.INFO)
    server = live_server(make_app())
    for path in ("/a", "/a/@@page", "/a/@@missing"):
        for _ in range(30):
            sock = raw.dial(server.url)
            sock.sendall(raw.handshake("localhost", path))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
    wait_until(lambda: not server.server.http and not server.server.engine.connections)
    with connect(server.websocket_url("/a")) as peer:
        peer.ping().wait(20)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_request_line_that_never_ends_gets_408_as_soon_as_headers_do(live_server):
    server = live_server(make_app(), header_timeout="0.5", keepalive_timeout="60")
    with raw.dial(server.url) as sock:
        sock.sendall(b"GET / HT")
        assert raw.read_all(sock).startswith(b"HTTP/1.1 408 ")


def test_a_request_that_trickles_in_gets_408(live_server):
    server = live_server(make_app(), header_timeout="0.5")
    with raw.dial(server.url) as sock:
        sock.settimeout(0.05)
        answer = b""
        for byte in b"GET /a HTTP/1.1\r\n" + b"X: y\r\n" * 1000:
            sock.send(bytes((byte,)))
            try:
                answer = sock.recv(100)
                break
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_system_exit_in_a_handler_is_an_error_of_that_handler(live_server, caplog):
    class Leaving(WebSocketView):
        def handler(self, websocket):
            raise SystemExit(3)

    server = live_server(make_app(lambda c: c.add_websocket_view(Leaving, context=Node, name="l")))
    with connect(server.websocket_url("/a/@@l")) as peer, pytest.raises(ConnectionClosed) as closed:
        peer.recv(timeout=20)
    assert closed.value.rcvd.code == 1011
    assert "SystemExit: 3" in caplog.text
    with connect(server.websocket_url("/a")) as peer:
        assert peer.ping().wait(20)


@pytest.mark.parametrize(
    ("exclude", "error"), [("abc", ValueError), ([None], TypeError), ([object()], TypeError)]
)
def test_a_bad_exclude_is_an_error_before_anything_is_sent(live_server, exclude, error):
    server = live_server(make_app())
    with connect(server.websocket_url("/a")) as peer:
        joined(server, "/a", 1)
        with pytest.raises(error, match="exclude"):
            server.gate.send("/a", "x", exclude=exclude)
        server.gate.send("/a", "y", exclude=None)
        assert peer.recv(timeout=20) == "y"


def test_one_application_in_two_servers_at_once_is_refused_with_a_500(live_server, caplog):
    app = make_app()
    one, two = live_server(app), live_server(app)
    with connect(one.websocket_url("/a")) as peer:
        joined(one, "/a", 1)
        with pytest.raises(InvalidStatus) as refused:
            connect(two.websocket_url("/a"))
        assert refused.value.response.status_code == 500
        one.gate.send("/a", "still served")
        assert peer.recv(timeout=20) == "still served"
    assert "served by another thread" in caplog.text


def test_a_thread_waits_while_a_view_holds_the_hub_up(live_server):
    held, release = threading.Event(), threading.Event()

    def hold(context, request):
        held.set()
        release.wait(30)
        return request.response

    server = live_server(
        make_app(
            lambda c: c.add_view(hold, context=Node, name="hold"),
            **{"stargate.outbox_size": "50000000"},
        )
    )
    sent = []
    with connect(server.websocket_url("/a"), max_size=None, max_queue=None) as peer:
        joined(server, "/a", 1)
        with raw.dial(server.url) as page:
            page.sendall(b"GET /a/@@hold HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert held.wait(30)

            def send():
                for number in range(20):
                    server.gate.send("/a", bytes(500_000))
                    sent.append(number)

            thread = threading.Thread(target=send)
            thread.start()
            wait_until(lambda: len(sent) >= 2)
            queued = server.server.engine._call_bytes
            assert queued < 2_000_000  # A bound, and one message over it.
            release.set()
            assert all(len(peer.recv(timeout=30)) == 500_000 for _ in range(20))
            thread.join(30)


class Counting(WebSocketView):
    """Counts the turns of the hub between its first message and its last."""

    turns = 0

    def tick(self, websocket):
        self.turns += 1
        if not websocket.closed:
            websocket._engine.call_soon(self.tick, websocket)

    def take(self, websocket, message):
        if message == "begin":
            self.tick(websocket)
        elif message == "end":
            websocket.send_json(self.turns)


class CountingHandler(Counting):
    def handler(self, websocket):
        for message in websocket:
            self.take(websocket, message)


class CountingEvents(Counting):
    def on_message(self, websocket, message):
        self.take(websocket, message)


@pytest.mark.parametrize("view", [CountingHandler, CountingEvents])
def test_a_flood_of_small_messages_gives_everybody_else_a_turn(live_server, view):
    server = live_server(make_app(lambda c: c.add_websocket_view(view, context=Node, name="v")))
    with raw.connect(server.url, "/a/@@v") as sock:
        # One packet, and so one read: all of them are ready at once.
        sock.sendall(raw.frame("begin") + raw.frame("x") * 2000 + raw.frame("end"))
        opcode, payload = raw.read_frame(sock)
    assert opcode is Opcode.TEXT
    assert json.loads(payload) >= 10


def test_a_peer_that_sends_too_fast_is_closed_with_1008_and_another_is_served(live_server, caplog):
    server = live_server(make_app(**{"stargate.max_message_rate": "50"}))
    with connect(server.websocket_url("/a/@@echo")) as fast:
        with suppress(ConnectionClosed):
            for number in range(1000):
                fast.send(str(number))
        answers = []
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                answers.append(fast.recv(timeout=20))
    assert closed.value.rcvd.code == 1008
    assert closed.value.rcvd.reason == "over 50 messages a second"
    assert answers == [str(number) for number in range(len(answers))]
    with connect(server.websocket_url("/a/@@echo")) as slow:
        slow.send("served")
        assert slow.recv(timeout=20) == "served"
    assert server.gate.stats().rate_closes == 1
    assert caplog.text.count("stargate.max_message_rate is 50") == 1
