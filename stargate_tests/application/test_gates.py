import gc
import json
import logging
import weakref
from uuid import UUID

import pytest
from pyramid.config import Configurator
from pyramid.registry import Registry
from pyramid.renderers import JSON
from pyramid.request import Request
from pyramid.threadlocal import RequestContext
from zope.interface.verify import verifyObject

from stargate import (
    AmbiguousApplication,
    BackplaneError,
    BadAddress,
    ConnectionClosed,
    MessageTooBig,
    NoAddress,
    WebSocketAwareContext,
    gate,
)
from stargate.application.gates import Gate, current_gate, register
from stargate.application.tree import CAPTURED, location
from stargate.engine.hub import Engine, threading
from stargate.events import ListenerJoined, ListenerLeft, MessagesMissed
from stargate.interfaces import IGate
from stargate.message.address import MAX_ADDRESS
from stargate.message.message import ENVELOPE
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
        return f"{self.host}:{location(self)}"


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
    monkeypatch.setattr("stargate.pubsub.delivery.engine_made", lambda: False)


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


# A string is checked, and so is who is left out.


METHODS = [
    lambda found, path: found.send(path, "x"),
    lambda found, path: found.send_json(path, "x"),
    lambda found, path: found.listeners(path),
    lambda found, path: found.add_listener(path, FakeWebSocket()),
    lambda found, path: found.remove_listener(path, FakeWebSocket()),
    lambda found, path: found.history(path),
    lambda found, path: found.presence(path),
    lambda found, path: found.listener_count(path),
    lambda found, path: found.address(path),
]


@pytest.mark.parametrize("method", METHODS)
def test_a_string_that_no_resource_has_as_its_address_is_a_bad_address(application, method):
    with pytest.raises(BadAddress, match="it must be '/a'"):
        method(gate(application()), "/a/")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", ["a", "acme/a", "acme:a", "/" + "x" * MAX_ADDRESS])
def test_a_string_that_is_no_address_is_a_bad_address(application, method, path):
    with pytest.raises(BadAddress):
        method(gate(application()), path)


@pytest.mark.parametrize("method", METHODS)
def test_a_resource_whose_address_is_none_is_refused_everywhere(application, method):
    found = gate(application())
    for resource in (Slashless(), Node("x" * MAX_ADDRESS, Node())):
        with pytest.raises(NoAddress, match="it must be|bytes, more than 8192"):
            method(found, resource)


def test_without_an_application_a_string_is_checked_as_well(no_application):
    with pytest.raises(BadAddress):
        current_gate().send("jobs/1", "x")


class Slashless(Node):
    def stargate_address(self):
        return "jobs/1"


def test_exclude_may_be_the_ids_of_websockets_here_and_elsewhere(application):
    registry = application()
    first, second = FakeWebSocket(), FakeWebSocket()
    for fake in (first, second):
        gate(registry).add_listener("/a", fake)
    gate(registry).send("/a", "to the second", exclude=first.id)
    gate(registry).send("/a", "to the first", exclude=["0" * 32, second])
    assert (first.sent, second.sent) == (["to the first"], ["to the second"])


@pytest.mark.parametrize("exclude", ["x", ["0" * 33], "0" * 31 + "G"])
def test_what_is_no_id_of_a_websocket_is_a_value_error(application, exclude):
    with pytest.raises(ValueError, match="which is no id of a WebSocket"):
        gate(application()).send("/a", "x", exclude=exclude)


@pytest.mark.parametrize("exclude", [[None], [object()], [1]])
def test_what_is_no_websocket_is_a_type_error(application, exclude):
    with pytest.raises(TypeError, match="exclude is a WebSocket, its id, or several of them, not"):
        gate(application()).send("/a", "x", exclude=exclude)


@pytest.mark.parametrize("key", ["", "a b", "\u00fc"])
def test_a_key_that_is_none_is_a_value_error(application, key):
    with pytest.raises(ValueError, match="it must be 1 to 200 visible ASCII characters"):
        gate(application()).send("/a", "x", key=key)


def test_a_message_that_is_too_big_is_refused(application):
    registry = application(**{"stargate.max_send_size": "5"})
    with pytest.raises(MessageTooBig):
        gate(registry).send("/a", "\u00fc\u00fc\u00fc")


# What is kept.


class Kept(Node):
    history_size = 3


def kept(*messages):
    """A resource that keeps three, with ``messages``, and their ids."""
    node = Kept("a", Node())
    return node, [node.send(each) for each in messages]


def enveloped(**facts):
    """A listener whose peer speaks stargate.v1."""
    fake = FakeWebSocket(stays=True, **facts)
    fake._form = ENVELOPE
    return fake


def test_a_send_with_a_history_returns_the_id_that_it_is_found_by(application):
    application()
    node, ids = kept("x", b"y")
    last = node.send_json({"z": 1})
    assert [(each.id, each.message, each.json) for each in node.history()] == [
        (ids[0], "x", False), (ids[1], b"y", False), (last, '{"z": 1}', True),
    ]  # fmt: skip
    assert gate(current_gate()._registry()).history("/a", ids[0], 1)[0].message == b"y"


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_of_nothing_is_a_value_error(application, limit):
    application()
    with pytest.raises(ValueError, match=f"limit = {limit}: it must be at least 1"):
        kept()[0].history(limit=limit)


def test_a_repeat_with_the_same_key_sends_nothing_and_returns_the_same_id(application):
    application()
    node, _ids = kept()
    fake = FakeWebSocket()
    node.add_listener(fake)
    assert node.send("x", key="k") == node.send("x", key="k") != node.send_json("y", key="l")
    assert fake.sent == ["x", '"y"']


def test_who_comes_back_is_sent_what_it_missed_and_then_what_comes(application):
    application()
    node, ids = kept("1", b"2", "3")
    fake = FakeWebSocket()
    assert node.add_listener(fake, since=ids[0]) is True
    node.send("4")
    assert fake.sent == [b"2", "3", "4"]


def test_who_has_missed_too_much_is_told_and_sent_nothing_old(application):
    registry = application()
    node, ids = kept("1", "2", "3", "4", "5")
    fake = FakeWebSocket()
    assert node.add_listener(fake, since=ids[0]) is False
    node.send("6")
    assert fake.sent == ["6"]
    assert (gate(registry).stats().recovered, gate(registry).stats().unrecovered) == (0, 1)


@pytest.mark.parametrize("since", ["", "?", "last "])
def test_what_is_no_id_is_not_complete(application, since):
    application()
    node, _ids = kept("1")
    assert node.add_listener(FakeWebSocket(), since=since) is False


def test_last_is_the_newest_message(application):
    registry = application()
    node, _ids = kept("1", "2")
    fake = FakeWebSocket()
    assert node.add_listener(fake, since="last") is True
    assert fake.sent == ["2"]
    assert gate(registry).stats().recovered == 1


def test_without_since_nothing_old_is_sent_and_nothing_is_said_of_it(application):
    application()
    node, _ids = kept("1")
    fake = FakeWebSocket()
    assert node.add_listener(fake) is None
    assert fake.sent == []


def test_coming_back_to_what_keeps_nothing_is_not_complete(application):
    application()
    assert Node("a", Node()).add_listener(FakeWebSocket(), since="last") is False


def test_more_bytes_than_the_limit_are_not_sent(application):
    application(**{"stargate.recover_limit": "4"})
    node, ids = kept("1", "\u00fc\u00fc", "x")
    fake = FakeWebSocket()
    assert node.add_listener(fake, since=ids[0]) is False
    assert node.add_listener(fake, since=ids[1]) is True
    assert fake.sent == ["x"]


def test_adding_it_again_with_since_begins_anew(application):
    application()
    node, ids = kept("1", "2")
    fake = FakeWebSocket()
    node.add_listener(fake)
    assert node.add_listener(fake, since=ids[0]) is True
    node.send("3")
    assert fake.sent == ["2", "3"]
    assert node.listener_count() == 1


def test_adding_it_again_without_since_changes_nothing(application):
    application()
    node, ids = kept("1", "2")
    fake = FakeWebSocket()
    assert node.add_listener(fake, since=ids[0]) is True
    assert node.add_listener(fake) is None
    assert fake.sent == ["2"]


def test_a_peer_that_speaks_stargate_v1_is_told_where_it_stands(application):
    application()
    node, ids = kept("1", "2")
    fake = enveloped()
    node.add_listener(fake, since=ids[0])
    node.add_listener(fake, since="?")
    assert [json.loads(each) for each in fake.sent] == [
        {"id": ids[1], "data": "2"},
        {"recovered": True, "id": ids[1]},
        {"recovered": False, "id": ids[1]},
    ]


def test_a_peer_comes_back_to_the_address_of_its_url_and_once(application):
    application()
    node, ids = kept("1", "2")
    fake = enveloped()
    fake._since = ("/a", ids[0])
    assert Kept("b", Node()).add_listener(fake) is None
    assert node.add_listener(fake) is True
    node.remove_listener(fake)
    assert node.add_listener(fake) is None
    assert len(fake.sent) == 2


def test_a_closed_websocket_is_sent_nothing_old(application):
    application()
    node, ids = kept("1", "2")
    fake = FakeWebSocket()
    fake.leave()
    with pytest.raises(ConnectionClosed):
        node.add_listener(fake, since=ids[0], who="ann")
    assert (fake.sent, node.presence(), node.listener_count()) == ([], {}, 0)


class Waits:
    """A backplane that has something done while a join waits for it."""

    def __init__(self, found, meanwhile):
        self._inner, self._meanwhile = found._backplane, meanwhile
        self.unsubscribed = []
        found._backplane = found._topics.backplane = self

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def subscribe(self, *args):
        meanwhile, self._meanwhile = self._meanwhile, lambda: None
        meanwhile()
        if isinstance(meanwhile, Fails):
            raise BackplaneError("not sent", "no subscription")
        return self._inner.subscribe(*args)

    def unsubscribe(self, topic):
        self.unsubscribed.append(topic)


class Fails:
    def __call__(self):
        pass


def test_one_that_closes_while_its_join_waits_is_no_listener_and_nobody_is_subscribed():
    found, fake = Gate(None), FakeWebSocket()
    backplane = Waits(found, fake.leave)
    with pytest.raises(ConnectionClosed):
        found.add_listener("/a", fake, who="ann")
    assert (len(found.listeners("/a")), backplane.unsubscribed) == (0, ["/a"])
    assert found.presence("/a") == {}


def test_one_that_closes_while_its_join_waits_takes_nothing_from_the_others():
    found, fake, other = Gate(None), FakeWebSocket(), FakeWebSocket()
    found.add_listener("/a", other)
    backplane = Waits(found, fake.leave)
    with pytest.raises(ConnectionClosed):
        found.add_listener("/a", fake)
    assert (list(found.listeners("/a")), backplane.unsubscribed) == ([other], [])


def test_where_the_backplane_is_out_of_reach_it_is_no_listener():
    found, fake = Gate(None), FakeWebSocket()
    Waits(found, Fails())
    with pytest.raises(BackplaneError):
        found.add_listener("/a", fake)
    assert len(found.listeners("/a")) == 0
    found.add_listener("/a", fake)
    assert list(found.listeners("/a")) == [fake]


# Who is here.


def test_presence_is_under_the_userid_and_counts_the_sockets(application):
    application()
    node = Node("a", Node())
    for fake in (FakeWebSocket(userid="ann"), FakeWebSocket(userid="ann"), FakeWebSocket()):
        node.add_listener(fake)
    assert (node.presence(), node.listener_count()) == ({"ann": 2}, 3)


def test_who_is_another_name_and_an_empty_one_is_none(application):
    application()
    node = Node("a", Node())
    node.add_listener(FakeWebSocket(userid="ann"), who="Ann's phone")
    node.add_listener(FakeWebSocket(userid="ann"), who="")
    node.add_listener(FakeWebSocket(userid="ann"), who=7)
    assert (node.presence(), node.listener_count()) == ({"Ann's phone": 1, 7: 1}, 3)


def test_a_userid_that_is_neither_text_nor_a_number_is_its_text(application):
    application()
    node = Node("a", Node())
    node.add_listener(FakeWebSocket(userid=UUID(int=1)))
    assert node.presence() == {"00000000-0000-0000-0000-000000000001": 1}


@pytest.mark.parametrize("who", [b"ann", 1.5, ["ann"]])
def test_a_name_that_is_neither_text_nor_a_number_is_a_type_error(application, who):
    application()
    with pytest.raises(TypeError, match="who is a str or an int, not"):
        Node("a", Node()).add_listener(FakeWebSocket(), who=who)


def test_who_closes_is_here_no_more(application):
    application()
    node, fake = Node("a", Node()), FakeWebSocket(userid="ann")
    node.add_listener(fake)
    fake.leave()
    assert (node.presence(), node.listener_count()) == ({}, 0)


# From another thread, with an engine.


def in_thread(engine, function):
    answer = []
    thread = threading.Thread(target=lambda: answer.append(function()), daemon=True)
    thread.start()
    turn_until(engine, lambda: not thread.is_alive())
    return answer[0]


def test_a_thread_may_come_back_read_and_count(engine, wire):
    found = Gate(None)
    websocket, peer = wire(gate=found)
    node = Kept("a", Node())

    def work():
        ids = [found.send(node, each) for each in "123"]
        complete = found.add_listener(node, websocket, since=ids[0], who="ann")
        found.send(node, "4")
        return complete, len(found.history("/a")), found.presence("/a"), found.listener_count("/a")

    assert in_thread(engine, work) == (True, 3, {"ann": 1}, 1)
    turn_until(engine, lambda: len(peer.read()) == 3)
    assert peer.messages == ["2", "3", "4"]


def test_recovered_messages_come_behind_what_was_on_its_way(engine, wire):
    found = Gate(None)
    websocket, peer = wire(gate=found)
    found.add_listener("/b", websocket)
    node = Kept("a", Node())
    ids = [found.send(node, each) for each in "12"]
    found.send("/b", "before")
    assert found.add_listener(node, websocket, since=ids[0]) is True
    found.send("/b", "after")
    turn_until(engine, lambda: len(peer.read()) == 3)
    assert peer.messages == ["before", "2", "after"]


# Events.


@pytest.fixture
def subscribed(application, engine):
    """A gate on ``engine`` and what a subscriber has seen, and in which greenlet."""
    seen = []
    registry = application()
    config = Configurator(registry=registry)
    for kind in (ListenerJoined, ListenerLeft, MessagesMissed):
        config.add_subscriber(lambda event: seen.append((event, engine.greenlet)), kind)
    config.commit()
    return gate(registry), seen


def test_who_comes_and_goes_reaches_subscribers_in_a_greenlet_of_their_own(
    subscribed, engine, wire
):
    found, seen = subscribed
    websocket, _peer = wire(gate=found)
    found.add_listener("/a", websocket, who="ann")
    found.remove_listener("/a", websocket)
    assert seen == []
    turn_until(engine, lambda: len(seen) == 2)
    joined, left = (event for event, _greenlet in seen)
    assert (type(joined), joined.address, joined.who) == (ListenerJoined, "/a", "ann")
    assert (type(left), left.address, left.who) == (ListenerLeft, "/a", "ann")
    assert joined.id != left.id
    assert all(greenlet not in (engine.greenlet, engine._hub.greenlet) for _, greenlet in seen)


def test_missed_messages_reach_subscribers(subscribed, engine):
    found, seen = subscribed
    found.bind(engine)
    found._delivery.interrupted("/a", False, None)
    turn_until(engine, lambda: seen)
    assert [event for event, _greenlet in seen] == [MessagesMissed("/a")]


def test_a_subscriber_that_fails_is_logged(application, engine, caplog):
    registry = application()
    config = Configurator(registry=registry)
    config.add_subscriber(lambda event: int("x"), MessagesMissed)
    config.commit()
    gate(registry).bind(engine)
    gate(registry)._delivery.interrupted("/a", False, None)
    turn_until(engine, lambda: caplog.records)
    assert caplog.records[0].getMessage() == "a subscriber to MessagesMissed failed"
    assert caplog.records[0].exc_info[0] is ValueError


def test_where_nobody_serves_nobody_is_told(application):
    seen = []
    registry = application()
    config = Configurator(registry=registry)
    config.add_subscriber(seen.append, ListenerJoined)
    config.commit()
    gate(registry).add_listener("/a", FakeWebSocket(), who="ann")
    assert seen == []


def test_an_application_that_is_gone_is_told_nothing(engine):
    registry = Registry("gone")
    found = Gate(registry)
    found.bind(engine)
    del registry
    gc.collect()
    found._delivery.interrupted("/a", False, None)
    turn(engine)


# The end.


class Closes:
    closed = 0

    def close(self):
        self.closed += 1


def test_at_the_end_of_what_is_served_the_backplane_is_closed(engine):
    found = Gate(None)
    backplane = found._backplane = Closes()
    found.bind(engine)
    found.bind(engine)
    engine.end()
    assert backplane.closed == 1


def test_an_engine_keeps_no_application_alive(engine):
    found = Gate(None)
    found.bind(engine)
    gone = weakref.ref(found)
    del found
    gc.collect()
    assert gone() is None
    engine.end()
