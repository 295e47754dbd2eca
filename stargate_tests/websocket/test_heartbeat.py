import time

import pytest

from stargate.application.gates import Gate
from stargate.websocket.heartbeat import BEATS, Heartbeat
from stargate.websocket.state import State
from stargate_tests.peers import fill
from stargate_tests.waiting import turn, turn_until

FAST = {"ping_interval": 0.2, "ping_timeout": 0.2}


@pytest.fixture
def gate():
    """A gate whose WebSockets are pinged all the time."""
    gate = Gate(None)
    gate.limits = type(gate.limits)(**FAST)
    return gate


def test_a_silent_peer_is_pinged_and_stays_as_long_as_it_answers(engine, wire, gate, family):
    websocket, peer = wire(family, gate=gate)
    turn_until(engine, lambda: (peer.read(), len(peer.pings) >= 4)[1])
    assert not websocket.closed
    assert set(peer.pings) == {b""}


def test_a_peer_that_does_not_answer_is_gone_from_every_resource(
    engine, wire, gate, family, caplog
):
    caplog.set_level("INFO")
    websocket, peer = wire(family, gate=gate, **FAST)
    gate.add_listener("/a", websocket)
    gate.add_listener("/b", websocket)
    began = time.monotonic()
    turn_until(engine, lambda: websocket.state is State.CLOSED)
    assert time.monotonic() - began > 0.15
    assert not gate.listeners("/a") and not gate.listeners("/b")
    assert (websocket.close_code, gate.stats().pings_missed) == (1006, 1)
    assert gate.stats().connections == 0
    turn(engine)
    turn(engine)
    assert "nothing was heard for 0.2 s after a ping" in caplog.text
    peer.read()
    assert peer.ended and peer.close is None


def test_a_peer_that_talks_is_alive_though_it_sends_no_pongs(engine, wire, gate):
    websocket, peer = wire(gate=gate)
    began = time.monotonic()

    def talk():
        peer.say("x")
        return time.monotonic() - began > 1.2

    websocket._discard_input()
    turn_until(engine, talk)
    assert not websocket.closed


def test_an_unsolicited_pong_is_no_message(engine, wire, gate):
    websocket, peer = wire(gate=gate)
    peer.frame(10, b"nobody asked")
    peer.say("a message")
    assert websocket.wait(5) == "a message"


def test_without_an_interval_nothing_is_pinged(engine, wire):
    gate = Gate(None)
    gate.limits = type(gate.limits)(ping_interval=0)
    websocket, peer = wire(gate=gate)
    assert gate.heartbeat is None
    turn(engine, 0.1)
    peer.read()
    assert not peer.pings
    websocket._dispose()


def test_no_time_passes_while_we_do_not_read(engine, wire, gate):
    websocket, peer = wire(gate=gate, inbox_length=1)
    peer.say("fills the inbox")
    turn_until(engine, lambda: websocket.pending)
    turn(engine, 1.0)
    assert not websocket.closed
    peer.read()
    assert len(peer.pings) <= 1  # One may have gone out before.
    assert websocket.wait() == "fills the inbox"
    turn_until(engine, lambda: (peer.read(), len(peer.pings) >= 3)[1])
    assert not websocket.closed


def test_while_something_waits_for_a_slow_peer_it_is_not_asked(engine, wire, gate):
    websocket, peer = wire(gate=gate)
    fill(websocket)
    turn(engine, 1.0)
    assert not websocket.closed
    turn_until(engine, lambda: (peer.read(), len(peer.pings) >= 2)[1])
    assert not websocket.closed


def test_a_ping_that_waits_behind_other_bytes_is_not_missed_while_those_are_taken(
    engine, wire, gate
):
    gate.limits = type(gate.limits)(ping_interval=0.2, ping_timeout=0.6)
    websocket, peer = wire("unix", gate=gate)
    websocket.send("x" * 150_000)  # In the kernel, and not confirmed.
    assert websocket.buffered == 0
    began, taken = time.monotonic(), 0

    def read_on():
        nonlocal taken
        elapsed = time.monotonic() - began
        while taken < min(elapsed, 1.2) * 110_000:
            taken += len(peer.sock.recv(1000))
        return elapsed > 1.2

    turn_until(engine, read_on)
    assert not websocket.closed


def test_a_peer_that_has_stopped_reading_is_missed_though_bytes_are_under_way(engine, wire, gate):
    websocket, _peer = wire(gate=gate)
    websocket.send("x" * 150_000)
    turn_until(engine, lambda: websocket.closed)
    assert gate.stats().pings_missed == 1


def test_while_the_hub_is_held_up_nobody_grows_older(engine, wire, gate):
    websocket, peer = wire(gate=gate)
    turn_until(engine, lambda: websocket._asked)
    began = time.monotonic()
    while time.monotonic() - began < 1.0:
        peer.read()  # It answers; nobody reads it.
    turn(engine)
    turn(engine)
    assert not websocket.closed


class Beaten:
    """What the heartbeat asks of a connection."""

    sent = 0

    def __init__(self, fd):
        self._fd, self._asked, self.pings = fd, 0, 0

    def _listens(self):
        return True

    def _send_ping(self):
        self.pings += 1
        Beaten.sent += 1


class Clock:
    """An engine whose time goes on from one timer to the next."""

    def __init__(self):
        self.timers, self.now = [], 0.0

    def call_later(self, seconds, function):
        self.timers.append((self.now + seconds, function))

    def beat(self):
        self.timers.sort(key=lambda timer: timer[0])
        self.now, function = self.timers.pop(0)
        function()


def test_the_pings_are_spread_evenly_over_the_interval(monkeypatch):
    monkeypatch.setattr("stargate.websocket.heartbeat.unconfirmed", lambda connection: 0)
    clock = Clock()
    heartbeat = Heartbeat(clock, 20.0, 20.0)
    connections = [Beaten(fd) for fd in range(16_000)]
    for connection in connections:
        heartbeat.add(connection)
    most = 0
    while clock.now < 19.9:
        before = Beaten.sent
        clock.beat()
        most = max(most, Beaten.sent - before)
    assert all(connection.pings == 1 for connection in connections)
    assert most == 16_000 / BEATS


def test_who_is_not_read_any_more_when_its_answer_is_due_is_not_cut(monkeypatch):
    monkeypatch.setattr("stargate.websocket.heartbeat.unconfirmed", lambda connection: 0)
    clock = Clock()
    heartbeat = Heartbeat(clock, 20.0, 20.0)
    connection = Beaten(3)  # Has no ``_silent``.
    heartbeat.add(connection)
    while not connection._asked:
        clock.beat()
    connection._listens = lambda: False
    while connection._asked:
        clock.beat()
    assert connection.pings == 1


@pytest.mark.parametrize(("interval", "timeout"), [(20, 20), (5, 60), (60, 5), (3600, 1), (1, 600)])
def test_whoever_does_not_answer_is_judged_after_the_timeout(monkeypatch, interval, timeout):
    monkeypatch.setattr("stargate.websocket.heartbeat.unconfirmed", lambda connection: 0)
    clock = Clock()
    heartbeat = Heartbeat(clock, interval, timeout)
    connection = Beaten(7)
    asked, judged = [], []
    connection._send_ping = lambda: asked.append(clock.now)
    connection._silent = lambda: (judged.append(clock.now), heartbeat.discard(connection))
    heartbeat.add(connection)
    while not judged:
        clock.beat()
    exact = max(min(interval, timeout) / BEATS, interval / 4096, 0.01)
    assert len(asked) == 1 and asked[0] <= interval + exact
    assert timeout <= judged[0] - asked[0] + 1e-6 <= timeout + 2 * exact


def test_nothing_beats_for_nobody():
    clock = Clock()
    heartbeat = Heartbeat(clock, 20.0, 20.0)
    connection = Beaten(7)
    heartbeat.add(connection)
    heartbeat.discard(connection)
    heartbeat.discard(connection)
    assert len(heartbeat) == 0
    clock.beat()
    assert clock.timers == []
    heartbeat.add(connection)
    assert len(clock.timers) == 1
