from time import monotonic

import pytest

from stargate.application.gates import Gate
from stargate.server import drain
from stargate.server.drain import Drain, longest_period
from stargate_tests.waiting import turn, turn_until


@pytest.fixture
def told(engine, wire):
    """``told(count, **limits)``: WebSockets, and what a peer has of its close frame by now."""

    def open_many(count, gate=None, **limits):
        gate = gate or Gate(None)
        return [wire(gate=gate, **limits) for _ in range(count)]

    return open_many


def closed(opened):
    """How many of ``opened`` have been told."""
    return sum(websocket.closed for websocket, _peer in opened)


def test_without_a_period_all_are_told_at_once(engine, told):
    opened = told(10)
    Drain(engine, 30.0).start()
    assert closed(opened) == 10
    for websocket, peer in opened:
        peer.read()
        assert (peer.close.code, peer.close.reason) == (1001, "the server is stopping")
        assert websocket.close_code == 1001


def test_where_others_have_taken_over_they_are_told_so(engine, told):
    [(websocket, peer)] = told(1)
    Drain(engine, 30.0, restarts=True).start()
    peer.read()
    assert (peer.close.code, peer.close.reason) == (1012, "the server is restarting")
    assert websocket.close_code == 1012


def test_a_crowd_is_told_in_slices_and_the_hub_has_its_turns(engine, told, monkeypatch):
    monkeypatch.setattr(drain, "SLICE", 4)
    opened = told(10)
    Drain(engine, 30.0).start()
    assert closed(opened) == 4
    seen = []
    for _ in range(5):
        turn(engine)
        seen.append(closed(opened))
    assert seen[-1] == 10
    assert 8 in seen


def test_a_period_spreads_them_and_who_has_not_been_told_is_served(engine, told):
    opened = told(8, drain_period=0.4, close_timeout=0.1)
    began = monotonic()
    Drain(engine, 30.0).start()
    assert closed(opened) == 1
    websocket, peer = next(pair for pair in opened if not pair[0].closed)
    websocket.send("still served")
    assert peer.read() == ["still served"]
    counts = [1]
    turn_until(engine, lambda: counts.append(closed(opened)) or counts[-1] == 8)
    assert monotonic() - began > 0.3
    assert len(set(counts)) > 3


def test_who_leaves_meanwhile_is_not_told(engine, told):
    opened = told(4, drain_period=0.1)
    Drain(engine, 30.0).start()
    for _websocket, peer in opened:
        peer.sock.close()
    turn_until(engine, lambda: not engine.connections)
    turn(engine, 0.15)


def test_each_application_has_a_period_of_its_own(engine, told):
    slow, fast = told(4, drain_period=20.0), told(4)
    drain = Drain(engine, 30.0)
    drain.start()
    turn_until(engine, lambda: closed(fast) == 4)
    assert closed(slow) == 1
    drain.cancel()


def test_cancelled_it_says_no_more(engine, told):
    opened = told(4, drain_period=0.05)
    drain = Drain(engine, 30.0)
    drain.start()
    drain.cancel()
    turn(engine, 0.15)
    assert closed(opened) == 1


def test_with_nobody_there_nothing_has_to_be_said(engine):
    drain = Drain(engine, 30.0)
    drain.start()
    drain.cancel()


@pytest.mark.parametrize(
    ("graceful_timeout", "close_timeout", "longest"),
    [(30.0, 10.0, 20.0), (30.0, 25.0, 15.0), (1.0, 10.0, 0.5), (0.0, 10.0, 0.0)],
)
def test_the_last_one_is_left_time_for_its_close(graceful_timeout, close_timeout, longest):
    assert longest_period(graceful_timeout, close_timeout) == longest


def test_a_period_that_is_too_long_is_cut_and_the_log_says_so(engine, told, caplog):
    opened = told(3, drain_period=50.0, close_timeout=0.1)
    Drain(engine, 0.2).start()
    assert "stargate.drain_period = 50.0 is cut to 0.1 s" in caplog.text
    turn_until(engine, lambda: closed(opened) == 3)
