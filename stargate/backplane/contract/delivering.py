"""The part of the suite on who gets what and in which order, and on joining and leaving."""

from __future__ import annotations

from uuid import uuid4

from stargate.backplane.contract.making import Making
from stargate.backplane.contract.process import Writer, texts, until
from stargate.history import Keep, MessageId

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


class Delivering(Making):
    """Who gets what."""

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
            until(listener.has(1))

    def test_who_leaves_and_joins_again_at_once_hears_each_message_once(self) -> None:
        sender, other = self.sender_and_listener()
        listener = other.join("/a")
        for number in range(30):
            other.leave(listener)
            listener = other.join("/a")
            sender.send("/a", str(number))
            until(listener.has(1))
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
