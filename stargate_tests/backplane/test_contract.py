"""Whether the suite goes red: each of these backplanes has one fault, and a test that finds it."""

from unittest import SkipTest

import pytest

from stargate.backplane.contract import BackplaneContract, process
from stargate.backplane.contract.making import Making
from stargate.backplane.contract.process import Process, Receiver, Writer, until
from stargate.backplane.memory import MemoryBackplane
from stargate.history import History, Keep
from stargate.message.message import Message


class Twice(MemoryBackplane):
    def publish(self, topic, message, excluded, keep=None, key=None):
        self._receiver.deliver(topic, message, excluded)
        return super().publish(topic, message, excluded, keep, key)


class Deaf(MemoryBackplane):
    def publish(self, topic, message, excluded, keep=None, key=None):
        return None


class Everywhere(MemoryBackplane):
    def publish(self, topic, message, excluded, keep=None, key=None):
        for each in list(self._receiver.listeners):
            self._receiver.deliver(each, message, excluded)


class Reversing(MemoryBackplane):
    held = None

    def publish(self, topic, message, excluded, keep=None, key=None):
        if self.held is None:
            self.held = (topic, message, excluded, keep, key)
            return None
        super().publish(topic, message, excluded, keep, key)
        held, self.held = self.held, None
        return super().publish(*held)


class ForgetsTheExcluded(MemoryBackplane):
    def publish(self, topic, message, excluded, keep=None, key=None):
        return super().publish(topic, message, frozenset(), keep, key)


class Strips(MemoryBackplane):
    def publish(self, topic, message, excluded, keep=None, key=None):
        message = Message(message.payload.decode("utf-8", "replace").strip())
        return super().publish(topic, message, excluded, keep, key)


class CutsTopics(MemoryBackplane):
    def publish(self, topic, message, excluded, keep=None, key=None):
        return super().publish(topic[:200], message, excluded, keep, key)


class IgnoresKeys(MemoryBackplane):
    def publish(self, topic, message, excluded, keep=None, key=None):
        return super().publish(topic, message, excluded, keep)


class OneKeyForAll(MemoryBackplane):
    seen = ()

    def publish(self, topic, message, excluded, keep=None, key=None):
        if key in self.seen:
            return None
        self.seen += (key,) if key else ()
        return super().publish(topic, message, excluded, keep)


class KeepsAll(MemoryBackplane):
    def publish(self, topic, message, excluded, keep=None, key=None):
        return super().publish(topic, message, excluded, Keep(100_000), key)


class KeepsOneMore(MemoryBackplane):
    def publish(self, topic, message, excluded, keep=None, key=None):
        keep = Keep(keep.size + 1, keep.ttl) if keep else None
        return super().publish(topic, message, excluded, keep, key)

    def subscribe(self, topic, keep=None, since=None):
        keep = Keep(keep.size + 1, keep.ttl) if keep else None
        return super().subscribe(topic, keep, since)


class KeepsForEver(MemoryBackplane):
    def publish(self, topic, message, excluded, keep=None, key=None):
        return super().publish(topic, message, excluded, Keep(keep.size) if keep else None, key)


class AlwaysComplete(MemoryBackplane):
    def history(self, topic, since=None, limit=100):
        found = super().history(topic, since, limit)
        return History(found, position=found.position)


class SilentlyPartial(MemoryBackplane):
    def subscribe(self, topic, keep=None, since=None):
        found = super().subscribe(topic, keep, since)
        return History(found, position=found.position)


class NoPosition(MemoryBackplane):
    def subscribe(self, topic, keep=None, since=None):
        found = super().subscribe(topic, keep, since)
        return History(found, complete=found.complete)


class NewestFirst(MemoryBackplane):
    def history(self, topic, since=None, limit=100):
        found = super().history(topic, since, limit)
        return History(reversed(found), complete=found.complete, position=found.position)


class NoLimit(MemoryBackplane):
    def history(self, topic, since=None, limit=100):
        return super().history(topic, since)


class LosesOne(MemoryBackplane):
    def subscribe(self, topic, keep=None, since=None):
        found = super().subscribe(topic, keep, since)
        return History(found[1:], complete=found.complete, position=found.position)


class RepeatsOne(MemoryBackplane):
    def subscribe(self, topic, keep=None, since=None):
        found = super().subscribe(topic, keep, since)
        again = super().subscribe(topic, keep, "last")
        return History([*again, *found], complete=found.complete, position=found.position)


class CountsNobody(MemoryBackplane):
    def listener_count(self, topic):
        return 0


class CallsNumbersText(MemoryBackplane):
    def enter(self, topic, who):
        super().enter(topic, None if who is None else str(who))

    def leave(self, topic, who):
        super().leave(topic, None if who is None else str(who))


class TellsOfEverySocket(MemoryBackplane):
    def enter(self, topic, who):
        super().enter(topic, who)
        if who is not None:
            self._receiver.came(topic, who, self._change())


class NeverGoes(MemoryBackplane):
    def leave(self, topic, who):
        pass


class TellsOneOfEach(MemoryBackplane):
    def _change(self):
        return "always the same"


class LeavesAThread(MemoryBackplane):
    def __init__(self, receiver):
        super().__init__(receiver)
        self._end = process.threading.Event()
        process.threading.Thread(target=self._end.wait, args=(20,), daemon=True).start()


FAULTS = [
    (Twice, "a_message_reaches_the_process_that_sends_it"),
    (Deaf, "when_a_join_has_returned_each_message_after_it_is_heard"),
    (Twice, "a_message_is_handed_to_a_process_once_however_many_listen_there"),
    (Twice, "who_leaves_and_joins_again_at_once_hears_each_message_once"),
    (Everywhere, "topics_are_apart"),
    (Reversing, "the_messages_of_one_sender_keep_their_order"),
    (Reversing, "all_see_one_order_whoever_sends"),
    (ForgetsTheExcluded, "what_is_excluded_arrives_with_the_message"),
    (Strips, "messages_come_out_as_they_went_in"),
    (CutsTopics, "a_topic_may_be_any_address"),
    (IgnoresKeys, "a_repeat_with_the_same_key_is_dropped"),
    (IgnoresKeys, "a_repeat_returns_the_id_of_the_first"),
    (OneKeyForAll, "a_key_is_that_of_one_topic"),
    (KeepsAll, "nothing_is_kept_by_default"),
    (KeepsAll, "a_history_that_is_turned_off_is_not_complete_when_it_is_on_again"),
    (KeepsOneMore, "as_many_as_are_kept_can_be_made_up_for_and_not_one_more"),
    (KeepsForEver, "messages_are_kept_no_longer_than_their_time"),
    (AlwaysComplete, "where_nothing_is_kept_coming_back_is_not_complete"),
    (AlwaysComplete, "an_id_that_is_not_of_this_history_is_not_complete"),
    (SilentlyPartial, "the_id_of_another_topic_is_not_complete"),
    (NoPosition, "a_history_says_where_it_stands"),
    (NoPosition, "who_joined_before_the_first_message_misses_nothing"),
    (NewestFirst, "history_gives_the_newest_oldest_first"),
    (NoLimit, "history_since_an_id_gives_the_first_after_it"),
    (LosesOne, "history_since_last_gives_the_newest_one"),
    (LosesOne, "coming_back_has_no_gap_and_no_repeat_while_others_send"),
    (RepeatsOne, "nor_has_it_where_somebody_listens_already"),
    (RepeatsOne, "a_join_without_since_is_given_nothing_old"),
    (CountsNobody, "who_is_here_is_told_with_how_many_sockets"),
    (CallsNumbersText, "a_number_and_its_digits_are_two_names"),
    (TellsOfEverySocket, "the_first_and_the_last_socket_of_somebody_are_told_alone"),
    (NeverGoes, "who_leaves_is_here_no_more"),
    (TellsOneOfEach, "somebody_who_comes_again_is_told_anew"),
    (LeavesAThread, "closing_lets_go_of_every_thread_and_twice_is_once"),
]


@pytest.fixture
def hurried(monkeypatch):
    """What never comes is not waited for long: of these it is known."""
    monkeypatch.setattr(process, "DEADLINE", 0.3)


@pytest.mark.parametrize(("fault", "test"), FAULTS)
def test_a_faulty_backplane_is_found_out(hurried, fault, test):
    class Suite(BackplaneContract):
        processes = 1

        def make_backplane(self, receiver):
            return fault(receiver)

    suite = Suite()
    suite.setup_method()
    try:
        with pytest.raises(AssertionError):
            getattr(suite, f"test_{test}")()
    finally:
        suite.teardown_method()


# Two processes, and none.


class Hall:
    """What joins several MemoryBackplanes, or does not."""

    def __init__(self):
        self.backplanes = []

    def make(self, receiver):
        self.backplanes.append(MemoryBackplane(receiver))
        return self.backplanes[-1]


class Unconnected(BackplaneContract):
    def __init__(self):
        self.hall = Hall()

    def make_backplane(self, receiver):
        return self.hall.make(receiver)

    make_stranger = make_backplane


@pytest.mark.parametrize(
    "test",
    [
        "a_message_reaches_another_process",
        "who_listened_in_a_process_that_ends_is_gone",
        "who_leaves_is_here_no_more",
    ],
)
def test_processes_that_do_not_hear_each_other_are_found_out(hurried, test):
    suite = Unconnected()
    suite.setup_method()
    try:
        with pytest.raises(AssertionError):
            getattr(suite, f"test_{test}")()
    finally:
        suite.teardown_method()


def test_strangers_that_do_not_hear_each_other_are_right():
    suite = Unconnected()
    suite.setup_method()
    try:
        suite.test_two_namespaces_do_not_hear_each_other()
    finally:
        suite.teardown_method()


def test_strangers_that_hear_each_other_are_found_out(hurried):
    class Suite(Unconnected):
        def make_stranger(self, receiver):
            self.stranger = receiver
            return super().make_backplane(receiver)

        def make_backplane(self, receiver):
            found = super().make_backplane(receiver)
            deliver = receiver.deliver
            receiver.deliver = lambda *args: (deliver(*args), self.stranger.deliver(*args))
            return found

    suite = Suite()
    suite.setup_method()
    try:
        with pytest.raises(AssertionError):
            suite.test_two_namespaces_do_not_hear_each_other()
    finally:
        suite.teardown_method()


def test_what_there_can_be_but_one_of_is_skipped_and_says_so():
    class Suite(BackplaneContract):
        processes = 1

    with pytest.raises(SkipTest, match="this backplane is of one process"):
        Suite().two()
    with pytest.raises(SkipTest, match="this backplane has no namespaces"):
        Suite().make_stranger(None)


def test_a_suite_says_how_a_backplane_is_made():
    suite = Making()
    suite.setup_method()
    with pytest.raises(NotImplementedError):
        suite.process()
    suite.teardown_method()


# What stands in for a process.


def test_an_error_where_nobody_waits_fails_the_test():
    class Suite(BackplaneContract):
        def make_backplane(self, receiver):
            return MemoryBackplane(receiver)

    suite = Suite()
    suite.setup_method()
    found = suite.process()
    found.receiver.tell(int, "x")
    with pytest.raises(AssertionError, match="invalid literal"):
        suite.teardown_method()


def test_a_question_is_answered_in_its_own_thread_or_raises():
    receiver = Receiver()
    try:
        ident = process.threading.get_ident
        inner = receiver.ask(lambda: (ident(), receiver.ask(ident)))
        assert inner[0] == inner[1] != ident()
        with pytest.raises(ValueError):
            receiver.ask(int, "x")
    finally:
        receiver.stop()


def test_a_question_that_is_not_answered_fails(hurried):
    receiver, never = Receiver(), process.threading.Event()
    try:
        with pytest.raises(AssertionError, match="not done within"):
            receiver.ask(never.wait)
    finally:
        never.set()
        receiver.stop()


def test_what_is_not_true_in_time_fails():
    with pytest.raises(AssertionError, match="not within 0.01 s"):
        until(lambda: False, 0.01)


def test_it_writes_down_all_that_it_is_told():
    receiver = Receiver()
    try:
        receiver.interrupted("/a", False, "here")
        receiver.came("/a", "ann", "1")
        receiver.went("/a", "ann", "2")
        assert receiver.interruptions == [("/a", False, "here")]
        assert receiver.arrivals == [("/a", "ann", "1")]
        assert receiver.departures == [("/a", "ann", "2")]
    finally:
        receiver.stop()


def test_a_writer_that_fails_says_so_when_it_is_waited_for():
    class Fails(MemoryBackplane):
        def publish(self, *args):
            raise OSError("out of reach")

    receiver = Receiver()
    found = Process(receiver, Fails(receiver))
    try:
        with pytest.raises(OSError, match="out of reach"):
            Writer(found, "/a", "", 3).finish()
    finally:
        found.end()
