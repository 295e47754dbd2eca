import logging
import time

import pytest

from stargate.application.gates import Gate
from stargate.websocket import backlog as backlogs
from stargate.websocket.backlog import unconfirmed
from stargate_tests.peers import BIG, fill
from stargate_tests.waiting import turn, turn_until


@pytest.fixture
def gate():
    return Gate(None)


def test_only_those_with_an_outbox_are_looked_at(engine, wire, gate):
    websocket, peer = wire(gate=gate)
    wire(gate=gate)
    fill(websocket)
    backlog = gate._delivery.walks.backlog
    assert (len(backlog), list(backlog)) == (1, [websocket])
    turn_until(engine, lambda: (peer.read(), websocket.buffered)[1] == 0)
    assert len(backlog) == backlog.total.cost == 0


def test_who_ends_takes_its_part_of_the_total_along(engine, wire, gate):
    websocket, _peer = wire(gate=gate)
    fill(websocket)
    backlog = gate._delivery.walks.backlog
    assert backlog.total.cost > websocket.buffered > 0
    websocket._dispose()
    assert len(backlog) == backlog.total.cost == 0


# All outboxes together.


def test_past_the_total_the_largest_outbox_goes_first(engine, wire, gate, caplog):
    limits = {"outbox_total": 3_000_000, "outbox_size": 2_500_000}
    small, _ = wire(gate=gate, **limits)
    large, _ = wire(gate=gate, **limits)
    fill(small)
    fill(large)
    for _ in range(6):
        large.send(BIG)
    assert not large.closed
    while not large.closed:
        small.send("x" * 100_000)
        assert not small.closed
    assert (large.close_code, gate.stats().slow_closes) == (1013, 1)
    assert gate._delivery.walks.backlog.total.cost < 3_000_000
    turn(engine)
    turn(engine)
    assert "stargate.outbox_total is 3000000" in caplog.text


def test_what_may_be_dropped_goes_before_anybody_is_closed(engine, wire, gate):
    websocket, _peer = wire(gate=gate, outbox_total=1_500_000, outbox_size=10_000_000)
    gate.add_listener("/a", websocket, when_slow="drop_oldest")
    fill(websocket)
    for _ in range(10):
        gate.send("/a", BIG)
        turn(engine)
    assert not websocket.closed
    assert websocket.missed == gate.stats().drops > 0
    assert gate._delivery.walks.backlog.total.cost < 1_500_000


def test_who_has_read_meanwhile_is_not_the_largest_any_more(engine, wire, gate):
    limits = {"outbox_total": 3_000_000, "outbox_size": 2_500_000}
    small, _ = wire(gate=gate, **limits)
    large, peer = wire("tcp", gate=gate, **limits)
    fill(small)
    fill(large)
    for _ in range(6):
        large.send(BIG)
    backlog = gate._delivery.walks.backlog
    while backlog.total.cost < 2_950_000:
        small.send("x" * 10_000)
    peer.read()  # The hub has no turn: the total is as it was.
    small.send("x" * 60_000)
    assert backlog.total.cost < 3_000_000
    assert not large.closed and not small.closed


def test_who_was_not_slow_when_the_turn_began_gets_a_moment_in_this_case_too(engine, wire, gate):
    websocket, peer = wire("tcp", gate=gate, outbox_total=1_000_000, outbox_size=10_000_000)
    wait_writable = engine.wait_writable
    engine.wait_writable = lambda fd, seconds: (peer.read(), wait_writable(fd, seconds))[1]
    for _ in range(40):
        websocket.send(BIG)
    assert not websocket.closed
    turn_until(engine, lambda: len(peer.read()) == 40)


def test_who_is_closing_already_is_not_the_one_to_give_way(engine, wire, gate):
    limits = {"outbox_total": 3_000_000, "outbox_size": 10_000_000}
    closing, _ = wire(gate=gate, **limits)
    other, _ = wire(gate=gate, **limits)
    fill(closing)
    for _ in range(5):
        closing.send(BIG)
    closing.close(1000)
    waits = closing.buffered
    fill(other)
    for _ in range(30):
        if not other.closed:
            other.send(BIG)
            turn(engine)
    assert other.close_code == 1013
    assert closing.buffered == waits
    assert gate.stats().slow_closes == 1


def test_a_bound_below_a_single_frame_ends(engine, wire, gate):
    websocket, _peer = wire(gate=gate, outbox_total=1)
    while not websocket.closed:
        websocket.send(BIG)
    assert websocket.close_code == 1013


# Progress.


def test_a_peer_that_takes_nothing_is_closed_in_time(engine, wire, gate, family, caplog):
    websocket, _peer = wire(family, gate=gate, outbox_progress_timeout=0.3)
    fill(websocket)
    began = time.monotonic()
    turn_until(engine, lambda: websocket.closed)
    assert (websocket.close_code, gate.stats().slow_closes) == (1013, 1)
    assert time.monotonic() - began > 0.25
    turn(engine)
    turn(engine)
    assert "less than 16384 bytes (stargate.outbox_progress) in 0.3 s" in caplog.text


def test_a_peer_that_takes_a_little_more_than_it_must_stays(engine, wire, gate, family):
    websocket, peer = wire(family, gate=gate, outbox_progress_timeout=0.2, outbox_size=100_000_000)
    fill(websocket)
    for _ in range(20):
        websocket.send(BIG)
    taken, began = 0, time.monotonic()
    while time.monotonic() - began < 1.5:
        # Faster than it must: a quarter of the time of the machine may be somebody else's.
        taken += len(peer.sock.recv(32_768))
        turn(engine, 0.02)
    assert not websocket.closed and websocket.buffered


def test_a_byte_now_and_then_is_too_little(engine, wire, gate, family):
    websocket, peer = wire(family, gate=gate, outbox_progress_timeout=0.3)
    fill(websocket)

    def trickle():
        peer.sock.recv(1)
        return websocket.closed

    turn_until(engine, trickle)
    assert websocket.close_code == 1013


def test_progress_is_what_the_peer_confirms_and_not_what_the_kernel_takes(engine, wire, gate):
    """The kernel takes bytes in lumps, and none for a while, from a peer that goes on reading."""
    websocket, peer = wire("tcp", gate=gate)
    fill(websocket)
    before = backlogs._confirmed(websocket, websocket._outbox)
    taken = websocket._outbox.taken
    peer.sock.recv(1_000_000)

    def confirmed():
        return backlogs._confirmed(websocket, websocket._outbox) > before

    deadline = time.monotonic() + 30
    while not confirmed():  # With no turn of the hub: the outbox gives nothing.
        assert time.monotonic() < deadline
    assert websocket._outbox.taken == taken


def test_no_progress_is_asked_for_when_that_is_off(engine, wire, gate, monkeypatch):
    monkeypatch.setattr(backlogs, "SHORTEST_LOOK", 0.01)
    websocket, _peer = wire(gate=gate, outbox_progress_timeout=0)
    other, _ = wire(gate=gate, outbox_progress_timeout=0.2)
    fill(websocket)
    fill(other)
    turn_until(engine, lambda: other.closed)
    assert not websocket.closed


def test_the_looking_ends_when_nobody_is_slow_any_more(engine, wire, gate, monkeypatch):
    monkeypatch.setattr(backlogs, "SHORTEST_LOOK", 0.01)
    websocket, peer = wire(gate=gate, outbox_progress_timeout=0.1)
    backlog = gate._delivery.walks.backlog
    for _ in range(2):  # And begins again.
        fill(websocket)
        assert backlog._looking
        turn_until(engine, lambda: (peer.read(), not backlog._looking)[1])
    assert not websocket.closed


def test_who_is_closing_is_not_closed_for_its_progress_again(engine, wire, gate):
    websocket, _peer = wire(gate=gate, outbox_progress_timeout=0.1, outbox_size=1)
    fill(websocket)
    websocket.send("no room")
    other, _ = wire(gate=gate, outbox_progress_timeout=0.3)
    fill(other)
    turn_until(engine, lambda: other.closed)
    assert gate.stats().slow_closes == 2


# A caller that never yields.


def test_who_was_not_slow_when_the_turn_began_gets_a_moment_to_make_room(engine, wire, gate):
    websocket, peer = wire("tcp", gate=gate, outbox_size=400_000)
    waited = []
    wait_writable = engine.wait_writable

    def read_meanwhile(fd, seconds):
        waited.append(seconds)
        peer.read()
        return wait_writable(fd, seconds)

    engine.wait_writable = read_meanwhile
    for _ in range(60):
        websocket.send(BIG)
    assert waited and max(waited) <= backlogs.STILL_SECONDS
    assert not websocket.closed
    turn_until(engine, lambda: len(peer.read()) == 60)


def test_who_stands_still_is_waited_for_no_longer_than_that(engine, wire, gate):
    websocket, _peer = wire(gate=gate, outbox_size=400_000)
    began = time.monotonic()
    while not websocket.closed:
        websocket.send(BIG)
    assert time.monotonic() - began >= backlogs.STILL_SECONDS * 0.9


def test_who_was_slow_before_the_turn_began_is_not_waited_for(engine, wire, gate, monkeypatch):
    websocket, _peer = wire(gate=gate, outbox_size=400_000)
    fill(websocket)
    websocket.send(BIG)
    turn(engine)
    monkeypatch.setattr(engine, "wait_writable", lambda fd, seconds: pytest.fail("it waits"))
    engine.turns += 1
    while not websocket.closed:
        websocket.send(BIG)


def test_in_vain_a_sender_waits_only_so_long_in_a_turn(engine, wire, gate, monkeypatch):
    monkeypatch.setattr(backlogs, "VAIN_SECONDS", 0.01)
    waited = []
    wait_writable = engine.wait_writable
    engine.wait_writable = lambda fd, seconds: waited.append(fd) or wait_writable(fd, seconds)
    one, two = (wire(gate=gate, outbox_size=400_000)[0] for _ in range(2))
    for websocket in (one, two):
        while not websocket.closed:
            websocket.send(BIG)
    assert set(waited) == {waited[0]}
    engine.turns += 1
    third, _ = wire(gate=gate, outbox_size=400_000)
    while not third.closed:
        third.send(BIG)
    assert len(set(waited)) == 2


def test_a_peer_that_goes_while_it_is_waited_for_is_lost(engine, wire, gate):
    websocket, peer = wire("tcp", gate=gate, outbox_size=400_000)
    engine.wait_writable = lambda fd, seconds: peer.sock.close() or True
    while not websocket.closed:
        websocket.send(BIG)
    assert websocket.close_code == 1006


def test_unconfirmed_is_what_the_peer_has_not_read(engine, wire, family):
    websocket, _peer = wire(family)
    assert unconfirmed(websocket) == 0
    fill(websocket)
    assert unconfirmed(websocket) > 10_000
    logging.getLogger(__name__).debug("%d bytes", unconfirmed(websocket))
