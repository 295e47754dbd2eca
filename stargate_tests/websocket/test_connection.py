from contextlib import suppress

import pytest
from websockets.frames import Opcode

from stargate.application.gates import Gate
from stargate.message.incoming import WORK, Incoming
from stargate.websocket.state import State
from stargate_tests.peers import BIG, Scripted, client_frame, fill, raises, reset
from stargate_tests.waiting import turn, turn_until

# Coming in.


def test_a_text_message_comes_in_as_str(engine, wire, family):
    websocket, peer = wire(family)
    peer.say("Grüße")
    assert websocket.wait(5) == "Grüße"


def test_a_binary_message_comes_in_as_bytes(engine, wire, family):
    websocket, peer = wire(family)
    peer.say(b"\x00\xff")
    message = websocket.wait(5)
    assert (type(message), message) == (bytes, b"\x00\xff")


@pytest.mark.parametrize("message", ["", b""])
def test_an_empty_message_is_a_message(engine, wire, message):
    websocket, peer = wire()
    peer.say(message)
    assert websocket.wait(5) == message


def test_messages_come_in_as_they_were_sent_however_many(engine, wire, family):
    websocket, peer = wire(family)
    sent = [f"{number} " + "y" * (number * 37) for number in range(50)]
    peer.say(*sent)
    assert [websocket.wait(5) for _ in sent] == sent


def test_a_message_does_not_change_when_the_next_one_is_read(engine, wire):
    websocket, peer = wire()
    peer.say(b"a" * 100)
    first = websocket.wait(5)
    peer.say(b"b" * 100)
    websocket.wait(5)
    assert first == b"a" * 100


def test_a_message_may_come_in_byte_by_byte(engine, wire):
    websocket, peer = wire()
    for byte in client_frame("slow"):
        peer.sock.sendall(bytes([byte]))
        turn(engine)
    assert websocket.wait(5) == "slow"


def test_a_message_larger_than_one_read_comes_in_whole(engine, wire):
    websocket, peer = wire()
    message = client_frame("z" * 400_000)
    peer.sock.setblocking(False)
    sent = 0

    def sent_all():
        nonlocal sent
        with suppress(BlockingIOError):
            sent += peer.sock.send(message[sent:])
        return sent == len(message)

    turn_until(engine, sent_all)
    assert websocket.wait(5) == "z" * 400_000


def test_fragments_are_one_message(engine, wire):
    websocket, peer = wire()
    peer.say_fragments(Opcode.BINARY, b"one ", b"", b"message")
    assert websocket.wait(5) == b"one message"


def test_a_character_may_be_cut_by_fragments(engine, wire):
    websocket, peer = wire()
    peer.say_fragments(Opcode.TEXT, "ü".encode()[:1], "ü".encode()[1:])
    assert websocket.wait(5) == "ü"


def test_a_ping_between_fragments_is_answered_at_once(engine, wire):
    websocket, peer = wire()
    peer.frame(Opcode.TEXT, b"one ", fin=False)
    peer.frame(Opcode.PING, b"there?")
    turn_until(engine, lambda: (peer.read(), peer.pongs)[1] == [b"there?"])
    assert websocket.pending == 0
    peer.frame(Opcode.CONT, b"message")
    assert websocket.wait(5) == "one message"


def test_each_ping_is_answered_once(engine, wire):
    websocket, peer = wire()
    for payload in (b"one", b"two"):
        peer.ping(payload)
        turn_until(engine, lambda last=payload: (peer.read(), peer.pongs)[1][-1:] == [last])
    peer.say("done")
    assert websocket.wait(5) == "done"
    websocket.send("done")
    turn_until(engine, lambda: peer.read() == ["done"])
    assert peer.pongs == [b"one", b"two"]


def test_a_pong_that_nobody_asked_for_is_ignored(engine, wire):
    websocket, peer = wire()
    peer.frame(Opcode.PONG, b"surprise")
    peer.say("next")
    assert websocket.wait(5) == "next"


def test_what_came_with_the_handshake_comes_first(engine, wire):
    websocket, peer = wire(early=client_frame("one") + client_frame("two"))
    peer.say("three")
    assert [websocket.wait(5) for _ in range(3)] == ["one", "two", "three"]


def test_a_frame_may_be_split_between_the_handshakes_packet_and_the_next(engine, wire):
    data = client_frame("split")
    websocket, peer = wire(early=data[:4])
    turn(engine)
    peer.sock.sendall(data[4:])
    assert websocket.wait(5) == "split"


def test_what_came_with_the_handshake_is_ignored_when_it_was_lost_meanwhile(engine, wire):
    websocket, peer = wire(early=client_frame("one"))
    websocket._lose()
    turn(engine)
    assert websocket.pending == 0


# Breaking the rules.


@pytest.mark.parametrize(
    ("bytes_", "code"),
    [
        (b"\x81\x05hello", 1002),  # Not masked.
        (b"\xf1\x80\0\0\0\0", 1002),  # Reserved bits.
        (b"\x83\x80\0\0\0\0", 1002),  # A reserved opcode.
        (b"\x80\x80\0\0\0\0", 1002),  # A continuation of nothing.
        (b"\x09\x80\0\0\0\0", 1002),  # A fragmented ping.
        (b"\x89\xfe\x00\x7e\0\0\0\0" + bytes(126), 1002),  # A ping of 126 bytes.
        (b"\x88\x81\0\0\0\0\x03", 1002),  # A close code of one byte.
        (b"\x88\x82\0\0\0\0\x03\xed", 1002),  # 1005 on the wire.
        (b"\x81\xff" + b"\xff" * 8, 1009),  # A length with its top bit set.
        (b"\x81\x81\0\0\0\0\xff", 1007),  # No UTF-8.
        (b"\x01\x81\0\0\0\0\xff\x80\x80\0\0\0\0", 1007),  # No UTF-8, in fragments.
    ],
    ids=[
        "unmasked", "reserved bits", "opcode", "continuation", "fragmented ping", "long ping",
        "short close", "close 1005", "top bit", "utf-8", "utf-8 in fragments",
    ],
)  # fmt: skip
def test_a_frame_against_the_rules_ends_it_with_the_code_of_the_rule(engine, wire, bytes_, code):
    websocket, peer = wire()
    peer.sock.sendall(bytes_)
    turn_until(engine, lambda: (peer.read(), peer.ended)[1])
    assert websocket.closed
    assert (peer.close.code, websocket.close_code) == (code, code)
    assert websocket.pending == 0


def test_a_message_over_the_limit_ends_it_with_1009(engine, wire):
    websocket, peer = wire(max_message_size=10)
    peer.frame(Opcode.TEXT, b"x" * 11)
    turn_until(engine, lambda: (peer.read(), peer.ended)[1])
    assert (peer.close.code, websocket.close_code) == (1009, 1009)


def test_a_message_at_the_limit_is_taken(engine, wire):
    websocket, peer = wire(max_message_size=10)
    peer.say("x" * 10)
    assert websocket.wait(5) == "x" * 10


def test_fragments_that_sum_up_over_the_limit_end_it_with_1009(engine, wire):
    websocket, peer = wire(max_message_size=10)
    peer.say_fragments(Opcode.TEXT, b"x" * 6, b"x" * 6)
    turn_until(engine, lambda: (peer.read(), peer.ended)[1])
    assert websocket.close_code == 1009


def test_the_number_of_fragments_is_limited_too(engine, wire):
    """Design, section 6: limit the *number* of fragments too (node ws, CVE-2026-48779)."""
    websocket, peer = wire(max_message_size=1000, max_fragments=5_000)
    peer.frame(Opcode.TEXT, b"", fin=False)
    unsent = b"\x00\x80\0\0\0\0" * 10_000

    def sent():
        nonlocal unsent
        unsent = unsent[peer.offer(unsent) :]
        return websocket.closed or not unsent

    turn_until(engine, sent)
    turn_until(engine, lambda: websocket.closed)
    assert websocket.close_code == 1009


def test_a_message_before_the_bad_one_is_still_read(engine, wire):
    websocket, peer = wire()
    peer.sock.sendall(client_frame("good") + b"\x81\x81\0\0\0\0\xff" + client_frame("late"))
    assert list(websocket) == ["good"]


# Ending.


def test_our_close_carries_code_and_reason(engine, wire, family):
    websocket, peer = wire(family)
    websocket.close(4000, "done")
    turn_until(engine, lambda: (peer.read(), peer.close)[1])
    assert (peer.close.code, peer.close.reason) == (4000, "done")
    assert (websocket.close_code, websocket.close_reason) == (4000, "done")


def test_after_our_close_the_peers_answer_closes_the_descriptor(engine, wire, family):
    websocket, peer = wire(family)
    websocket.close()
    turn_until(engine, lambda: (peer.read(), peer.ended)[1])
    peer.sock.close()
    turn_until(engine, lambda: websocket.state is State.CLOSED)
    assert engine.watched == 0
    assert not engine.connections
    assert websocket._sock.fileno() == -1


def test_what_was_sent_before_our_close_arrives_before_it(engine, wire, family):
    websocket, peer = wire(family)
    count = fill(websocket)
    websocket.send("last")
    websocket.close()
    turn_until(engine, lambda: (peer.read(), peer.ended)[1])
    assert len(peer.messages) == count + 1
    assert peer.messages[-1] == "last"
    assert peer.close.code == 1000


def test_the_peers_close_is_answered_and_ends_it(engine, wire, family):
    websocket, peer = wire(family)
    peer.say_close(4001, "bye")
    turn_until(engine, lambda: (peer.read(), peer.ended)[1])
    assert (websocket.close_code, websocket.close_reason) == (4001, "bye")
    assert peer.close.code == 4001


def test_what_was_sent_before_the_peers_close_came_in_arrives_before_the_answer(engine, wire):
    """Sent between its join and its leave, though it had not left for the socket yet."""
    gate = Gate(None)
    websocket, peer = wire(gate=gate)
    gate.add_listener("/a", websocket)
    gate.send("/a", "before")
    peer.say_close(1000)
    websocket._read()  # As the hub does when it sees the close first.
    assert websocket.closed
    gate.send("/a", "after")
    turn_until(engine, lambda: (peer.read(), peer.ended)[1])
    assert peer.messages == ["before"]
    assert peer.close.code == 1000


def test_a_slow_peer_that_says_good_bye_is_answered_and_not_called_slow(engine, wire):
    gate = Gate(None)
    websocket, peer = wire(gate=gate, outbox_size=300_000)
    gate.add_listener("/a", websocket)
    while websocket.buffered < 300_000:
        websocket.send(BIG)
    gate.send("/a", "one too many")
    peer.say_close(4001)
    websocket._read()
    assert websocket.close_code == 4001
    turn_until(engine, lambda: (peer.read(), peer.ended)[1])
    assert peer.close.code == 4001


def test_a_close_without_a_code_is_1005(engine, wire):
    websocket, peer = wire()
    peer.say_close(None)
    turn_until(engine, lambda: websocket.closed)
    assert websocket.close_code == 1005


def test_a_peer_that_goes_without_a_word_is_1006(engine, wire, family):
    websocket, peer = wire(family)
    peer.sock.close()
    turn_until(engine, lambda: websocket.state is State.CLOSED)
    assert (websocket.close_code, websocket.close_reason) == (1006, "")


def test_a_reset_is_1006(engine, wire):
    websocket, peer = wire("tcp")
    reset(peer.sock)
    turn_until(engine, lambda: websocket.state is State.CLOSED)
    assert websocket.close_code == 1006


def test_the_code_of_a_peer_that_said_good_bye_and_went_is_the_one_it_said(engine, wire, family):
    """1006 is for where no close frame was seen (exceptions.py; RFC 6455, section 7.1.5)."""
    websocket, peer = wire(family)
    peer.say_close(1001, "tab closed")
    peer.sock.close()
    turn_until(engine, lambda: websocket.state is State.CLOSED)
    assert (websocket.close_code, websocket.close_reason) == (1001, "tab closed")


def test_messages_before_the_peers_close_are_read_first(engine, wire, family):
    websocket, peer = wire(family)
    peer.say("one", "two")
    peer.say_close()
    peer.sock.close()
    assert list(websocket) == ["one", "two"]


def test_messages_behind_the_peers_close_are_nothing(engine, wire):
    websocket, peer = wire()
    peer.say_close()
    peer.sock.sendall(client_frame("late"))
    assert list(websocket) == []


def test_a_peer_that_does_not_answer_our_close_is_cut_at_the_deadline(engine, wire, family):
    websocket, peer = wire(family, close_timeout=0.05)
    websocket.close()
    turn_until(engine, lambda: websocket.state is State.CLOSED)
    assert engine.watched == 0


def test_a_peer_that_takes_nothing_is_reset_at_the_deadline(engine, wire):
    websocket, peer = wire("tcp", close_timeout=0.05)
    fill(websocket)
    websocket.close()
    turn_until(engine, lambda: websocket.state is State.CLOSED)
    with pytest.raises(ConnectionResetError):
        while peer.sock.recv(65536):
            pass


def test_the_deadline_ends_with_the_connection(engine, wire):
    websocket, peer = wire(close_timeout=0.05)
    websocket.close()
    turn_until(engine, lambda: (peer.read(), peer.ended)[1])
    peer.sock.close()
    turn_until(engine, lambda: websocket.state is State.CLOSED)
    assert websocket._deadline is None
    turn(engine, 0.1)


def test_the_descriptor_is_closed_once_and_its_end_is_told_once(engine, wire):
    websocket, peer = wire()
    told = []
    assert websocket.when_disposed(told.append, "over")
    peer.sock.close()
    turn_until(engine, lambda: told)
    websocket._dispose()
    websocket._lose()
    turn(engine)
    assert told == ["over"]


def test_who_asks_after_the_end_is_told_that_it_has_been(engine, wire):
    websocket, peer = wire()
    websocket._lose()
    assert not websocket.when_disposed(lambda: None)


def test_a_shutdown_that_fails_closes_the_descriptor(engine, wire):
    websocket, peer = wire()
    Scripted(websocket, shutdown=raises(OSError(107, "not connected")))
    peer.say_close()
    turn_until(engine, lambda: websocket.state is State.CLOSED)
    assert websocket.close_code == 1000


@pytest.mark.parametrize("error", [OSError(5, "I/O error"), ConnectionResetError()])
def test_an_error_while_reading_is_a_loss(engine, wire, error):
    websocket, peer = wire()
    Scripted(websocket, recv=raises(error))
    peer.say("a")
    turn_until(engine, lambda: websocket.state is State.CLOSED)
    assert websocket.close_code == 1006


def test_nothing_to_read_after_all_is_no_loss(engine, wire):
    websocket, peer = wire()
    scripted = Scripted(websocket, recv=raises(BlockingIOError()))
    peer.say("a")
    turn(engine, 0.01)
    assert not websocket.closed
    del scripted.recv
    assert websocket.wait(5) == "a"


def test_an_answer_to_a_close_that_cannot_leave_ends_it_all_the_same(engine, wire):
    websocket, peer = wire()
    fill(websocket)
    peer.say_close(1000)
    turn_until(engine, lambda: websocket.closed)
    assert websocket.close_code == 1000
    turn_until(engine, lambda: (peer.read(), peer.ended)[1])


# A full inbox.


def test_a_full_inbox_stops_the_reading_and_it_goes_on_at_half(engine, wire):
    websocket, peer = wire(inbox_length=4)
    peer.say(*"abcd")
    turn_until(engine, lambda: websocket.pending == 4)
    peer.say(*"efgh")
    turn(engine, 0.01)
    assert websocket.pending == 4
    assert [websocket.wait(0) for _ in range(2)] == ["a", "b"]
    turn_until(engine, lambda: websocket.pending > 2)
    assert [websocket.wait(5) for _ in range(6)] == [*"cdefgh"]


def test_a_reset_is_noticed_while_the_inbox_is_full(engine, wire):
    websocket, peer = wire("tcp", inbox_length=2)
    peer.say(*"ab")
    turn_until(engine, lambda: websocket.pending == 2)
    reset(peer.sock)
    turn_until(engine, lambda: websocket.state is State.CLOSED)
    assert list(websocket) == ["a", "b"]


def test_a_close_is_completed_though_the_inbox_is_full(engine, wire, family):
    websocket, peer = wire(family, inbox_length=2, close_timeout=1000)
    peer.say(*"ab")
    turn_until(engine, lambda: websocket.pending == 2)
    peer.say(*"cd")
    websocket.close()
    turn_until(engine, lambda: (peer.read(), peer.ended)[1])
    peer.sock.close()
    turn_until(engine, lambda: websocket.state is State.CLOSED)


def test_a_full_inbox_loses_nothing_of_a_peer_that_says_good_bye(engine, wire, family):
    """wait(): ConnectionClosed when all that came in before has been read."""
    websocket, peer = wire(family, inbox_length=2)
    peer.say(*"ab")
    turn_until(engine, lambda: websocket.pending == 2)
    peer.say(*"cdef")
    peer.say_close(1000)
    peer.sock.close()
    turn(engine, 0.01)
    assert list(websocket) == [*"abcdef"]
    assert websocket.close_code in (1000, 1006)


# What a socket may do at the most awkward moment.


def test_an_answer_that_the_socket_does_not_take_waits(engine, wire):
    websocket, peer = wire()
    full = raises(BlockingIOError())
    scripted = Scripted(websocket, send=full, sendmsg=full)
    peer.ping(b"there?")
    turn_until(engine, lambda: websocket.buffered)
    del scripted.send, scripted.sendmsg
    turn_until(engine, lambda: (peer.read(), peer.pongs)[1] == [b"there?"])


def test_an_answer_to_a_broken_socket_ends_it(engine, wire):
    websocket, peer = wire()
    Scripted(websocket, send=raises(BrokenPipeError()))
    peer.ping(b"there?")
    turn_until(engine, lambda: websocket.state is State.CLOSED)
    assert websocket.close_code == 1006


def test_a_close_that_the_socket_does_not_take_waits_and_then_leaves(engine, wire):
    websocket, peer = wire()
    scripted = Scripted(websocket, send=raises(BlockingIOError()))
    websocket.close(4000)
    assert websocket.buffered and websocket.closed
    del scripted.send
    turn_until(engine, lambda: (peer.read(), peer.close)[1])
    assert peer.close.code == 4000


def test_a_flood_is_taken_in_bit_by_bit_so_that_others_have_their_turns(engine, wire):
    gate = Gate(None)
    websocket, peer = wire(gate=gate)
    websocket._discard_input()
    peer.sock.sendall(client_frame("x") * 2000)
    steps, before = [], 0
    while before < 2000:
        turn(engine)
        taken = gate.stats().messages_in
        steps.append(taken - before)
        before = taken
    assert max(steps) <= 2 * WORK
    assert websocket.discarded == 2000


def test_an_error_in_what_is_left_of_a_read_ends_that_connection(engine, wire, caplog, monkeypatch):
    websocket, peer = wire()
    websocket._discard_input()
    receive = Incoming.receive

    def without_memory_later(incoming, data, room):
        if not data:
            raise MemoryError
        return receive(incoming, data, room)

    monkeypatch.setattr(Incoming, "receive", without_memory_later)
    peer.sock.sendall(client_frame("x") * 2 * WORK)
    turn_until(engine, lambda: websocket.closed)
    turn(engine)
    assert websocket.close_code == 1006
    assert "MemoryError" in caplog.text


def test_more_messages_a_second_than_allowed_end_it_with_1008(engine, wire, caplog):
    gate = Gate(None)
    websocket, peer = wire(gate=gate, max_message_rate=3)
    peer.say(*"12345")
    turn_until(engine, lambda: websocket.closed)
    turn_until(engine, lambda: (peer.read(), peer.close is not None)[1])
    assert peer.close.code == 1008
    assert [websocket.wait() for _ in range(3)] == ["1", "2", "3"]
    assert gate.stats().rate_closes == 1
    turn(engine)
    assert "stargate.max_message_rate is 3" in caplog.text
