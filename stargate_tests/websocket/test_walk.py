import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stargate.message.message import ENVELOPE, Message
from stargate.pubsub.topics import Topics
from stargate.stats import Counters
from stargate.websocket import walk
from stargate.websocket.walk import Walks, write
from stargate_tests.peers import DummyEngine, DummyListener


class Broken(DummyListener):
    """A listener whose socket raises ``error`` at each write."""

    def __init__(self, error):
        super().__init__()
        self._error = error

    def _write(self, buffer):
        raise self._error


class Short(DummyListener):
    """A listener whose socket takes two bytes at a time."""

    def _write(self, buffer):
        self.buffers.append(buffer[:2])
        return 2


@pytest.fixture
def small(monkeypatch):
    """Slices of three listeners; walks over two are short."""
    monkeypatch.setattr(walk, "SLICE", 3)
    monkeypatch.setattr(walk, "SHORT", 2)


class World:
    """Topics, and walks on an engine that the test turns."""

    def __init__(self, engine=None):
        self.engine = engine or DummyEngine()
        self.topics, self.walks = Topics(Counters()), Walks(self.engine)

    def join(self, count, address="/a"):
        listeners = [DummyListener() for _ in range(count)]
        for listener in listeners:
            self.topics.join(listener, address)
        return listeners

    def send(self, text, address="/a", exclude=()):
        listeners = self.topics.listeners(address)
        self.walks.add(listeners, Message(text), frozenset(exclude))

    def tell(self, listener, text):
        """As ``websocket.send``."""
        self.walks.settle(listener)
        write(listener, Message(text).frame)

    def turns(self):
        turns = 0
        while self.engine.calls:
            self.engine.turn()
            turns += 1
        return turns


def test_without_an_engine_a_walk_is_made_on_the_spot():
    topics, listener = Topics(Counters()), DummyListener()
    topics.join(listener, "/a")
    Walks().add(topics.listeners("/a"), Message("hello"))
    assert listener.got == ["hello"]


def test_with_an_engine_nothing_leaves_before_its_next_turn():
    world = World()
    (listener,) = world.join(1)
    world.send("hello")
    assert listener.got == []
    world.engine.turn()
    assert listener.got == ["hello"]


def test_messages_of_one_turn_leave_in_one_write():
    world = World()
    (listener,) = world.join(1)
    for text in "abc":
        world.send(text)
    world.turns()
    assert listener.got == ["a", "b", "c"]
    assert len(listener.buffers) == 1


def test_one_turn_is_asked_for_however_many_messages_there_are():
    world = World()
    world.join(1)
    for text in "abc":
        world.send(text)
    assert len(world.engine.calls) == 1


def test_all_listeners_share_one_buffer():
    world = World()
    first, second = world.join(2)
    world.send("a")
    world.send("b")
    world.turns()
    assert first.buffers[0] is second.buffers[0]


def test_the_excluded_get_nothing_and_the_others_do():
    world = World()
    first, second = world.join(2)
    world.send("a", exclude=[first])
    world.turns()
    assert (first.got, second.got) == ([], ["a"])


def test_the_excluded_get_what_was_sent_before_and_after():
    world = World()
    first, second = world.join(2)
    world.send("before")
    world.send("without", exclude=[first])
    world.send("after")
    world.turns()
    assert first.got == ["before", "after"]
    assert second.got == ["before", "without", "after"]


def test_excluding_somebody_who_does_not_listen_changes_nothing():
    world = World()
    (listener,) = world.join(1)
    world.send("a", exclude=[DummyListener()])
    world.turns()
    assert listener.got == ["a"]


def test_messages_with_the_same_exclusion_leave_together():
    world = World()
    first, second = world.join(2)
    world.send("a", exclude=[first])
    world.send("b", exclude=[first])
    world.turns()
    assert first.got == []
    assert len(second.buffers) == 1


def test_who_joins_after_a_send_does_not_get_it():
    world = World()
    (first,) = world.join(1)
    world.send("early")
    (second,) = world.join(1)
    world.send("late")
    world.turns()
    assert (first.got, second.got) == (["early", "late"], ["late"])


def test_who_leaves_after_a_send_still_gets_it():
    world = World()
    first, second = world.join(2)
    world.send("early")
    world.topics.leave(first, "/a")
    world.send("late")
    world.turns()
    assert (first.got, second.got) == (["early"], ["early", "late"])


def test_settling_gives_one_listener_what_is_queued():
    world = World()
    first, second = world.join(2)
    world.send("a")
    world.walks.settle(first)
    assert (first.got, second.got) == (["a"], [])
    world.turns()
    assert (first.got, second.got) == (["a"], ["a"])


def test_settling_with_nothing_queued_does_nothing():
    world = World()
    (listener,) = world.join(1)
    world.walks.settle(listener)
    assert listener.buffers == []


def test_nothing_is_added_to_a_walk_that_was_settled_for_somebody():
    world = World()
    first, second = world.join(2)
    world.send("a")
    world.walks.settle(first)
    world.send("b")
    world.turns()
    assert first.got == second.got == ["a", "b"]


def test_a_websockets_own_message_comes_behind_what_was_sent_before():
    world = World()
    first, second = world.join(2)
    world.send("one")
    world.tell(first, "two")
    world.send("three")
    world.turns()
    assert (first.got, second.got) == (["one", "two", "three"], ["one", "three"])


def test_a_walk_over_many_gives_way_between_slices(small):
    world = World()
    listeners = world.join(7)
    world.send("a")
    world.engine.turn()
    assert [len(listener.got) for listener in listeners] == [1, 1, 1, 0, 0, 0, 0]
    world.turns()
    assert [listener.got for listener in listeners] == [["a"]] * 7


@pytest.mark.parametrize("count", [3, 6])
def test_a_walk_over_whole_slices_ends(small, count):
    world = World()
    listeners = world.join(count)
    world.send("a")
    world.turns()
    assert [listener.got for listener in listeners] == [["a"]] * count
    assert not world.walks._queue


def test_a_short_walk_overtakes_a_long_one_under_way(small):
    world = World()
    many, (one,) = world.join(9), world.join(1, "/b")
    world.send("long")
    world.engine.turn()
    world.send("short", "/b")
    world.engine.turn()
    assert one.got == ["short"]
    assert many[-1].got == []
    world.turns()
    assert [listener.got for listener in many] == [["long"]] * 9


def test_a_short_walk_is_never_cut_for_want_of_budget(small):
    """A cut one would have every walk behind it overtake it, one listener at a time."""
    world = World()
    first, second = world.join(2), world.join(2, "/b")
    world.send("one")
    world.send("two", "/b")
    world.engine.turn()
    assert [listener.got for listener in first + second] == [["one"]] * 2 + [["two"]] * 2


def test_a_walk_that_serves_all_in_turn_leaves_no_marks(small):
    world = World()
    many = world.join(9)
    world.send("plain")
    world.turns()
    assert {listener._served for listener in many} == {0}


def test_who_was_served_in_turn_is_marked_once_somebody_is_served_out_of_turn(small):
    world = World()
    many = world.join(9)
    world.send("plain")
    world.engine.turn()
    world.tell(many[8], "aside")
    assert [bool(listener._served) for listener in many] == [True] * 3 + [False] * 5 + [True]
    world.turns()
    assert [listener.got for listener in many] == [["plain"]] * 8 + [["plain", "aside"]]


def test_who_is_in_both_gets_the_older_message_first(small):
    world = World()
    many = world.join(9)
    both = many[-1]
    world.topics.join(both, "/b")
    world.send("long")
    world.engine.turn()
    world.send("short", "/b")
    world.turns()
    assert both.got == ["long", "short"]


def test_a_long_walk_does_not_overtake_another(small):
    world = World()
    first, second = world.join(9), world.join(9, "/b")
    world.send("one")
    world.engine.turn()
    world.send("two", "/b")
    world.engine.turn()
    assert second[0].got == []
    world.turns()
    assert [listener.got for listener in second] == [["two"]] * 9
    assert [listener.got for listener in first] == [["one"]] * 9


def test_short_walks_give_way_too(small):
    world = World()
    world.join(9)
    singles = [world.join(2, f"/{number}") for number in range(6)]
    world.send("long")
    world.engine.turn()
    for number in range(6):
        world.send("short", f"/{number}")
    world.engine.turn()
    assert not all(listener.got for pair in singles for listener in pair)
    world.turns()
    assert all(listener.got == ["short"] for pair in singles for listener in pair)


def test_short_walks_that_keep_coming_do_not_stop_the_long_one_for_ever(small):
    world = World()
    many = world.join(5)
    world.join(1, "/b")
    world.send("long")
    for _ in range(20):
        world.send("short", "/b")
        world.engine.turn()
    assert [listener.got for listener in many] == [["long"]] * 5


@pytest.mark.parametrize(
    ("name", "value"), [("QUEUED_BYTES", 100), ("QUEUED_MESSAGES", 3), ("QUEUED_SECONDS", -1.0)]
)
def test_past_a_bound_send_itself_walks(monkeypatch, name, value):
    monkeypatch.setattr(walk, name, value)
    world = World()
    (listener,) = world.join(1)
    for number in range(50):
        world.send(str(number))
    assert len(listener.got) > 20
    world.turns()
    assert listener.got == [str(number) for number in range(50)]


def test_the_age_is_that_of_the_oldest_message_and_starts_anew(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(walk, "monotonic", lambda: now[0])
    world = World()
    (listener,) = world.join(1)
    world.send("a")
    world.turns()
    now[0] = 100.0
    world.send("b")
    assert listener.got == ["a"]
    now[0] = 100.0 + walk.QUEUED_SECONDS * 2
    world.send("c")
    assert listener.got == ["a", "b", "c"]


def test_the_count_of_what_is_queued_comes_back_to_nothing(small):
    world = World()
    listeners = world.join(8)
    world.join(1, "/b")
    for number in range(5):
        world.send(str(number))
        world.send(str(number), "/b")
        world.engine.turn()
        world.walks.settle(listeners[-1])
    world.turns()
    assert (world.walks._bytes, world.walks._messages, len(world.walks._queue)) == (0, 0, 0)


def test_running_makes_walks_that_are_under_way_to_the_end(small):
    world = World()
    listeners = world.join(8)
    world.send("a")
    world.engine.turn()
    world.send("b")
    world.walks.run()
    assert [listener.got for listener in listeners] == [["a", "b"]] * 8


@pytest.mark.parametrize("error", [BrokenPipeError(), ConnectionResetError(), OSError(9, "bad")])
def test_a_broken_socket_is_lost_and_the_others_are_served(error):
    world = World()
    first = world.join(1)[0]
    broken = Broken(error)
    world.topics.join(broken, "/a")
    last = world.join(1)[0]
    world.send("a")
    world.turns()
    assert broken.lost
    assert (first.got, last.got) == (["a"], ["a"])


def test_a_socket_that_takes_nothing_has_the_whole_buffer_held():
    world = World()
    full = Broken(BlockingIOError())
    world.topics.join(full, "/a")
    world.send("a")
    world.turns()
    assert full.held == [(b"\x81\x01a", 0)]


def test_a_socket_that_takes_a_part_has_the_rest_held():
    world = World()
    short = Short()
    world.topics.join(short, "/a")
    world.send("abc")
    world.turns()
    assert short.held == [(b"\x81\x03abc", 2)]


@pytest.mark.parametrize(
    ("listener", "held", "lost"),
    [
        (Broken(BlockingIOError()), [(b"\x81\x01a", 0)], False),
        (Short(), [(b"\x81\x01a", 2)], False),
        (Broken(BrokenPipeError()), [], True),
        (DummyListener(), [], False),
    ],
    ids=["full", "short", "broken", "ready"],
)
def test_writing_never_raises(listener, held, lost):
    write(listener, Message("a").frame)
    assert (listener.held, listener.lost) == (held, lost)


def test_a_listener_that_inflates_gets_the_compressed_frames():
    world = World()
    (plain,) = world.join(1)
    inflating = DummyListener(form=12)
    world.topics.join(inflating, "/a")
    message = Message("tell " * 100)
    world.walks.add(world.topics.listeners("/a"), message)
    world.turns()
    assert plain.buffers == [message.frame]
    assert inflating.buffers == [message.frame_as(12)]
    assert zlib.decompressobj(-12).decompress(inflating.buffers[0][2:]) == message.payload


def test_several_compressed_messages_leave_as_one_buffer():
    world = World()
    inflating = DummyListener(form=12)
    world.topics.join(inflating, "/a")
    messages = [Message("tell " * 100), Message("more " * 100)]
    for message in messages:
        world.walks.add(world.topics.listeners("/a"), message)
    world.turns()
    assert inflating.buffers == [b"".join(message.frame_as(12) for message in messages)]


def test_of_a_walk_that_is_overtaken_only_who_was_not_served_misses_it(small):
    world = World()
    listeners = world.join(9)
    world.send("to all")
    world.engine.turn()
    assert world.walks.waiting(listeners[0]) == 0
    world.tell(listeners[8], "aside")
    served = [bool(listener.got) for listener in listeners]
    assert [world.walks.waiting(listener) for listener in listeners] == [not s for s in served]
    assert len(set(served)) == 2


def test_who_was_excluded_since_gets_nothing_once_a_compressed_walk_is_overtaken(small):
    """Marks that are written late must not take back what is there already."""
    world = World()
    listeners = [DummyListener(form=12) for _ in range(9)]
    for listener in listeners:
        world.topics.join(listener, "/a")
    world.send("both")
    world.engine.turn()
    world.send("not for the first", exclude=listeners[:1])
    world.tell(listeners[8], "aside")
    world.turns()
    assert listeners[0].got == ["both"]
    assert listeners[8].got == ["both", "not for the first", "aside"]


# Any mixture of steps, against the simplest model there is.

PEERS, ADDRESSES = range(7), ("/a", "/b", "/c")

peer, address = st.sampled_from(PEERS), st.sampled_from(ADDRESSES)
step = st.one_of(
    st.tuples(st.just("join"), peer, address),
    st.tuples(st.just("leave"), peer, address),
    st.tuples(st.just("send"), address, st.frozensets(peer, max_size=3)),
    st.tuples(st.just("send"), address, st.just(frozenset())),
    st.tuples(st.just("tell"), peer),
    st.tuples(st.just("settle"), peer),
    st.tuples(st.just("turn")),
)


class Model:
    """What each listener is to get: every send is handed out at the moment it is made."""

    def __init__(self):
        self.world = World()
        self.listeners = [DummyListener(form=12 if peer % 3 == 1 else None) for peer in PEERS]
        self.members = {address: [] for address in ADDRESSES}
        self.expected = [[] for _ in PEERS]
        self.sent = 0

    def join(self, peer, address):
        self.world.topics.join(self.listeners[peer], address)
        if peer not in self.members[address]:
            self.members[address].append(peer)

    def leave(self, peer, address):
        self.world.topics.leave(self.listeners[peer], address)
        if peer in self.members[address]:
            self.members[address].remove(peer)

    def send(self, address, exclude):
        self.sent += 1
        if self.members[address]:  # As the gate does.
            excluded = [self.listeners[peer] for peer in exclude]
            self.world.send(str(self.sent), address, excluded)
        for peer in self.members[address]:
            if peer not in exclude:
                self.expected[peer].append(str(self.sent))

    def tell(self, peer):
        self.sent += 1
        self.world.tell(self.listeners[peer], str(self.sent))
        self.expected[peer].append(str(self.sent))
        assert self.listeners[peer].got == self.expected[peer], "all that came before it"

    def settle(self, peer):
        self.world.walks.settle(self.listeners[peer])
        assert self.listeners[peer].got == self.expected[peer], "nothing is left to settle"

    def turn(self):
        self.world.engine.turn()

    def check(self):
        for listener, expected in zip(self.listeners, self.expected, strict=True):
            assert listener.got == expected[: len(listener.got)], "in order, once, no other's"

    def check_all(self):
        self.world.turns()
        assert [listener.got for listener in self.listeners] == self.expected
        assert not self.world.walks._queue
        assert (self.world.walks._bytes, self.world.walks._messages) == (0, 0)


@given(
    steps=st.lists(step, max_size=60),
    slice_=st.integers(1, 4),
    short=st.integers(0, 4),
    messages=st.sampled_from([2, 5, 1000]),
)
@settings(max_examples=400, deadline=None, database=None)
def test_every_attachment_gets_exactly_its_messages_once_and_in_order(
    steps, slice_, short, messages
):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(walk, "SLICE", slice_)
        patched.setattr(walk, "SHORT", short)
        patched.setattr(walk, "QUEUED_MESSAGES", messages)
        patched.setattr(walk, "QUEUED_SECONDS", 1e9)
        model = Model()
        for listener in PEERS[:5]:
            model.join(listener, "/a")
        for name, *args in steps:
            getattr(model, name)(*args)
            model.check()
        model.check_all()


@pytest.mark.parametrize("form", [None, 12, ENVELOPE, ENVELOPE + 12])
def test_all_listeners_of_one_form_are_written_the_same_bytes_object(form):
    world = World()
    listeners = [DummyListener(form) for _ in range(3)]
    for listener in (*listeners, DummyListener(ENVELOPE + 9)):
        world.topics.join(listener, "/a")
    world.send("x" * 100)
    world.turns()
    (first,), (second,), (third,) = (listener.buffers for listener in listeners)
    assert first is second is third
