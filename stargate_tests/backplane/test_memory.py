import pytest

from stargate.backplane import memory
from stargate.backplane.contract import BackplaneContract, Process, Receiver
from stargate.backplane.memory import POSITION_SECONDS, REPEAT_SECONDS, MemoryBackplane
from stargate.history import LAST, Keep, MessageId


class TestContract(BackplaneContract):
    processes = 1

    def make_backplane(self, receiver):
        return MemoryBackplane(receiver)


class Clock:
    """Both clocks, which go on when the test says so."""

    def __init__(self):
        self.now = 1_700_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(memory, "time", clock)
    monkeypatch.setattr(memory, "monotonic", clock)
    return clock


@pytest.fixture
def process():
    receiver = Receiver()
    process = Process(receiver, MemoryBackplane(receiver))
    yield process
    process.end()
    assert receiver.errors == []


def texts(process, topic="/a", since=None, limit=100):
    return [each.message for each in process.backplane.history(topic, since, limit)]


# Repeats.


def test_a_key_may_be_used_again_after_a_minute(process, clock):
    listener = process.join("/a")
    process.send("/a", "1", key="k")
    clock.now += REPEAT_SECONDS
    process.send("/a", "2", key="k")
    clock.now += 0.1
    process.send("/a", "3", key="k")
    clock.now += REPEAT_SECONDS
    process.send("/a", "4", key="k")
    assert listener.messages == ["1", "3"]


def test_old_keys_are_forgotten(process, clock):
    for number in range(5):
        process.send("/a", "x", key=str(number))
        clock.now += 30
    assert len(process.backplane._recent()) == 2


# Time.


def test_each_message_is_as_old_as_it_is(process, clock):
    keep = Keep(10, ttl=60)
    ids = []
    for number in range(3):
        ids.append(process.send("/a", str(number), keep=keep))
        clock.now += 30
    clock.now -= 30
    assert texts(process) == ["0", "1", "2"]
    assert texts(process, since=ids[0]) == ["1", "2"]
    clock.now += 0.5
    assert texts(process) == ["1", "2"]
    found = process.backplane.history("/a", ids[0])
    assert (list(found), found.complete) == ([], False)
    assert texts(process, since=ids[1]) == ["2"]


def test_of_what_is_too_old_nothing_is_the_newest(process, clock):
    process.send("/a", "x", keep=Keep(10, ttl=60))
    clock.now += 61
    found = process.backplane.history("/a", LAST)
    assert (list(found), found.complete) == ([], True)


def test_a_place_is_remembered_for_longer_than_messages(process, clock):
    keep = Keep(10, ttl=60)
    id = process.send("/a", "x", keep=keep)
    clock.now += 60 + POSITION_SECONDS
    assert process.backplane.history("/a", id).complete
    clock.now += 60 + POSITION_SECONDS + 1
    found = process.backplane.history("/a", id)
    assert (list(found), found.complete) == ([], False)
    newer = process.send("/a", "y", keep=keep)
    assert MessageId.parse(newer).offset == 1
    assert MessageId.parse(newer).epoch != MessageId.parse(id).epoch


def test_what_nobody_asks_for_is_forgotten_whatever_stands_before_it(process, clock):
    process.send("/year", "x", keep=Keep(1, ttl=31_000_000))
    for number in range(10):
        process.send(f"/{number}", "x", keep=Keep(1, ttl=1))
    clock.now += POSITION_SECONDS + 2
    for _ in range(6):
        process.backplane.history("/year")
    assert list(process.backplane._kept) == ["/year"]


def test_what_is_too_old_is_let_go_of_though_nobody_asks_for_it(process, clock):
    process.send("/short", "x", keep=Keep(5, ttl=1))
    process.send("/a", "x", keep=Keep(1))
    clock.now += 2
    texts(process)
    texts(process)
    assert len(process.backplane._kept["/short"]._entries) == 0


# Size.


def test_a_smaller_size_counts_at_once(process):
    ids = [process.send("/a", str(number), keep=Keep(10)) for number in range(6)]
    process.send("/a", "6", keep=Keep(2))
    assert texts(process) == ["5", "6"]
    assert texts(process, since=ids[4]) == ["5", "6"]
    assert not process.backplane.history("/a", ids[3]).complete


def test_a_greater_size_holds_from_the_next_message_on(process):
    ids = [process.send("/a", str(number), keep=Keep(2)) for number in range(4)]
    process.send("/a", "4", keep=Keep(4))
    assert texts(process) == ["1", "2", "3", "4"]
    assert not process.backplane.history("/a", ids[0]).complete
    assert texts(process, since=ids[1]) == ["2", "3", "4"]


def test_from_the_very_beginning_no_more_than_are_kept_can_be_made_up_for(process):
    start = process.join("/a", Keep(2)).history.position
    for each in "12":
        process.send("/a", each, keep=Keep(2))
    assert texts(process, since=start) == ["1", "2"]
    process.send("/a", "3", keep=Keep(2))
    assert not process.backplane.history("/a", start).complete


# Others.


def test_what_nobody_keeps_takes_no_room(process):
    process.send("/a", "x")
    process.backplane.history("/a")
    listener = process.join("/a", who="ann")
    process.leave(listener)
    backplane = process.backplane
    assert (backplane._kept, backplane._here) == ({}, {})
    assert not backplane.keeps("/a")
    process.send("/a", "x", keep=Keep(1))
    assert backplane.keeps("/a")
