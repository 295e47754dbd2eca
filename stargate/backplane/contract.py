"""The tests that every backplane passes, for those who write one: a class to inherit from.

    from stargate.backplane.contract import BackplaneContract

    class TestMyBackplane(BackplaneContract):
        def make_backplane(self, receiver):
            return MyBackplane(self.url, receiver)

Plain asserts and no test runner's imports: pytest collects the subclass as it stands.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any
from unittest import SkipTest
from uuid import uuid4

from zope.interface.verify import verifyObject

from stargate.backplane.process import Listener, Process, Receiver, until
from stargate.history import LAST, NOT_KEPT, History, Keep, MessageId
from stargate.interfaces import IBackplane, IReceiver

#: Topics that a careless way of writing keys would confuse, cut or refuse.
ODD_TOPICS = (
    "/",
    "/a%20b/c%7Bd%7D",
    "tenant.example/jobs",
    "{braces}",
    "}{",
    "with spaces and: colons *?[a-z] \\",
    "ünï/コード/🛰",
    "-",
    "/" + "x" * 2047,
)

#: Messages, and whether they are JSON.
PAYLOADS: tuple[tuple[str | bytes, bool], ...] = (
    ("text", False),
    ("ünï コード 🛰 \x00\n\r", False),
    ("", False),
    (b"", False),
    (b"\x00\xff\n1 t - 0 - x\n", False),
    ('{"a": [1, "\u00e9"]}', True),
    ("x" * 1_000_000, False),
    (bytes(range(250)) * 4_000, False),
)


class BackplaneContract:
    """What stargate relies on in a backplane; a subclass says how one is made.

    A test asks for one or two *processes*: backplanes that are to hear each other, each with a
    receiver of its own. Where there can be but one, ``processes = 1`` skips the tests for two.
    """

    #: How many processes of one namespace there can be: 1, or any number.
    processes = 2

    def make_backplane(self, receiver: Receiver) -> Any:
        """A new ``IBackplane`` that delivers to ``receiver``: one process of the namespace.

        Called once or twice a test. What it keeps must not be that of the test before.
        """
        raise NotImplementedError

    def make_stranger(self, receiver: Receiver) -> Any:
        """As :meth:`make_backplane`, of another namespace on the same server; it need not be."""
        raise SkipTest("this backplane has no namespaces: make_stranger() is not there")

    # The making.

    def setup_method(self) -> None:
        """Called by pytest before each test."""
        self._made: list[Process] = []

    def teardown_method(self) -> None:
        """Called by pytest after each test: closes what it has made."""
        for process in reversed(self._made):
            process.end()
        assert [error for each in self._made for error in each.receiver.errors] == []

    def process(self, make: Callable[[Receiver], Any] | None = None) -> Process:
        """A process, which is ended behind the test."""
        receiver = Receiver()
        try:
            backplane = (make or self.make_backplane)(receiver)
        except BaseException:
            receiver.stop()
            raise
        self._made.append(Process(receiver, backplane))
        return self._made[-1]

    def two(self) -> tuple[Process, Process]:
        """Two processes that hear each other."""
        if self.processes < 2:
            raise SkipTest("this backplane is of one process")
        return self.process(), self.process()

    def sender_and_listener(self) -> tuple[Process, Process]:
        """Two processes, or the same one twice."""
        return self.two() if self.processes > 1 else (self.process(),) * 2

    # The shape.

    def test_it_provides_its_interface(self) -> None:
        process = self.process()
        assert verifyObject(IBackplane, process.backplane)
        assert verifyObject(IReceiver, process.receiver)

    # Who gets what, in which order.

    def test_a_message_reaches_the_process_that_sends_it(self) -> None:
        process = self.process()
        listener = process.join("/a")
        process.send("/a", "hello")
        until(lambda: listener.messages == ["hello"])

    def test_a_message_reaches_another_process(self) -> None:
        sender, other = self.two()
        listener = other.join("/a")
        sender.send("/a", "hello")
        until(lambda: listener.messages == ["hello"])

    def test_a_message_is_handed_to_a_process_once_however_many_listen_there(self) -> None:
        sender, other = self.sender_and_listener()
        listeners = [other.join("/a") for _ in range(3)]
        sender.send("/a", "one")
        sender.send("/a", "two")
        until(lambda: all(each.messages == ["one", "two"] for each in listeners))
        assert len(other.receiver.delivered) == 2

    def test_topics_are_apart(self) -> None:
        sender, other = self.sender_and_listener()
        topics = ("/a", "/a/b", "/", "/A", "a")
        listeners = [other.join(each) for each in topics]
        for each in topics:
            sender.send(each, f"to {each}")
        until(lambda: all(each.messages for each in listeners))
        assert [each.messages for each in listeners] == [[f"to {each}"] for each in topics]

    def test_the_messages_of_one_sender_keep_their_order(self) -> None:
        sender, other = self.sender_and_listener()
        listener = other.join("/a")
        expected = [str(number) for number in range(200)]
        for each in expected:
            sender.send("/a", each)
        until(lambda: len(listener.heard) >= 200)
        assert listener.messages == expected

    def test_all_see_one_order_whoever_sends(self) -> None:
        first, second = self.sender_and_listener()
        listeners = [first.join("/a"), second.join("/a")]
        writers = [Writer(each, "/a", str(n), 100) for n, each in enumerate((first, second) * 2)]
        for writer in writers:
            writer.finish()
        until(lambda: all(len(each.heard) >= 400 for each in listeners))
        assert listeners[0].messages == listeners[1].messages
        for writer in writers:
            own = [each for each in listeners[0].messages if each in writer.sent]
            assert own == writer.sent

    def test_what_is_excluded_arrives_with_the_message(self) -> None:
        sender, other = self.sender_and_listener()
        listener, ids = other.join("/a"), frozenset(uuid4().hex for _ in range(3))
        sender.send("/a", "but not to those", exclude=ids)
        sender.send("/a", "to all")
        until(lambda: len(listener.heard) == 2)
        assert [each.excluded for each in listener.heard] == [ids, frozenset()]

    def test_messages_come_out_as_they_went_in(self) -> None:
        sender, other = self.sender_and_listener()
        listener, keep = other.join("/a", Keep(20)), Keep(20)
        for message, json in PAYLOADS:
            sender.send("/a", message, json=json, keep=keep)
        until(lambda: len(listener.heard) >= len(PAYLOADS))
        assert tuple((each.message, each.json) for each in listener.heard) == PAYLOADS
        kept = sender.backplane.history("/a")
        assert tuple((each.message, each.json) for each in kept) == PAYLOADS

    def test_a_topic_may_be_any_address(self) -> None:
        sender, other = self.sender_and_listener()
        listeners = [other.join(each, Keep(2)) for each in ODD_TOPICS]
        for number, topic in enumerate(ODD_TOPICS):
            sender.send(topic, str(number), keep=Keep(2))
        until(lambda: all(each.messages for each in listeners))
        for number, topic in enumerate(ODD_TOPICS):
            assert listeners[number].messages == [str(number)], topic
            assert texts(sender.backplane.history(topic)) == [str(number)], topic

    # Coming and going.

    def test_what_was_sent_before_a_join_is_not_heard(self) -> None:
        sender, other = self.sender_and_listener()
        sender.send("/a", "before")
        listener = other.join("/a")
        sender.send("/a", "after")
        until(lambda: listener.heard)
        assert listener.messages == ["after"]

    def test_when_a_join_has_returned_each_message_after_it_is_heard(self) -> None:
        sender, other = self.sender_and_listener()
        for number in range(50):
            topic = f"/{number}"
            listener = other.join(topic)
            sender.send(topic, "right away")
            until(lambda heard=listener.heard: heard)

    def test_who_leaves_and_joins_again_at_once_hears_each_message_once(self) -> None:
        sender, other = self.sender_and_listener()
        listener = other.join("/a")
        for number in range(30):
            other.leave(listener)
            listener = other.join("/a")
            sender.send("/a", str(number))
            until(lambda heard=listener.heard: heard)
            assert listener.messages == [str(number)]

    def test_one_that_leaves_takes_nothing_from_another(self) -> None:
        sender, other = self.sender_and_listener()
        first, second = other.join("/a"), other.join("/a")
        other.leave(first)
        sender.send("/a", "hello")
        until(lambda: second.messages == ["hello"])
        assert first.messages == []

    # A repeat of a send.

    def test_a_repeat_with_the_same_key_is_dropped(self) -> None:
        sender, other = self.sender_and_listener()
        listener = other.join("/a")
        for key in ("one", "one", "two", "one"):
            assert sender.send("/a", key, key=key) is None
        sender.send("/a", "end")
        until(lambda: "end" in listener.messages)
        assert listener.messages == ["one", "two", "end"]

    def test_a_repeat_returns_the_id_of_the_first(self) -> None:
        sender, other = self.sender_and_listener()
        first = sender.send("/a", "x", keep=Keep(5), key="k")
        assert first == other.send("/a", "x", keep=Keep(5), key="k")
        assert MessageId.parse(first) is not None
        assert [each.id for each in sender.backplane.history("/a")] == [first]

    def test_a_key_is_that_of_one_topic(self) -> None:
        process = self.process()
        listeners = [process.join("/a"), process.join("/b")]
        for topic in ("/a", "/b"):
            process.send(topic, "x", key="k")
        until(lambda: [each.messages for each in listeners] == [["x"], ["x"]])

    # What is kept.

    def test_nothing_is_kept_by_default(self) -> None:
        process = self.process()
        listener = process.join("/a")
        assert process.send("/a", "x") is process.send("/a", "y", keep=NOT_KEPT) is None
        until(lambda: len(listener.heard) == 2)
        assert [each.id for each in listener.heard] == [None, None]
        found = process.backplane.history("/a")
        assert (list(found), found.complete, found.position) == ([], True, None)

    def test_where_nothing_is_kept_coming_back_is_not_complete(self) -> None:
        process = self.process()
        for since in (LAST, an_id(1), "?"):
            assert state(process.backplane.history("/a", since)) == ([], False)
            assert state(process.join("/a", NOT_KEPT, since).history) == ([], False)

    def test_each_message_that_is_kept_has_an_id_and_says_when_it_was_sent(self) -> None:
        sender, other = self.sender_and_listener()
        listener = other.join("/a", Keep(5))
        ids = [sender.send("/a", each, keep=Keep(5)) for each in ("x", "y")]
        until(lambda: len(listener.heard) == 2)
        kept = sender.backplane.history("/a")
        assert [each.id for each in kept] == [each.id for each in listener.heard] == ids
        parsed = [MessageId.parse(each) for each in ids]
        assert [each.offset for each in parsed if each is not None] == [1, 2]
        assert 1_600_000_000 < kept[0].time <= kept[1].time

    def test_a_publisher_that_does_not_know_how_much_is_kept_has_it_kept(self) -> None:
        sender, other = self.sender_and_listener()
        other.join("/a", Keep(2))
        ids = [sender.send("/a", each) for each in "xyz"]
        assert all(ids)
        assert texts(sender.backplane.history("/a")) == ["y", "z"]

    def test_history_gives_the_newest_oldest_first(self) -> None:
        process, _ids = self.kept(5, Keep(10))
        assert texts(process.backplane.history("/a")) == ["1", "2", "3", "4", "5"]
        assert texts(process.backplane.history("/a", limit=2)) == ["4", "5"]

    def test_history_since_an_id_gives_the_first_after_it(self) -> None:
        process, ids = self.kept(5, Keep(10))
        history = process.backplane.history
        assert texts(history("/a", ids[1])) == ["3", "4", "5"]
        assert texts(history("/a", ids[1], 2)) == ["3", "4"]
        assert history("/a", ids[1], 2).complete
        assert state(history("/a", ids[4])) == ([], True)

    def test_history_since_last_gives_the_newest_one(self) -> None:
        process, _ids = self.kept(3, Keep(10))
        assert state(process.backplane.history("/a", LAST)) == (["3"], True)
        assert state(process.join("/a", Keep(10), LAST).history) == (["3"], True)

    def test_a_history_says_where_it_stands(self) -> None:
        process, ids = self.kept(3, Keep(10))
        history = process.backplane.history
        for found in (history("/a"), history("/a", ids[0], 1), history("/a", ids[2])):
            assert found.position == ids[2]
        assert history("/a", "unknown").position == ids[2]
        assert process.join("/a", Keep(10)).history.position == ids[2]

    def test_a_join_without_since_is_given_nothing_old(self) -> None:
        process, _ids = self.kept(3, Keep(10))
        assert state(process.join("/a", Keep(10)).history) == ([], True)

    def test_who_joined_before_the_first_message_misses_nothing(self) -> None:
        process = self.process()
        position = process.join("/a", Keep(10)).history.position
        assert position is not None
        assert state(process.join("/a", Keep(10), position).history) == ([], True)
        process.send("/a", "first", keep=Keep(10))
        assert state(process.join("/a", Keep(10), position).history) == (["first"], True)

    def test_as_many_as_are_kept_can_be_made_up_for_and_not_one_more(self) -> None:
        process, ids = self.kept(4, Keep(3))
        assert texts(process.backplane.history("/a")) == ["2", "3", "4"]
        assert state(process.join("/a", Keep(3), ids[0]).history) == (["2", "3", "4"], True)
        process.send("/a", "5", keep=Keep(3))
        assert state(process.join("/a", Keep(3), ids[0]).history) == ([], False)
        assert state(process.join("/a", Keep(3), ids[1]).history) == (["3", "4", "5"], True)

    def test_an_id_that_is_not_of_this_history_is_not_complete(self) -> None:
        process, ids = self.kept(3, Keep(10))
        for since in not_of(ids):
            assert state(process.backplane.history("/a", since)) == ([], False), since
            assert state(process.join("/a", Keep(10), since).history) == ([], False), since

    def test_the_id_of_another_topic_is_not_complete(self) -> None:
        process, ids = self.kept(3, Keep(10))
        process.send("/b", "x", keep=Keep(10))
        assert state(process.join("/b", Keep(10), ids[0]).history) == ([], False)

    def test_messages_are_kept_no_longer_than_their_time(self) -> None:
        keep = Keep(10, ttl=0.5)
        process, ids = self.kept(3, keep)
        until(lambda: not process.backplane.history("/a"))
        assert state(process.join("/a", keep, ids[0]).history) == ([], False)
        assert state(process.join("/a", keep, ids[2]).history) == ([], True)
        newer = process.send("/a", "4", keep=keep)
        assert offset(newer) == 4
        # Whether the one before it may still be told from another is the backplane's to say.
        found = state(process.join("/a", keep, ids[2]).history)
        assert found in ((["4"], True), ([], False))

    def test_a_history_that_is_turned_off_is_not_complete_when_it_is_on_again(self) -> None:
        process, ids = self.kept(3, Keep(10))
        assert process.send("/a", "in between", keep=NOT_KEPT) is None
        assert process.backplane.history("/a") == []
        process.send("/a", "4", keep=Keep(10))
        assert state(process.join("/a", Keep(10), ids[2]).history) == ([], False)

    def kept(self, count: int, keep: Keep) -> tuple[Process, list[str]]:
        """A process that has sent ``"1"``, ``"2"`` and so on to ``/a``, and their ids."""
        process = self.process()
        sent = [process.send("/a", str(number + 1), keep=keep) for number in range(count)]
        return process, [each for each in sent if each is not None]

    # Coming back while others send.

    def test_coming_back_has_no_gap_and_no_repeat_while_others_send(self) -> None:
        sender, other = self.sender_and_listener()
        self.come_back(sender, other, 20)

    def test_nor_has_it_where_somebody_listens_already(self) -> None:
        sender, other = self.sender_and_listener()
        other.join("/a", Keep(50_000))
        self.come_back(sender, other, 20)

    def come_back(self, sender: Process, other: Process, rounds: int) -> None:
        """Join, listen, leave and come back, again and again; at the end all must be there."""
        keep, got = Keep(50_000), []
        since = start_of(other, "/a", keep)
        writer = Writer(sender, "/a", "", 40_000, keep)
        try:
            for _ in range(rounds):
                listener = other.join("/a", keep, since)
                assert listener.history.complete
                until(lambda heard=listener.heard: len(heard) >= 3)
                other.leave(listener)
                got += heard_by(listener)
                since = got[-1][1]
        finally:
            writer.finish(now=True)
        assert [message for message, _id in got] == writer.sent[: len(got)]
        assert len({id for _message, id in got}) == len(got)

    # Who is here.

    def test_nobody_is_here_at_first(self) -> None:
        process = self.process()
        assert process.backplane.presence("/a") == {}
        assert process.backplane.listener_count("/a") == 0

    def test_who_is_here_is_told_with_how_many_sockets(self) -> None:
        first, second = self.sender_and_listener()
        for process, who in ((first, "ann"), (second, "ann"), (second, "bob"), (first, None)):
            process.join("/a", who=who)
        for process in (first, second):
            until(lambda of=process.backplane.presence: of("/a") == {"ann": 2, "bob": 1})
            until(lambda of=process.backplane.listener_count: of("/a") == 4)
        assert first.backplane.presence("/b") == {}

    def test_who_leaves_is_here_no_more(self) -> None:
        first, second = self.sender_and_listener()
        mine, yours = first.join("/a", who="ann"), second.join("/a", who="ann")
        until(lambda: first.backplane.presence("/a") == {"ann": 2})
        first.leave(mine)
        until(lambda: first.backplane.presence("/a") == {"ann": 1})
        second.leave(yours)
        until(lambda: first.backplane.presence("/a") == {})
        until(lambda: second.backplane.listener_count("/a") == 0)

    def test_a_number_and_its_digits_are_two_names(self) -> None:
        first, second = self.sender_and_listener()
        for who in (1, "1", "ünï {}:/ 🛰", -5):
            first.join("/a", who=who)
        expected = {1: 1, "1": 1, "ünï {}:/ 🛰": 1, -5: 1}
        until(lambda: second.backplane.presence("/a") == expected)

    def test_the_first_and_the_last_socket_of_somebody_are_told_alone(self) -> None:
        first, second = self.sender_and_listener()
        listeners = [(first, first.join("/a", who="ann"))]
        self.told(first, second, "came", "ann")
        listeners += [(second, second.join("/a", who="ann")), (first, first.join("/a", who="ann"))]
        first.join("/a", who="fence")
        self.told(first, second, "came", "fence")
        for process, listener in listeners:
            assert self.ids(first, second, "went", "ann") == set()
            process.leave(listener)
        self.told(first, second, "went", "ann")
        assert len(self.ids(first, second, "came", "ann")) == 1
        assert len(self.ids(first, second, "went", "ann")) == 1

    def test_somebody_who_comes_again_is_told_anew(self) -> None:
        first, second = self.sender_and_listener()
        for count in (1, 2):
            listener = first.join("/a", who="ann")
            until(lambda n=count: len(self.ids(first, second, "came", "ann")) == n)
            first.leave(listener)
            until(lambda n=count: len(self.ids(first, second, "went", "ann")) == n)

    def told(self, first: Process, second: Process, what: str, who: str) -> None:
        """Wait until one of both has been told of ``who``."""
        until(lambda: self.ids(first, second, what, who))

    def ids(self, first: Process, second: Process, what: str, who: str) -> set[str]:
        """The ids of what both were told of ``who``: a repeat has the same one."""
        lists = [
            each.receiver.arrivals if what == "came" else each.receiver.departures
            for each in (first, second)
        ]
        return {id for told in lists for topic, name, id in list(told) if name == who}

    # Others on the same server, and the end.

    def test_two_namespaces_do_not_hear_each_other(self) -> None:
        stranger = self.process(self.make_stranger)
        process = self.process()
        theirs, ours = stranger.join("/a", Keep(5), who="eve"), process.join("/a", Keep(5))
        process.send("/a", "ours", keep=Keep(5), key="k")
        stranger.send("/a", "theirs", keep=Keep(5), key="k")
        until(lambda: ours.heard and theirs.heard)
        assert (ours.messages, theirs.messages) == (["ours"], ["theirs"])
        assert texts(process.backplane.history("/a")) == ["ours"]
        until(lambda: stranger.backplane.presence("/a") == {"eve": 1})
        assert process.backplane.presence("/a") == {}
        assert process.backplane.listener_count("/a") == 1

    def test_who_listened_in_a_process_that_ends_is_gone(self) -> None:
        process, ending = self.two()
        ending.join("/a", who="ann")
        until(lambda: process.backplane.presence("/a") == {"ann": 1})
        ending.backplane.close()
        until(lambda: process.backplane.presence("/a") == {})
        until(lambda: process.backplane.listener_count("/a") == 0)

    def test_a_process_that_ends_takes_nothing_from_the_others(self) -> None:
        process, ending = self.two()
        listener, gone = process.join("/a"), ending.join("/a")
        ending.backplane.close()
        process.send("/a", "hello")
        until(lambda: listener.messages == ["hello"])
        assert gone.messages == []

    def test_closing_lets_go_of_every_thread_and_twice_is_once(self) -> None:
        process = self.process()
        before = set(threading.enumerate())
        closing = self.process()
        closing.join("/a", Keep(5), who="ann")
        closing.send("/a", "x", keep=Keep(5))
        closing.backplane.close()
        closing.backplane.close()
        closing.receiver.stop()
        until(lambda: not set(threading.enumerate()) - before)
        assert process.backplane.history("/b") == []


class Writer:
    """Sends from a thread of its own: ``prefix`` and a number, ``count`` times."""

    def __init__(
        self, process: Process, topic: str, prefix: str, count: int, keep: Keep | None = None
    ) -> None:
        self.sent: list[str] = []
        self._process, self._topic, self._keep = process, topic, keep
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(prefix, count), daemon=True)
        self._thread.start()

    def _run(self, prefix: str, count: int) -> None:
        try:
            for number in range(count):
                if self._stop.is_set():
                    return
                message = f"{prefix}:{number}"
                self.sent.append(message)
                self._process.send(self._topic, message, keep=self._keep)
        except BaseException as error:
            self._error = error

    def finish(self, now: bool = False) -> None:
        """Wait for its end; ``now``: however much it has sent. Raises what it failed with."""
        if now:
            self._stop.set()
        until(lambda: not self._thread.is_alive())
        if self._error is not None:
            raise self._error


def texts(history: History) -> list[str | bytes]:
    """What was sent."""
    return [each.message for each in history]


def state(history: History) -> tuple[list[str | bytes], bool]:
    """What was sent, and whether that is all."""
    return texts(history), history.complete


def heard_by(listener: Listener) -> list[tuple[str | bytes, str | None]]:
    """What it was given and what it has heard, with the ids."""
    given = [(each.message, each.id) for each in listener.history]
    return given + [(each.message, each.id) for each in listener.heard]


def start_of(process: Process, topic: Hashable, keep: Keep) -> str | None:
    """The place before the first message."""
    listener = process.join(topic, keep)
    process.leave(listener)
    return listener.history.position


def an_id(offset: int) -> str:
    """An id of no history."""
    return str(MessageId("0123456789ab", offset, "ba9876543210"))


def offset(id: str | None) -> int | None:
    """The offset in ``id``."""
    found = MessageId.parse(id)
    return found.offset if found is not None else None


def not_of(ids: list[str]) -> list[str]:
    """Ids that are nearly those of a history, and strings that are no ids at all."""
    epoch, offset, tag = MessageId.parse(ids[1]) or ("", 0, "")
    other = "0" * 12 if tag != "0" * 12 else "1" * 12
    return [
        an_id(2),
        str(MessageId(other, offset, tag)),
        str(MessageId(epoch, offset, other)),
        str(MessageId(epoch, offset + 1, tag)),
        str(MessageId(epoch, len(ids), other)),
        str(MessageId(epoch, len(ids) + 1, tag)),
        str(MessageId(epoch, 9_999_999_999_999_999, tag)),
        ids[1].upper() if ids[1].upper() != ids[1] else ids[1] + " ",
        ids[1] + "\n",
        f"{epoch}--1-{tag}",
        f"{epoch}-1e0-{tag}",
        ids[1].replace("-", ":"),
        "",
        "LAST",
        "*",
        "\x00",
        "ü" * 3000,
    ]
