"""The recipes of docs/howto/database.rst, which shows parts of this module as they stand."""

import gc
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import zope.sqlalchemy
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPNoContent
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.orm.exc import DetachedInstanceError
from transaction.interfaces import NoTransaction
from websockets.sync.client import connect

from stargate import WebSocketAwareContext, WebSocketView

#: Seconds within which a message has to come.
DEADLINE = 10


class Base(DeclarativeBase):
    pass


class Lot(WebSocketAwareContext, Base):
    __tablename__ = "lots"

    name: Mapped[str] = mapped_column(primary_key=True)
    price: Mapped[int]

    __name__ = __parent__ = None


class Lots:
    __name__, __parent__ = "", None

    def __init__(self, request):
        self.request = request

    def __getitem__(self, name):
        lot = self.request.dbsession.get(Lot, name)
        if lot is None:
            raise KeyError(name)
        lot.__name__, lot.__parent__ = name, self  # Plain attributes: they outlive the session.
        return lot


def send_after_commit(request, resource, message):
    def send(committed):
        if committed:
            resource.send(message)

    request.tm.get().addAfterCommitHook(send)


def bid(lot, request):
    lot.price = int(request.params["price"])
    send_after_commit(request, lot, str(lot.price))
    return HTTPNoContent()


class LotSocket(WebSocketView):
    def handler(self, websocket):
        self.context.add_listener(websocket)
        for message in websocket:
            with self.request.tm:
                lot = self.request.dbsession.get(Lot, self.context.__name__)
                lot.price = int(message)
            self.context.send(message)  # Outside: now it is committed.


# From here on nothing is shown: the traps, and what the tests need.


class SoonFailing:
    """A voter that lets the commit fail."""

    def __init__(self, manager):
        self.transaction_manager = manager

    def tpc_vote(self, _transaction):
        raise RuntimeError("the commit failed")

    def abort(self, _transaction):
        pass

    commit = tpc_begin = tpc_finish = tpc_abort = abort

    def sortKey(self):  # noqa: N802
        return "~"


def bid_that_fails(lot, request):
    request.tm.get().join(SoonFailing(request.tm))
    return bid(lot, request)


def bid_too_early(lot, request):
    lot.send("too early")
    return bid_that_fails(lot, request)


class Careless(WebSocketView):
    """What a handler must not do."""

    def handler(self, websocket):
        session, name = self.request.dbsession, self.context.__name__
        websocket.wait()
        with pytest.raises(DetachedInstanceError):
            self.context.price  # noqa: B018
        with pytest.raises(NoTransaction):
            session.get(Lot, name)
        # From here on the session is in a transaction that nobody will ever commit.
        with self.request.tm:
            session.get(Lot, name).price = 999
        websocket.send("lost")
        websocket.wait()


@pytest.fixture
def database(tmp_path):
    # Opened by the server's thread, and closed by the test's.
    shared = {"check_same_thread": False}
    engine = create_engine(f"sqlite:///{tmp_path}/lots.db", connect_args=shared)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Lot(name="cup", price=1))
        session.commit()
    yield engine
    gc.collect()  # What a careless handler has kept.
    engine.dispose()


@pytest.fixture
def live(database, live_server):
    make_session = sessionmaker(database)

    def dbsession(request):
        session = make_session()
        zope.sqlalchemy.register(session, transaction_manager=request.tm)
        return session

    settings = {"tm.manager_hook": "pyramid_tm.explicit_manager"}
    with Configurator(settings=settings, root_factory=Lots) as config:
        config.include("pyramid_tm")
        config.include("stargate")
        config.add_request_method(dbsession, reify=True)
        config.add_view(bid, context=Lot, request_method="POST")
        config.add_view(bid_that_fails, context=Lot, name="fails", request_method="POST")
        config.add_view(bid_too_early, context=Lot, name="early", request_method="POST")
        config.add_websocket_view(LotSocket, context=Lot)
        config.add_websocket_view(Careless, context=Lot, name="careless")
        return live_server(config.make_wsgi_app())


@pytest.fixture
def websocket(live):
    with connect(live.websocket_url("/cup")) as websocket:
        websocket.send("2")
        assert websocket.recv(DEADLINE) == "2"  # It listens.
        yield websocket


def price(database):
    with Session(database) as session:
        return session.get(Lot, "cup").price


def post(live, path, **form):
    with urlopen(live.url + path, urlencode(form).encode(), DEADLINE) as response:
        return response.status


def test_the_hook_sends_what_is_committed(live, database, websocket):
    assert post(live, "/cup", price=5) == 204
    assert websocket.recv(DEADLINE) == "5"
    assert price(database) == 5


def test_the_hook_sends_nothing_when_the_commit_fails(live, database, websocket):
    with pytest.raises(HTTPError):
        post(live, "/cup/fails", price=6)
    live.gate.send("/cup", "the next message")
    assert websocket.recv(DEADLINE) == "the next message"
    assert price(database) == 2


def test_a_send_in_the_view_is_not_undone_when_the_commit_fails(live, database, websocket):
    with pytest.raises(HTTPError):
        post(live, "/cup/early", price=7)
    assert websocket.recv(DEADLINE) == "too early"
    assert price(database) == 2


def test_a_handler_that_opens_a_transaction_commits_and_holds_no_connection(
    live, database, websocket
):
    websocket.send("8")
    assert websocket.recv(DEADLINE) == "8"
    assert price(database) == 8
    assert database.pool.checkedout() == 0


def test_a_handler_whose_block_fails_commits_nothing(live, database, websocket):
    websocket.send("no number")
    with pytest.raises(Exception, match="1011"):
        websocket.recv(DEADLINE)
    assert price(database) == 2
    assert database.pool.checkedout() == 0


def test_a_handler_that_uses_the_session_before_loses_what_it_writes_after(live, database):
    with connect(live.websocket_url("/cup/careless")) as websocket:
        websocket.send("go")
        assert websocket.recv(DEADLINE) == "lost"
        assert price(database) == 1
        assert database.pool.checkedout() == 1
