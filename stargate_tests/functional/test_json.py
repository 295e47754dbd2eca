"""What no browser reads as JSON reaches none, and is kept nowhere: real sockets, a real Redis."""

import json
from contextlib import ExitStack

import pytest
from pyramid.renderers import JSON
from websockets.sync.client import connect

import stargate
from stargate_tests.functional.test_send import joined
from stargate_tests.functional.tree import Listen, Node, make_app

NAN, INFINITY = float("nan"), float("inf")

VALUES = [NAN, INFINITY, -INFINITY, {"a": [{"b": NAN}]}]


class Kept(Node):
    history_size = 100


class Says(stargate.WebSocketView):
    """Sends to its own WebSocket, and to all, what can't be; then says what became of it."""

    def on_message(self, websocket, message):
        for send in (websocket.send_json, self.context.send_json):
            try:
                send({"rate": NAN})
            except ValueError as error:
                websocket.send_json(type(error).__name__)


def text_as_it_is(info):
    return lambda value, system: json.dumps(value, ensure_ascii=False)


@pytest.fixture(params=["pyramid's", "indented", "own"])
def configure(request):
    renderer = {"indented": JSON(indent=2), "own": text_as_it_is}.get(request.param)

    def configure(config):
        if renderer is not None:
            config.add_renderer("json", renderer)
        config.add_websocket_view(Listen, context=Node, name="ids", ids=True)
        config.add_websocket_view(Says, context=Node, name="says")

    return configure


@pytest.fixture(params=["memory", "redis"])
def settings(request):
    if request.param == "memory":
        return {}
    url = request.getfixturevalue("redis_server").url
    namespace = request.getfixturevalue("namespace")
    return {"stargate.backplane": url, "stargate.namespace": namespace}


@pytest.fixture
def server(live_server, configure, settings):
    return live_server(make_app(configure, Kept(), **settings))


def test_nobody_gets_it_and_nothing_is_kept(server):
    node = server.application.root["a"]
    url = server.websocket_url("/a")
    with ExitStack() as stack:
        plain = stack.enter_context(connect(url))
        ids = stack.enter_context(connect(f"{url}/@@ids", subprotocols=["stargate.v1"]))
        joined(server, "/a", 2)
        for value in VALUES:
            with pytest.raises(ValueError, match="JSON"):
                server.gate.send_json("/a", value)
            with pytest.raises(ValueError, match="JSON"):
                server.gate.send_json(node, value)
        first = server.gate.send_json(node, {"NaN": "Infinity"})
        assert json.loads(plain.recv(timeout=20)) == {"NaN": "Infinity"}
        assert json.loads(ids.recv(timeout=20)) == {"id": first, "data": {"NaN": "Infinity"}}
        assert [each.id for each in server.gate.history(node)] == [first]
    back = connect(f"{url}/@@ids?since=", subprotocols=["stargate.v1"])
    with back as peer:
        last = server.gate.send_json(node, 1)
        assert json.loads(peer.recv(timeout=20)) == {"id": last, "data": 1}
    with connect(f"{url}/@@ids?since={first}", subprotocols=["stargate.v1"]) as peer:
        assert json.loads(peer.recv(timeout=20)) == {"id": last, "data": 1}
        assert json.loads(peer.recv(timeout=20)) == {"recovered": True, "id": last}


def test_half_a_character_is_refused_where_it_would_be_sent_as_it_is(live_server, settings):
    def configure(config):
        config.add_renderer("json", text_as_it_is)

    server = live_server(make_app(configure, Kept(), **settings))
    with connect(server.websocket_url("/a")) as peer:
        joined(server, "/a", 1)
        with pytest.raises(ValueError, match="surrogates"):
            server.gate.send_json(server.application.root["a"], "\ud800")
        assert server.gate.send_json("/a", "after") is not None
        assert json.loads(peer.recv(timeout=20)) == "after"
    assert len(server.gate.history("/a")) == 1


def test_a_view_is_told_and_its_websocket_lives_on(server):
    with connect(server.websocket_url("/a/@@says")) as peer:
        joined(server, "/a", 1)
        peer.send("say it")
        assert [json.loads(peer.recv(timeout=20)) for _ in range(2)] == ["ValueError"] * 2
    assert server.gate.history("/a") == []
