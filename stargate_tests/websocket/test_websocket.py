import eventlet
import pytest
from zope.interface.verify import verifyObject

from stargate.application.gates import Gate
from stargate.engine.hub import threading
from stargate.exceptions import ConnectionClosed
from stargate.interfaces import IWebSocket
from stargate.websocket.state import State
from stargate.websocket.websocket import check_close
from stargate_tests.waiting import turn, turn_until

BIG = "x" * 300_000


def in_thread(engine, function, *args):
    """What ``function`` returns or raises in an OS thread, while the hub goes on."""
    answer = []

    def run():
        try:
            answer.append(function(*args))
        except BaseException as error:
            answer.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    turn_until(engine, lambda: not thread.is_alive())
    return answer[0]


# What it is.


def test_it_provides_its_interface(wire):
    websocket, _peer = wire()
    assert verifyObject(IWebSocket, websocket)


def test_it_knows_the_facts_of_its_handshake(wire):
    websocket, _peer = wire()
    assert (websocket.path, websocket.remote_addr) == ("/here", "192.0.2.1")
    assert websocket.origin is websocket.subprotocol is websocket.userid is None


def test_each_has_an_id_of_its_own(wire):
    ids = {wire()[0].id for _ in range(5)}
    assert len(ids) == 5


def test_its_id_is_32_hexadecimal_digits_and_stays(engine, wire):
    websocket, _peer = wire()
    id_ = websocket.id
    assert len(id_) == 32 and set(id_) <= set("0123456789abcdef")
    assert websocket.id == id_
    websocket.close()
    turn(engine)
    assert websocket.id == id_


def test_it_is_shown_with_id_path_and_state(engine, wire):
    websocket, _peer = wire()
    assert repr(websocket) == f"<WebSocket {websocket.id} at /here from 192.0.2.1, open>"
    websocket.close()
    assert repr(websocket).endswith(" closing>")


def test_an_open_one_has_no_close_code(wire):
    websocket, _peer = wire()
    assert (websocket.closed, websocket.close_code, websocket.close_reason) == (False, None, None)


# Reading.


def test_waiting_returns_at_once_what_is_there(engine, wire):
    websocket, peer = wire()
    peer.say("a", "b")
    turn_until(engine, lambda: websocket.pending == 2)
    assert websocket.wait(0) == "a"
    assert websocket.pending == 1


def test_waiting_parks_until_a_message_comes(engine, wire, run):
    websocket, peer = wire()
    engine.call_later(0.01, peer.say, "late")
    assert run(websocket.wait) == "late"


def test_polling_raises_timeout_error_and_does_not_wait(wire):
    websocket, _peer = wire()
    with pytest.raises(TimeoutError, match="no message is ready"):
        websocket.wait(timeout=0)


def test_waiting_for_too_long_raises_timeout_error(wire, run):
    websocket, _peer = wire()
    with pytest.raises(TimeoutError, match="no message within 0.01 s"):
        run(websocket.wait, 0.01)


def test_after_a_timeout_one_can_wait_again(engine, wire, run):
    websocket, peer = wire()
    with pytest.raises(TimeoutError):
        run(websocket.wait, 0.01)
    engine.call_later(0.01, peer.say, "late")
    assert run(websocket.wait, 5) == "late"


def test_a_timer_that_is_late_does_not_disturb_the_next_wait(engine, wire):
    websocket, _peer = wire()
    websocket._expire(object())
    assert websocket._waiter is None


def test_waiting_raises_connection_closed_when_the_peer_goes(wire, run):
    websocket, peer = wire()
    websocket._engine.call_later(0.01, peer.say_close, 4000, "bye")
    with pytest.raises(ConnectionClosed) as caught:
        run(websocket.wait)
    assert (caught.value.websocket, caught.value.code, caught.value.reason) == (
        websocket, 4000, "bye",
    )  # fmt: skip


def test_waiting_raises_connection_closed_when_another_greenlet_closes(engine, wire, run):
    websocket, _peer = wire()
    engine.call_later(0.01, websocket.close)
    with pytest.raises(ConnectionClosed):
        run(websocket.wait)


def test_what_came_before_the_peers_end_is_read_before_it_raises(engine, wire):
    websocket, peer = wire()
    peer.say("a", "b")
    peer.say_close()
    turn_until(engine, lambda: websocket.closed)
    assert [websocket.wait(), websocket.wait()] == ["a", "b"]
    with pytest.raises(ConnectionClosed):
        websocket.wait()


def test_iteration_stops_at_the_end(engine, wire, run):
    websocket, peer = wire()
    peer.say("a", "b")
    engine.call_later(0.01, peer.say_close)
    assert run(list, websocket) == ["a", "b"]


def test_one_greenlet_may_wait_at_a_time(engine, wire, run):
    websocket, peer = wire()
    got = []
    engine.spawn(lambda: got.append(websocket.wait()))
    turn(engine)
    with pytest.raises(RuntimeError, match="another greenlet is waiting"):
        run(websocket.wait)
    peer.say("a")
    turn_until(engine, lambda: got == ["a"])


def test_another_thread_may_not_wait(engine, wire):
    websocket, _peer = wire()
    error = in_thread(engine, websocket.wait)
    assert isinstance(error, RuntimeError) and "in the thread of the server only" in str(error)


def test_what_nobody_reads_is_counted_and_forgotten(engine, wire):
    websocket, peer = wire(inbox_length=2)
    peer.say("a", "b")
    turn_until(engine, lambda: websocket.pending == 2)
    websocket._discard_input()
    assert (websocket.pending, websocket.discarded) == (0, 2)
    peer.say("c", "d", "e")
    turn_until(engine, lambda: websocket.discarded == 5)
    websocket._discard_input()
    assert websocket.discarded == 5


def test_waiting_where_nothing_is_kept_says_what_to_override(engine, wire, run):
    websocket, _peer = wire()
    websocket._discard_input()
    with pytest.raises(RuntimeError, match=r"override handler\(\) or on_message\(\)"):
        run(websocket.wait)


def test_discarding_after_the_end_is_harmless(engine, wire):
    websocket, _peer = wire()
    websocket._lose()
    websocket._discard_input()
    assert websocket.pending == 0


def test_attending_is_asked_for_when_a_message_or_the_end_has_come(engine, wire):
    websocket, peer = wire()
    asked = []
    websocket._attend = lambda: asked.append(websocket.pending)
    peer.ping(b"not this")
    turn_until(engine, lambda: (peer.read(), peer.pongs)[1])
    assert asked == []
    peer.say("a")
    turn_until(engine, lambda: asked == [1])
    websocket.wait(0)
    peer.say_close()
    turn_until(engine, lambda: 0 in asked)


# Writing.


def test_sending_anything_but_str_and_bytes_is_a_type_error(wire):
    websocket, _peer = wire()
    with pytest.raises(TypeError):
        websocket.send({"not": "this"})


def test_sending_on_a_closed_one_raises_connection_closed(engine, wire):
    websocket, _peer = wire()
    websocket.close(1000, "enough")
    with pytest.raises(ConnectionClosed, match=r"1000 \(enough\)"):
        websocket.send("late")


def test_json_is_sent_as_text(engine, wire):
    websocket, peer = wire()
    websocket.send_json({"a": [1, None]})
    turn_until(engine, lambda: peer.read() == ['{"a": [1, null]}'])


def test_a_websockets_send_is_behind_every_send_to_a_resource(engine, wire):
    gate = Gate(None)
    websocket, peer = wire(gate=gate)
    gate.add_listener("/a", websocket)
    gate.send("/a", "one")
    websocket.send("two")
    gate.send("/a", "three")
    turn_until(engine, lambda: peer.read() == ["one", "two", "three"])


def test_from_another_thread_it_is_queued_in_order(engine, wire):
    websocket, peer = wire()

    def send():
        for number in range(100):
            websocket.send(str(number))

    assert in_thread(engine, send) is None
    turn_until(engine, lambda: peer.read() == [str(number) for number in range(100)])


def test_in_its_own_view_it_waits_above_the_high_water_mark(engine, wire):
    websocket, peer = wire(outbox_size=400_000, outbox_high_water=100_000)
    done = []

    def stream():
        websocket._runner = engine.greenlet
        for _ in range(30):
            websocket.send(BIG)
        done.append(True)

    engine.spawn(stream)
    turn(engine, 0.01)
    assert not done and websocket.buffered > 100_000
    turn_until(engine, lambda: (peer.read(), done)[1])
    assert not websocket.closed
    turn_until(engine, lambda: peer.read() == [BIG] * 30)


def test_in_its_own_view_it_raises_when_the_peer_goes_meanwhile(engine, wire):
    websocket, peer = wire(outbox_high_water=0)
    caught = []

    def stream():
        websocket._runner = engine.greenlet
        try:
            while True:
                websocket.send(BIG)
        except ConnectionClosed as error:
            caught.append(error.websocket)

    engine.spawn(stream)
    turn(engine, 0.01)
    assert not caught
    peer.sock.close()
    turn_until(engine, lambda: caught == [websocket])


def test_anywhere_else_it_does_not_wait(engine, wire, run):
    websocket, _peer = wire(outbox_high_water=0)

    def send():
        while not websocket.buffered:
            websocket.send(BIG)
        websocket.send(BIG)
        return websocket.buffered

    assert run(send) > len(BIG)


def test_a_ping_reaches_the_peer(engine, wire):
    websocket, peer = wire()
    websocket.ping(b"there?")
    turn_until(engine, lambda: (peer.read(), peer.pings)[1] == [b"there?"])


def test_a_ping_of_126_bytes_is_a_value_error(wire):
    websocket, _peer = wire()
    with pytest.raises(ValueError, match="at most 125 bytes, not 126"):
        websocket.ping(b"x" * 126)


def test_a_ping_on_a_closed_one_raises_connection_closed(wire):
    websocket, _peer = wire()
    websocket.close()
    with pytest.raises(ConnectionClosed):
        websocket.ping()
    websocket._ping(b"late, from a thread")


def test_flushing_with_nothing_queued_returns(engine, wire, run):
    websocket, _peer = wire()
    assert run(websocket.flush) is None


def test_flushing_sends_what_is_queued_for_its_resources(engine, wire, run):
    gate = Gate(None)
    websocket, peer = wire(gate=gate)
    gate.add_listener("/a", websocket)

    def flush():
        gate.send("/a", "one")
        websocket.flush()
        return list(peer.read())

    assert run(flush) == ["one"]


def test_flushing_waits_until_the_kernel_has_taken_all(engine, wire):
    websocket, peer = wire()
    while not websocket.buffered:
        websocket.send(BIG)
    left = []
    engine.spawn(lambda: (websocket.flush(5), left.append(websocket.buffered)))
    turn(engine, 0.01)
    assert not left
    turn_until(engine, lambda: (peer.read(), left)[1] == [0])


def test_flushing_for_too_long_raises_timeout_error(engine, wire, run):
    websocket, _peer = wire()
    while not websocket.buffered:
        websocket.send(BIG)
    with pytest.raises(TimeoutError, match=r"\d+ bytes still wait after 0.01 s"):
        run(websocket.flush, 0.01)
    assert not websocket._drain_waiters


def test_a_timeout_of_eventlets_own_ends_flushing_as_well(engine, wire, run):
    websocket, _peer = wire()
    while not websocket.buffered:
        websocket.send(BIG)

    def flush():
        with eventlet.Timeout(0.01, False):
            websocket.flush()
        return "given up"

    assert run(flush) == "given up"
    assert not websocket._drain_waiters


def test_flushing_raises_when_the_end_comes_with_bytes_queued(engine, wire, run):
    websocket, peer = wire()
    while not websocket.buffered:
        websocket.send(BIG)
    engine.call_later(0.01, peer.sock.close)
    with pytest.raises(ConnectionClosed):
        run(websocket.flush)


def test_another_thread_may_flush(engine, wire):
    websocket, peer = wire()
    assert in_thread(engine, lambda: (websocket.send("a"), websocket.flush(5))) == (None, None)
    assert peer.read() == ["a"]


# Ending.


def test_closing_twice_is_once(engine, wire):
    websocket, peer = wire()
    websocket.close(1000, "first")
    websocket.close(4000, "second")
    turn_until(engine, lambda: (peer.read(), peer.ended)[1])
    assert (peer.close.code, websocket.close_code, websocket.close_reason) == (1000, 1000, "first")


def test_closing_does_not_wait(wire):
    websocket, _peer = wire()
    websocket.close()
    assert websocket.closed and websocket.state is State.CLOSING


def test_another_thread_may_close(engine, wire):
    websocket, peer = wire()
    assert in_thread(engine, websocket.close, 4001) is None
    turn_until(engine, lambda: (peer.read(), peer.close)[1])
    assert peer.close.code == 4001


def test_closing_delivers_what_was_sent_to_its_resources_before(engine, wire):
    gate = Gate(None)
    websocket, peer = wire(gate=gate)
    gate.add_listener("/a", websocket)
    gate.send("/a", "last words")
    websocket.close()
    turn_until(engine, lambda: (peer.read(), peer.ended)[1])
    assert peer.messages == ["last words"]


@pytest.mark.parametrize("how", ["close", "lose", "peer"])
def test_at_the_end_it_leaves_all_its_resources(engine, wire, how):
    gate = Gate(None)
    websocket, peer = wire(gate=gate)
    gate.add_listener("/a", websocket)
    gate.add_listener("/b", websocket)
    if how == "close":
        websocket.close()
    elif how == "lose":
        websocket._lose()
    else:
        peer.say_close()
        turn_until(engine, lambda: websocket.closed)
    assert not gate.listeners("/a") and not gate.listeners("/b")
    assert len(gate._topics) == 0


def test_it_leaves_the_addresses_it_was_added_with_though_the_node_has_moved(engine, wire):
    class Node:
        __parent__ = None
        __name__ = ""

    root, node, gate = Node(), Node(), Gate(None)
    node.__parent__, node.__name__ = root, "here"
    websocket, _peer = wire(gate=gate)
    gate.add_listener(node, websocket)
    node.__name__ = "there"
    websocket.close()
    assert not gate.listeners("/here") and not gate.listeners("/there")


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1014, 3000, 4999])
def test_a_close_code_that_may_be_sent_is_taken(code):
    check_close(code, "")


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
def test_a_close_code_that_may_not_be_sent_is_a_value_error(wire, code):
    websocket, _peer = wire()
    with pytest.raises(ValueError, match=f"{code} is not a close code"):
        websocket.close(code)
    assert not websocket.closed


def test_a_close_reason_of_123_bytes_is_taken_and_one_more_is_a_value_error():
    check_close(1000, "ü" * 61 + "x")
    with pytest.raises(ValueError, match="at most 123 bytes, not 124"):
        check_close(1000, "ü" * 62)


def test_a_stream_of_messages_from_both_sides_loses_nothing(engine, wire, family):
    websocket, peer = wire(family, inbox_length=4)

    def echo():
        for message in websocket:
            websocket.send(message)

    engine.spawn(echo)
    sent = []
    for number in range(200):
        sent.append(f"{number}" + "z" * (number * 13 % 400))
        peer.say(sent[-1])
        if number % 7 == 0:
            turn(engine)
    turn_until(engine, lambda: peer.read() == sent)


def test_a_thread_may_ping(engine, wire):
    websocket, peer = wire()
    assert in_thread(engine, websocket.ping, b"there?") is None
    turn_until(engine, lambda: (peer.read(), peer.pings)[1] == [b"there?"])


def test_a_message_of_a_thread_that_comes_too_late_is_dropped(engine, wire):
    websocket, peer = wire()
    thread = threading.Thread(target=websocket.send, args=("late",), daemon=True)
    thread.start()
    thread.join(10)
    websocket.close()
    turn_until(engine, lambda: (peer.read(), peer.ended)[1])
    assert peer.messages == []


def test_a_time_out_of_the_view_while_it_gives_way_leaves_no_switch_behind(engine, wire, run):
    websocket, _peer = wire()
    for _ in range(100):
        websocket._on_message("x")
    timers, soon = [], engine.call_soon

    def remember(*args):
        timers.append(soon(*args))
        return timers[-1]

    def view():
        websocket._runner = engine.greenlet
        engine.call_soon = remember
        with eventlet.Timeout(0, False):
            for _ in range(100):
                websocket.wait()
        del engine.call_soon
        return websocket.pending, [timer.called for timer in timers]

    pending, called = run(view)
    assert pending == 37  # It was giving way, before the 64th.
    assert called == [True]
