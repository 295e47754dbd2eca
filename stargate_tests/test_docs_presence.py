"""The recipe of docs/howto/presence.rst, which shows parts of this module as they stand."""

import json
from html import escape
from urllib.request import urlopen

import pytest
from pyramid.config import Configurator
from pyramid.response import Response
from websockets.sync.client import connect

from stargate import WebSocketAwareContext, WebSocketView, gate
from stargate.events import ListenerJoined, ListenerLeft
from stargate.testing import LiveServer
from stargate_tests.waiting import wait_until

#: Seconds within which a message has to come.
DEADLINE = 10


class Document(WebSocketAwareContext):
    __name__, __parent__ = "", None

    def __init__(self, request):
        pass


class DocumentSocket(WebSocketView):
    def on_open(self, websocket):
        self.context.add_listener(websocket)  # Under the name of websocket.userid.


def page(document, request):
    names = ", ".join(sorted(document.presence()))
    return Response(f"<p>Here: <output>{escape(names)}</output>")


def show_who_is_here(config):
    def tell(event):
        application = gate(config.registry)
        here = sorted(application.presence(event.address))
        application.send_json(event.address, {"here": here})

    config.add_subscriber(tell, ListenerJoined)
    config.add_subscriber(tell, ListenerLeft)


# From here on nothing is shown: what the tests need.


class Named:
    """A security policy that believes everybody."""

    def authenticated_userid(self, request):
        return request.params.get("name")


def application(settings):
    with Configurator(settings=settings, root_factory=Document) as config:
        config.include("stargate")
        config.set_security_policy(Named())
        config.add_view(page)
        config.add_websocket_view(DocumentSocket, context=Document)
        show_who_is_here(config)
        return config.make_wsgi_app()


@pytest.fixture
def two_processes(redis_server, namespace):
    """Two servers that have no more in common than those of two processes."""
    settings = {"stargate.backplane": redis_server.url, "stargate.namespace": namespace}
    with LiveServer(application(settings)) as one, LiveServer(application(settings)) as other:
        yield one, other


def expect(websocket, here):
    while json.loads(websocket.recv(DEADLINE)) != {"here": here}:
        pass


def test_a_page_shows_who_is_here_in_all_processes(two_processes):
    one, other = two_processes
    with connect(one.websocket_url("/?name=ann")) as ann:
        expect(ann, ["ann"])
        with connect(other.websocket_url("/?name=bob")) as bob:
            expect(ann, ["ann", "bob"])
            for server in two_processes:
                with urlopen(server.url, timeout=DEADLINE) as answer:
                    assert b"<output>ann, bob<" in answer.read()
            expect(bob, ["ann", "bob"])
        expect(ann, ["ann"])


def test_a_server_that_ends_takes_its_listeners_along(two_processes):
    one, other = two_processes
    with connect(one.websocket_url("/?name=ann")) as ann:
        with connect(other.websocket_url("/?name=bob")):
            expect(ann, ["ann", "bob"])
            other.stop()
            expect(ann, ["ann"])


def test_without_presence_nobody_is_told_of_and_each_process_counts_its_own(
    redis_server, namespace
):
    settings = {
        "stargate.backplane": redis_server.url,
        "stargate.namespace": namespace,
        "stargate.presence": "false",
    }
    with LiveServer(application(settings)) as one:
        with connect(one.websocket_url("/?name=ann")):
            wait_until(lambda: one.gate.listener_count("/") == 1, DEADLINE)
            assert one.gate.presence("/") == {}
            assert redis_server.client().keys(f"*{namespace}*") == []
