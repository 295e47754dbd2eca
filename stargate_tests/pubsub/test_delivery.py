import gc
import logging

import pytest
from zope.interface.verify import verifyObject

from stargate.application.gates import Gate
from stargate.engine.hub import Engine, threading
from stargate.interfaces import IReceiver
from stargate.message.message import ENVELOPE, Message
from stargate.pubsub.delivery import Delivery
from stargate.settings.application import Limits
from stargate.stats import Counters
from stargate.testing import FakeWebSocket
from stargate_tests.waiting import turn, turn_until


@pytest.fixture
def notified():
    return []


@pytest.fixture
def delivery(notified):
    return Delivery(Counters(), lambda event, facts: notified.append((event, facts)))


def in_thread(engine, function, *args):
    """What ``function`` returns or raises in another OS thread, while the hub goes on."""
    answer = []

    def call():
        try:
            answer.append(function(*args))
        except BaseException as error:
            answer.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    turn_until(engine, lambda: not thread.is_alive())
    return answer[0]


def test_it_provides_its_interface(delivery):
    assert verifyObject(IReceiver, delivery)


# In which thread.


def test_without_an_engine_a_call_is_made_where_the_caller_is(delivery):
    found = []
    assert delivery.ask(threading.get_ident) == threading.get_ident()
    delivery.tell(lambda *args: found.append((threading.get_ident(), *args)), 1, size=5)
    assert found == [(threading.get_ident(), 1)]


def test_in_the_engines_own_thread_a_call_is_made_at_once(delivery, engine):
    delivery.bind(engine, Limits())
    found = []
    delivery.tell(found.append, 1)
    assert (delivery.ask(threading.get_ident), found) == (threading.get_ident(), [1])


def test_from_another_thread_a_question_is_answered_in_the_engines_own(delivery, engine):
    delivery.bind(engine, Limits())
    assert in_thread(engine, delivery.ask, threading.get_ident) == threading.get_ident()


@pytest.mark.parametrize("patched", [True, False])
def test_what_waits_for_a_network_does_so_in_the_engines_thread_if_that_is_patched(
    delivery, engine, monkeypatch, patched
):
    monkeypatch.setattr(Engine, "patched", patched)
    delivery.bind(engine, Limits())
    found = in_thread(engine, delivery.wait, threading.get_ident)
    assert (found == threading.get_ident()) is patched
    assert delivery.wait(threading.get_ident) == threading.get_ident()


def test_what_a_question_raises_is_raised_where_it_was_asked(delivery, engine):
    delivery.bind(engine, Limits())
    assert isinstance(in_thread(engine, delivery.ask, int, "x"), ValueError)


def test_from_another_thread_a_call_is_made_soon_in_the_engines_own(delivery, engine):
    delivery.bind(engine, Limits())
    found = []
    call = (delivery.tell, lambda: found.append(threading.get_ident()))
    assert in_thread(engine, *call) is None
    turn_until(engine, lambda: found)
    assert found == [threading.get_ident()]


# Messages.


def listening(wire, count=2, form=None):
    """A gate, with ``count`` WebSockets that listen at ``/a``, and their peers."""
    gate = Gate(None)
    pairs = [wire(gate=gate) for _ in range(count)]
    pairs[0][0]._form = form
    for websocket, _peer in pairs:
        gate.add_listener("/a", websocket)
    return gate._delivery, pairs


def test_the_ids_that_are_excluded_get_nothing(engine, wire):
    delivery, [(one, peer), (_other, second)] = listening(wire)
    delivery.deliver("/a", Message("to one"), [one.id, "0" * 32])
    delivery.deliver("/a", Message("to both"))
    turn_until(engine, lambda: "to both" in peer.read() and "to both" in second.read())
    assert (peer.messages, second.messages) == (["to both"], ["to one", "to both"])


def test_an_id_that_nobody_has_asked_for_can_exclude_nobody(engine, wire):
    delivery, [(websocket, peer)] = listening(wire, 1)
    delivery.deliver("/a", Message("x"), ["0" * 32])
    turn_until(engine, lambda: peer.read() == ["x"])
    assert websocket.id in delivery.by_id


def test_a_websocket_is_not_kept_alive_by_its_id(no_application):
    fake = FakeWebSocket()
    known, id = fake._gate._delivery.by_id, fake.id
    assert known[id] is fake
    del fake
    gc.collect()
    assert id not in known


def test_messages_of_another_thread_arrive_in_its_order(engine, wire):
    delivery, [(_websocket, peer)] = listening(wire, 1)

    def work():
        for number in range(50):
            delivery.deliver("/a", Message(str(number)))

    in_thread(engine, work)
    turn_until(engine, lambda: len(peer.read()) == 50)
    assert peer.messages == [str(number) for number in range(50)]


def test_it_counts_those_who_listen_here(engine, wire):
    delivery, _pairs = listening(wire)
    assert (delivery.listener_count("/a"), delivery.listener_count("/b")) == (2, 0)


# An interruption.


def test_an_interruption_in_which_messages_were_lost_is_told(engine, wire, notified):
    delivery, [(_enveloped, peer), (_plain, other)] = listening(wire, form=ENVELOPE)
    delivery._notify = lambda *told: notified.append(told)
    delivery.interrupted("/a", False, "here")
    delivery.deliver("/a", Message("next"))
    turn_until(engine, lambda: len(peer.read()) == 2 and other.read())
    assert peer.messages == ['{"recovered": false, "id": "here"}', '{"data":"next"}']
    assert other.messages == ["next"]
    assert notified == [("MessagesMissed", ("/a",))]


def test_of_an_interruption_in_which_nothing_was_lost_nobody_is_told(delivery, notified):
    delivery.interrupted("/a", True, "here")
    assert notified == []


def test_who_comes_and_goes_is_told(delivery, notified):
    delivery.came("/a", "ann", "1")
    delivery.went("/a", "ann", "2")
    assert notified == [
        ("ListenerJoined", ("/a", "ann", "1")),
        ("ListenerLeft", ("/a", "ann", "2")),
    ]


# The engine.


def test_binding_again_to_the_same_engine_changes_nothing(delivery, engine):
    walks = delivery.bind(engine, Limits())
    heartbeat = delivery.heartbeat
    assert delivery.bind(engine, Limits()) is walks is delivery.walks
    assert delivery.heartbeat is heartbeat is not None


def test_without_an_interval_nothing_pings(delivery, engine):
    delivery.bind(engine, Limits(ping_interval=0))
    assert delivery.heartbeat is None


def test_an_engine_that_has_ended_is_none(delivery):
    engine = Engine()
    walks = delivery.bind(engine, Limits())
    turn(engine)
    engine.close()
    assert delivery.engine is None
    assert delivery.walks is not walks
    assert delivery.heartbeat is None


def test_a_message_in_a_process_that_serves_nobody_is_told_of_once(delivery, monkeypatch, caplog):
    monkeypatch.setattr("stargate.pubsub.delivery.engine_made", lambda: False)
    with caplog.at_level(logging.WARNING):
        delivery.deliver("/a", Message("x"))
        delivery.deliver("/b", Message("x"))
    (record,) = caplog.records
    assert "a message for /a was sent in a process that serves no WebSockets" in record.getMessage()
