"""``send`` from any code, to many listeners, some of them broken."""

import json
import socket
import struct
import threading
import time
import urllib.request

import eventlet
import pytest
from pyramid.response import Response
from websockets.sync.client import connect

from stargate import WebSocketView
from stargate_tests import raw
from stargate_tests.functional.tree import Node, make_app
from stargate_tests.waiting import wait_until


def sending_view(context, request):
    context.send(request.params["message"])
    return Response("sent")


def background_view(context, request):
    """Send from a greenlet that has no request, after this one is over."""

    def later():
        from pyramid.threadlocal import get_current_request

        assert get_current_request() is None
        eventlet.sleep(0.01)
        context.send("from the background")

    eventlet.spawn(later)
    return Response("started")


def configure(config):
    config.add_view(sending_view, context=Node, name="send")
    config.add_view(background_view, context=Node, name="background")


@pytest.fixture
def server(live_server):
    return live_server(make_app(configure))


def joined(server, path, count):
    wait_until(lambda: len(server.gate.listeners(path)) == count)


def get(server, path):
    with urllib.request.urlopen(server.url + path, timeout=20) as answer:
        return answer.read().decode()


def test_from_a_view(server):
    with connect(server.websocket_url("/a")) as peer, connect(server.websocket_url("/b")) as other:
        joined(server, "/a", 1)
        joined(server, "/b", 1)
        get(server, "/a/@@send?message=hello")
        get(server, "/b/@@send?message=other")
        assert peer.recv(timeout=20) == "hello"
        assert other.recv(timeout=20) == "other"


def test_from_another_handler(server):
    with (
        connect(server.websocket_url("/a")) as peer,
        connect(server.websocket_url("/a/@@talk")) as talker,
    ):
        joined(server, "/a", 2)
        talker.send("said")
        assert peer.recv(timeout=20) == "said"
        assert talker.recv(timeout=20) == "said"


def test_from_a_greenlet_with_no_request(no_application, live_server):
    server = live_server(make_app(configure))
    with connect(server.websocket_url("/a")) as peer:
        joined(server, "/a", 1)
        get(server, "/a/@@background")
        assert peer.recv(timeout=20) == "from the background"


def test_from_an_os_thread_within_milliseconds(server):
    node = server.application.root["a"]
    with connect(server.websocket_url("/a")) as peer:
        joined(server, "/a", 1)
        took = []
        for number in range(50):
            began = time.perf_counter()
            server.gate.send(node, str(number))
            assert peer.recv(timeout=20) == str(number)
            took.append(time.perf_counter() - began)
    # A hub that nobody woke would look again after a minute.
    assert sorted(took)[25] < 0.05


def test_ten_thousand_from_an_os_thread_arrive_complete_and_in_order(server):
    count = 10_000
    with connect(server.websocket_url("/a"), max_queue=None) as peer:
        joined(server, "/a", 1)

        def send():
            for number in range(count):
                server.gate.send("/a", str(number))

        thread = threading.Thread(target=send)
        thread.start()
        assert [peer.recv(timeout=20) for _ in range(count)] == [str(n) for n in range(count)]
        thread.join(20)


def test_several_threads_keep_each_its_own_order(server):
    threads, count = 4, 500
    with connect(server.websocket_url("/a"), max_queue=None) as peer:
        joined(server, "/a", 1)

        def send(name):
            for number in range(count):
                server.gate.send("/a", f"{name}:{number}")

        started = [threading.Thread(target=send, args=(name,)) for name in range(threads)]
        for thread in started:
            thread.start()
        got = [peer.recv(timeout=20) for _ in range(threads * count)]
        for thread in started:
            thread.join(20)
    for name in range(threads):
        mine = [message for message in got if message.startswith(f"{name}:")]
        assert mine == [f"{name}:{number}" for number in range(count)]


def test_websocket_send_comes_behind_a_resource_send_before_it(live_server):
    class Both(WebSocketView):
        def on_message(self, websocket, message):
            for number in range(100):
                self.context.send(f"resource {number}")
                websocket.send(f"websocket {number}")
            websocket.close(1000)

    server = live_server(make_app(lambda c: c.add_websocket_view(Both, context=Node, name="both")))
    with connect(server.websocket_url("/a/@@both"), max_queue=None) as peer:
        peer.send("go")
        got = list(peer)
    assert got == [f"{kind} {n}" for n in range(100) for kind in ("resource", "websocket")]


def test_exclude_leaves_out_the_one_who_said_it(live_server):
    class Chat(WebSocketView):
        def on_message(self, websocket, message):
            self.context.send(message, exclude=websocket)
            self.context.send("to all")

    server = live_server(make_app(lambda c: c.add_websocket_view(Chat, context=Node, name="chat")))
    url = server.websocket_url("/a/@@chat")
    with connect(url) as one, connect(url) as two:
        joined(server, "/a", 2)
        one.send("from one")
        assert two.recv(timeout=20) == "from one"
        assert two.recv(timeout=20) == "to all"
        assert one.recv(timeout=20) == "to all"


def test_one_that_never_reads_delays_nobody_and_is_closed(live_server, caplog):
    server = live_server(
        make_app(**{"stargate.outbox_size": "200000", "stargate.close_timeout": "1"})
    )
    message = "x" * 49_000
    stuck = raw.connect(server.url, "/a", rcvbuf=4096)
    with connect(server.websocket_url("/a"), max_queue=None) as peer:
        joined(server, "/a", 2)
        for number in range(100):
            server.gate.send("/a", f"{number}:{message}")
            assert peer.recv(timeout=20) == f"{number}:{message}"
        joined(server, "/a", 1)
        wait_until(lambda: len(server.server.engine.connections) == 1)
    stuck.close()
    assert "closing a slow WebSocket" in caplog.text
    assert "stargate.outbox_size is 200000" in caplog.text


def test_a_slow_one_that_reads_on_gets_1013_behind_a_whole_frame(live_server):
    server = live_server(make_app(**{"stargate.outbox_size": "100000"}))
    with raw.connect(server.url, "/a", rcvbuf=4096) as slow:
        joined(server, "/a", 1)
        sent = 0
        while server.gate.listeners("/a"):
            server.gate.send("/a", f"{sent:05d}" + "x" * 20_000)
            sent += 1
        numbers = []
        while True:
            opcode, payload = raw.read_frame(slow)
            if opcode == 8:
                break
            numbers.append(int(payload[:5]))
    assert payload[:2] == (1013).to_bytes(2, "big")
    assert numbers == list(range(len(numbers)))
    assert len(numbers) < sent


def test_sockets_broken_in_any_way_neither_delay_nor_abort_a_send(server):
    broken = []
    for way in ("reset", "gone", "half", "read-shut"):
        sock = raw.connect(server.url, "/a")
        broken.append((way, sock))
    with connect(server.websocket_url("/a")) as peer:
        joined(server, "/a", 5)
        for way, sock in broken:
            if way == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
            elif way == "gone":
                sock.close()
            elif way == "half":
                sock.shutdown(socket.SHUT_WR)
            else:
                sock.shutdown(socket.SHUT_RD)
        for number in range(20):
            server.gate.send("/a", str(number))
            assert peer.recv(timeout=20) == str(number)
        joined(server, "/a", 2)  # Who only stopped reading is still there; its kernel drops.
    for _, sock in broken:
        sock.close()
    wait_until(lambda: not server.server.engine.connections)


def test_joins_and_leaves_during_sends_are_safe(server):
    stop = threading.Event()

    def come_and_go():
        while not stop.is_set():
            with raw.connect(server.url, "/a"):
                pass

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    with connect(server.websocket_url("/a"), max_queue=None) as peer:
        wait_until(lambda: len(server.gate.listeners("/a")) >= 1)
        numbers = [str(number) for number in range(2000)]
        for number in numbers:
            server.gate.send("/a", number)
        got = [peer.recv(timeout=20) for _ in numbers]
    stop.set()
    for thread in threads:
        thread.join(20)
    # The peer may have joined after the first of the others: it has all from its join on.
    assert got == numbers
    wait_until(lambda: not server.server.engine.connections)


def test_a_handler_may_stream_far_more_than_its_outbox_holds(live_server):
    class Stream(WebSocketView):
        def handler(self, websocket):
            for number in range(200):
                websocket.send(number.to_bytes(4, "big") + bytes(100_000))

    server = live_server(
        make_app(
            lambda c: c.add_websocket_view(Stream, context=Node, name="stream"),
            **{"stargate.outbox_size": "300000", "stargate.outbox_high_water": "150000"},
        )
    )
    with connect(server.websocket_url("/a/@@stream"), max_size=None, max_queue=4) as peer:
        got = [int.from_bytes(message[:4], "big") for message in peer]
    assert got == list(range(200))


def test_flush_waits_until_all_has_left(live_server):
    done = []

    class Flush(WebSocketView):
        def handler(self, websocket):
            websocket.send(bytes(3_000_000))
            websocket.flush(20)
            done.append(websocket.buffered)

    server = live_server(make_app(lambda c: c.add_websocket_view(Flush, context=Node, name="f")))
    with connect(server.websocket_url("/a/@@f"), max_size=None) as peer:
        assert len(peer.recv(timeout=20)) == 3_000_000
    wait_until(lambda: done == [0])


def test_a_full_inbox_pushes_back_and_loses_nothing(live_server):
    go = threading.Event()
    count, body = 400, "x" * 20_000

    class Slow(WebSocketView):
        def handler(self, websocket):
            while not go.is_set():
                eventlet.sleep(0.01)
            # Counted, not echoed: this peer does not read while its own send is held up.
            websocket.send_json([websocket.wait() == f"{n}:{body}" for n in range(count)])

    server = live_server(make_app(lambda c: c.add_websocket_view(Slow, context=Node, name="slow")))
    with connect(server.websocket_url("/a/@@slow")) as peer:
        sender = threading.Thread(target=lambda: [peer.send(f"{n}:{body}") for n in range(count)])
        sender.start()
        engine = server.server.engine
        wait_until(lambda: engine.connections and next(iter(engine.connections)).pending >= 64)
        assert next(iter(engine.connections)).pending < 200
        go.set()
        assert json.loads(peer.recv(timeout=30)) == [True] * count
        sender.join(20)
