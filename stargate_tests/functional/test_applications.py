"""Which application, and which address: two in one process, tenants, objects of a request."""

import logging

import eventlet
import pytest
from pyramid.config import Configurator
from pyramid.response import Response
from sqlalchemy import Column, Integer, String, create_engine
from sqlalchemy.orm import declarative_base, sessionmaker
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from stargate import AmbiguousApplication, NoAddress, WebSocketAwareContext, WebSocketView, gate
from stargate_tests import raw
from stargate_tests.functional.test_send import get, joined
from stargate_tests.functional.tree import Node, make_app


def send_in_background(context, request):
    """Send with no request, first by the resource alone, then by the gate."""
    registry = request.registry

    def later():
        try:
            context.send("by itself")
        except AmbiguousApplication as error:
            gate(registry).send(context, f"{type(error).__name__}, so by the gate")

    eventlet.spawn(later)
    return Response("started")


def send_now(context, request):
    context.send("of this application")
    return Response("sent")


def configure(config):
    config.add_view(send_in_background, context=Node, name="background")
    config.add_view(send_now, context=Node, name="now")


def test_two_applications_of_one_process_keep_apart(live_server):
    one, two = live_server(make_app(configure)), live_server(make_app(configure))
    with connect(one.websocket_url("/a")) as first, connect(two.websocket_url("/a")) as second:
        joined(one, "/a", 1)
        joined(two, "/a", 1)
        get(one, "/a/@@now")
        assert first.recv(timeout=20) == "of this application"
        get(two, "/a/@@background")
        assert second.recv(timeout=20) == "AmbiguousApplication, so by the gate"
        one.gate.send("/a", "end")
        two.gate.send("/a", "end")
        assert (first.recv(timeout=20), second.recv(timeout=20)) == ("end", "end")


def test_objects_made_for_each_request_share_their_listeners(live_server):
    class PerRequest(WebSocketAwareContext):
        def __init__(self, name="", parent=None):
            self.__name__, self.__parent__ = name, parent

        def __getitem__(self, name):
            if name.startswith("@"):
                raise KeyError(name)
            return PerRequest(name, self)

    with Configurator(root_factory=lambda request: PerRequest()) as config:
        config.include("stargate")
        config.add_websocket_view(context=PerRequest)
        config.add_view(send_now, context=PerRequest, name="now")
        server = live_server(config.make_wsgi_app())
    with connect(server.websocket_url("/x/y")) as peer:
        joined(server, "/x/y", 1)
        get(server, "/x/y/@@now")
        assert peer.recv(timeout=20) == "of this application"
        server.gate.send(PerRequest("y", PerRequest("x", PerRequest())), "from a third")
        assert peer.recv(timeout=20) == "from a third"


def test_tenants_by_host_keep_apart_where_the_address_says_so(live_server):
    class Tenant(Node):
        tenant = None

        def stargate_address(self):
            return f"{self.tenant}:{super().stargate_address()}"

    def root_of(request):
        class OfThisTenant(Tenant):
            tenant = request.domain

        return OfThisTenant()

    with Configurator(root_factory=root_of) as config:
        config.include("stargate")
        config.add_websocket_view(context=Tenant)
        config.add_view(send_now, context=Tenant, name="now")
        server = live_server(config.make_wsgi_app())

    def tenant(name):
        sock = raw.dial(server.url)
        sock.sendall(raw.handshake(name, "/a"))
        assert raw.read_head(sock).startswith(b"HTTP/1.1 101 ")
        return sock

    with tenant("one.example") as one, tenant("two.example") as two:
        joined(server, "one.example:/a", 1)
        joined(server, "two.example:/a", 1)
        with raw.dial(server.url) as page:
            page.sendall(b"GET /a/@@now HTTP/1.1\r\nHost: two.example\r\nConnection: close\r\n\r\n")
            assert raw.read_all(page).endswith(b"sent")
        assert raw.read_frame(two) == (1, b"of this application")
        server.gate.send("one.example:/a", "for one")
        assert raw.read_frame(one) == (1, b"for one")


def test_a_context_of_a_route_is_refused_by_name_and_never_shares_the_root(live_server, caplog):
    class Factory(WebSocketAwareContext):
        __name__ = __parent__ = None

        def __init__(self, request):
            pass

    with Configurator() as config:
        config.include("stargate")
        config.add_route("job", "/jobs/{id}", factory=Factory)
        config.add_websocket_view(route_name="job")
        server = live_server(config.make_wsgi_app())
    with (
        connect(server.websocket_url("/jobs/1")) as peer,
        pytest.raises(ConnectionClosed) as closed,
    ):
        peer.recv(timeout=20)
    assert closed.value.rcvd.code == 1011
    assert "stargate_address()" in caplog.text
    with pytest.raises(NoAddress, match="Factory has no address"):
        server.gate.send(Factory(None), "x")


Base = declarative_base()


class Article(WebSocketAwareContext, Base):
    __tablename__ = "articles"
    id = Column(Integer, primary_key=True)
    slug = Column(String)
    __parent__ = None

    @property
    def __name__(self):
        return self.slug


@pytest.mark.parametrize("style", [WebSocketView, "handler"])
def test_a_context_whose_database_session_is_gone_listens_at_its_address(
    live_server, tmp_path, style, caplog
):
    caplog.set_level(logging.WARNING)
    engine = create_engine(f"sqlite:///{tmp_path}/db", connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    with sessionmaker(engine)() as session:
        session.add(Article(slug="news"))
        session.commit()

    class Handler(WebSocketView):
        def handler(self, websocket):
            self.request.context.add_listener(websocket)
            for message in websocket:
                self.request.context.send(message)

    class Root(Node):
        def __init__(self, request):
            super().__init__()
            self.request = request

        def __getitem__(self, slug):
            article = self.request.dbsession.query(Article).filter_by(slug=slug).one()
            article.__parent__ = self
            return article

    def dbsession(request):
        session = sessionmaker(engine)()

        def end(request):
            session.commit()  # Expires every attribute: the next look would ask the database.
            session.close()

        request.add_finished_callback(end)
        return session

    with Configurator(root_factory=Root) as config:
        config.include("stargate")
        config.add_request_method(dbsession, reify=True)
        config.add_websocket_view(Handler if style == "handler" else style, context=Article)
        server = live_server(config.make_wsgi_app())
    with connect(server.websocket_url("/news")) as peer:
        joined(server, "/news", 1)
        server.gate.send("/news", "extra")
        assert peer.recv(timeout=20) == "extra"
        if style == "handler":
            peer.send("from the handler")
            assert peer.recv(timeout=20) == "from the handler"
    engine.dispose()
    assert not caplog.records
