import gc
import json
import logging

import pytest
from pyramid.config import Configurator
from pyramid.registry import Registry
from pyramid.renderers import JSON
from pyramid.request import Request
from pyramid.threadlocal import RequestContext
from zope.interface.verify import verifyObject

from stargate import AmbiguousApplication, ConnectionClosed, NoAddress, WebSocketAwareContext, gate
from stargate.addresses import CAPTURED, address_of, location
from stargate.application import Gate, current_gate, register
from stargate.engine.hub import Engine, threading
from stargate.interfaces import IGate
from stargate.testing import FakeWebSocket
from stargate_tests.waiting import turn, turn_until, wait_until


class Node(WebSocketAwareContext):
    def __init__(self, name="", parent=None):
        self.__name__, self.__parent__ = name, parent


class Tenant(Node):
    """The root of one tenant: all have one resource_path."""

    def __init__(self, host):
        super().__init__()
        self.host = host

    def stargate_address(self):
        return f"{self.host}{location(self)}"


class Plain:
    """A resource that knows nothing of stargate."""

    def __init__(self, name="", parent=None):
        self.__name__, self.__parent__ = name, parent


@pytest.fixture
def application(no_application):
    """``application()``: a configured application that includes stargate, kept to the end."""
    kept = []

    def make(include=True, **settings):
        config = Configurator(settings=settings)
        if include:
            config.include("stargate")
        config.commit()
        kept.append(config)
        return config.registry

    return make


def request_of(registry):
    request = Request.blank("/")
    request.registry = registry
    return RequestContext(request)


# Which application.


def test_in_a_request_its_application_is_meant(application):
    first, second = application(), application()
    with request_of(first):
        assert current_gate() is gate(first)
    with request_of(second):
        assert current_gate() is gate(second)


def test_without_a_request_the_only_application_is_meant(application):
    registry = application()
    assert current_gate() is gate(registry)


def test_an_application_without_stargate_does_not_count(application):
    registry = application()
    application(include=False)
    assert current_gate() is gate(registry)


def test_without_a_request_several_applications_are_ambiguous(application):
    application(), application()
    with pytest.raises(AmbiguousApplication, match="no current request, and 2 application"):
        Node().send("a")


def test_the_last_application_made_is_never_taken_for_the_one_meant(application):
    application()
    application()
    for method in ("listeners",):
        with pytest.raises(AmbiguousApplication):
            getattr(Node(), method)


def test_in_a_request_of_another_application_it_is_ambiguous(application):
    application()
    with (
        request_of(application(include=False)),
        pytest.raises(AmbiguousApplication, match="the current request did not include stargate"),
    ):
        current_gate()


def test_an_application_that_is_gone_does_not_make_it_ambiguous(no_application):
    kept = Configurator()
    kept.include("stargate")
    gone = Configurator()
    gone.include("stargate")
    del gone
    assert current_gate() is gate(kept.registry)


def test_while_an_application_is_being_configured_it_is_the_one_meant(application):
    application()
    with Configurator() as config:
        config.include("stargate")
        assert current_gate() is gate(config.registry)


def test_the_gate_of_a_registry_can_be_named_always(application):
    first, second = application(), application()
    fake = FakeWebSocketOf(first)
    gate(first).add_listener("/a", fake)
    gate(second).send("/a", "to the other")
    gate(first).send("/a", "to this one")
    assert arrived(fake, first) == ["to this one"]


def test_the_gate_of_an_application_without_stargate_is_a_lookup_error():
    with pytest.raises(LookupError, match=r"config.include\('stargate'\) is missing"):
        gate(Registry("lonely"))


def test_it_provides_its_interface():
    assert verifyObject(IGate, Gate(None))


def test_it_does_not_keep_its_application_alive(no_application):
    registry = Registry("gone")
    found = Gate(registry)
    register(found, registry)
    del registry
    gc.collect()
    assert found._registry() is None
    assert found.to_json([1]) == "[1]"


def FakeWebSocketOf(registry, **facts):  # noqa: N802
    with request_of(registry):
        return FakeWebSocket(**facts)


def arrived(fake, registry):
    with request_of(registry):
        return fake.sent


# Addresses.


def test_the_address_is_the_path_in_the_tree():
    root = Node()
    jobs = Node("jobs", root)
    assert [address_of(node) for node in (root, jobs, Node("a b/c", jobs))] == [
        "/", "/jobs", "/jobs/a%20b%2Fc",
    ]  # fmt: skip


def test_a_resource_that_knows_nothing_of_stargate_has_one_too():
    assert address_of(Plain("a", Plain())) == "/a"


def test_a_root_may_have_no_parent_attribute_at_all():
    class Root:
        __name__ = ""

    assert address_of(Root()) == "/"


@pytest.mark.parametrize(
    ("resource", "lack"),
    [
        (Node(None), "it has no __name__"),
        (Plain(None, Plain()), "it has no __name__"),
        (object(), "it has no __name__"),
        (Node("lonely"), "it has the __name__ 'lonely' but no __parent__"),
    ],
)
def test_a_resource_with_no_place_of_its_own_is_refused_with_the_hooks_name(resource, lack):
    with pytest.raises(NoAddress, match="stargate_address") as caught:
        address_of(resource)
    assert lack in str(caught.value)


@pytest.mark.parametrize("address", [None, 1, "", b"/a"])
def test_an_address_that_is_no_string_is_refused(address):
    class Odd(Node):
        def stargate_address(self):
            return address

    with pytest.raises(NoAddress, match=r"stargate_address\(\) returned"):
        address_of(Odd())


def test_a_string_is_an_address_already(application):
    assert gate(application()).address("/a/b") == "/a/b"


def test_two_objects_with_one_address_share_their_listeners(application):
    registry = application()
    first, second = Node("a", Node()), Node("a", Node())
    fake = FakeWebSocket()
    first.add_listener(fake)
    assert fake in second.listeners
    second.send("from the other")
    assert arrived(fake, registry) == ["from the other"]
    second.remove_listener(fake)
    assert len(first.listeners) == 0


def test_two_tenants_with_addresses_of_their_own_do_not(application):
    registry = application()
    one, two = Tenant("one.example"), Tenant("two.example")
    fake = FakeWebSocket()
    one.add_listener(fake)
    two.send("not for you")
    Node("child", one).send("nor this")
    one.send("for you")
    assert arrived(fake, registry) == ["for you"]
    assert len(two.listeners) == 0


# Listening and sending.


def test_adding_twice_is_once(application):
    registry = application()
    fake = FakeWebSocket()
    gate(registry).add_listener("/a", fake)
    gate(registry).add_listener("/a", fake)
    gate(registry).send("/a", "once")
    assert fake.sent == ["once"]


def test_removing_without_having_added_does_nothing(application):
    gate(application()).remove_listener("/a", FakeWebSocket())


def test_adding_a_closed_websocket_raises_connection_closed(application):
    registry = application()
    fake = FakeWebSocket()
    fake.leave(4000)
    with pytest.raises(ConnectionClosed, match="4000"):
        gate(registry).add_listener("/a", fake)
    assert len(gate(registry).listeners("/a")) == 0


@pytest.mark.parametrize("message", [None, 1, ["a"], bytearray(b"a")])
def test_a_message_of_another_type_is_a_type_error_and_nothing_is_sent(application, message):
    registry = application()
    fake = FakeWebSocket()
    gate(registry).add_listener("/a", fake)
    with pytest.raises(TypeError):
        gate(registry).send("/a", message)
    assert fake.sent == []


def exclusions():
    return [
        ("one", lambda first, second: first, ["second"]),
        ("a list", lambda first, second: [first], ["second"]),
        ("a set", lambda first, second: {first, second}, []),
        ("an iterator", lambda first, second: iter([first]), ["second"]),
        ("a tuple of nobody", lambda first, second: (), ["first", "second"]),
        ("none", lambda first, second: None, ["first", "second"]),
    ]


@pytest.mark.parametrize(("_name", "exclude", "expected"), exclusions())
def test_exclude_is_one_websocket_or_an_iterable_of_them(application, _name, exclude, expected):
    registry = application()
    fakes = {"first": FakeWebSocket(), "second": FakeWebSocket()}
    for fake in fakes.values():
        gate(registry).add_listener("/a", fake)
    gate(registry).send("/a", "hello", exclude=exclude(*fakes.values()))
    assert [name for name, fake in fakes.items() if fake.sent == ["hello"]] == expected


def test_sending_returns_none_where_there_is_no_history(application):
    assert gate(application()).send("/a", "hello") is None


def test_a_closed_listener_is_skipped(application):
    registry = application()
    first, second = FakeWebSocket(), FakeWebSocket()
    for fake in (first, second):
        gate(registry).add_listener("/a", fake)
    first.leave()
    gate(registry).send("/a", "hello")
    assert (first.sent, second.sent) == ([], ["hello"])


# JSON.


class Money:
    def __init__(self, cents):
        self.cents = cents


class Knows:
    def __json__(self, request):
        return {"request": request}


def with_renderer(application, adapted):
    registry = application()
    config = Configurator(registry=registry)
    renderer = JSON(sort_keys=True)

    def adapter(value, request):
        adapted.append(request)
        return value.cents / 100

    renderer.add_adapter(Money, adapter)
    config.add_renderer("json", renderer)
    config.commit()
    return registry


def test_json_is_written_by_the_applications_renderer_once_with_no_request(application):
    adapted = []
    registry = with_renderer(application, adapted)
    fakes = [FakeWebSocket(), FakeWebSocket()]
    for fake in fakes:
        gate(registry).add_listener("/a", fake)
    with request_of(registry):
        gate(registry).send_json("/a", {"b": Money(150), "a": 1})
    assert [fake.sent for fake in fakes] == [['{"a": 1, "b": 1.5}']] * 2
    assert adapted == [None]


def test_json_of_an_object_that_knows_how_is_asked_with_no_request(application):
    registry = application()
    with request_of(registry):
        assert json.loads(gate(registry).to_json(Knows())) == {"request": None}


def test_a_renderer_that_writes_bytes_is_taken_at_its_word(application):
    registry = application()
    config = Configurator(registry=registry)
    config.add_renderer("json", lambda info: lambda value, system: b'"bytes"')
    config.commit()
    assert gate(registry).to_json(1) == '"bytes"'


def test_an_error_of_the_renderer_comes_before_anything_is_sent(application):
    registry = application()
    fake = FakeWebSocket()
    gate(registry).add_listener("/a", fake)
    with pytest.raises(TypeError):
        gate(registry).send_json("/a", object())
    assert fake.sent == []


# A process without an open WebSocket.


@pytest.fixture
def no_engine(monkeypatch):
    """A process that has made no engine so far: a script, ``pshell``."""
    monkeypatch.setattr("stargate.delivery.engine_made", lambda: False)


def test_a_send_that_reaches_nobody_warns_once_and_names_the_setting(
    application, no_engine, caplog
):
    registry = application()
    with caplog.at_level(logging.WARNING):
        gate(registry).send("/a", "one")
        gate(registry).send("/a", "two")
    (record,) = caplog.records
    assert "/a" in record.getMessage() and "stargate.backplane" in record.getMessage()


def test_a_send_to_fakes_warns_of_nothing(application, no_engine, caplog):
    registry = application()
    gate(registry).add_listener("/a", FakeWebSocket())
    with caplog.at_level(logging.WARNING):
        gate(registry).send("/a", "one")
    assert caplog.records == []


def test_a_server_that_has_opened_nothing_yet_warns_of_nothing(application, engine, caplog):
    registry = application()
    with caplog.at_level(logging.WARNING):
        gate(registry).send("/a", "one")
    assert caplog.records == []


def test_a_process_that_serves_warns_of_nothing(application, engine, caplog):
    registry = application()
    gate(registry).bind(engine)
    with caplog.at_level(logging.WARNING):
        gate(registry).send("/a", "one")
    assert caplog.records == []


# Engines and threads.


def test_two_applications_of_one_engine_share_their_walks(engine):
    first, second = Gate(None), Gate(None)
    assert first.bind(engine) is first.bind(engine) is second.bind(engine)


def test_one_application_is_served_by_one_thread_at_a_time(engine, wire):
    application = Gate(None)
    websocket, _peer = wire(gate=application)
    application.add_listener("/a", websocket)
    other = Engine()
    try:
        with pytest.raises(RuntimeError, match="served by another thread"):
            application.bind(other)
    finally:
        turn(other)
        other.close()


def test_when_its_engine_has_ended_another_may_serve_it(engine):
    application, ended = Gate(None), Engine()
    application.bind(ended)
    turn(ended)
    ended.close()
    assert application._delivery.engine is None
    walks = application.bind(engine)
    assert application._delivery.engine is engine and application._delivery.walks is walks


def test_a_thread_may_add_send_and_remove_and_order_holds(engine, wire):
    application = Gate(None)
    websocket, peer = wire(gate=application)

    def work():
        application.add_listener("/a", websocket)
        for number in range(100):
            application.send("/a", str(number))
        application.remove_listener("/a", websocket)
        application.send("/a", "late")
        websocket.send("end")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    turn_until(engine, lambda: not thread.is_alive())
    turn_until(engine, lambda: "end" in peer.read())
    assert peer.messages == [*(str(number) for number in range(100)), "end"]


def test_a_thread_that_adds_a_websocket_as_it_ends_gets_connection_closed(engine, wire):
    """add_listener on a closed socket raises; a closed socket is a listener of nothing."""
    application = Gate(None)
    websocket, _peer = wire(gate=application)
    caught = []

    def work():
        try:
            application.add_listener("/a", websocket)
        except ConnectionClosed as error:
            caught.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    wait_until(lambda: engine._calls)  # It has looked, and waits for the hub: no turn so far.
    websocket.close()
    turn_until(engine, lambda: not thread.is_alive())
    assert len(application.listeners("/a")) == 0
    assert caught


# A context whose database session went with its request.


class Detached(Node):
    def stargate_address(self):
        raise RuntimeError("not bound to a session")


def test_where_a_context_cannot_say_its_address_any_more_what_it_said_then_holds(application):
    registry, context = application(), Detached()
    with request_of(registry) as request:
        setattr(request, CAPTURED, (context, "/then"))
        assert gate(registry).address(context) == "/then"


def test_what_another_context_said_does_not_hold_for_it(application):
    registry = application()
    with request_of(registry) as request:
        setattr(request, CAPTURED, (Detached(), "/then"))
        with pytest.raises(RuntimeError, match="not bound to a session"):
            gate(registry).address(Detached())


def test_without_a_request_a_context_that_cannot_say_its_address_raises_its_own_error(application):
    with pytest.raises(RuntimeError, match="not bound to a session"):
        gate(application()).address(Detached())


def test_a_context_that_can_say_its_address_is_asked_every_time(application):
    registry, node = application(), Node("moved", Node())
    with request_of(registry) as request:
        setattr(request, CAPTURED, (node, "/before"))
        assert gate(registry).address(node) == "/moved"


class Place:
    def __init__(self, name, parent=None):
        self.__name__, self.__parent__ = name, parent


@pytest.mark.parametrize(
    ("resource", "lack"),
    [
        (Place("chat", Place(None)), "Place, above it, has no __name__"),
        (Place("chat", Place(None, Place(""))), "Place, above it, has no __name__"),
        (Place("", Place("")), "it has the __name__ '', which is the root's"),
        (Place(0, Place("")), "it has the __name__ 0, which is the root's"),
        (Place("m", Place("", Place(""))), "above it, has the __name__ ''"),
        (Place("m", Place("top")), "above it, has the __name__ 'top' but no __parent__"),
    ],
)
def test_a_node_without_a_name_lends_its_children_to_no_other(resource, lack):
    with pytest.raises(NoAddress) as caught:
        location(resource)
    assert lack in str(caught.value)
