import logging

import pytest

from stargate.engine import peerlog as module
from stargate.engine.peerlog import MOST_OF_EXAMPLE, QUIET_SECONDS, PeerLog
from stargate_tests.waiting import turn, turn_until

log = logging.getLogger("stargate.of_these_tests")

TEXT = "refused a WebSocket from %s"


class Timers:
    """An engine whose time is set by hand: ``now`` is what its clock says."""

    def __init__(self):
        self.now, self.due = 100.0, []

    def spawn(self, function, *args):
        function(*args)

    def call_later(self, seconds, function, *args):
        self.due.append((self.now + seconds, function, args))

    def advance(self, seconds):
        self.now += seconds
        due, self.due = self.due, []
        for when, function, args in due:
            if when <= self.now:
                function(*args)
            else:
                self.due.append((when, function, args))


@pytest.fixture
def time():
    return Timers()


@pytest.fixture
def peerlog(time, caplog):
    caplog.set_level(logging.INFO)
    return PeerLog(lambda: time.now, lambda: time)


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


def test_the_first_of_a_kind_is_logged_in_full(peerlog, caplog):
    peerlog.warning(log, TEXT, "x" * 1000)
    [record] = caplog.records
    assert record.getMessage() == TEXT % ("x" * 1000)
    assert (record.levelname, record.name, record.msg) == ("WARNING", log.name, TEXT)


def test_of_the_others_the_newest_is_written_after_a_minute_with_their_count(peerlog, time, caplog):
    for number in range(1000):
        peerlog.info(log, TEXT, number)
    assert lines(caplog) == [TEXT % 0]
    time.advance(QUIET_SECONDS - 1)
    assert len(caplog.records) == 1
    time.advance(1)
    assert lines(caplog)[1:] == [f"{TEXT % 999} (the newest of 999 in 60 s)"]
    assert caplog.records[1].levelname == "INFO"
    time.advance(10 * QUIET_SECONDS)
    assert len(caplog.records) == 2, "nothing more has happened"


def test_a_flood_is_one_line_a_minute_for_as_long_as_it_lasts(peerlog, time, caplog):
    for _second in range(600):
        for _ in range(10):
            peerlog.info(log, TEXT, "somebody")
        time.advance(1)
    assert len(caplog.records) == 11
    counts = [int(line.rpartition("newest of ")[2].split()[0]) for line in lines(caplog)[1:]]
    assert 1 + sum(counts) == 6000


def test_whoever_comes_after_a_quiet_minute_is_logged_in_full_again(peerlog, time, caplog):
    peerlog.info(log, TEXT, 1)
    time.advance(QUIET_SECONDS)
    peerlog.info(log, TEXT, 2)
    assert lines(caplog) == [TEXT % 1, TEXT % 2]


def test_the_minute_after_a_count_is_quiet_as_well(peerlog, time, caplog):
    for number in (1, 2):
        peerlog.info(log, TEXT, number)
    time.advance(QUIET_SECONDS)
    peerlog.info(log, TEXT, 3)
    assert len(caplog.records) == 2
    time.advance(QUIET_SECONDS)
    assert lines(caplog)[2] == f"{TEXT % 3} (the newest of 1 in 60 s)"


def test_each_cause_has_lines_of_its_own(peerlog, caplog):
    for cause in ("slow", "malformed"):
        for _ in range(5):
            peerlog.info(log, TEXT, cause, cause=cause)
            peerlog.info(log, "another: %s", cause, cause=cause)
            peerlog.info(logging.getLogger("stargate.another"), TEXT, cause, cause=cause)
    assert len(caplog.records) == 6


def test_an_example_is_cut_whatever_a_peer_has_sent(peerlog, time, caplog):
    for _ in range(2):
        peerlog.info(log, TEXT, "x" * 100_000)
    time.advance(QUIET_SECONDS)
    assert len(lines(caplog)[1]) < MOST_OF_EXAMPLE + 50
    [cause] = peerlog._causes.values()
    assert len(cause.line) < MOST_OF_EXAMPLE + 5, "nor is more of it kept"


def test_an_error_has_its_traceback_once_for_each_kind_of_it(peerlog, time, caplog):
    for error in (ValueError("a"), ValueError("b"), OSError("c")):
        peerlog.error(log, "%s failed", 1, exc_info=error)
    assert [record.exc_info[1].args for record in caplog.records] == [("a",), ("c",)]
    time.advance(QUIET_SECONDS)
    assert lines(caplog)[2:] == ["1 failed: ValueError('b') (the newest of 1 in 60 s)"]
    assert not caplog.records[2].exc_info


def test_what_is_not_logged_is_neither_written_nor_counted(peerlog, time, caplog):
    caplog.set_level(logging.WARNING, log.name)
    for _ in range(2):
        peerlog.info(log, TEXT, 1)
    time.advance(QUIET_SECONDS)
    assert not caplog.records and not peerlog._causes


def test_without_an_engine_the_next_line_of_the_cause_counts_those_before(time, caplog):
    peerlog = PeerLog(lambda: time.now, lambda: None)
    for number in (1, 2, 3):
        peerlog.warning(log, TEXT, number)
    time.advance(QUIET_SECONDS + 30)
    assert lines(caplog) == [TEXT % 1]
    peerlog.warning(log, TEXT, 4)
    assert lines(caplog)[1:] == [f"{TEXT % 4} (the newest of 3 in 90 s)"]


def test_a_timer_that_comes_too_late_says_nothing_again(peerlog, time, caplog):
    for number in (1, 2):
        peerlog.warning(log, TEXT, number)
    late, time.due = time.due, []
    time.advance(QUIET_SECONDS)
    peerlog.warning(log, TEXT, 3)
    assert len(caplog.records) == 2
    peerlog.warning(log, TEXT, 4)
    for _when, function, args in late:
        function(*args)
    assert len(caplog.records) == 2


def test_another_engine_has_a_timer_of_its_own(time, caplog):
    ended, here = Timers(), [None]
    peerlog = PeerLog(lambda: time.now, lambda: here[0])
    for here[0] in (ended, ended, time):
        peerlog.warning(log, TEXT, 1)
    time.advance(QUIET_SECONDS)
    assert lines(caplog)[1:] == [f"{TEXT % 1} (the newest of 2 in 60 s)"]


def test_what_is_held_back_can_be_had_at_once_and_nothing_twice(peerlog, time, caplog):
    for number in (1, 2):
        peerlog.warning(log, TEXT, number)
    peerlog.tell_all()
    peerlog.tell_all()
    time.advance(QUIET_SECONDS)
    assert lines(caplog) == [TEXT % 1, f"{TEXT % 2} (the newest of 1 in 0 s)"]


def test_a_real_engine_tells_in_its_time(engine, caplog, monkeypatch):
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.2)
    peerlog = PeerLog(engine=lambda: engine)
    for number in range(3):
        peerlog.warning(log, TEXT, number)
    turn_until(engine, lambda: len(caplog.records) == 2)
    assert lines(caplog)[1].startswith(f"{TEXT % 2} (the newest of 2 in")


def test_an_engine_that_ends_leaves_nothing_untold(engine, caplog):
    for number in (1, 2):
        module.peerlog.warning(log, TEXT, number)
    engine.end()
    turn(engine)
    assert lines(caplog)[1:] == [f"{TEXT % 2} (the newest of 1 in 0 s)"]
