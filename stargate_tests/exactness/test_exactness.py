"""A short trial, and one with a fault planted; ``make endurance`` has long ones and every fault."""

from random import SystemRandom

import pytest

from stargate_tests.exactness.__main__ import trials
from stargate_tests.exactness.faults import FAULTS
from stargate_tests.exactness.trial import Dials, line, run


def test_each_listener_gets_exactly_what_is_sent_between_its_join_and_its_leave():
    dials = Dials(seed=SystemRandom().randrange(10**6), seconds=2.0)
    verdict = run(dials)
    assert not verdict.faults, (line(dials, verdict), verdict.faults)
    assert verdict.counts["messages checked"] > 1000, line(dials, verdict)


def test_the_checker_sees_messages_that_change_places():
    assert run(Dials(seed=3, seconds=0.5, fault="swap")).faults


def test_the_trials_of_a_run_last_as_long_as_was_asked_and_differ():
    found = trials(7, 90.0)
    assert sum(dials.seconds for dials in found) == pytest.approx(90.0)
    assert len({dials.seed for dials in found}) == len(found)
    assert not any(dials.fault for dials in found)
    assert len({dials.slice for dials in found}) == 2


def test_every_fault_says_what_it_does():
    assert all(fault.__doc__ for fault in FAULTS.values())
