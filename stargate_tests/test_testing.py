import urllib.request

import pytest
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from pyramid.testing import DummyRequest
from pyramid.threadlocal import RequestContext
from websockets.exceptions import ConnectionClosed as PeerClosed
from websockets.sync.client import connect, unix_connect

from stargate import ConnectionClosed, WebSocketAwareContext, WebSocketView
from stargate.testing import FakeWebSocket, LiveServer
from stargate_tests.waiting import wait_until


class Root(WebSocketAwareContext):
    __name__ = ""
    __parent__ = None


class Echo(WebSocketView):
    def handler(self, websocket):
        for message in websocket:
            websocket.send(message)


@pytest.fixture
def loose(no_application):
    """Fakes in a process with no application."""


# The fake.


def test_a_handler_gets_the_script_and_its_loop_ends(loose):
    fake = FakeWebSocket(["a", b"b"])
    Echo(DummyRequest(context=None)).handler(fake)
    assert fake.sent == ["a", b"b"]
    assert (fake.closed, fake.close_code) == (True, 1001)


def test_the_peer_goes_with_the_code_that_it_is_told_to(loose):
    fake = FakeWebSocket(gone=4000)
    with pytest.raises(ConnectionClosed, match="4000"):
        fake.wait()


def test_polling_ends_with_the_script_too(loose):
    """Behind the last of its messages the peer has gone away, so that a handler's loop ends."""
    fake = FakeWebSocket(["a"])
    assert fake.wait(timeout=0) == "a"
    with pytest.raises(ConnectionClosed):
        fake.wait(timeout=0)


def test_a_peer_that_stays_makes_waiting_raise_at_once(loose):
    fake = FakeWebSocket(["a"], stays=True)
    assert fake.wait() == "a"
    with pytest.raises(TimeoutError, match="no more messages"):
        fake.wait()
    assert not fake.closed


def test_more_can_be_received_later(loose):
    fake = FakeWebSocket(stays=True)
    fake.receive("a", "b")
    assert fake.pending == 2
    assert [fake.wait(), fake.wait()] == ["a", "b"]


def test_a_long_script_is_read_to_its_end(loose):
    script = [str(number) for number in range(500)]
    assert list(FakeWebSocket(script)) == script


def test_it_has_the_facts_it_is_given(loose):
    fake = FakeWebSocket(path="/a", origin="http://b", userid="alice", subprotocol="chat")
    assert (fake.path, fake.origin, fake.userid, fake.subprotocol) == (
        "/a", "http://b", "alice", "chat",
    )  # fmt: skip


def test_what_is_sent_to_it_can_be_seen(loose):
    fake = FakeWebSocket()
    fake.send("text")
    fake.send(b"binary")
    fake.send_json([1])
    fake.ping(b"?")
    fake.flush()
    assert fake.sent == ["text", b"binary", "[1]"]


def test_it_can_listen(loose):
    root, fake = Root(), FakeWebSocket()
    root.add_listener(fake)
    root.send("a")
    assert fake.sent == ["a"]
    assert fake in root.listeners


def test_when_it_leaves_it_listens_no_more(loose):
    root, fake = Root(), FakeWebSocket()
    root.add_listener(fake)
    fake.leave(1000, "bye")
    fake.leave(4000)
    assert len(root.listeners) == 0
    assert (fake.close_code, fake.close_reason) == (1000, "bye")
    with pytest.raises(ConnectionClosed):
        fake.send("late")


def test_what_the_handler_closes_is_closed(loose):
    root, fake = Root(), FakeWebSocket(stays=True)
    root.add_listener(fake)
    fake.close(4000, "enough")
    assert (fake.closed, fake.close_code, fake.close_reason) == (True, 4000, "enough")
    assert len(root.listeners) == 0


def test_a_real_websocket_is_checked_as_strictly(loose):
    fake = FakeWebSocket()
    with pytest.raises(TypeError):
        fake.send(1)
    with pytest.raises(ValueError):
        fake.close(1005)


# The server.


def application(view=Echo):
    config = Configurator(root_factory=lambda request: Root())
    config.include("stargate")
    config.add_websocket_view(view, context=Root)
    config.add_view(lambda request: Response("a page"), context=Root)
    return config.make_wsgi_app()


def test_the_fixture_serves_pages_and_sockets(live_server):
    server = live_server(application())
    with urllib.request.urlopen(server.url, timeout=10) as answer:
        assert answer.read() == b"a page"
    with connect(server.websocket_url("/")) as websocket:
        websocket.send("a")
        assert websocket.recv(timeout=10) == "a"


def test_the_fixture_serves_as_many_as_are_asked_for(live_server):
    first, second = live_server(application()), live_server(application())
    assert first.url != second.url
    for server in (first, second):
        with connect(server.websocket_url()) as websocket:
            websocket.send("a")
            assert websocket.recv(timeout=10) == "a"


def test_a_test_can_send_through_the_servers_gate(live_server):
    server = live_server(application(WebSocketView))
    with connect(server.websocket_url()) as websocket:
        wait_until(lambda: server.gate.listeners("/"))
        server.gate.send("/", "from the test")
        assert websocket.recv(timeout=10) == "from the test"


def test_a_fake_can_listen_beside_real_ones(live_server):
    server = live_server(application(WebSocketView))
    request = Request.blank("/")
    request.registry = server.application.registry
    with RequestContext(request), connect(server.websocket_url()) as websocket:
        fake = FakeWebSocket()
        wait_until(lambda: server.gate.listeners("/"))
        server.gate.add_listener("/", fake)
        server.gate.send("/", "to all")
        assert fake.sent == ["to all"]
        assert websocket.recv(timeout=10) == "to all"


def test_stopping_says_1001_to_who_is_connected():
    server = LiveServer(application(WebSocketView)).start()
    with connect(server.websocket_url()) as websocket:
        wait_until(lambda: server.gate.listeners("/"))
        server.stop()
        with pytest.raises(PeerClosed) as caught:
            websocket.recv(timeout=10)
    assert caught.value.rcvd.code == 1001


def test_stopping_twice_is_once():
    with LiveServer(application()) as server:
        server.stop()


def test_it_can_listen_on_a_unix_socket(tmp_path):
    path = str(tmp_path / "a.sock")
    with (
        LiveServer(application(), unix_socket=path) as server,
        unix_connect(path, "ws://localhost/") as websocket,
    ):
        assert server.url == f"unix:{path}"
        websocket.send("a")
        assert websocket.recv(timeout=10) == "a"


def test_what_keeps_it_from_starting_is_raised(live_server):
    port = live_server(application()).url.rpartition(":")[2]
    with pytest.raises(OSError, match="it is in use"):
        LiveServer(application(), listen=f"127.0.0.1:{port}").start()


@pytest.mark.parametrize("name", ["close", "flush"])
def test_a_websocket_whose_server_has_ended_can_still_be_told_to(name):
    """close(): ended already, do nothing; any thread may call it."""
    server = LiveServer(application(WebSocketView)).start()
    with connect(server.websocket_url()):
        wait_until(lambda: server.gate.listeners("/"))
        (ours,) = server.gate.listeners("/")
        server.stop()
    assert ours.closed
    if name == "close":
        ours.close()
    else:
        ours.flush(1)
