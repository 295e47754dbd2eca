import threading

import pytest

from stargate import BackplaneError
from stargate.backplane.redis.turns import Turns
from stargate_tests.waiting import wait_until


def test_no_more_than_so_many_have_their_turn_at_a_time():
    turns, go = Turns(2, 30), threading.Event()
    here, most = [], []

    def run():
        with turns.take("a test"):
            here.append(1)
            most.append(len(here))
            go.wait(30)
            here.pop()

    threads = [threading.Thread(target=run) for _ in range(10)]
    for each in threads:
        each.start()
    wait_until(lambda: len(here) == 2)
    go.set()
    for each in threads:
        each.join(30)
    assert len(most) == 10 and max(most) == 2


def test_who_has_waited_long_enough_is_told_what_for():
    turns = Turns(1, 0.01)
    with (
        turns.take("the first"),
        pytest.raises(BackplaneError, match="none for the second") as caught,
        turns.take("the second"),
    ):
        pass
    assert caught.value.outcome == "not sent"


def test_a_turn_that_fails_is_over_as_well():
    turns = Turns(1, 0.01)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), turns.take("a test"):
            raise ZeroDivisionError
