"""A Redis Cluster: three shards, slots that move, a shard that fails over, maps that are wrong."""

import threading
from contextlib import ExitStack

import pytest

from stargate.backplane.contract.process import Writer, state, texts
from stargate.backplane.redis import links
from stargate.backplane.redis.cluster import slot_map
from stargate.backplane.redis.kinds import commands_to
from stargate.backplane.redis.publisher import Publisher
from stargate.exceptions import BackplaneError
from stargate.history import Keep
from stargate_tests.backplane.redis.processes import process
from stargate_tests.redis_groups import Cluster, ClusterNode
from stargate_tests.redis_servers import free_port
from stargate_tests.waiting import wait_until

KEEP = Keep(1000)


@pytest.fixture
def start(redis_cluster, namespace):
    """``start(**settings)``: a process on the Cluster of all tests."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            process(redis_cluster.url, namespace, **settings)
        )


@pytest.fixture
def publisher(redis_cluster, namespace):
    """What publishes, and nothing more."""
    found = Publisher(commands_to(redis_cluster.url, 2.0), namespace)
    yield found
    found.close()


@pytest.fixture
def topics(redis_cluster, publisher):
    """A topic for each shard."""
    found = {}
    for number in range(100):
        topic = f"/{number}"
        found.setdefault(redis_cluster.node_of(publisher.keys(topic).channel), topic)
    assert len(found) == 3
    return list(found.values())


@pytest.fixture
def moving(redis_cluster, publisher, topics):
    """The slot of the first topic, who has it, and whom it is moved to; undone behind the test."""
    slot = redis_cluster.slot(publisher.keys(topics[0]).channel)
    source = redis_cluster.node_of(slot)
    target = next(node for node in redis_cluster.nodes if node is not source)
    yield slot, source, target
    if redis_cluster.node_of(slot) is target:
        for node in redis_cluster.nodes:
            node.ask("CLUSTER", "SETSLOT", slot, "STABLE")
        redis_cluster.move_slot(slot, target, source)


def elsewhere(redis_cluster, key):
    """The place of a node that does not have ``key``."""
    owner = redis_cluster.node_of(key)
    return "127.0.0.1", next(node.port for node in redis_cluster.nodes if node is not owner)


# Three shards.


def test_every_shard_carries_its_messages_on_a_connection_of_its_own(start, topics):
    sender, other = start(), start()
    listeners = [other.join(topic) for topic in topics]
    for topic in topics:
        sender.send(topic, f"to {topic}")
    wait_until(lambda: all(each.messages for each in listeners))
    assert [each.messages for each in listeners] == [[f"to {topic}"] for topic in topics]
    assert len(other.backplane._links._links) == 3


def test_every_shard_keeps_its_histories(start, topics):
    sender, other = start(), start()
    ids = [sender.send(topic, "1", keep=KEEP) for topic in topics]
    for topic in topics:
        sender.send(topic, "2", keep=KEEP)
    for topic, id in zip(topics, ids, strict=True):
        assert texts(other.backplane.history(topic)) == ["1", "2"]
        assert state(other.join(topic, KEEP, id).history) == (["2"], True)


def test_many_addresses_are_touched_in_one_go_whichever_shard_they_are_on(publisher, topics):
    ids = [publisher.publish(topic, "t", b"x", keep=KEEP) for topic in topics]
    again = [(topic, KEEP) for topic in topics * 50]
    assert [str(each) for each in publisher.touch_all(again)] == ids * 50


def test_who_sends_gets_to_know_how_many_listen_whichever_shard_it_is_on(start, publisher, topics):
    processes = [start(), start()]
    for topic in topics:
        assert publisher.send(topic, "t", b"x", keep=KEEP).processes == 0
        for count, each in enumerate(processes, 1):
            each.join(topic, KEEP)
            assert publisher.send(topic, "t", b"x").processes == count


# A slot that moves.


def test_a_slot_moves_and_no_message_that_is_kept_is_lost_or_comes_twice(
    redis_cluster, start, topics, moving
):
    sender, other = start(), start()
    listeners = [other.join(topic, KEEP) for topic in topics]
    writers = [Writer(sender, topic, topic, 1000, KEEP) for topic in topics]
    wait_until(lambda: all(each.heard for each in listeners))
    redis_cluster.move_slot(*moving)
    count = len(listeners[0].heard)
    wait_until(lambda: len(listeners[0].heard) > count + 20)
    for writer in writers:
        writer.finish(now=True)
    wait_until(
        lambda: all(len(a.heard) == len(b.sent) for a, b in zip(listeners, writers, strict=True))
    )
    for listener, writer in zip(listeners, writers, strict=True):
        assert listener.messages == writer.sent
    assert other.receiver.interruptions == []
    assert other.backplane._counters.resubscribed >= 1


def test_a_slot_moves_and_those_without_history_are_told(
    redis_cluster, start, topics, moving, monkeypatch
):
    monkeypatch.setattr(links, "LOOK", 1000)  # The node says so.
    sender, other = start(), start()
    listeners = [other.join(topic) for topic in topics]
    redis_cluster.move_slot(*moving)
    wait_until(lambda: other.receiver.interruptions)
    assert other.receiver.interruptions == [(topics[0], False, None)]
    for topic in topics:
        sender.send(topic, "after")
    wait_until(lambda: all(each.messages == ["after"] for each in listeners))


def test_while_a_slot_moves_a_send_is_not_sent_or_waits(redis_cluster, start, topics, moving):
    sender, other = start(backplane_timeout=0.3), start()
    listener = other.join(topics[0], KEEP)
    sender.send(topics[0], "before", keep=KEEP)
    redis_cluster.begin_move(*moving)
    with pytest.raises(BackplaneError) as caught:
        sender.send(topics[0], "never", keep=KEEP)
    assert caught.value.outcome == "not sent"
    writer = Writer(other, topics[0], "during", 1, KEEP)
    redis_cluster.move_keys(*moving)
    redis_cluster.end_move(*moving)
    writer.finish()
    wait_until(lambda: len(listener.heard) == 2)
    assert listener.messages == ["before", "during:0"]
    assert texts(other.backplane.history(topics[0])) == ["before", "during:0"]


def test_what_has_moved_and_is_not_yet_owned_is_asked_for_where_it_is(
    redis_cluster, publisher, topics, moving
):
    topic = topics[0]
    id = publisher.publish(topic, "t", b"x", keep=KEEP)
    publisher.commands.command(publisher.keys(topic).channel, "DEL", *once(publisher, moving[1]))
    redis_cluster.begin_move(*moving)
    redis_cluster.move_keys(*moving)
    moving[2].ask("SCRIPT", "FLUSH")
    assert [each.id for each in publisher.history(topic)] == [id]
    assert redis_cluster.node_of(moving[0]) is moving[1]
    redis_cluster.end_move(*moving)


def once(publisher, node):
    return [each for each in node.ask("KEYS", f"*{publisher.namespace}*") if ":once:" in each]


# A wrong map.


def test_a_command_goes_where_a_node_says_that_it_belongs(redis_cluster, publisher, topics):
    commands = publisher.commands
    channel = publisher.keys(topics[0]).channel
    slot = redis_cluster.slot(channel)
    right = commands.where(channel)
    commands._stale = False
    commands.learn(slot, elsewhere(redis_cluster, channel))
    commands._stale = False
    assert commands.where(channel) != right
    publisher.publish(topics[0], "t", b"x", keep=KEEP)
    assert len(publisher.history(topics[0])) == 1
    assert commands.where(channel) == right


def test_where_a_node_is_out_of_reach_the_map_is_read_again(redis_cluster, publisher, topics):
    commands = publisher.commands
    channel = publisher.keys(topics[0]).channel
    commands.where(channel)
    commands.learn(redis_cluster.slot(channel), ("127.0.0.1", free_port()))
    commands._stale = False
    assert publisher.publish(topics[0], "t", b"x", keep=KEEP)
    assert commands.where(channel)[1] == redis_cluster.node_of(channel).port


def test_several_go_where_they_belong_though_the_map_was_wrong(redis_cluster, publisher, topics):
    commands, all_keys = publisher.commands, [publisher.keys(topic) for topic in topics]
    commands.where(all_keys[0].channel)
    for keys in all_keys:
        wrong = elsewhere(redis_cluster, keys.channel)
        commands._told[redis_cluster.slot(keys.channel)] = (wrong, 0.0)
    commands._stale = False
    assert None not in publisher.touch_all([(topic, KEEP) for topic in topics])


def test_several_are_done_though_one_node_is_out_of_reach(redis_cluster, publisher, topics):
    commands = publisher.commands
    channel = publisher.keys(topics[1]).channel
    commands.where(channel)
    commands.learn(redis_cluster.slot(channel), ("127.0.0.1", free_port()))
    commands._stale = False
    first, second, third = publisher.touch_all([(topic, KEEP) for topic in topics])
    assert second is None
    assert None not in (first, third)


def test_a_listener_joins_though_the_map_was_wrong(redis_cluster, start, topics, monkeypatch):
    process = start()
    commands = process.backplane.commands
    channel = process.backplane.publisher.keys(topics[0]).channel
    commands.where(channel)
    commands.learn(redis_cluster.slot(channel), elsewhere(redis_cluster, channel))
    commands._stale = False
    # As where the others have not heard of it yet.
    monkeypatch.setattr(commands, "_refresh", lambda *_: None)
    listener = process.join(topics[0])
    process.send(topics[0], "hello")
    wait_until(lambda: listener.messages == ["hello"])
    assert process.receiver.interruptions == []


def test_a_join_and_a_leave_while_nobody_has_the_channel(redis_cluster, start, topics, moving):
    process = start()
    first, second = process.join(topics[0]), process.join(topics[1])
    process.leave(first)
    redis_cluster.move_slot(*moving)
    again = process.join(topics[0])
    process.send(topics[0], "hello")
    process.send(topics[1], "hello")
    wait_until(lambda: again.messages == second.messages == ["hello"])


# A node that is gone.


def test_without_any_node_nothing_is_sent(namespace):
    url = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}"
    with process(url, namespace, backplane_timeout=0.5) as alone:
        with pytest.raises(BackplaneError, match="refused.*refused") as caught:
            alone.send("/a", "never")
        assert (caught.value.outcome, caught.value.key is None) == ("not sent", False)
        with pytest.raises(BackplaneError):
            alone.join("/a")


def test_a_slot_that_no_node_has_is_an_error(redis_path, namespace):
    with ClusterNode(cluster_require_full_coverage="no") as node:
        url = f"redis+cluster://127.0.0.1:{node.port}"
        with process(url, namespace, backplane_timeout=0.2) as alone:
            with pytest.raises(BackplaneError, match="no node has slot") as caught:
                alone.send("/a", "never")
            assert caught.value.outcome == "not sent"
            with pytest.raises(BackplaneError, match="no node has slot"):
                alone.join("/a")


def test_a_shard_fails_over_and_its_listeners_follow(redis_path, namespace):
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster())
        sender = stack.enter_context(process(cluster.url, namespace))
        other = stack.enter_context(process(cluster.url, namespace))
        listeners = [other.join(f"/{n}", KEEP) for n in range(12)]
        without = [other.join(f"/without/{n}") for n in range(12)]
        replica = stack.enter_context(replica_in(cluster))
        for n in range(12):
            sender.send(f"/{n}", "before", keep=KEEP)
        wait_until(lambda: all(each.heard for each in listeners))
        wait_until(lambda: in_step(cluster.nodes[0], replica))
        cluster.nodes[0].kill()
        for n in range(12):
            send_until_sent(sender, f"/{n}", "after", KEEP)
            send_until_sent(sender, f"/without/{n}", "after", None)
        wait_until(lambda: all(each.messages == ["before", "after"] for each in listeners))
        wait_until(lambda: all(each.heard or each.topic in told_at(other) for each in without))
        told = told_at(other)
        assert not told & {each.topic for each in listeners}
        assert 0 < len(told) < 12


def told_at(process):
    """The topics at which something may have been missed."""
    return {topic for topic, _complete, _position in process.receiver.interruptions}


def replica_in(cluster):
    """A replica of the first node."""
    primary = cluster.nodes[0]
    found = ClusterNode()
    try:
        primary.ask("CLUSTER", "MEET", "127.0.0.1", found.port, found.bus)
        wait_until(lambda: primary.id in found.ask("CLUSTER", "NODES"))
        wait_until(lambda: "cluster_state:ok" in found.ask("CLUSTER", "INFO"))
        found.ask("CONFIG", "SET", "masterauth", primary._secret)
        found.ask("CLUSTER", "REPLICATE", primary.id)
        wait_until(lambda: found.info("replication").get("master_link_status") == "up")
        wait_until(lambda: all(found.id in node.ask("CLUSTER", "NODES") for node in cluster.nodes))
    except BaseException:
        found.close()
        raise
    return found


def in_step(primary, replica):
    top = int(primary.info("replication")["master_repl_offset"])
    return int(replica.info("replication")["slave_repl_offset"]) >= top


def send_until_sent(sender, topic, message, keep):
    """Send it, once in the end: with the key that the failure gives."""
    key = None
    for _ in range(20):
        try:
            return sender.send(topic, message, keep=keep, key=key)
        except BackplaneError as error:
            key = error.key
    raise AssertionError("not sent")


# What a node says.


def test_a_map_says_who_has_a_slot():
    reply = [
        [200, 300, [b"two", 2, b"id", []]],
        [0, 99, [b"", 1, b"id"], [b"replica", 4, b"id"]],
        [100, 100, [None, 3, b"id", []]],
        [301, 301, [b"?", 3, b"id", []]],
    ]
    found = slot_map(reply, ("asked", 9))
    assert found.owner(0) == found.owner(99) == ("asked", 1)
    assert found.owner(100) == found.owner(301) == ("asked", 3)
    assert found.owner(200) == found.owner(300) == ("two", 2)
    assert found.owner(101) is found.owner(302) is None
    assert found.nodes == [("asked", 1), ("replica", 4), ("asked", 3), ("two", 2)]


def test_closing_ends_the_threads(start, topics):
    before = set(threading.enumerate())
    process = start()
    for topic in topics:
        process.join(topic)
    process.end()
    wait_until(lambda: not set(threading.enumerate()) - before)


def test_an_error_of_the_script_is_final(publisher, topics):
    commands = publisher.commands
    key = publisher.keys(topics[0]).meta
    commands.command(key, "SET", key, "no hash")
    with pytest.raises(BackplaneError, match="WRONGTYPE") as caught:
        publisher.publish(topics[0], "t", b"x", keep=KEEP)
    assert caught.value.outcome == "not sent"
