"""The part of the suite on what is kept, and on those who come back for it."""

from __future__ import annotations

from collections.abc import Hashable

from stargate.backplane.contract.making import Making
from stargate.backplane.contract.process import Listener, Process, Writer, state, texts, until
from stargate.history import LAST, NOT_KEPT, Keep, MessageId


class Keeping(Making):
    """What is kept."""

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
                until(listener.has(3))
                other.leave(listener)
                got += heard_by(listener)
                since = got[-1][1]
        finally:
            writer.finish(now=True)
        assert [message for message, _id in got] == writer.sent[: len(got)]
        assert len({id for _message, id in got}) == len(got)


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
