"""What an idle WebSocket holds after a big message in or out: some KiB, whatever the style."""

import gc
import tracemalloc
import zlib
from contextlib import ExitStack

import pytest
from websockets.frames import Opcode

import stargate
from stargate import WebSocketView
from stargate.handshake.upgrade import WINDOW_BITS
from stargate.message.message import RSV1
from stargate_tests import raw
from stargate_tests.functional.tree import Node, make_app
from stargate_tests.waiting import wait_until

MEGABYTE = 1_000_000

#: How many WebSockets each trial has, and how many bytes each may hold more than before.
CROWD, HELD = 4, 16_384


class Counted(WebSocketView):
    """Reads in the blocking style, and forgets each message before it waits for the next."""

    def handler(self, websocket):
        self.context.add_listener(websocket)
        for message in websocket:
            self.context.taken.append(len(message))
            del message


class OneByOne(Counted):
    """The same with ``wait``."""

    def handler(self, websocket):
        self.context.add_listener(websocket)
        while True:
            self.context.taken.append(len(websocket.wait()))


class Called(WebSocketView):
    """The style without a greenlet."""

    def on_message(self, websocket, message):
        self.context.taken.append(len(message))


class Deaf(WebSocketView):
    """Reads nothing."""


STYLES = [Counted, OneByOne, Called, Deaf]


def fragments(payload, opcode=Opcode.TEXT, pieces=1):
    size = len(payload) // pieces + 1
    parts = [payload[at : at + size] for at in range(0, len(payload), size)]
    return b"".join(
        raw.frame(part, Opcode.CONT if number else opcode, part is parts[-1])
        for number, part in enumerate(parts)
    )


def compressed(payload, opcode=Opcode.TEXT, pieces=1):
    """Its frames under permessage-deflate (RFC 7692, section 7.2.1)."""
    deflater = zlib.compressobj(wbits=-WINDOW_BITS)
    data = deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)
    frames = bytearray(fragments(data[:-4], opcode, pieces))
    frames[0] |= RSV1
    return bytes(frames)


SHAPES = {
    "text": fragments,
    "binary": lambda payload: fragments(payload, Opcode.BINARY),
    "fragmented": lambda payload: fragments(payload, pieces=3),
    "compressed": compressed,
    "compressed binary": lambda payload: compressed(payload, Opcode.BINARY),
    "compressed fragments": lambda payload: compressed(payload, pieces=3),
}


@pytest.fixture
def traced():
    """Blocks of memory are counted, with nothing said of where they came from."""
    tracemalloc.start(1)
    yield
    tracemalloc.stop()


def held():
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def messages_in(server):
    return stargate.gate(server.application.registry).stats().messages_in


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("style", STYLES)
def test_an_idle_websocket_keeps_nothing_of_a_big_message(live_server, traced, style, shape):
    root = Node()
    root.taken = []
    server = live_server(
        make_app(
            lambda config: config.add_websocket_view(style, context=Node, name="big"),
            root,
            **{"stargate.compression": "deflate"},
        )
    )
    with ExitStack() as stack:
        peers = [
            stack.enter_context(
                raw.connect(server.url, "/@@big", "Sec-WebSocket-Extensions: permessage-deflate")
            )
            for _ in range(CROWD)
        ]

        def tell(payload):
            total = messages_in(server) + CROWD
            for peer in peers:
                peer.sendall(SHAPES[shape](payload))
            wait_until(lambda: messages_in(server) == total)
            if style is not Deaf:
                wait_until(lambda: len(root.taken) == total)

        tell(b"small")
        before = held()
        tell(b"0123456789" * (MEGABYTE // 10))
        assert held() - before < HELD * CROWD


class Answering(Counted):
    """Sends each message to all listeners, and forgets it."""

    def handler(self, websocket):
        self.context.add_listener(websocket)
        for message in websocket:
            self.context.send(message)
            del message


def echo(peer, shape, payload):
    """Have ``payload`` come back, compressed where it was."""
    peer.sendall(SHAPES[shape](payload))
    opcode, found = raw.read_frame(peer)
    assert opcode is Opcode.TEXT
    if shape == "compressed":
        found = zlib.decompressobj(wbits=-15).decompress(found + b"\0\0\xff\xff")
    assert found == payload


@pytest.mark.parametrize("shape", ["text", "compressed"])
@pytest.mark.parametrize("view", ["echo", "answering"])
def test_nor_of_a_big_message_that_it_was_sent(live_server, traced, view, shape):
    server = live_server(
        make_app(
            lambda config: config.add_websocket_view(Answering, context=Node, name="answering"),
            **{"stargate.compression": "deflate" if shape == "compressed" else "off"},
        )
    )
    with ExitStack() as stack:
        peers = [
            stack.enter_context(
                raw.connect(
                    server.url,
                    f"/{number}/@@{view}",
                    "Sec-WebSocket-Extensions: permessage-deflate",
                )
            )
            for number in range(CROWD)
        ]
        for peer in peers:
            echo(peer, shape, b"small" * 100)
        before = held()
        for peer in peers:
            echo(peer, shape, b"0123456789" * (MEGABYTE // 10))
        assert held() - before < HELD * CROWD
