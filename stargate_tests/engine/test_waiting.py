"""Who waits longest, and for whom it has been too long."""

import pytest

from stargate.engine import waiting as module
from stargate.engine.waiting import Waiting


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(module, "monotonic", lambda: Clock.now)
    return Clock


@pytest.fixture
def waiting(clock):
    found = Waiting(10.0)
    for name in ("first", "second", "third"):
        found.add(name)
        clock.now += 1
    return found


def test_the_longest_wait_comes_first(waiting):
    assert len(waiting) == 3 and "second" in waiting
    assert waiting.longest() == "first"
    waiting.discard("first")
    assert waiting.longest() == "second" and "first" not in waiting


def test_whoever_is_added_again_begins_anew(waiting):
    waiting.add("first")
    assert waiting.longest() == "second" and len(waiting) == 3


def test_nobody_waits_where_nobody_was_added():
    empty = Waiting(10.0)
    assert not empty and empty.longest() is None and list(empty.overdue()) == []
    empty.discard("nobody")


def test_overdue_are_those_who_have_waited_for_so_long_and_no_others(waiting, clock):
    found = []
    clock.now = 111.5
    for each in waiting.overdue():
        found.append(each)
        waiting.discard(each)
    assert found == ["first", "second"]


def test_what_is_left_is_the_time_of_the_first(waiting, clock):
    assert waiting.left() == 7.0
    clock.now = 200.0
    assert waiting.left() == 0.0
    assert Waiting(10.0).left() == 10.0
