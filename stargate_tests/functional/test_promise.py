"""What the first author promised of stargate, letter for letter, on real sockets."""

import logging
import resource as rusage
import time

import pytest
from pyramid.config import Configurator
from websockets.sync.client import connect

from stargate import WebSocketAwareContext, WebSocketView
from stargate_tests.waiting import wait_until


class YourResource(WebSocketAwareContext):
    def __init__(self, name, parent):
        self.__name__, self.__parent__ = name, parent


seen = []


class YourView(WebSocketView):
    def handler(self, websocket):
        self.request.context.add_listener(websocket)
        while True:
            msg = websocket.wait()
            seen.append(msg)  # do something with msg


class SendingView(WebSocketView):
    def handler(self, websocket):
        resource = self.request.context
        self.request.context.add_listener(websocket)
        while True:
            msg = websocket.wait()
            resource.send(msg)


def make_app(view):
    root = {}
    root["it"] = resource = YourResource("it", None)
    resource.__parent__ = top = YourResource("", None)
    assert top.__parent__ is None
    with Configurator(root_factory=lambda request: root) as config:
        config.include("stargate")
        config.add_websocket_view(view, context=YourResource)
        return resource, config.make_wsgi_app()


@pytest.mark.parametrize("view", [YourView, SendingView])
def test_the_snippet_serves_and_ends_when_the_browser_leaves(live_server, caplog, view):
    resource, app = make_app(view)
    server = live_server(app)
    del seen[:]
    with connect(server.websocket_url("/it")) as one, connect(server.websocket_url("/it")) as two:
        wait_until(lambda: len(server.gate.listeners(resource)) == 2)
        one.send("msg")
        if view is YourView:
            wait_until(lambda: seen == ["msg"])
        else:
            assert (one.recv(timeout=20), two.recv(timeout=20)) == ("msg", "msg")
        server.gate.send(resource, "some other message")
        assert (one.recv(timeout=20), two.recv(timeout=20)) == ("some other message",) * 2
    wait_until(lambda: server.server.engine.running == 0)
    assert len(server.gate.listeners(resource)) == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_no_cpu_is_burnt_after_the_browser_has_left(live_server):
    resource, app = make_app(YourView)
    server = live_server(app)
    with connect(server.websocket_url("/it")):
        wait_until(lambda: len(server.gate.listeners(resource)) == 1)
    wait_until(lambda: server.server.engine.running == 0)
    turns = server.server.engine.ask_from_thread(lambda: None)
    assert turns is None
    before, began = _cpu(), time.monotonic()
    # The absence of work is what is waited for: a spinning hub takes all of this time.
    server.server.engine.ask_from_thread(_rest, server.server.engine)
    assert time.monotonic() - began >= 0.5
    assert _cpu() - before < 0.25


def _rest(engine):
    engine.call_later(0.5, engine.resume, engine.greenlet)
    engine.park()


def _cpu():
    used = rusage.getrusage(rusage.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def test_a_resource_sends_by_itself_in_a_process_with_one_application(live_server, no_application):
    resource, app = make_app(YourView)
    server = live_server(app)
    with connect(server.websocket_url("/it")) as peer:
        wait_until(lambda: len(resource.listeners) == 1)
        resource.send("from a plain OS thread, with no request")
        assert peer.recv(timeout=20) == "from a plain OS thread, with no request"
