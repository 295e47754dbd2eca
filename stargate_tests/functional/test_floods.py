"""What hostile peers can do to a real server process: how much it holds, and who has to wait.

Peak memory is the kernel's own figure.
"""

import re
import socket
import struct
import threading
import zlib
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

import pytest
from websockets.frames import Opcode
from websockets.sync.client import connect

from stargate_tests import raw
from stargate_tests.functional.program import pserve
from stargate_tests.waiting import wait_until

OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
MIB = 1 << 20

#: What a message of the most bytes may take on its way through, with all its copies, and some.
A_FEW = 10 * MIB

#: Both styles of view.
VIEWS = ["echo", "handler"]

#: A mask of zeros changes nothing, so that much is made from little.
NO_MASK = bytes(4)


class Served:
    """A server process, and how much memory it has taken at most since :meth:`mark`."""

    def __init__(self, program):
        self.url = program.url
        self._proc = Path(f"/proc/{program.process.pid}")
        self._before = 0

    @property
    def most(self):
        status = (self._proc / "status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) * 1024

    def mark(self):
        """Begin anew, with what it holds now."""
        (self._proc / "clear_refs").write_text("5")  # The peak is what there is.
        self._before = self.most

    @property
    def growth(self):
        return self.most - self._before

    def open(self, view, **options):
        return raw.connect(self.url, f"/a/@@{view}", OFFER, timeout=60, **options)

    @property
    def echo(self):
        return self.url.replace("http", "ws") + "/a/@@echo"

    def serves(self):
        """Whether a well-behaved peer is served, with a message of the most bytes."""
        with connect(self.echo, max_size=None) as peer:
            peer.send("x" * MIB)
            return len(peer.recv(timeout=60)) == MIB


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """One process for all, warm: it has had the largest messages that it may have."""
    app = (
        "stargate.compression = deflate\nstargate.outbox_size = 100000\n"
        "stargate.ping_interval = 0\n"
        # A peer that floods reads nothing for as long as this machine takes.
        "stargate.outbox_progress_timeout = 0"
    )
    # No line a request: nobody reads the log while it fills its pipe.
    server = "listen = 127.0.0.1:0\naccess_log = false"
    with pserve(tmp_path_factory.mktemp("served"), app=app, server=server) as program:
        served = Served(program)
        for _ in range(3):
            assert served.serves()
        with served.open("echo") as sock:
            sock.sendall(frame(0xC2, bomb(1008)))
            assert said(sock) == 1009
        yield served
        assert served.serves()
    assert not re.search("ERROR|CRITICAL|Traceback", program.log)


@pytest.fixture
def served(process):
    process.mark()
    return process


@cache
def bomb(mebibytes):
    """What inflates to so many MiB of zeros: the blocks are alike, and each begins anew."""
    squeezed = zlib.compressobj(9, wbits=-15)
    block = squeezed.compress(bytes(16 * MIB)) + squeezed.flush(zlib.Z_FULL_FLUSH)
    return block * (mebibytes // 16)


def frame(head, payload, length=None):
    start = struct.pack("!BBQ", head, 0xFF, len(payload) if length is None else length)
    return start + NO_MASK + payload


def flood(sock, data, times):
    """Send ``data`` up to ``times`` times, as long as the server takes it."""
    with suppress(ConnectionError):
        for _ in range(times):
            sock.sendall(data)


def said(sock):
    """The close code of the server, whatever it says before."""
    while True:
        opcode, payload = raw.read_frame(sock)
        if opcode is Opcode.CLOSE:
            return int.from_bytes(payload[:2], "big")


@pytest.mark.parametrize("view", VIEWS)
def test_a_compression_bomb_is_1009_and_inflates_to_no_more_than_a_message(served, view):
    """1 GiB in less than 1 MiB, which may be sent as such."""
    payload = bomb(1008)
    assert MIB * 15 // 16 < len(payload) < MIB
    for _ in range(3):
        with served.open(view) as sock:
            flood(sock, frame(0xC2, payload), 1)
            assert said(sock) == 1009
    assert served.growth < A_FEW


@pytest.mark.parametrize("view", VIEWS)
def test_a_bomb_in_fragments_is_1009_when_it_is_too_long_in_sum(served, view):
    payload = bomb(16)
    cut = [payload[at : at + 500] for at in range(0, len(payload), 500)]
    with served.open(view) as sock:
        flood(sock, frame(0x41, cut[0]) + b"".join(frame(0, part) for part in cut[1:]), 1)
        assert said(sock) == 1009
    assert served.growth < A_FEW


def test_of_twenty_bombs_at_once_nothing_is_kept(served):
    """Neither while their peers stay: all are told before one goes."""
    with ExitStack() as stack:
        socks = [stack.enter_context(served.open("echo")) for _ in range(20)]
        for sock in socks:
            sock.sendall(frame(0xC2, bomb(64)))
        assert [said(sock) for sock in socks] == [1009] * 20
    assert served.growth < A_FEW


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("part", [b"", b"x"])
def test_a_million_tiny_fragments_are_1009(served, view, part):
    piece = raw.frame(part, Opcode.CONT, fin=False)
    with served.open(view) as sock:
        sock.sendall(raw.frame(part, Opcode.TEXT, fin=False))
        flood(sock, piece * 10_000, 100)
        assert said(sock) == 1009
    assert served.growth < A_FEW


@pytest.mark.parametrize("length", [MIB + 1, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_what_announces_too_much_is_1009_before_it_comes(served, length):
    with ExitStack() as stack:
        socks = [stack.enter_context(served.open(view)) for view in VIEWS * 5]
        for sock in socks:
            sock.sendall(frame(0x82, b"x", length))
        assert [said(sock) for sock in socks] == [1009] * 10
    assert served.growth < A_FEW


@pytest.mark.parametrize("view", VIEWS)
def test_a_message_that_is_too_long_when_put_together_is_1009(served, view):
    half = bytes(MIB // 2)
    with served.open(view) as sock:
        flood(sock, frame(0x02, half) + frame(0x00, half) + frame(0x80, b"x"), 1)
        assert said(sock) == 1009
    assert served.growth < A_FEW


def test_what_is_only_announced_takes_no_memory(served):
    """A hundred peers with a message of the most bytes to come, of which each sends a little."""
    with ExitStack() as stack:
        for _ in range(100):
            sock = stack.enter_context(served.open("echo"))
            sock.sendall(frame(0x82, bytes(100), MIB))
        assert served.serves()
        assert served.growth < A_FEW


def test_a_flood_of_pings_from_a_peer_that_reads_no_pongs_takes_no_memory(served):
    """26 MB of them, and as much for an answer."""
    pings = raw.frame(bytes(125), Opcode.PING) * 1000
    with served.open("echo", rcvbuf=4096) as sock:
        flood(sock, pings, 200)
        assert served.serves()
        assert served.growth < A_FEW
        sock.sendall(raw.frame(b"last", Opcode.PING))
        payload = None
        while payload != b"last":
            opcode, payload = raw.read_frame(sock)
            assert opcode is Opcode.PONG


def test_a_flood_for_a_view_that_does_not_read_is_dropped(served):
    with served.open("listen") as sock:
        flood(sock, raw.frame(bytes(1000)) * 100, 200)
        sock.sendall(raw.frame(b"here", Opcode.PING))
        assert raw.read_frame(sock) == (Opcode.PONG, b"here")
    assert served.growth < A_FEW


def test_a_flood_for_a_handler_that_does_not_wait_is_left_to_tcp(served):
    with served.open("deaf") as sock:
        sock.setblocking(False)
        message, sent = raw.frame(bytes(1000)) * 100, 0
        with suppress(BlockingIOError):
            while sent < 100 * MIB:
                sent += sock.send(message)
        assert sent < 100 * MIB
        assert served.serves()
    assert served.growth < A_FEW


def test_a_peer_that_floods_after_it_was_closed_is_not_listened_to_for_long(served):
    with served.open("echo") as sock:
        sock.sendall(b"\x81\x01x")
        flood(sock, bytes(MIB), 40)
        with suppress(ConnectionError):
            assert said(sock) == 1002
    assert served.growth < A_FEW


@pytest.mark.parametrize("lines", [b"", b"0\r\n"])
def test_the_head_of_a_chunk_that_never_ends_takes_no_memory(served, lines):
    head = b"POST /a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + lines
    with raw.dial(served.url) as sock:
        flood(sock, head + b"1" * MIB, 1)
        flood(sock, b"1" * MIB, 60)
    assert served.growth < A_FEW


def test_heads_that_never_end_take_no_memory(served):
    with ExitStack() as stack:
        for _ in range(50):
            sock = stack.enter_context(raw.dial(served.url))
            flood(sock, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, 1)
            with suppress(ConnectionError):
                assert raw.read_all(sock)[9:12] in (b"431", b"")
    assert served.serves()
    assert served.growth < A_FEW


FLOODS = {
    "a body": ("Content-Length: 99999999999", bytes(100_000)),
    "chunks": ("Transfer-Encoding: chunked", (b"10000\r\n" + bytes(65_536) + b"\r\n") * 2),
    "trailers": ("Transfer-Encoding: chunked\r\n\r\n0", b"x: y\r\n" * 20_000),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_request_that_never_ends_gives_everybody_else_a_turn(served, name):
    line, piece = FLOODS[name]
    done, pieces = threading.Event(), []

    def flood(sock):
        head = f"POST /a/@@page HTTP/1.1\r\nHost: localhost\r\n{line}\r\n"
        sock.sendall(head.encode() + (b"" if name == "trailers" else b"\r\n"))
        with suppress(OSError):
            while not done.is_set():
                sock.sendall(piece)
                pieces.append(piece)

    with raw.dial(served.url) as sock, connect(served.echo) as peer:
        thread = threading.Thread(target=flood, args=(sock,))
        thread.start()
        try:
            # Of trailers, so many are too many: the connection ends.
            wait_until(lambda: len(pieces) > 20 or (name == "trailers" and not thread.is_alive()))
            for number in range(20):
                peer.send(str(number))
                assert peer.recv(timeout=20) == str(number)
        finally:
            done.set()
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            thread.join(30)
