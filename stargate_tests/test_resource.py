import pytest
from persistent.mapping import PersistentMapping
from pyramid.config import Configurator
from sqlalchemy import Column, Integer, String, create_engine
from sqlalchemy.orm import declarative_base, sessionmaker
from zope.interface.verify import verifyClass, verifyObject

from stargate import NoAddress, WebSocketAwareContext, WebSocketAwareResource, gate
from stargate.interfaces import IWebSocketAwareContext
from stargate.testing import FakeWebSocket

Base = declarative_base()


class Root(WebSocketAwareContext):
    __name__ = ""
    __parent__ = None


ROOT = Root()


class OnDict(WebSocketAwareContext, dict):
    __name__, __parent__ = "on-dict", ROOT


class OnPersistentMapping(WebSocketAwareContext, PersistentMapping):
    __name__, __parent__ = "on-mapping", ROOT


class Row(WebSocketAwareContext, Base):
    """A mapped class with columns named as the mixin's own attributes."""

    __tablename__ = "rows"
    id = Column(Integer, primary_key=True)
    path = Column(String)
    listeners = Column(Integer)

    __parent__ = ROOT

    @property
    def __name__(self):
        return str(self.id)


class Slotted(WebSocketAwareContext):
    __slots__ = ("__name__", "__parent__")

    def __init__(self):
        self.__name__, self.__parent__ = "slotted", ROOT


class Own(WebSocketAwareContext):
    """A class with a path and listeners of its own, which our code must never read."""

    __name__, __parent__ = "own", ROOT

    def __init__(self):
        self.read = []

    @property
    def path(self):
        self.read.append("path")
        return "C:\\own"

    @property
    def listeners(self):
        self.read.append("listeners")
        return "mine"


class NoInit(WebSocketAwareContext):
    __name__, __parent__ = "no-init", ROOT

    def __init__(self):
        """The mixin's is not called: it has none."""


def resources():
    return [OnDict(), OnPersistentMapping(), Row(id=7), Slotted(), Own(), NoInit()]


@pytest.fixture
def application(no_application):
    config = Configurator()
    config.include("stargate")
    config.commit()
    return gate(config.registry), config


each = pytest.mark.parametrize("resource", resources(), ids=lambda found: type(found).__name__)


@each
def test_it_goes_with_any_class(application, resource):
    fake = FakeWebSocket()
    resource.add_listener(fake)
    assert fake in application[0].listeners(resource)
    resource.send("text")
    resource.send(b"binary")
    resource.send_json({"a": 1})
    assert fake.sent == ["text", b"binary", '{"a": 1}']
    resource.remove_listener(fake)
    resource.send("late")
    assert len(fake.sent) == 3


@each
def test_nothing_is_stored_on_the_instance(application, resource):
    before = dict(getattr(resource, "__dict__", {}))
    fake = FakeWebSocket()
    resource.add_listener(fake)
    resource.send("a")
    assert dict(getattr(resource, "__dict__", {})) == before


@each
def test_it_provides_its_interface(application, resource):
    assert verifyObject(IWebSocketAwareContext, resource)


@each
def test_its_address_is_its_place_in_the_tree(resource):
    assert resource.stargate_address() == f"/{resource.__name__}"


def test_a_persistent_mapping_is_not_marked_as_changed(application):
    resource = OnPersistentMapping()
    resource.add_listener(FakeWebSocket())
    resource.send("a")
    assert not resource._p_changed


def test_a_mapped_class_is_stored_and_loaded_and_hears_the_same(application):
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    session = sessionmaker(engine)
    with session.begin() as first:
        row = Row(id=1, path="mine", listeners=3)
        first.add(row)
        first.flush()
        fake = FakeWebSocket()
        row.add_listener(fake)
    with session() as second:
        loaded = second.get(Row, 1)
        assert (loaded.path, loaded.listeners) == ("mine", 3)
        assert not second.dirty
        loaded.send("hello")
        assert not second.dirty
    engine.dispose()
    assert fake.sent == ["hello"]


def test_a_class_with_slots_still_has_no_dict():
    assert not hasattr(Slotted(), "__dict__")
    assert WebSocketAwareContext.__slots__ == ()


def test_a_path_and_listeners_of_ones_own_are_never_read(application):
    resource = Own()
    fake = FakeWebSocket()
    resource.add_listener(fake)
    resource.send("a", exclude=fake)
    resource.send_json(1)
    resource.remove_listener(fake)
    assert resource.read == []


def test_the_mixin_has_no_init_and_no_metaclass():
    assert "__init__" not in vars(WebSocketAwareContext)
    assert type(WebSocketAwareContext) is type


def test_the_name_of_stargate_0_4_is_the_same_class():
    assert WebSocketAwareResource is WebSocketAwareContext
    assert verifyClass(IWebSocketAwareContext, WebSocketAwareResource)


def test_its_path_is_its_address(application):
    assert OnDict().path == "/on-dict"


def test_its_listeners_are_a_snapshot_that_can_be_counted(application):
    resource = OnDict()
    first, second = FakeWebSocket(), FakeWebSocket()
    resource.add_listener(first)
    snapshot = resource.listeners
    resource.add_listener(second)
    assert list(snapshot) == [first]
    assert len(resource.listeners) == 2


def test_excluding_leaves_one_out(application):
    resource = OnDict()
    first, second = FakeWebSocket(), FakeWebSocket()
    resource.add_listener(first)
    resource.add_listener(second)
    resource.send("a", exclude=first)
    resource.send_json(1, exclude=[second])
    assert (first.sent, second.sent) == (["1"], ["a"])


@pytest.mark.parametrize("method", ["send", "send_json", "add_listener", "remove_listener"])
def test_without_an_address_every_method_raises_no_address(application, method):
    class Lost(WebSocketAwareContext):
        __name__ = None

    given = FakeWebSocket() if "listener" in method else "a"
    with pytest.raises(NoAddress, match="stargate_address"):
        getattr(Lost(), method)(given)
    with pytest.raises(NoAddress):
        _ = Lost().listeners


# With no application in the process.


class Loose(WebSocketAwareContext):
    """No name, no parent: a unit test of an application."""


def test_without_an_application_an_object_keeps_its_listeners_to_itself(no_application):
    one, other = Loose(), Loose()
    fake = FakeWebSocket()
    one.add_listener(fake)
    other.send("not for you")
    one.send("for you")
    one.send_json({"a": 1})
    assert fake.sent == ["for you", '{"a": 1}']
    assert (len(one.listeners), len(other.listeners)) == (1, 0)
    fake.leave()


def test_without_an_application_one_address_does_not_make_two_objects_one(no_application):
    one, other = OnDict(), OnDict()
    fake = FakeWebSocket()
    one.add_listener(fake)
    other.send("not for you")
    assert fake.sent == []
    fake.leave()


def test_without_an_application_an_unhashable_object_has_listeners_too(no_application):
    resource = OnDict({"un": "hashable"})
    fake = FakeWebSocket()
    resource.add_listener(fake)
    resource["now"] = "another value"
    resource.send("a")
    resource.remove_listener(fake)
    assert fake.sent == ["a"] and len(resource.listeners) == 0


def test_without_an_application_nothing_warns(no_application, caplog):
    Loose().send("a")
    assert caplog.records == []
