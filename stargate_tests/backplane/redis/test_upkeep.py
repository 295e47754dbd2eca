import threading

import pytest

from stargate.backplane.contract.process import until
from stargate.backplane.redis import upkeep as module
from stargate.backplane.redis.subscription import Subscription
from stargate.backplane.redis.upkeep import Upkeep
from stargate.engine.peerlog import peerlog
from stargate.exceptions import BackplaneError


@pytest.fixture
def upkeep(monkeypatch):
    """``upkeep(catch_up, look)`` that has begun; ended after the test."""
    monkeypatch.setattr(module, "TICK", 0.02)
    made = []

    def upkeep(catch_up=None, look=lambda: None):
        made.append(Upkeep(catch_up, look))
        made[-1].begin()
        made[-1].begin()
        return made[-1]

    yield upkeep
    for each in made:
        each.close()
        each._thread.join(30)
        assert not each._thread.is_alive()


def a_subscription():
    return Subscription("/a", b"a")


def test_an_address_is_caught_up_with_once_however_often_it_is_said(upkeep):
    go_on, seen = threading.Event(), []

    def catch_up(subscription):
        go_on.wait(30)
        seen.append(subscription)

    found, first, second = upkeep(catch_up), a_subscription(), a_subscription()
    found.add(first)
    until(lambda: not first.lacking)
    for _ in range(3):
        found.add(second)
    go_on.set()
    until(lambda: len(seen) == 2)
    assert seen == [first, second]


def test_what_fails_is_tried_again(upkeep, caplog):
    caplog.set_level("INFO")
    tries = []

    def catch_up(_subscription):
        tries.append(1)
        if len(tries) < 3:
            raise BackplaneError("not sent", "out of reach")

    upkeep(catch_up).add(a_subscription())
    until(lambda: len(tries) == 3)
    peerlog.tell_all()
    again = "to be tried again: not sent: out of reach"
    assert caplog.text.count(again) == 2
    assert f"{again} (the newest of 1 in" in caplog.text


def test_it_looks_around_again_and_again_whatever_happens(upkeep, caplog):
    looks = []

    def look():
        looks.append(1)
        raise BackplaneError("not sent", "x") if len(looks) % 2 else ValueError("ours")

    upkeep(look=look)
    until(lambda: len(looks) > 4)
    assert "the upkeep of the backplane failed" in caplog.text


def test_an_error_at_the_end_is_none(upkeep, caplog):
    begun, go_on = threading.Event(), threading.Event()

    def look():
        begun.set()
        go_on.wait(30)
        raise ValueError("everything is closed")

    found = upkeep(look=look)
    begun.wait(30)
    found.close()
    go_on.set()
    found._thread.join(30)
    assert not caplog.records


def test_what_is_closed_does_not_begin():
    found = Upkeep(None, None)
    found.close()
    found.begin()
    assert found._thread is None
