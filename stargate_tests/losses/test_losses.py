"""A short trial with each kind of fault, and the checker itself; ``make losses`` has long ones."""

from random import SystemRandom

import pytest

from stargate.history import NO_TAG
from stargate_tests.losses.__main__ import overlooked
from stargate_tests.losses.faults import Faults
from stargate_tests.losses.ledger import Ledger
from stargate_tests.losses.planted import FAULTS, plant
from stargate_tests.losses.trial import Dials, line, run
from stargate_tests.losses.verdict import Came, Got, Story, Told, judge


def test_nothing_is_lost_while_workers_redis_and_sockets_die():
    dials = Dials(
        seed=SystemRandom().randrange(10**6), seconds=3.0, websockets=40, rate=20.0, pause=0.5
    )
    outcome = run(dials)
    told = line(dials, outcome)
    assert not outcome.verdict.wrongs, (told, outcome.verdict.wrongs)
    assert set(outcome.faults) == {*Faults.KINDS, "sockets reset"}, told
    assert outcome.verdict.counts["recovered: true"] > 40, told
    assert not overlooked(outcome), told


# The checker, with a record made by hand.


def id_of(offset, epoch="e"):
    tag = f"{offset:x}" if offset else NO_TAG
    return f"{epoch * 12}-{offset}-{tag:0>12}"


def message(offset):
    return f"first {offset} xxx"


def got(*offsets):
    return [Got(id_of(offset), message(offset)) for offset in offsets]


def ledger(last=12, resource="one", **options):
    entries = [(resource, id_of(offset), message(offset)) for offset in range(1, last + 1)]
    return Ledger(entries, **options)


def wrongs(*notes, resource="one", last=12, **options):
    story = Story(resource, [Came("last"), *notes])
    return judge(ledger(last, resource, **options), [story]).wrongs


GOOD = [
    *(Told(True, id_of(0)), *got(1, 2, 3, 4)),
    *(Came(id_of(4)), *got(5, 6, 7), Told(True, id_of(7)), *got(8, 9, 10)),
    *(Came(id_of(10)), Told(True, id_of(10)), *got(11, 12)),
]


def test_who_has_everything_once_and_in_order_has_lost_nothing():
    verdict = judge(ledger(), [Story("one", [Came("last"), *GOOD])])
    assert not verdict.wrongs
    assert verdict.counts == {
        "messages acknowledged": 12,
        "deliveries": 12,
        "recovered: true": 3,
        "reconnects": 2,
    }


def test_who_is_told_that_something_is_lost_must_get_what_comes_from_there_on():
    told = [Told(True, id_of(0)), *got(1, 2), Told(False, id_of(9))]
    assert not wrongs(*told, *got(10, 11, 12), resource="brief")
    assert "did not get 1 message" in wrongs(*told, *got(11, 12), resource="brief")[0]


def test_where_everything_is_kept_nobody_is_told_that_something_is_lost():
    told = [Told(True, id_of(0)), *got(1, 2), Told(False, id_of(9)), *got(10, 11, 12)]
    assert "all that came after is kept" in wrongs(*told)[0]


@pytest.mark.parametrize("name", [name for name in FAULTS if name != "swear"])
def test_a_planted_fault_is_found(name):
    story = plant(name, [Story("one", GOOD)])
    assert story.notes != GOOD
    assert judge(ledger(), [story]).wrongs


def test_a_planted_promise_is_found():
    notes = [Told(True, id_of(0)), *got(1, 2), Told(False, id_of(9)), *got(10, 11, 12)]
    assert plant("swear", [Story("brief", GOOD)]) is None
    story = plant("swear", [Story("brief", notes)])
    assert "recovered: true at" in judge(ledger(resource="brief"), [story]).wrongs[0]


@pytest.mark.parametrize("notes", [got(1, 2), [Told(True, None)], []])
def test_who_does_not_come_to_the_end_has_lost_something(notes):
    assert wrongs(*notes)


def test_what_nobody_sent_is_found():
    assert "not sent" in wrongs(Got(id_of(12), message(13)))[0]
    assert "where nothing is" in wrongs(Told(True, id_of(14)), last=3)[0]


def test_another_history_is_not_gone_on_with_without_a_word():
    notes = [*got(1, 2), Got(id_of(1, "f"), message(3))]
    options = {"durable": False, "newest": {"one": id_of(1, "f")}}
    assert "without a word" in wrongs(*notes, **options)[0]
    assert not wrongs(*notes[:2], Told(False, id_of(0, "f")), notes[2], **options)
    assert "ended at" in wrongs(*notes[:2], Told(False, id_of(0, "f")), **options)[0]


def test_the_ledger_sees_what_cannot_be():
    def wrong(*entries, **options):
        return Ledger([("one", *entry) for entry in entries], **options).wrong

    one, two = (id_of(1), message(1)), (id_of(2), message(2))
    other = (id_of(1, "f"), message(2))
    assert not wrong(one, two)
    assert "acknowledged with None" in wrong((None, message(1)))[0]
    assert "the place of another" in wrong(one, (id_of(1), message(2)))[0]
    assert "is behind" in wrong((id_of(2), message(1)), (id_of(1), message(2)))[0]
    assert "offsets that nobody sent" in wrong(two)[0]
    assert "2 epochs" in wrong(one, other)[0]
    assert not wrong(one, other, durable=False)
