"""Messages both ways between a real client library and the pinned API, in both styles of view."""

import pytest
from websockets.exceptions import ConnectionClosed as PeerClosed
from websockets.exceptions import ConnectionClosedOK
from websockets.frames import Opcode

from stargate import WebSocketView
from stargate_tests import raw, transports
from stargate_tests.functional.tree import Node, make_app
from stargate_tests.transports import connect
from stargate_tests.waiting import wait_until

STYLES = ["/a/@@echo", "/a/@@handler"]


@pytest.fixture(params=transports.ALL)
def live_server(live_server, request, tmp_path):
    """Each of these on TCP, on TLS and on a UNIX socket."""
    return transports.over(request.param, live_server, tmp_path)


@pytest.fixture
def server(live_server):
    return live_server(make_app())


@pytest.mark.parametrize("path", STYLES)
@pytest.mark.parametrize("message", ["text", "", "äöü €", b"binary", b"", "x" * 1_048_576])
def test_a_message_comes_back_as_it_was(server, path, message):
    with connect(server, path, max_size=None) as peer:
        peer.send(message)
        assert peer.recv(timeout=20) == message


@pytest.mark.parametrize("path", STYLES)
def test_a_fragmented_message_is_one_message(server, path):
    with connect(server, path) as peer:
        peer.send(iter(["one ", "", "mess", "age"]))
        assert peer.recv(timeout=20) == "one message"


@pytest.mark.parametrize("path", STYLES)
def test_many_messages_keep_their_order(server, path):
    with connect(server, path) as peer:
        for number in range(500):
            peer.send(str(number))
        assert [peer.recv(timeout=20) for _ in range(500)] == [str(n) for n in range(500)]


def test_a_ping_of_the_peer_is_answered(server):
    with connect(server, "/a") as peer:
        assert peer.ping(b"payload").wait(20)


@pytest.mark.parametrize("path", STYLES)
def test_frames_in_the_packet_of_the_handshake_arrive(server, path):
    early = raw.frame("first") + raw.frame("second")
    with raw.connect(server.url, path, behind=early) as sock:
        assert raw.read_frame(sock) == (Opcode.TEXT, b"first")
        assert raw.read_frame(sock) == (Opcode.TEXT, b"second")


@pytest.mark.parametrize("path", ["/a", *STYLES])
def test_a_close_of_the_peer_is_answered_with_its_code(server, path):
    with connect(server, path) as peer:
        peer.close(4321, "enough")
        assert (peer.protocol.close_rcvd.code, peer.protocol.close_rcvd.reason) == (4321, "enough")
    wait_until(lambda: not server.server.engine.connections)


def test_a_view_may_close_with_a_code_and_a_reason(live_server):
    class Closing(WebSocketView):
        def on_open(self, websocket):
            websocket.send("last words")
            websocket.close(4001, "no room")

    def configure(config):
        config.add_websocket_view(Closing, context=Node, name="closing")

    server = live_server(make_app(configure))
    with connect(server, "/a/@@closing") as peer:
        assert peer.recv(timeout=20) == "last words"
        with pytest.raises(PeerClosed) as closed:
            peer.recv(timeout=20)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "no room")


def test_returning_from_a_handler_closes_with_1000(live_server):
    class Short(WebSocketView):
        def handler(self, websocket):
            websocket.send("bye")

    server = live_server(make_app(lambda c: c.add_websocket_view(Short, context=Node, name="s")))
    with connect(server, "/a/@@s") as peer:
        assert peer.recv(timeout=20) == "bye"
        with pytest.raises(ConnectionClosedOK):
            peer.recv(timeout=20)


def test_what_a_view_knows_of_its_websocket(live_server):
    class Facts(WebSocketView):
        def on_open(self, websocket):
            facts = ("path", "origin", "subprotocol", "remote_addr", "userid", "id", "closed")
            websocket.send_json({name: getattr(websocket, name) for name in facts})

    def configure(config):
        config.add_websocket_view(Facts, context=Node, name="facts", subprotocols=("b", "a"))

    server = live_server(make_app(configure))
    origin = server.url if server.url.startswith("http") else "http://localhost"
    with connect(server, "/x/y/@@facts", origin=origin, subprotocols=["a", "b"]) as peer:
        import json

        facts = json.loads(peer.recv(timeout=20))
        assert peer.subprotocol == "b"
    assert facts.pop("id")
    assert facts == {
        "path": "/x/y/@@facts",
        "origin": origin,
        "subprotocol": "b",
        "remote_addr": "127.0.0.1" if origin == server.url else "unix",
        "userid": None,
        "closed": False,
    }


def test_a_message_beyond_max_message_size_closes_with_1009(live_server):
    server = live_server(make_app(**{"stargate.max_message_size": "1000"}))
    with connect(server, "/a/@@echo") as peer:
        peer.send("x" * 1000)
        assert peer.recv(timeout=20) == "x" * 1000
        peer.send("x" * 1001)
        with pytest.raises(PeerClosed) as closed:
            peer.recv(timeout=20)
    assert closed.value.rcvd.code == 1009


def test_text_that_is_not_utf8_closes_with_1007(server):
    with raw.connect(server.url, "/a/@@echo") as sock:
        sock.sendall(raw.frame(b"\xff\xfe", Opcode.TEXT))
        opcode, payload = raw.read_frame(sock)
        assert (opcode, payload[:2]) == (Opcode.CLOSE, (1007).to_bytes(2, "big"))
        assert raw.read_all(sock) == b""


def test_an_unmasked_frame_closes_with_1002(server):
    with raw.connect(server.url, "/a/@@echo") as sock:
        sock.sendall(b"\x81\x01x")
        opcode, payload = raw.read_frame(sock)
        assert (opcode, payload[:2]) == (Opcode.CLOSE, (1002).to_bytes(2, "big"))


@pytest.mark.parametrize("path", STYLES)
def test_compression_is_agreed_on_where_it_is_on(live_server, path):
    server = live_server(make_app(**{"stargate.compression": "deflate"}))
    text = "the same words again and again " * 200
    with (
        connect(server, path) as peer,
        connect(server, "/a", compression=None) as plain,
    ):
        assert "permessage-deflate" in peer.response.headers["Sec-WebSocket-Extensions"]
        for message in (text, "short", b"\0" * 5000, text):
            peer.send(message)
            assert peer.recv(timeout=20) == message
        wait_until(lambda: len(server.gate.listeners("/a")) == 1)
        server.gate.send("/a", text)
        assert plain.recv(timeout=20) == text


def test_a_compressed_broadcast_is_the_same_message_for_all(live_server):
    server = live_server(make_app(**{"stargate.compression": "deflate"}))
    with (
        connect(server, "/a") as one,
        connect(server, "/a") as two,
        connect(server, "/a", compression=None) as plain,
    ):
        wait_until(lambda: len(server.gate.listeners("/a")) == 3)
        sent = ["x" * 1000, "short", "y" * 70_000]
        for message in sent:
            server.gate.send("/a", message)
        for peer in (one, two, plain):
            assert [peer.recv(timeout=20) for _ in sent] == sent


def test_without_the_setting_an_offer_of_compression_is_declined(server):
    with connect(server, "/a/@@echo") as peer:
        assert "Sec-WebSocket-Extensions" not in peer.response.headers
        peer.send("x")
        assert peer.recv(timeout=20) == "x"
