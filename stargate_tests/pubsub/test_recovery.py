import json

from stargate.application.gates import Gate
from stargate.history import History, Kept
from stargate.message.message import ENVELOPE
from stargate.pubsub.recovery import PART, joined, recover
from stargate_tests.waiting import turn, turn_until


def history(*messages, complete=True):
    kept = [Kept(f"id-{n}", message, 0.0) for n, message in enumerate(messages)]
    return History(kept, complete=complete, position="here")


def test_short_frames_are_joined():
    assert joined([b"ab", b"cd", b"e"], 5) == [(b"abcde", 3)]


def test_a_buffer_is_begun_behind_a_long_one():
    assert joined([b"a" * PART, b"b"], PART + 1) == [(b"a" * PART, 1), (b"b", 1)]


def test_a_part_that_is_just_full_leaves_no_empty_one():
    assert joined([b"a" * PART], PART) == [(b"a" * PART, 1)]


def test_past_the_limit_there_is_nothing():
    assert joined([b"ab", b"cd", b"e"], 4) is None


def test_all_that_was_missed_is_sent_to_a_plain_peer(wire, engine):
    websocket, peer = wire()
    assert recover(websocket, history("a", b"b"), 1000)
    turn_until(engine, lambda: len(peer.read()) == 2)
    assert peer.messages == ["a", b"b"]


def test_a_plain_peer_is_not_told_that_something_is_gone(wire, engine):
    websocket, peer = wire()
    assert not recover(websocket, history("a", complete=False), 1000)
    websocket.send("next")
    turn_until(engine, lambda: peer.read())
    assert peer.messages == ["next"]


def test_the_limit_counts_bytes_and_not_letters(wire):
    websocket, _peer = wire()
    assert recover(websocket, history("x" * 50), 100)
    assert not recover(websocket, history("🚪" * 50), 100)


def test_one_that_speaks_stargate_v1_is_told_behind_the_messages(wire, engine):
    websocket, peer = wire()
    websocket._form = ENVELOPE
    assert recover(websocket, history("a"), 1000)
    turn_until(engine, lambda: len(peer.read()) == 2)
    first, last = map(json.loads, peer.messages)
    assert first == {"id": "id-0", "data": "a"}
    assert last == {"recovered": True, "id": "here"}


def test_a_million_short_ones_do_not_make_it_a_slow_one(wire, engine):
    gate = Gate(None)
    websocket, peer = wire(gate=gate, outbox_size=100_000)
    gate.add_listener("/a", websocket)
    assert recover(websocket, history(*["x" * 20] * 50_000), 10_000_000)
    assert websocket.buffered > 200_000
    for number in range(10):
        gate.send("/a", str(number))
        turn(engine)
    turn_until(engine, lambda: len(peer.read()) == 50_010 or websocket.closed)
    assert peer.messages[-10:] == [str(number) for number in range(10)]


def test_a_socket_that_is_gone_is_tried_once(wire):
    websocket, peer = wire("tcp")
    websocket._lose()
    recover(websocket, history("a", "b"), 1000)
    assert websocket.closed
    assert websocket._counters.messages_out == 0


def test_those_who_speak_stargate_v1_are_told_when_deliveries_had_stopped(wire, engine):
    gate = Gate(None)
    (told, peer), (plain, other) = wire(gate=gate), wire(gate=gate)
    told._form = ENVELOPE
    for websocket in (told, plain):
        gate.add_listener("/a", websocket)
    gate._delivery.interrupted("/a", True, "there")
    gate._delivery.interrupted("/a", False, "there")
    turn_until(engine, lambda: peer.read())
    assert [json.loads(message) for message in peer.messages] == [
        {"recovered": False, "id": "there"}
    ]
    assert other.read() == []
