"""How many WebSockets get in, and whose they are, on real sockets."""

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from websockets.exceptions import InvalidStatus

from stargate import WebSocketView, gate
from stargate.engine.hub import threading
from stargate.engine.quiet import eventlet
from stargate_tests import raw, transports
from stargate_tests.functional.test_other_servers import stock  # noqa: F401 - a fixture
from stargate_tests.functional.tree import Node, make_app
from stargate_tests.peers import reset
from stargate_tests.transports import connect, get
from stargate_tests.waiting import wait_until


def refused(server, path="/a", **options):
    """The answer to a handshake that is refused."""
    with pytest.raises(InvalidStatus) as caught, connect(server, path, **options):
        pass
    return caught.value.response


def test_past_max_connections_a_handshake_gets_503_and_pages_go_on(live_server, tmp_path):
    live_server = transports.over("tls", live_server, tmp_path)
    server = live_server(make_app(**{"stargate.max_connections": "2"}))
    with connect(server, "/a"), ExitStack() as stack:
        stack.enter_context(connect(server, "/b"))
        answer = refused(server)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "10"
        assert b"too many WebSockets here" in answer.body
        assert get(server, "/a/@@page").body == b"the page of /a"
        stack.close()
        wait_until(lambda: server.gate.stats().connections == 1)
        with connect(server, "/a") as peer:
            peer.ping().wait(20)
    assert server.gate.stats().refusals == {"full": 1}


def test_past_max_connections_per_address_a_handshake_gets_429(live_server):
    server = live_server(make_app(**{"stargate.max_connections_per_address": "1"}))
    with connect(server, "/a"):
        answer = refused(server)
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "10")
        assert b"from your address" in answer.body
        # Another address of this machine.
        with socket.create_connection(
            server.server.http._listening[0].getsockname(), source_address=("127.0.0.2", 0)
        ) as other:
            other.settimeout(20)
            other.sendall(raw.handshake(server.url.removeprefix("http://"), "/a"))
            assert raw.read_head(other).startswith(b"HTTP/1.1 101 ")
    assert server.gate.stats().refusals == {"address": 1}


@pytest.mark.parametrize(
    ("header", "value"),
    [("X-Forwarded-For", "{}"), ("Forwarded", "for={}")],
)
@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_behind_a_trusted_proxy_its_clients_are_counted(
    live_server, tmp_path, transport, header, value
):
    server = transports.over(transport, live_server, tmp_path)(
        make_app(**{"stargate.max_connections_per_address": "1"}),
        trusted_proxy="127.0.0.1 unix",
        trusted_proxy_headers=header,
    )
    one, two = ({header: value.format(address)} for address in ("192.0.2.1", "192.0.2.2"))
    with connect(server, "/a", additional_headers=one):
        assert refused(server, additional_headers=one).status_code == 429
        with connect(server, "/a", additional_headers=two):
            wait_until(lambda: len(server.gate.listeners("/a")) == 2)
            found = {websocket.remote_addr for websocket in server.gate.listeners("/a")}
            assert found == {"192.0.2.1", "192.0.2.2"}


def test_what_others_say_of_themselves_counts_for_nothing(live_server):
    server = live_server(
        make_app(**{"stargate.max_connections_per_address": "1"}), trusted_proxy="192.0.2.250"
    )
    with connect(server, "/a", additional_headers={"X-Forwarded-For": "192.0.2.1"}):
        answer = refused(server, additional_headers={"X-Forwarded-For": "192.0.2.2"})
        assert answer.status_code == 429


@pytest.mark.parametrize("early", [True, False], ids=["in one packet", "line by line"])
def test_a_page_sees_the_client_and_not_the_proxys_port(live_server, early):
    def who(context, request):
        request.response.text = f"{request.remote_addr} {request.environ.get('REMOTE_PORT')}"
        return request.response

    app = make_app(lambda config: config.add_view(who, context=Node, name="who"))
    server = live_server(app, trusted_proxy="127.0.0.1")
    with raw.dial(server.url) as sock:
        sock.sendall(b"GET /a/@@who HTTP/1.1\r\n")
        if not early:
            wait_until(lambda: len(server.server.http) == 1)
        sock.sendall(b"Host: x\r\nX-Forwarded-For: 192.0.2.1\r\nConnection: close\r\n\r\n")
        assert raw.read_all(sock).endswith(b"192.0.2.1 None")


def test_handshakes_that_are_judged_at_the_same_time_do_not_exceed_the_limit(live_server):
    together = []

    class Late(WebSocketView):
        def __init__(self, request):
            super().__init__(request)
            together.append(self)
            while len(together) < 8:  # All have been judged by then.
                eventlet.sleep(0)

    app = make_app(
        lambda config: config.add_websocket_view(Late, context=Node, name="late"),
        **{"stargate.max_connections": "3"},
    )
    server = live_server(app)

    def attempt(_number):
        with raw.dial(server.url) as sock:
            sock.sendall(raw.handshake(server.url.removeprefix("http://"), "/a/@@late"))
            status = raw.read_head(sock).split(b" ")[1]
            answers.append(status)
            assert done.wait(60)

    answers, done = [], threading.Event()
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(attempt, number) for number in range(8)]
        try:
            wait_until(lambda: len(answers) == 8)
        finally:
            done.set()
        for result in results:
            result.result()
    assert sorted(answers) == [b"101"] * 3 + [b"503"] * 5
    assert server.gate.stats().refusals == {"full": 5}


def test_every_place_is_given_back_whatever_ends_it(live_server):
    class Fails(WebSocketView):
        def __init__(self, request):
            super().__init__(request)
            if "early" in request.params:
                raise KeyError("on purpose")

        def on_open(self, websocket):
            raise KeyError("on purpose")

    app = make_app(
        lambda config: config.add_websocket_view(Fails, context=Node, name="fails"),
        **{"stargate.max_connections_per_address": "100"},
    )
    server = live_server(app)
    admission = server.gate.admission
    for number in range(60):
        kind = number % 5
        if kind == 0:
            with connect(server, "/a"):
                pass
        elif kind == 1:
            reset(raw.connect(server.url, "/a"))
        elif kind == 2:
            raw.connect(server.url, "/a", behind=b"\x7f\x7f nonsense").close()
        elif kind == 3:
            raw.connect(server.url, "/a/@@fails").close()
        else:
            assert refused(server, "/a/@@fails?early=1").status_code == 500
    wait_until(lambda: not server.server.engine.connections)
    assert admission._clients == {}
    assert server.gate.stats().connections == 0


def test_the_limits_hold_on_eventlets_own_server(stock):  # noqa: F811
    app = make_app(**{"stargate.max_connections": "1"})
    server = stock(app)
    with raw.connect(server["url"], "/a"):
        with raw.dial(server["url"]) as sock:
            sock.sendall(raw.handshake(server["url"].removeprefix("http://"), "/a"))
            assert raw.read_all(sock).startswith(b"HTTP/1.1 503 ")
    wait_until(lambda: gate(app.registry).stats().connections == 0)
    with raw.connect(server["url"], "/a"):
        pass
