"""The connection leaves WSGI: what it holds afterwards, and how it looks from the server."""

import gc
import logging
import os
import resource as rlimits
import socket
from contextlib import ExitStack, suppress
from http.cookies import SimpleCookie

import pytest
from greenlet import GreenletExit, greenlet
from pyramid.authorization import ACLHelper, Allow, Authenticated
from pyramid.response import Response
from pyramid.session import SignedCookieSessionFactory
from pyramid.threadlocal import get_current_request
from sqlalchemy import Column, Integer, String, create_engine
from sqlalchemy.orm import declarative_base, sessionmaker
from websockets.exceptions import ConnectionClosed, InvalidStatus

from stargate import WebSocketView, is_websocket
from stargate_tests import raw, transports
from stargate_tests.functional.tree import Node, Talk, make_app
from stargate_tests.transports import connect, get
from stargate_tests.waiting import wait_until

Base = declarative_base()


@pytest.fixture(params=transports.ALL)
def live_server(live_server, request, tmp_path):
    """Each of these on TCP, on TLS and on a UNIX socket."""
    return transports.over(request.param, live_server, tmp_path)


class User(Base):
    __tablename__ = "users"
    id = Column(Integer, primary_key=True)
    name = Column(String)


@pytest.fixture
def database(tmp_path):
    """A real database with a pool of five, and what a cookiecutter application does with it."""
    engine = create_engine(
        f"sqlite:///{tmp_path}/db.sqlite",
        pool_size=5,
        max_overflow=0,
        pool_timeout=5,
        connect_args={"check_same_thread": False},
    )
    Base.metadata.create_all(engine)
    with sessionmaker(engine)() as session:
        session.add(User(name="kay"))
        session.commit()

    def configure(config):
        import zope.sqlalchemy

        config.add_settings({"tm.manager_hook": "pyramid_tm.explicit_manager"})
        config.include("pyramid_tm")
        factory = sessionmaker(engine)

        def dbsession(request):
            session = factory()
            zope.sqlalchemy.register(session, transaction_manager=request.tm)
            return session

        config.add_request_method(dbsession, reify=True)

    configure.engine = engine
    yield configure
    engine.dispose()


class DatabasePolicy:
    """A security policy that asks the database who somebody is."""

    def identity(self, request):
        return request.dbsession.query(User).filter_by(name="kay").one()

    def authenticated_userid(self, request):
        return self.identity(request).name

    def permits(self, request, context, permission):
        return bool(self.identity(request))


def test_open_websockets_hold_no_database_connection(live_server, database):
    class Reading(WebSocketView):
        def __init__(self, request):
            super().__init__(request)
            self.user = request.dbsession.query(User).one().name

        def handler(self, websocket):
            websocket.send(self.user)
            websocket.wait()

    def configure(config):
        database(config)
        config.add_websocket_view(Reading, context=Node, name="reading")

    server = live_server(make_app(configure))
    with ExitStack() as stack:
        for _ in range(20):
            peer = stack.enter_context(connect(server, "/a/@@reading"))
            assert peer.recv(timeout=20) == "kay"
        assert database.engine.pool.checkedout() == 0


def test_the_userid_of_a_policy_that_reads_the_database_holds_none(live_server, database):
    class WhoAmI(WebSocketView):
        def handler(self, websocket):
            websocket.send(websocket.userid)
            websocket.wait()

    def configure(config):
        database(config)
        config.set_security_policy(DatabasePolicy())
        config.add_websocket_view(WhoAmI, context=Node, name="who", permission="view")

    server = live_server(make_app(configure))
    with ExitStack() as stack:
        for _ in range(20):
            peer = stack.enter_context(connect(server, "/a/@@who"))
            assert peer.recv(timeout=20) == "kay"
        assert database.engine.pool.checkedout() == 0


def test_the_request_is_over_before_the_view_runs(live_server):
    seen = []

    class Order(WebSocketView):
        def on_open(self, websocket):
            seen.append("on_open")
            assert get_current_request() is self.request
            assert self.request.context is self.context
            websocket.send("open")

    def tween_factory(handler, registry):
        def tween(request):
            response = handler(request)
            request.add_finished_callback(lambda request: seen.append("finished"))
            seen.append("tween left")
            return response

        return tween

    def configure(config):
        config.add_tween(f"{__name__}.order_tween")
        config.add_websocket_view(Order, context=Node, name="order")

    globals()["order_tween"] = tween_factory
    server = live_server(make_app(configure))
    with connect(server, "/a/@@order") as peer:
        assert peer.recv(timeout=20) == "open"
    assert seen == ["tween left", "finished", "on_open"]


def test_headers_of_the_application_travel_with_the_101(live_server):
    class Remembering(WebSocketView):
        def __init__(self, request):
            super().__init__(request)
            request.session["seen"] = "yes"
            request.response.headers["X-Ignored"] = "the view has a response of its own"
            request.add_response_callback(
                lambda request, response: response.headers.update({"X-Application": "hello"})
            )

    def configure(config):
        config.set_session_factory(SignedCookieSessionFactory("secret"))
        config.add_websocket_view(Remembering, context=Node, name="remember")

    server = live_server(make_app(configure))
    with connect(server, "/a/@@remember") as peer:
        headers = peer.response.headers
    assert headers["X-Application"] == "hello"
    assert "session" in SimpleCookie(headers["Set-Cookie"])
    assert headers.get_all("Upgrade") == ["websocket"]
    assert "Content-Type" not in headers and "Content-Length" not in headers


def test_one_line_in_the_access_log_says_101(live_server, caplog):
    caplog.set_level(logging.INFO, "stargate.access")
    server = live_server(make_app())
    with connect(server, "/a?x=1") as peer:
        peer.ping().wait(20)
        lines = [r.getMessage() for r in caplog.records if r.name == "stargate.access"]
    assert len(lines) == 1
    assert '"GET /a?x=1 HTTP/1.1" 101 ' in lines[0]


def test_permission_is_refused_with_403_before_the_handshake(live_server):
    class Guarded(WebSocketView):
        def __init__(self, request):
            raise AssertionError("never made")

    class Policy:
        def authenticated_userid(self, request):
            return None

        def permits(self, request, context, permission):
            return False

    def configure(config):
        config.set_security_policy(Policy())
        config.add_websocket_view(Guarded, context=Node, name="guarded", permission="view")

    server = live_server(make_app(configure))
    with pytest.raises(InvalidStatus) as refused, connect(server, "/a/@@guarded"):
        pass
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    "request_bytes, status",
    [
        (raw.handshake("localhost", "/a", "Origin: https://evil.example"), 403),
        (raw.handshake("localhost", "/a", version="8"), 426),
        (raw.handshake("localhost", "/nowhere/@@missing"), 404),
        (raw.handshake("localhost", "/a", "Content-Length: 4") + b"body", 400),
        (raw.handshake("localhost", "/a", f"Sec-WebSocket-Key: {raw.KEY}"), 400),
        (raw.handshake("localhost", "/a").replace(raw.KEY.encode(), b"short"), 400),
        (raw.handshake("localhost", "/a").replace(raw.KEY.encode(), b"\xff\xfe"), 400),
        (raw.handshake("localhost", "/a").replace(b"HTTP/1.1", b"HTTP/1.0"), 426),
        (raw.handshake("localhost", "/a", "Host: other"), 400),
    ],
)
def test_a_refused_handshake_closes_the_connection(live_server, request_bytes, status):
    server = live_server(make_app())
    pipelined = b"GET /a/@@page HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with raw.dial(server.url) as sock:
        sock.sendall(request_bytes + pipelined)
        answer = raw.read_all(sock)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert answer.count(b"HTTP/1.1 ") == 1  # What came behind it is not answered.
    assert b"\r\nConnection: close\r\n" in answer


def test_a_page_and_a_websocket_on_one_url(live_server):
    server = live_server(make_app())

    def configure(config):
        config.add_view(lambda context, request: Response("page"), context=Node, name="both")
        config.add_websocket_view(context=Node, name="both")

    server = live_server(make_app(configure))
    assert get(server, "/a/@@both").body == b"page"
    with connect(server, "/a/@@both"):
        wait_until(lambda: len(server.gate.listeners("/a")) == 1)


def test_a_plain_get_on_a_websocket_only_view_is_426(live_server):
    server = live_server(make_app())
    answer = get(server, "/a/@@echo")
    assert answer.status == 426
    assert answer.headers["Upgrade"] == "websocket"
    assert answer.headers["Sec-WebSocket-Version"] == "13"


def test_acl_and_userid_with_pyramids_own_helpers(live_server):
    class Policy:
        def authenticated_userid(self, request):
            return request.params.get("user")

        def permits(self, request, context, permission):
            user = self.authenticated_userid(request)
            principals = [Authenticated, user] if user else []
            return ACLHelper().permits(context, principals, permission)

    class Guarded(Node):
        def __acl__(self):
            return [(Allow, Authenticated, "listen")]

    def configure(config):
        config.set_security_policy(Policy())
        config.add_websocket_view(context=Guarded, name="in", permission="listen")

    server = live_server(make_app(configure, root=Guarded()))
    with connect(server, "/a/@@in?user=kay"):
        wait_until(lambda: len(server.gate.listeners("/a")) == 1)
        (listener,) = server.gate.listeners("/a")
        assert listener.userid == "kay"
    with pytest.raises(InvalidStatus), connect(server, "/a/@@in"):
        pass


def test_the_application_cannot_be_made_to_split_the_101(live_server, caplog):
    class Splitting(WebSocketView):
        def __init__(self, request):
            super().__init__(request)
            request.add_response_callback(
                lambda request, response: response.headerlist.append(("X-A", "b\r\nX-C: d"))
            )

    server = live_server(
        make_app(lambda c: c.add_websocket_view(Splitting, context=Node, name="s"))
    )
    with pytest.raises(InvalidStatus) as refused, connect(server, "/a/@@s"):
        pass
    assert refused.value.response.status_code == 500
    assert "X-C" not in refused.value.response.headers
    assert "the header X-A has a line break" in caplog.text


def live_greenlets():
    gc.collect()
    return sum(1 for found in gc.get_objects() if type(found) is greenlet and not found.dead)


def descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("live_server", ["tcp"], indirect=True)
def test_three_thousand_open_at_once_and_back_to_the_start(live_server):
    count = 3000
    soft, hard = rlimits.getrlimit(rlimits.RLIMIT_NOFILE)
    rlimits.setrlimit(rlimits.RLIMIT_NOFILE, (min(hard, max(soft, 2 * count + 500)), hard))
    server = live_server(make_app())
    engine = server.server.engine
    with connect(server, "/a") as warm:
        warm.ping().wait(20)
    wait_until(lambda: not engine.connections and not server.server.http)
    # Without those that are kept for the next piece of work, which are bounded.
    before = live_greenlets() - len(engine._idle), descriptors(), engine.watched

    socks = [raw.connect(server.url, "/a" if n % 2 else "/a/@@talk") for n in range(count)]
    wait_until(lambda: len(server.gate.listeners("/a")) == count)
    assert len(engine.connections) == count
    assert not server.server.http  # None of them has a place of the server's.
    assert get(server, "/a/@@page").status == 200
    server.gate.send("/a", "to all")
    assert all(raw.read_frame(sock) == (1, b"to all") for sock in socks)
    for number, sock in enumerate(socks):
        if number % 3 == 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        elif number % 3 == 1:
            sock.sendall(b"\x88\x80\0\0\0\0")
        sock.close()
    wait_until(lambda: not engine.connections and not engine.running and not server.server.http)
    assert len(server.gate.listeners("/a")) == 0
    assert live_greenlets() - len(engine._idle) <= before[0]
    assert descriptors() <= before[1]
    assert engine.watched == before[2]


@pytest.mark.filterwarnings("ignore:.*custom_predicates.*:DeprecationWarning")
@pytest.mark.parametrize("options", [{}, {"custom_predicates": [is_websocket]}])
def test_a_websocket_view_added_with_plain_add_view_is_judged_too(live_server, options):
    server = live_server(make_app(lambda c: c.add_view(Talk, context=Node, name="old", **options)))
    with connect(server, "/a/@@old") as peer:
        peer.send("x")
        assert peer.recv(timeout=20) == "x"
    with pytest.raises(InvalidStatus) as refused:
        connect(server, "/a/@@old", origin="https://evil.example")
    assert refused.value.response.status_code == 403
    assert get(server, "/a/@@old").status == (404 if options else 426)


def test_a_refused_peer_that_goes_on_sending_gets_its_answer_all_the_same(live_server):
    server = live_server(make_app())
    with raw.dial(server.url) as sock:
        sock.sendall(raw.handshake("localhost", "/a", "Origin: https://evil.example"))
        with suppress(ConnectionError):
            sock.sendall(bytes(100_000))
        assert raw.read_head(sock).startswith(b"HTTP/1.1 403 ")
        with suppress(ConnectionError):
            for _ in range(10):
                sock.sendall(bytes(100_000))
    wait_until(lambda: not server.server.http)


def test_a_view_that_ends_its_greenlet_ends_no_server(live_server, caplog):
    def end(context, request):
        raise GreenletExit

    server = live_server(make_app(lambda c: c.add_view(end, context=Node, name="end")))
    with raw.dial(server.url) as sock:
        sock.sendall(b"GET /a/@@end HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert raw.read_all(sock).startswith(b"HTTP/1.1 500 ")
    wait_until(lambda: "GreenletExit" in caplog.text)
    assert get(server, "/a/@@page").status == 200


def test_stopping_twice_is_stopping_once(live_server):
    server = live_server(make_app())
    with connect(server, "/a") as peer:
        engine = server.server.engine
        for _ in range(2):
            engine.call_from_thread(engine.spawn, server.server.stop)
        with pytest.raises(ConnectionClosed):
            peer.recv(timeout=20)
    server.stop()


def test_the_headers_that_make_a_101_are_not_the_applications(live_server):
    class Meddling(WebSocketView):
        def __init__(self, request):
            super().__init__(request)
            request.add_response_callback(
                lambda request, response: response.headerlist.extend(
                    [("Connection", "close"), ("Content-Length", "3"), ("X-Fine", "yes")]
                )
            )

    server = live_server(make_app(lambda c: c.add_websocket_view(Meddling, context=Node, name="m")))
    with connect(server, "/a/@@m") as peer:
        headers = peer.response.headers
        assert headers.get_all("Connection") == ["Upgrade"]
        assert "Content-Length" not in headers
        assert headers["X-Fine"] == "yes"
