"""Listeners that read slowly or not at all, on real sockets: who is dropped, closed, waited for."""

import re
import threading
from pathlib import Path

import pytest
from websockets.frames import Opcode
from websockets.sync.client import connect

from stargate import MessageTooBig, WebSocketView
from stargate.websocket.sending import LATEST_LOWAT
from stargate_tests import raw
from stargate_tests.functional.program import pserve
from stargate_tests.functional.test_send import joined
from stargate_tests.functional.tree import Node, make_app
from stargate_tests.waiting import wait_until

MIB = 1_048_576


class Price(WebSocketView):
    def on_open(self, websocket):
        self.context.add_listener(websocket, when_slow="latest")


class Stream(WebSocketView):
    """Listens, and streams as many blocks as it is asked for."""

    def handler(self, websocket):
        self.context.add_listener(websocket)
        for number in range(int(websocket.wait())):
            websocket.send(bytes([number % 256]) * 100_000)
        websocket.flush()


def listener(server):
    """The only listener of ``/a``, once it has joined."""
    joined(server, "/a", 1)
    (websocket,) = server.gate.listeners("/a")
    return websocket


def view(kind, name):
    return lambda config: config.add_websocket_view(kind, context=Node, name=name)


def test_what_a_stalled_listener_of_the_latest_reads_first_is_what_its_own_kernel_had(live_server):
    """And what ours may keep: a few KiB. Then comes the newest, and nothing between."""
    server = live_server(make_app(view(Price, "price")))
    with raw.connect(server.url, "/a/@@price", rcvbuf=4096) as sock:
        websocket = listener(server)
        engine, sent = server.server.engine, 0
        while websocket.missed < 1000:
            server.gate.send("/a", f"{sent:07}".ljust(1000))
            sent += 1
            if sent % 50 == 0:
                engine.ask_from_thread(lambda: None)
        wait_until(
            lambda: not engine.ask_from_thread(lambda: len(server.gate._delivery.walks._queue))
        )
        missed, found = websocket.missed, []
        while not found or found[-1] != sent - 1:
            found.append(int(raw.read_frame(sock)[1][:7]))
    stale = found[:-1]
    assert stale == list(range(len(stale)))
    assert len(stale) * 1004 < LATEST_LOWAT + 2 * 4096 + 2 * 1004
    assert missed == sent - len(found)


def test_a_handler_that_streams_is_waited_for_and_nobody_closes_it(live_server):
    server = live_server(make_app(view(Stream, "stream"), **{"stargate.outbox_size": "300000"}))
    with raw.connect(server.url, "/a/@@stream", rcvbuf=4096) as sock:
        websocket = listener(server)
        sock.sendall(raw.frame("100"))
        wait_until(lambda: websocket.buffered)
        server.gate.send("/a", "in between")
        blocks, between = [], 0
        while len(blocks) < 100:
            opcode, payload = raw.read_frame(sock)
            if opcode is Opcode.BINARY:
                blocks.append(payload)
            else:
                between += payload == b"in between"
        assert blocks == [bytes([number]) * 100_000 for number in range(100)]
        assert between == 1
        assert websocket.missed == 0


def test_one_block_larger_than_the_outbox_does_not_make_its_listener_slow(live_server):
    class Big(WebSocketView):
        def handler(self, websocket):
            self.context.add_listener(websocket)
            websocket.send(bytes(20 * MIB))
            websocket.wait()

    server = live_server(make_app(view(Big, "big")))
    with raw.connect(server.url, "/a/@@big") as sock:
        websocket = listener(server)
        wait_until(lambda: websocket.buffered > 10 * MIB)
        for number in range(10):
            server.gate.send("/a", str(number))
        assert raw.read_frame(sock) == (Opcode.BINARY, bytes(20 * MIB))
        assert [raw.read_frame(sock)[1] for _ in range(10)] == [b"%d" % n for n in range(10)]


@pytest.mark.parametrize("send", ["send", "send_json"])
def test_a_message_too_big_for_the_outboxes_is_an_error_where_it_is_sent(live_server, send):
    server = live_server(make_app(**{"stargate.max_send_size": "1000"}))
    with connect(server.websocket_url("/a")) as peer:
        joined(server, "/a", 1)
        with pytest.raises(MessageTooBig, match="max_send_size, 1000 bytes") as error:
            getattr(server.gate, send)("/a", "x" * 1001)
        assert error.value.address == "/a" and error.value.size >= 1001
        server.gate.send("/a", "é" * 500)  # The limit is in bytes.
        assert peer.recv(timeout=20) == "é" * 500
        with pytest.raises(ValueError):
            server.gate.send("/a", "é" * 501)


def test_by_default_a_message_of_one_mebibyte_is_the_longest(live_server):
    server = live_server(make_app())
    with connect(server.websocket_url("/a"), max_size=None) as peer:
        joined(server, "/a", 1)
        with pytest.raises(MessageTooBig):
            server.gate.send("/a", bytes(MIB + 1))
        server.gate.send("/a", bytes(MIB))
        assert len(peer.recv(timeout=20)) == MIB


def test_a_listener_that_never_reads_is_told_and_reset_and_the_others_lose_nothing(live_server):
    server = live_server(
        make_app(**{"stargate.outbox_size": "200000", "stargate.close_timeout": "0.5"})
    )
    sent = [f"{number:05}".ljust(10_000) for number in range(200)]
    with connect(server.websocket_url("/a"), max_queue=None) as healthy:
        with raw.connect(server.url, "/a", rcvbuf=4096) as stalled:
            joined(server, "/a", 2)
            for message in sent:
                server.gate.send("/a", message)
                assert healthy.recv(timeout=20) == message
            stats = server.gate.stats()
            assert (stats.slow_closes, stats.connections) == (1, 2)
            wait_until(lambda: server.gate.stats().connections == 1)
            found = raw.read_all(stalled)
    assert stats.drops > 15
    assert (
        len(found) < 200_000 and b"\x03\xf5too slow" not in found
    )  # It took nothing, and is reset.


def test_messages_without_end_from_a_view_that_never_yields(tmp_path):
    """20 MB to who reads as a browser would, while 200 KB may wait: nobody who reads is closed."""
    app = "stargate.outbox_size = 200000\nstargate.close_timeout = 1"
    with pserve(tmp_path, app=app) as program:
        status = Path(f"/proc/{program.process.pid}/status")

        def most_memory():
            return int(re.search(r"VmHWM:\s+(\d+)", status.read_text()).group(1)) * 1024

        url = program.url.replace("http", "ws") + "/a"
        with connect(url) as peer, raw.connect(program.url, "/a") as stalled:
            before = most_memory()
            answer = []
            page = threading.Thread(target=lambda: answer.append(_get(program.url, "many", 20_000)))
            page.start()
            for number in range(20_000):
                assert int(peer.recv(timeout=60)) == number
            page.join(60)
            assert answer == [b"sent"]
            assert most_memory() - before < 10_000_000
            peer.ping().wait(20)
            raw.read_all(stalled)
            program.expect("closing a slow WebSocket with 1013")


def _get(url, view, count):
    with raw.dial(url, timeout=60) as sock:
        path = f"/a/@@{view}?count={count}"
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return raw.read_all(sock)[-4:]
