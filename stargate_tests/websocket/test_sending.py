import logging

import pytest

from stargate.application.gates import Gate
from stargate.engine.hub import WRITE
from stargate.websocket.sending import SENDS_A_TURN
from stargate.websocket.state import State
from stargate_tests.peers import BIG, Scripted, fill, raises, reset
from stargate_tests.waiting import turn, turn_until

# Going out.


def test_messages_go_out_in_their_order(engine, wire, family):
    websocket, peer = wire(family)
    websocket.send("one")
    websocket.send(b"two")
    turn_until(engine, lambda: peer.read() == ["one", b"two"])


def test_what_the_kernel_does_not_take_waits_and_leaves_when_it_can(engine, wire, family):
    websocket, peer = wire(family, outbox_size=10_000_000)
    count = fill(websocket)
    for number in range(100):
        websocket.send(str(number))
    buffered = websocket.buffered
    assert buffered > 100
    turn_until(engine, lambda: len(peer.read()) == count + 100)
    assert peer.messages[-100:] == [str(number) for number in range(100)]
    turn_until(engine, lambda: websocket.buffered == 0)


def test_once_the_outbox_is_empty_it_is_written_to_directly_again(engine, wire):
    websocket, peer = wire()
    fill(websocket)
    assert websocket._events & WRITE
    turn_until(engine, lambda: (peer.read(), websocket.buffered)[1] == 0)
    assert not websocket._events & WRITE
    count = len(peer.read())
    websocket.send("direct")
    assert websocket.buffered == 0
    turn_until(engine, lambda: len(peer.read()) == count + 1)


def test_one_message_always_fits_whatever_its_size(engine, wire):
    websocket, peer = wire(outbox_size=1)
    websocket.send("x" * 3_000_000)
    assert websocket.buffered > 1
    turn_until(engine, lambda: peer.read())
    assert len(peer.messages[0]) == 3_000_000
    assert not websocket.closed


def test_a_listener_that_never_reads_is_given_up_with_1013(engine, wire, caplog):
    websocket, peer = wire(outbox_size=500_000)
    with caplog.at_level(logging.WARNING):
        while not websocket.closed:
            websocket.send(BIG)
        turn(engine)
        turn(engine)
    assert (websocket.close_code, websocket.close_reason) == (1013, "too slow")
    (record,) = caplog.records
    assert websocket.id in record.getMessage() and "/here" in record.getMessage()
    assert "stargate.outbox_size is 500000" in record.getMessage()


def test_what_is_kept_for_a_slow_listener_is_bounded(engine, wire):
    websocket, _peer = wire(outbox_size=500_000)
    most = 0
    while not websocket.closed:
        websocket.send(BIG)
        most = max(most, websocket.buffered)
    assert most < 500_000 + len(BIG) + 20


def test_what_waits_for_who_is_given_up_is_let_go(engine, wire):
    websocket, _peer = wire(outbox_size=2_000_000)
    while not websocket.closed:
        before = websocket.buffered
        websocket.send(BIG)
    assert before >= 2_000_000
    assert websocket.buffered < len(BIG) + 50


def test_who_is_given_up_gets_the_frame_under_way_and_the_close(engine, wire):
    websocket, peer = wire(outbox_size=500_000)
    sent = 0
    while not websocket.closed:
        websocket.send(BIG)
        sent += 1
    turn_until(engine, lambda: (peer.read(), peer.ended)[1])
    assert peer.close.code == 1013
    assert 0 < len(peer.messages) < sent
    assert set(peer.messages) == {BIG}


def test_the_socket_is_tried_once_more_before_it_is_called_slow(engine, wire):
    websocket, peer = wire(outbox_size=300_000)
    fill(websocket)
    while websocket.buffered < 300_000:
        websocket.send(BIG)
    peer.read()  # The hub has had no turn: nobody here knows of it yet.
    websocket.send("one more")
    assert not websocket.closed


def test_a_peer_that_has_gone_is_noticed_by_sending(engine, wire):
    websocket, peer = wire()
    peer.sock.close()
    websocket.send("into the void")
    assert websocket.closed
    assert websocket.close_code == 1006


def test_a_peer_that_goes_while_bytes_wait_is_noticed(engine, wire, family):
    websocket, peer = wire(family)
    fill(websocket)
    reset(peer.sock)
    turn_until(engine, lambda: websocket.state is State.CLOSED)
    assert websocket.close_code == 1006
    assert websocket.buffered == 0


def takes_all(buffers):
    return sum(len(buffer) for buffer in buffers)


def test_trying_once_more_may_find_that_all_has_left(engine, wire):
    websocket, peer = wire(outbox_size=1)
    fill(websocket)
    Scripted(websocket, sendmsg=takes_all)
    websocket.send("goes directly again")
    assert not websocket.closed


def test_trying_once_more_may_find_that_the_peer_has_gone(engine, wire):
    websocket, _peer = wire(outbox_size=1)
    fill(websocket)
    Scripted(websocket, sendmsg=raises(ConnectionResetError()))
    websocket.send("into the void")
    assert websocket.state is State.CLOSED and websocket.close_code == 1006


def test_what_goes_directly_again_may_find_no_room_at_once(engine, wire):
    websocket, _peer = wire(outbox_size=1)
    fill(websocket)
    Scripted(websocket, sendmsg=takes_all, send=raises(BlockingIOError()))
    websocket.send("waits in an outbox of its own")
    assert not websocket.closed
    assert websocket.buffered == len("waits in an outbox of its own") + 2


def test_what_goes_directly_again_may_find_that_the_peer_has_gone(engine, wire):
    websocket, _peer = wire(outbox_size=1)
    fill(websocket)
    Scripted(websocket, sendmsg=takes_all, send=raises(ConnectionResetError()))
    websocket.send("into the void")
    assert websocket.state is State.CLOSED and websocket.close_code == 1006


def test_draining_gives_way_to_the_hub(engine, wire):
    websocket, peer = wire()
    fill(websocket)
    sent = []

    def byte_by_byte(buffers):
        sent.append(1)
        return websocket_sock.send(bytes(buffers[0][:1]))

    websocket_sock = websocket._sock
    Scripted(websocket, sendmsg=byte_by_byte)
    peer.read()
    websocket._drain()
    assert len(sent) == SENDS_A_TURN and websocket.buffered


def test_draining_nothing_is_harmless(wire):
    websocket, _peer = wire()
    websocket._drain()
    assert websocket.buffered == 0


def test_pings_of_ours_do_not_pile_up_behind_a_full_outbox(engine, wire):
    websocket, _peer = wire(outbox_size=1_000)
    fill(websocket)
    before = websocket.buffered
    for _ in range(100):
        websocket.ping(bytes(125))
    assert websocket.buffered == before and not websocket.closed


# Listeners that are slow.


class Slow:
    """A listener of ``/a`` and ``/b`` whose socket is full, and the gate to send through."""

    def __init__(self, engine, wire, policy=None, other=None, **limits):
        self.engine, self.gate = engine, Gate(None)
        self.websocket, self.peer = wire(gate=self.gate, **limits)
        self.gate.add_listener("/a", self.websocket, when_slow=policy)
        self.gate.add_listener("/b", self.websocket, when_slow=other)
        self.count = fill(self.websocket)

    def send(self, *messages, to="/a"):
        """Send each message in a turn of its own."""
        for message in messages:
            self.gate.send(to, message)
            turn(self.engine)

    def read(self):
        """What comes behind what had filled the socket."""
        turn_until(self.engine, lambda: (self.peer.read(), self.websocket.buffered)[1] == 0)
        turn_until(self.engine, lambda: len(self.peer.read()) >= self.count)
        return self.peer.messages[self.count :]


def numbers(count):
    return [str(number) for number in range(count)]


def test_of_the_latest_policy_only_the_newest_message_is_kept(engine, wire, caplog):
    slow = Slow(engine, wire, "latest")
    slow.send(*numbers(100))
    assert slow.websocket.missed == slow.gate.stats().drops == 99
    assert slow.read() == ["99"]
    (record,) = caplog.records  # Once a connection, not once a message.
    assert "misses messages" in record.getMessage() and slow.websocket.id in record.getMessage()


def test_the_newest_is_kept_of_messages_that_are_sent_in_one_turn_as_well(engine, wire):
    slow = Slow(engine, wire, "latest")
    for number in numbers(100):
        slow.gate.send("/a", number)
    turn(engine)
    assert slow.websocket.missed == 99
    assert slow.read() == ["99"]


def test_a_listener_that_reads_gets_all_whatever_its_policy(engine, wire):
    gate = Gate(None)
    websocket, peer = wire(gate=gate)
    gate.add_listener("/a", websocket, when_slow="latest")
    for number in numbers(50):
        gate.send("/a", number)
        turn(engine)
    turn_until(engine, lambda: peer.read() == numbers(50))
    assert websocket.missed == 0


def test_dropping_the_oldest_keeps_the_newest_that_there_is_room_for(engine, wire):
    slow = Slow(engine, wire, "drop_oldest", outbox_size=400_000)
    room = 400_000 - slow.websocket._outbox.cost
    sent = [f"{number:05}" + "x" * 995 for number in range(500)]
    slow.send(*sent)
    assert not slow.websocket.closed
    found = slow.read()
    assert found == sent[-len(found) :]
    assert abs(len(found) - room // 1050) <= 2
    assert slow.websocket.missed == slow.gate.stats().drops == 500 - len(found)


def test_messages_of_other_resources_and_its_own_are_not_dropped_for_it(engine, wire):
    slow = Slow(engine, wire, "latest")
    for number in numbers(10):
        slow.send(f"a{number}")
        slow.send(f"b{number}", to="/b")
        slow.websocket.send(f"own{number}")
    found = slow.read()
    assert [each for each in found if each[0] == "b"] == [f"b{n}" for n in numbers(10)]
    assert [each for each in found if each[0] == "o"] == [f"own{n}" for n in numbers(10)]
    assert [each for each in found if each[0] == "a"] == ["a9"]
    assert found[-3:] == ["a9", "b9", "own9"], "in the order of the sends"


def test_the_frame_under_way_is_not_dropped(engine, wire):
    gate = Gate(None)
    websocket, peer = wire(gate=gate)
    gate.add_listener("/a", websocket, when_slow="latest")
    sent = [str(number) + BIG for number in range(20)]
    for message in sent:
        gate.send("/a", message)
        turn(engine)
    turn_until(engine, lambda: (peer.read(), websocket.buffered)[1] == 0)
    turn_until(engine, lambda: peer.read() and peer.messages[-1] == sent[-1])
    assert peer.messages[:-1] == sent[: len(peer.messages) - 1]
    assert len(peer.messages) + websocket.missed == 20


@pytest.mark.parametrize("policy", ["close", "drop_oldest", "latest"])
@pytest.mark.parametrize("taken", [0, 1, 5, 6, 9, 13, 14])
def test_of_messages_that_go_together_the_socket_may_take_any_part(engine, wire, policy, taken):
    """Three frames of 5, 8 and 7 bytes in one buffer."""
    gate = Gate(None)
    websocket, peer = wire(gate=gate)
    gate.add_listener("/a", websocket, when_slow=policy)
    sock = websocket._sock
    websocket._write = lambda buffer: sock.send(buffer[:taken])
    full = Scripted(websocket, sendmsg=raises(BlockingIOError()))
    messages = ["one", "twotwo", "three"]
    for message in messages:
        gate.send("/a", message)
    turn(engine)
    gone = [5, 13, 20]
    begun = sum(taken > end for end in (0, 5, 13))
    expected = messages
    if policy == "latest":
        whole = sum(taken >= end for end in gone)
        expected = messages[: max(begun, whole)] + messages[max(begun, whole, 2) :]
    assert websocket.missed == 3 - len(expected)
    del full.sendmsg
    turn_until(engine, lambda: peer.read() == expected)


def test_what_is_full_of_others_takes_no_message_that_may_be_dropped(engine, wire):
    slow = Slow(engine, wire, "drop_oldest", outbox_size=1)
    slow.send("one", "two")
    assert (slow.websocket.missed, slow.websocket.closed) == (2, False)
    assert slow.read() == []


def test_what_is_full_of_others_is_closed_where_the_newest_must_be_kept(engine, wire):
    slow = Slow(engine, wire, "latest", outbox_size=1)
    slow.send("one")
    assert (slow.websocket.close_code, slow.websocket.missed) == (1013, 1)


def test_a_resource_may_say_what_becomes_of_its_slow_listeners(engine, wire):
    class Price:
        stargate_when_slow = "latest"

        def stargate_address(self):
            return "/a"

    slow = Slow(engine, wire)
    slow.gate.add_listener(Price(), slow.websocket)
    slow.send(*numbers(5))
    assert slow.read() == ["4"]


def test_what_add_listener_says_goes_before_what_the_resource_says(engine, wire):
    class Price:
        stargate_when_slow = "latest"

        def stargate_address(self):
            return "/a"

    slow = Slow(engine, wire)
    slow.gate.add_listener(Price(), slow.websocket, when_slow="drop_oldest")
    slow.send(*numbers(5))
    assert slow.read() == numbers(5)


def test_joining_again_changes_the_policy_only_if_it_says_so(engine, wire):
    slow = Slow(engine, wire, "latest")
    slow.gate.add_listener("/a", slow.websocket)
    slow.send(*numbers(3))
    assert slow.read() == ["2"]
    slow.gate.add_listener("/a", slow.websocket, when_slow="close")
    assert slow.websocket._policies is None


def test_leaving_forgets_the_policy(engine, wire):
    slow = Slow(engine, wire, "latest", "drop_oldest")
    slow.gate.remove_listener("/a", slow.websocket)
    assert list(slow.websocket._policies.values()) == ["drop_oldest"]
    slow.gate.add_listener("/a", slow.websocket)
    slow.send(*numbers(3))
    assert slow.read() == numbers(3)


@pytest.mark.parametrize("word", ["Latest", "", "drop", 7])
def test_a_word_that_is_no_policy_is_a_value_error(engine, wire, word):
    websocket, _peer = wire()
    gate = Gate(None)
    with pytest.raises(ValueError, match="when_slow = .*close, drop_oldest, latest"):
        gate.add_listener("/a", websocket, when_slow=word)
    assert not gate.listeners("/a")


def test_a_word_on_a_resource_that_is_no_policy_is_a_value_error(engine, wire):
    class Price:
        stargate_when_slow = "newest"

    websocket, _peer = wire()
    with pytest.raises(ValueError, match="stargate_when_slow = 'newest'"):
        Gate(None).add_listener(Price(), websocket)


def test_what_a_closed_one_did_not_get_is_counted(engine, wire):
    slow = Slow(engine, wire, outbox_size=10_000)
    waited = slow.websocket._outbox.messages
    slow.send("one", "two")
    stats = slow.gate.stats()
    assert (slow.websocket.close_code, stats.slow_closes) == (1013, 1)
    # All but the frame under way, and the message that found no room.
    assert slow.websocket.missed == stats.drops == waited
    slow.send("nobody listens any more")
    assert slow.websocket.missed == waited


def test_messages_that_go_together_are_counted_one_by_one_when_lost(engine, wire):
    slow = Slow(engine, wire, outbox_size=1)
    for number in numbers(7):
        slow.gate.send("/a", number)
    turn(engine)
    assert slow.websocket.missed == 7  # What filled the socket is one message, and under way.


@pytest.mark.parametrize("excluded", [False, True])
def test_what_was_sent_to_a_closed_one_and_had_not_left_is_counted_too(engine, wire, excluded):
    slow = Slow(engine, wire, outbox_size=10_000_000)
    waited = slow.websocket._outbox.messages
    slow.gate.send("/a", "one", exclude=slow.websocket if excluded else None)
    slow.gate.send("/b", "two")
    slow.gate.send("/nobody", "three")
    slow.websocket._stall()
    under_way, lost = 1, 1 if excluded else 2
    assert slow.websocket.missed == waited - under_way + lost
    turn(engine)
    assert slow.websocket.missed == slow.gate.stats().drops == waited - under_way + lost


def test_a_closed_one_keeps_of_a_buffer_only_the_frame_under_way(engine, wire):
    gate = Gate(None)
    websocket, peer = wire(gate=gate, outbox_size=1)
    gate.add_listener("/a", websocket)
    sock = websocket._sock
    websocket._write = lambda buffer: sock.send(buffer[:7])
    full = Scripted(websocket, sendmsg=raises(BlockingIOError()))
    for message in ("one", "twotwo", "three"):
        gate.send("/a", message)
    turn(engine)
    gate.send("/a", "no room")
    turn(engine)
    assert (websocket.close_code, websocket.missed) == (1013, 2)
    del full.sendmsg
    turn_until(engine, lambda: (peer.read(), peer.close)[1])
    assert (peer.messages, peer.close.code) == (["one", "twotwo"], 1013)
