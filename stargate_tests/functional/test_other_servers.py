"""Servers that are not ours: eventlet's own works in place, others say clearly that they cannot."""

import errno
import logging
import urllib.request

import pytest
import webtest
from waitress.server import create_server
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Opcode
from websockets.sync.client import connect

from stargate import WebSocketView, gate, view
from stargate.engine.hub import threading
from stargate.engine.patching import repair_threadlocals
from stargate.engine.quiet import eventlet
from stargate_tests import raw
from stargate_tests.functional.tree import Node, make_app
from stargate_tests.waiting import wait_until


class Log:
    def __init__(self):
        self.lines = []

    def info(self, message, *args):
        self.lines.append(message % args if args else message)

    debug = error = info


@pytest.fixture
def stock():
    """``stock(app)``: eventlet.wsgi.server as it comes, in a thread; returns its URL and log."""
    ends = []

    def start(app, **options):
        ready, box = threading.Event(), {}

        def run():
            repair_threadlocals()
            listening = eventlet.listen(("127.0.0.1", 0))
            box["url"] = f"http://127.0.0.1:{listening.getsockname()[1]}"
            box["log"] = Log()
            from stargate.engine import current_engine

            box["engine"] = engine = current_engine()
            server = eventlet.spawn(
                eventlet.wsgi.server, listening, app, log=box["log"], debug=False, **options
            )
            box["stop"] = lambda: engine.call_from_thread(engine.spawn, engine.resume, main)
            main = engine.greenlet
            ready.set()
            engine.park()
            server.kill()
            listening.close()
            engine.close()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        assert ready.wait(30)
        ends.append((thread, box["stop"]))
        return box

    yield start
    for thread, stop in ends:
        stop()
        thread.join(30)


@pytest.mark.parametrize("path", ["/a/@@echo", "/a/@@handler"])
def test_eventlets_own_server_runs_the_view_in_place(stock, path):
    app = make_app()
    server = stock(app)
    url = "ws" + server["url"].removeprefix("http")
    early = raw.frame("early")
    with raw.connect(server["url"], path, behind=early) as sock:
        assert raw.read_frame(sock) == (Opcode.TEXT, b"early")
    with connect(url + path) as peer, connect(url + "/a") as listener:
        for message in ("text", b"binary", "x" * 300_000):
            peer.send(message)
            assert peer.recv(timeout=20) == message
        wait_until(lambda: len(gate(app.registry).listeners("/a")) == 1)
        gate(app.registry).send("/a", "to all")
        assert listener.recv(timeout=20) == "to all"
        peer.close(4000, "enough")
        assert peer.protocol.close_rcvd.code == 4000
    wait_until(lambda: not server["engine"].connections)
    wait_until(lambda: sum(" 101 " in line for line in server["log"].lines) == 3)
    assert not any("Traceback" in line for line in server["log"].lines)


def test_a_view_that_fails_there_closes_with_1011_and_nothing_behind_it(stock, caplog):
    class Failing(WebSocketView):
        def handler(self, websocket):
            raise ValueError("no")

    app = make_app(lambda c: c.add_websocket_view(Failing, context=Node, name="failing"))
    server = stock(app)
    with raw.connect(server["url"], "/a/@@failing") as sock:
        opcode, payload = raw.read_frame(sock)
        sock.sendall(raw.frame(payload, Opcode.CLOSE))
        assert (opcode, payload[:2]) == (Opcode.CLOSE, (1011).to_bytes(2, "big"))
        assert raw.read_all(sock) == b""
    assert "ValueError: no" in caplog.text


def test_a_refused_handshake_closes_there_too(stock):
    server = stock(make_app())
    with raw.dial(server["url"]) as sock:
        refused = raw.handshake("localhost", "/a", "Origin: https://evil.example")
        sock.sendall(refused + b"GET /a/@@page HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = raw.read_all(sock)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_hand_off_without_a_descriptor_is_503_there_too(stock, monkeypatch):
    def fail(_environ):
        monkeypatch.undo()
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(view, "take_over", fail)
    server = stock(make_app())
    with raw.dial(server["url"]) as sock:
        sock.sendall(raw.handshake("localhost", "/a"))
        answer = raw.read_all(sock)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Connection: close\r\n" in answer


def test_a_socket_timeout_there_does_not_cut_a_silent_websocket(stock):
    app = make_app()
    server = stock(app, socket_timeout=0.3)
    with connect("ws" + server["url"].removeprefix("http") + "/a") as peer:
        with raw.dial(server["url"]) as silent:
            assert raw.read_all(silent) == b""  # The time-out works, and was long enough.
        gate(app.registry).send("/a", "still here")
        assert peer.recv(timeout=20) == "still here"


def test_waitress_gets_a_501_that_says_what_to_do(caplog):
    server = create_server(make_app(), host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        url = f"ws://127.0.0.1:{server.effective_port}/a"
        with pytest.raises(InvalidStatus) as refused, connect(url):
            pass
        assert refused.value.response.status_code == 501
        assert b"egg:stargate#eventlet" in refused.value.response.body
        with urllib.request.urlopen(
            f"http://127.0.0.1:{server.effective_port}/a/@@page", timeout=20
        ) as page:
            assert page.status == 200
    finally:
        server.close()
        thread.join(20)
    assert "waitress has no way to give a WebSocket its connection" in caplog.text


def test_webtest_gets_a_501_too(caplog):
    caplog.set_level(logging.ERROR)
    app = webtest.TestApp(make_app())
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": raw.KEY,
        "Sec-WebSocket-Version": "13",
    }
    answer = app.get("/a", headers=headers, status=501)
    assert "egg:stargate#eventlet" in answer.text
    assert app.get("/a/@@page").status_code == 200


def test_the_websocket_of_a_server_that_is_gone_says_so(live_server):
    server = live_server(make_app())
    with connect(server.websocket_url("/a/@@handler")) as peer:
        wait_until(lambda: server.server.engine.connections)
        (websocket,) = server.server.engine.connections
        server.stop()
        with pytest.raises(ConnectionClosed):
            peer.recv(timeout=20)
    with pytest.raises(ConnectionError):
        websocket.send("too late")
    server.gate.send("/a", "to nobody, and no error")
