import logging
import urllib.request
from contextlib import suppress

import pytest
from greenlet import GreenletExit
from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.testing import DummyRequest
from pyramid.threadlocal import get_current_request
from websockets.exceptions import ConnectionClosed as PeerClosed
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from zope.interface.verify import verifyObject

from stargate import BackplaneError, ConnectionClosed, WebSocketAwareContext, WebSocketView
from stargate.engine.hub import threading
from stargate.events import ViewFailed
from stargate.handshake.upgrade import Accepted, Refused
from stargate.interfaces import IWebSocketView
from stargate.testing import FakeWebSocket
from stargate.view import (
    HANDSHAKE,
    HTTPUpgradeRequired,
    WebSocketResponse,
    _detached,
    _Life,
    overrides,
    refusal,
)
from stargate_tests.waiting import wait_until


class Root(WebSocketAwareContext):
    __name__ = ""
    __parent__ = None


class Boom(Exception):
    pass


@pytest.fixture
def serve(live_server):
    """``serve(view, configure=None)``: a running server with ``view`` at its root."""

    def serve(view, configure=None, **options):
        root = Root()
        config = Configurator(root_factory=lambda request: root)
        config.include("stargate")
        config.add_websocket_view(view, context=Root, **options)
        failures = []
        config.add_subscriber(failures.append, ViewFailed)
        if configure is not None:
            configure(config)
        server = live_server(config.make_wsgi_app())
        server.failures, server.root = failures, root
        return server

    return serve


def dial(server, path="/", **options):
    return connect(server.websocket_url(path), **options)


def close_of(websocket):
    """How the server closed ``websocket``, whatever it said before."""
    with pytest.raises(PeerClosed) as caught:
        while True:
            websocket.recv(timeout=10)
    return caught.value.rcvd


def idle(server):
    engine = server.server.engine
    return not engine.connections and not engine.running


# As it stands.


def test_it_provides_its_interface():
    assert verifyObject(IWebSocketView, WebSocketView(DummyRequest(context=None)))


def test_it_has_the_request_and_its_context():
    request = DummyRequest()
    request.context = context = Root()
    view = WebSocketView(request)
    assert view.request is request and view.context is context


def test_by_default_it_listens_to_its_context(serve):
    server = serve(WebSocketView)
    with dial(server) as websocket:
        wait_until(lambda: len(server.gate.listeners(server.root)) == 1)
        server.gate.send(server.root, "hello")
        assert websocket.recv(timeout=10) == "hello"
    wait_until(lambda: not server.gate.listeners(server.root))


def test_by_default_what_comes_in_is_counted_and_dropped(serve):
    server = serve(WebSocketView)
    with dial(server) as websocket:
        for _ in range(200):
            websocket.send("x")
        wait_until(lambda: server.server.engine.connections)
        (ours,) = server.server.engine.connections
        wait_until(lambda: ours.discarded == 200)


def test_by_default_nobody_remembers_the_view(serve):
    server = serve(WebSocketView)
    with dial(server):
        wait_until(lambda: len(server.gate.listeners(server.root)) == 1)
        (ours,) = server.server.engine.connections
        wait_until(lambda: ours._attend is None and not server.server.engine.running)


def test_the_default_handler_speaks_both_styles_to_a_fake():
    seen = []

    class View(WebSocketView):
        def on_open(self, websocket):
            seen.append("open")

        def on_message(self, websocket, message):
            seen.append(message)

    View(DummyRequest(context=None)).handler(FakeWebSocket(["a", "b"]))
    assert seen == ["open", "a", "b"]


# The blocking style.


def test_returning_from_a_handler_closes_with_1000(serve):
    class View(WebSocketView):
        def handler(self, websocket):
            websocket.send("only this")

    server = serve(View)
    with dial(server) as websocket:
        assert websocket.recv(timeout=10) == "only this"
        assert close_of(websocket).code == 1000
    wait_until(lambda: idle(server))


def test_a_loop_ends_by_itself_when_the_peer_goes(serve):
    ended = threading.Event()

    class View(WebSocketView):
        def handler(self, websocket):
            for message in websocket:
                websocket.send(message)
            ended.set()

    server = serve(View)
    with dial(server) as websocket:
        websocket.send("echo")
        assert websocket.recv(timeout=10) == "echo"
    assert ended.wait(10)
    wait_until(lambda: idle(server))


def test_its_own_connection_closed_ends_a_handler_quietly(serve, caplog):
    ended = threading.Event()

    class View(WebSocketView):
        def handler(self, websocket):
            try:
                while True:
                    websocket.wait()
            finally:
                ended.set()

    server = serve(View)
    with caplog.at_level(logging.WARNING), dial(server):
        pass
    assert ended.wait(10)
    wait_until(lambda: idle(server))
    assert caplog.records == [] and server.failures == []


class Fails(WebSocketView):
    def handler(self, websocket):
        raise Boom("in the handler")


class FailsToOpen(WebSocketView):
    def on_open(self, websocket):
        raise Boom("in on_open")


class FailsOnMessage(WebSocketView):
    def on_open(self, websocket):
        pass

    def on_message(self, websocket, message):
        raise Boom("in on_message")


@pytest.mark.parametrize("view", [Fails, FailsToOpen, FailsOnMessage])
def test_an_exception_is_logged_and_closes_with_1011_and_is_an_event(serve, view, caplog):
    server = serve(view)
    with caplog.at_level(logging.ERROR), dial(server) as websocket:
        with suppress(PeerClosed):
            websocket.send("a")
        assert close_of(websocket).code == 1011
        wait_until(lambda: idle(server))
    (record,) = caplog.records
    assert record.exc_info[0] is Boom
    assert view.__name__ in record.getMessage() and "failed at / " in record.getMessage()
    (failure,) = server.failures
    assert isinstance(failure.error, Boom) and isinstance(failure.view, view)
    assert failure.websocket.id in record.getMessage()


class Away(WebSocketView):
    def handler(self, websocket):
        raise BackplaneError("not sent", "localhost:6379: Connection refused")


class AwayToOpen(WebSocketView):
    def on_open(self, websocket):
        raise BackplaneError("not sent", "localhost:6379: Connection refused")


class AwayOnMessage(WebSocketView):
    def on_open(self, websocket):
        pass

    def on_message(self, websocket, message):
        raise BackplaneError("unknown", "localhost:6379: Connection refused", "k")


@pytest.mark.parametrize("view", [Away, AwayToOpen, AwayOnMessage])
def test_a_backplane_error_is_a_line_of_log_and_closes_with_1013_and_is_an_event(
    serve, view, caplog
):
    server = serve(view, name="x" * 3000)
    with caplog.at_level(logging.ERROR), dial(server, "/@@" + "x" * 3000) as websocket:
        with suppress(PeerClosed):
            websocket.send("a")
        closed = close_of(websocket)
        assert (closed.code, closed.reason) == (1013, "try again later")
        wait_until(lambda: idle(server))
    (record,) = caplog.records
    assert record.exc_info is None and len(record.getMessage()) < 300
    assert record.getMessage().endswith("sent: localhost:6379: Connection refused") or (
        "unknown: localhost:6379" in record.getMessage()
    )
    (failure,) = server.failures
    assert isinstance(failure.error, BackplaneError) and isinstance(failure.view, view)


def test_an_exception_in_on_close_is_logged_and_is_an_event(serve, caplog):
    class View(WebSocketView):
        def on_close(self, websocket):
            raise Boom

    server = serve(View)
    with caplog.at_level(logging.ERROR):
        with dial(server):
            pass
        wait_until(lambda: server.failures)
        wait_until(lambda: idle(server))
    assert len(caplog.records) == 1


def test_what_is_no_exception_fails_too(serve, caplog):
    class Timeout(BaseException):
        """As eventlet's."""

    class View(WebSocketView):
        def handler(self, websocket):
            raise Timeout

    server = serve(View)
    with caplog.at_level(logging.ERROR), dial(server) as websocket:
        assert close_of(websocket).code == 1011
    assert isinstance(server.failures[0].error, Timeout)


def test_a_killed_handler_says_that_it_is_going_away(serve):
    class View(WebSocketView):
        def handler(self, websocket):
            raise GreenletExit

    server = serve(View)
    with dial(server) as websocket:
        assert close_of(websocket).code == 1001
    assert server.failures == []


def test_ctrl_c_goes_on_to_a_server_that_hears_it_as_an_exception(caplog):
    """One that is not ours, which leaves the signal to Python."""

    class View(WebSocketView):
        def handler(self, websocket):
            raise KeyboardInterrupt

    class Foreign(FakeWebSocket):
        path, id = "/", "1"

    websocket, view = Foreign(), View(DummyRequest(context=None))
    websocket._engine.ends_on = (KeyboardInterrupt,)
    with pytest.raises(KeyboardInterrupt):
        _Life(view, websocket)._call(view.handler)
    assert websocket.close_code == 1011
    websocket._engine.ends_on = ()
    assert not _Life(view, websocket)._call(view.handler)


def test_connection_closed_of_another_websocket_is_an_error(serve, caplog):
    other = FakeWebSocket()
    other.leave(1001)

    class View(WebSocketView):
        def handler(self, websocket):
            other.send("too late")

    server = serve(View)
    with caplog.at_level(logging.ERROR), dial(server) as websocket:
        assert close_of(websocket).code == 1011
    assert isinstance(server.failures[0].error, ConnectionClosed)
    assert server.failures[0].error.websocket is other


# The style without a greenlet.


def test_messages_come_one_by_one_and_in_order(serve):
    seen = []

    class View(WebSocketView):
        def on_message(self, websocket, message):
            seen.append(message)

    server = serve(View)
    sent = [str(number) for number in range(300)]
    with dial(server) as websocket:
        for message in sent:
            websocket.send(message)
        wait_until(lambda: len(seen) == 300)
    assert seen == sent


def test_never_two_methods_at_a_time(serve):
    seen, most = [], []

    class View(WebSocketView):
        inside = 0

        def _step(self, websocket, name):
            self.inside += 1
            most.append(self.inside)
            seen.append(name)
            engine = websocket._engine
            for _ in range(3):  # Give way in the midst of it.
                engine.call_soon(engine.greenlet.switch)
                engine.park()
            self.inside -= 1

        def on_open(self, websocket):
            self._step(websocket, "open")

        def on_message(self, websocket, message):
            self._step(websocket, message)

        def on_close(self, websocket):
            self._step(websocket, "close")

    server = serve(View)
    with dial(server) as websocket:
        for number in range(20):
            websocket.send(str(number))
    wait_until(lambda: "close" in seen and idle(server))
    assert set(most) == {1}
    assert seen == ["open", *(str(number) for number in range(20)), "close"]


def test_a_message_that_comes_during_another_waits_for_it(serve):
    inside, most, seen = [], [], []

    class View(WebSocketView):
        def on_message(self, websocket, message):
            inside.append(message)
            most.append(len(inside))
            engine = websocket._engine
            while message == "first" and not websocket.pending:
                engine.call_later(0.001, engine.greenlet.switch)
                engine.park()
            engine.call_later(0.001, engine.greenlet.switch)
            engine.park()
            inside.remove(message)
            seen.append(message)

    server = serve(View)
    with dial(server) as websocket:
        wait_until(lambda: server.gate.listeners("/") and not server.server.engine.running)
        websocket.send("first")
        wait_until(lambda: inside == ["first"])
        websocket.send("second")
        wait_until(lambda: seen == ["first", "second"])
    assert most == [1, 1]


def test_no_greenlet_is_held_between_messages(serve):
    class View(WebSocketView):
        def on_message(self, websocket, message):
            websocket.send(message)

    server = serve(View)
    with dial(server) as websocket:
        for text in ("a", "b"):
            websocket.send(text)
            assert websocket.recv(timeout=10) == text
            wait_until(lambda: server.server.engine.running == 0)


def test_on_close_is_called_once_when_the_peer_goes(serve):
    closed = []

    class View(WebSocketView):
        def on_close(self, websocket):
            closed.append((websocket.closed, websocket.close_code))

    server = serve(View)
    with dial(server) as websocket:
        websocket.close(4000)
    wait_until(lambda: idle(server))
    assert closed == [(True, 4000)]


def test_on_close_is_called_once_when_the_view_closes(serve):
    closed = []

    class View(WebSocketView):
        def on_message(self, websocket, message):
            websocket.close(4000)
            websocket.close(4001)

        def on_close(self, websocket):
            closed.append(websocket.close_code)

    server = serve(View)
    with dial(server) as websocket:
        websocket.send("enough")
        assert close_of(websocket).code == 4000
    wait_until(lambda: idle(server))
    assert closed == [4000]


class Remembers(WebSocketView):
    """What was called, in the order of it."""

    called: list

    def on_open(self, websocket):
        self.called.append("open")
        raise Boom

    def on_message(self, websocket, message):
        self.called.append(message)

    def on_close(self, websocket):
        self.called.append("close")


def test_on_close_is_called_once_even_where_on_open_raised(serve):
    class View(Remembers):
        called = []

    server = serve(View)
    with dial(server) as websocket:
        close_of(websocket)
    wait_until(lambda: idle(server))
    assert View.called == ["open", "close"]


def test_on_close_is_called_even_where_a_subscriber_to_the_failure_raises(serve, capfd):
    class View(Remembers):
        called = []

    def subscriber(event):
        raise Boom("in the subscriber")

    server = serve(View, lambda config: config.add_subscriber(subscriber, ViewFailed))
    with dial(server) as websocket:
        close_of(websocket)
    wait_until(lambda: idle(server))
    assert View.called == ["open", "close"]


def test_after_an_on_open_that_raised_no_message_is_delivered(serve):
    class View(Remembers):
        called = []

        def on_open(self, websocket):
            while not websocket.pending:
                engine = websocket._engine
                engine.call_later(0.001, engine.greenlet.switch)
                engine.park()
            super().on_open(websocket)

    server = serve(View)
    with dial(server) as websocket:
        websocket.send("a message that nobody is there for")
        close_of(websocket)
    wait_until(lambda: idle(server))
    assert View.called == ["open", "close"]


def test_after_an_on_message_that_raised_no_further_message_is_delivered(serve):
    seen = []

    class View(WebSocketView):
        def on_open(self, websocket):
            while websocket.pending < 3:
                engine = websocket._engine
                engine.call_later(0.001, engine.greenlet.switch)
                engine.park()

        def on_message(self, websocket, message):
            seen.append(message)
            raise Boom

    server = serve(View)
    with dial(server) as websocket:
        for text in "abc":
            websocket.send(text)
        assert close_of(websocket).code == 1011
    wait_until(lambda: idle(server))
    assert seen == ["a"]


def test_its_own_connection_closed_ends_an_on_open_quietly(serve, caplog):
    called = []

    class View(WebSocketView):
        def on_open(self, websocket):
            websocket.close(4000)
            websocket.send("late")

        def on_close(self, websocket):
            called.append("close")

    server = serve(View)
    with caplog.at_level(logging.WARNING), dial(server) as websocket:
        assert close_of(websocket).code == 4000
    wait_until(lambda: idle(server))
    assert called == ["close"] and caplog.records == [] and server.failures == []


# What a view finds.


@pytest.mark.parametrize("style", ["handler", "on_message"])
def test_it_runs_with_its_request_as_the_current_one_and_context_put_back(serve, style):
    found = []

    def look(self, websocket, *_message):
        found.append((get_current_request() is self.request, self.request.context is self.context))
        websocket.close()

    view = type("View", (WebSocketView,), {style: look})
    server = serve(view)
    with dial(server) as websocket:
        with suppress(PeerClosed):
            websocket.send("a")
        close_of(websocket)
    assert found == [(True, True)]


@pytest.mark.parametrize("message", ["fine", "fails"])
def test_the_request_is_not_the_current_one_of_what_its_greenlet_does_next(serve, message, caplog):
    done = []

    class View(WebSocketView):
        def on_message(self, websocket, message):
            done.append(websocket._engine.greenlet)
            if message == "fails":
                raise Boom

    server = serve(View)
    engine = server.server.engine

    def look():
        done.append((engine.greenlet, get_current_request()))

    with dial(server) as websocket:
        websocket.send(message)
        wait_until(lambda: done and not engine.running)
        engine.call_from_thread(engine.lend, look)
        wait_until(lambda: len(done) == 2)
    assert done[1] == (done[0], None)


def test_it_begins_when_the_request_is_over(serve):
    order = []

    class View(WebSocketView):
        def __init__(self, request):
            super().__init__(request)
            order.append("init")
            request.add_finished_callback(lambda request: order.append("finished"))

        def handler(self, websocket):
            order.append("handler")

    def tween_factory(handler, registry):
        def tween(request):
            try:
                return handler(request)
            finally:
                order.append("tween left")

        return tween

    def configure(config):
        tween_factory.__name__ = "order"
        globals()["tween_factory_of_the_test"] = tween_factory
        config.add_tween("stargate_tests.test_view.tween_factory_of_the_test")

    server = serve(View, configure)
    with dial(server) as websocket:
        close_of(websocket)
    assert order == ["init", "tween left", "finished", "handler"]


def test_the_userid_is_captured_before_the_request_ends(serve):
    asked, found = [], []

    class Policy:
        def identity(self, request):
            return None

        def authenticated_userid(self, request):
            asked.append(1)
            return "alice"

        def permits(self, request, context, permission):
            return True

    class View(WebSocketView):
        def handler(self, websocket):
            before = len(asked)
            found.append((websocket.userid, len(asked) - before))

    server = serve(View, lambda config: config.set_security_policy(Policy()))
    with dial(server) as websocket:
        close_of(websocket)
    assert found == [("alice", 0)]


def test_headers_that_the_application_set_go_out_with_the_101(serve):
    class View(WebSocketView):
        def __init__(self, request):
            super().__init__(request)
            request.response.headers["X-Unused"] = "of another response"
            request.add_response_callback(
                lambda request, response: response.set_cookie("session", "1")
            )

        def handler(self, websocket):
            pass

    server = serve(View)
    with dial(server) as websocket:
        headers = websocket.response.headers
        assert headers["Set-Cookie"].startswith("session=1")
        assert headers.get_all("Content-Length") == headers.get_all("Content-Type") == []
        assert len(headers.get_all("Connection")) == 1


def test_a_header_with_a_line_break_is_an_error_and_never_goes_out(serve, caplog):
    class View(WebSocketView):
        def __init__(self, request):
            super().__init__(request)
            request.add_response_callback(
                lambda request, response: response.headerlist.append(("X-Odd", "a\r\nX-Evil: 1"))
            )

    server = serve(View)
    with pytest.raises(InvalidStatus) as caught:
        dial(server)
    assert caught.value.response.status_code == 500
    assert "X-Evil" not in caught.value.response.headers


def test_the_websocket_has_the_facts_of_the_handshake(serve):
    found = []

    class View(WebSocketView):
        def handler(self, websocket):
            found.append(
                (websocket.path, websocket.origin, websocket.subprotocol, websocket.remote_addr)
            )

    server = serve(View, subprotocols=("chat",))
    with dial(server, subprotocols=["other", "chat"], origin=server.url) as websocket:
        assert websocket.subprotocol == "chat"
        close_of(websocket)
    assert found == [("/", server.url, "chat", "127.0.0.1")]


def test_a_page_and_a_socket_live_at_one_address(serve):
    def page(request):
        return Response("the page")

    server = serve(WebSocketView, lambda config: config.add_view(page, context=Root))
    with dial(server), urllib.request.urlopen(server.url, timeout=10) as answer:
        assert answer.read() == b"the page"


# The parts.


def test_a_view_that_was_called_without_a_handshake_says_how_to_register_it():
    with pytest.raises(RuntimeError, match=r"config.add_websocket_view\(\) or @view_config"):
        WebSocketView(DummyRequest(context=None, environ={}))()


def test_the_answer_to_a_handshake_is_a_101_with_no_content_headers():
    request = DummyRequest(context=None, environ={HANDSHAKE: Accepted((), None, None)})
    request.remote_addr = "192.0.2.1"
    response = WebSocketView(request)()
    assert isinstance(response, WebSocketResponse)
    assert response.status_int == 101
    assert "Content-Type" not in response.headers and "Content-Length" not in response.headers


def test_overriding_is_told_by_name():
    class Child(Remembers):
        handler = None

    assert overrides(WebSocketView, "handler", "on_open", "on_message", "on_close") == []
    assert overrides(Child, "handler", "on_close") == ["handler", "on_close"]


@pytest.mark.parametrize("status", [400, 403, 426])
def test_a_refusal_has_its_status(status):
    assert refusal(Refused(status, "because")).status_int == status


def test_a_refusal_carries_its_reason_and_headers():
    answer = refusal(Refused(426, "because", (("Upgrade", "websocket"),)))
    assert isinstance(answer, HTTPUpgradeRequired)
    assert answer.headers["Upgrade"] == "websocket"
    assert "because" in answer.detail


def test_the_environ_that_is_kept_has_nothing_of_the_server():
    kept = _detached(
        {
            "PATH_INFO": "/",
            "eventlet.input": 1,
            "stargate.take_over": 2,
            "headers_raw": (),
            "wsgi.input": 3,
        }
    )
    assert set(kept) == {"PATH_INFO", "wsgi.input"}
    assert kept["wsgi.input"].read() == b""
