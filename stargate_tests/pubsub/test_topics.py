import gc

from stargate.pubsub.topics import Listeners, Topics
from stargate.stats import Counters
from stargate_tests.peers import DummyListener


def joined(topics, address, count):
    listeners = [DummyListener() for _ in range(count)]
    for listener in listeners:
        topics.join(listener, address)
    return listeners


def test_nobody_listens_at_an_address_that_nobody_joined():
    assert len(Topics(Counters()).listeners("/a")) == 0


def test_listeners_come_in_the_order_they_joined():
    topics = Topics(Counters())
    assert joined(topics, "/a", 5) == list(topics.listeners("/a"))


def test_joining_twice_is_once():
    topics, listener = Topics(Counters()), DummyListener()
    topics.join(listener, "/a")
    topics.join(listener, "/a")
    assert list(topics.listeners("/a")) == [listener]
    assert len(listener._topics) == 1


def test_after_joining_twice_one_leave_is_enough():
    topics, listener = Topics(Counters()), DummyListener()
    topics.join(listener, "/a")
    topics.join(listener, "/a")
    topics.leave(listener, "/a")
    assert not topics.listeners("/a")


def test_addresses_are_apart():
    topics = Topics(Counters())
    (here,) = joined(topics, "/a", 1)
    (there,) = joined(topics, "/b", 1)
    assert list(topics.listeners("/a")) == [here]
    assert list(topics.listeners("/b")) == [there]


def test_leaving_without_having_joined_does_nothing():
    topics, stranger = Topics(Counters()), DummyListener()
    members = joined(topics, "/a", 2)
    topics.leave(stranger, "/a")
    topics.leave(stranger, "/nowhere")
    assert list(topics.listeners("/a")) == members


def test_leaving_one_address_keeps_the_others():
    topics, listener = Topics(Counters()), DummyListener()
    topics.join(listener, "/a")
    topics.join(listener, "/b")
    topics.leave(listener, "/a")
    assert not topics.listeners("/a")
    assert listener in topics.listeners("/b")
    assert len(listener._topics) == 1


def test_leaving_and_joining_again_puts_one_at_the_end():
    topics = Topics(Counters())
    first, second = joined(topics, "/a", 2)
    topics.leave(first, "/a")
    topics.join(first, "/a")
    assert list(topics.listeners("/a")) == [second, first]


def test_the_last_to_leave_takes_the_topic_along():
    topics = Topics(Counters())
    first, second = joined(topics, "/a", 2)
    topics.leave(first, "/a")
    assert len(topics) == 1
    topics.leave(second, "/a")
    assert len(topics) == 0


def test_a_topic_discards_as_a_connection_does_at_its_end():
    topics, listener = Topics(Counters()), DummyListener()
    topics.join(listener, "/a")
    (topic,) = listener._topics
    topic.discard(listener)
    topic.discard(listener)
    assert len(topics) == 0


def test_a_snapshot_does_not_see_who_joins_afterwards():
    topics = Topics(Counters())
    members = joined(topics, "/a", 2)
    snapshot = topics.listeners("/a")
    joined(topics, "/a", 1)
    assert list(snapshot) == members
    assert len(topics.listeners("/a")) == 3


def test_a_snapshot_does_not_see_who_leaves_afterwards():
    topics = Topics(Counters())
    members = joined(topics, "/a", 2)
    snapshot = topics.listeners("/a")
    topics.leave(members[0], "/a")
    assert list(snapshot) == members
    assert list(topics.listeners("/a")) == members[1:]


def test_a_snapshot_can_be_walked_while_listeners_join_and_leave():
    topics = Topics(Counters())
    members = joined(topics, "/a", 5)
    seen = []
    for listener in topics.listeners("/a"):
        seen.append(listener)
        topics.leave(listener, "/a")
        joined(topics, "/a", 1)
    assert seen == members


def test_the_snapshot_is_the_same_as_long_as_nobody_comes_or_goes():
    topics = Topics(Counters())
    joined(topics, "/a", 2)
    snapshot = topics.listeners("/a")
    assert topics.listeners("/a") is snapshot
    joined(topics, "/a", 1)
    assert topics.listeners("/a") is not snapshot


def test_nothing_is_copied_while_no_snapshot_is_in_use():
    topics = Topics(Counters())
    joined(topics, "/a", 2)
    members = topics.listeners("/a").members
    gc.collect()
    joined(topics, "/a", 1)
    assert topics.listeners("/a").members is members


def test_a_snapshot_says_whether_somebody_is_among_them():
    topics, stranger = Topics(Counters()), DummyListener()
    (member,) = joined(topics, "/a", 1)
    assert member in topics.listeners("/a")
    assert stranger not in topics.listeners("/a")


def test_a_snapshot_is_shown_with_its_number():
    assert repr(Listeners({DummyListener(): None})) == "<1 listener(s)>"


class DummyBackplane:
    """Writes down what it is told, and how many listened then."""

    def __init__(self, topics):
        self._topics = topics
        self.told = []

    def enter(self, topic, who):
        self.told.append(("enter", topic, who, len(self._topics.listeners(topic))))

    def leave(self, topic, who):
        self.told.append(("leave", topic, who, len(self._topics.listeners(topic))))

    def unsubscribe(self, topic):
        self.told.append(("unsubscribe", topic, len(self._topics.listeners(topic))))


def told():
    topics = Topics(Counters())
    topics.backplane = DummyBackplane(topics)
    return topics, topics.backplane.told


def test_the_backplane_is_told_of_each_who_comes_and_goes_and_of_the_last():
    topics, heard = told()
    first, second = DummyListener(), DummyListener()
    topics.join(first, "/a", who="ann")
    topics.join(second, "/a")
    topics.leave(first, "/a")
    topics.leave(second, "/a")
    assert heard == [
        ("enter", "/a", "ann", 1),
        ("enter", "/a", None, 2),
        ("leave", "/a", "ann", 1),
        ("leave", "/a", None, 0),
        ("unsubscribe", "/a", 0),
    ]


def test_the_backplane_is_told_once_of_who_joins_twice_or_was_never_there():
    topics, heard = told()
    listener = DummyListener()
    topics.leave(listener, "/a")
    topics.join(listener, "/a", who="ann")
    topics.join(listener, "/a", who="bob")
    topics.leave(DummyListener(), "/a")
    topics.leave(listener, "/a")
    topics.leave(listener, "/a")
    assert [each[:3] for each in heard] == [
        ("enter", "/a", "ann"), ("leave", "/a", "ann"), ("unsubscribe", "/a", 0),
    ]  # fmt: skip


def test_the_backplane_is_told_once_of_one_that_is_discarded_twice():
    topics, heard = told()
    listener = DummyListener()
    topics.join(listener, "/a", who=1)
    (topic,) = listener._topics
    topic.discard(listener)
    topic.discard(listener)
    assert [each[0] for each in heard] == ["enter", "leave", "unsubscribe"]


def test_one_that_takes_another_form_than_plain_frames_is_seen_as_long_as_it_is_there():
    topics = Topics(Counters())
    plain, other = DummyListener(), DummyListener(15)
    topics.join(plain, "/a")
    assert topics.listeners("/a").plain
    topics.join(other, "/a")
    assert not topics.listeners("/a").plain
    topics.leave(other, "/a")
    assert topics.listeners("/a").plain
