import threading
from contextlib import ExitStack

import pytest

from stargate.backplane.contract.process import Writer, state, texts, until
from stargate.backplane.redis import backplane as module
from stargate.backplane.redis import upkeep
from stargate.engine.peerlog import peerlog
from stargate.exceptions import BackplaneError
from stargate.history import LAST, NO_TAG, Keep, MessageId
from stargate.message.message import Message
from stargate_tests.backplane.redis.processes import process as a_process
from stargate_tests.redis_relay import DOWN, UP

KEEP = Keep(1000)


@pytest.fixture
def processes(namespace):
    """``processes(url, ...)``: a process of one namespace; ended after the test."""
    with ExitStack() as stack:
        yield lambda url, **settings: stack.enter_context(a_process(url, namespace, **settings))


def counted(process, name):
    return getattr(process.backplane._counters, name)


def subscribed(server):
    return len(server.ask("PUBSUB", "CHANNELS", "stargate:{test-*"))


def raw(process, topic, payload):
    """Publish what no process of ours would."""
    channel = process.backplane.publisher.keys(topic).channel
    process.backplane.commands.command(channel, "PUBLISH", channel, payload)


# Joining.


def test_many_join_one_address_at_once(redis_server, processes):
    process = processes(redis_server.url)
    listeners = []
    threads = [
        threading.Thread(target=lambda: listeners.append(process.join("/a", KEEP)))
        for _ in range(10)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    process.send("/a", "x", keep=KEEP)
    until(lambda: all(each.messages == ["x"] for each in listeners))
    assert len(process.receiver.delivered) == 1


def test_who_comes_back_while_others_never_stop_gets_each_message_once(redis_server, processes):
    sender, other = processes(redis_server.url), processes(redis_server.url)
    keep = Keep(100_000)
    writers = [Writer(sender, "/a", str(number), 20_000, keep) for number in range(2)]
    steady = other.join("/a", keep)
    start = steady.history.position
    got, since = [], start
    for number in range(40):
        listener = other.join("/a", keep, LAST if number == 20 else since)
        if number == 20:
            assert len(listener.history) == 1 and listener.history.complete
            other.leave(listener)
            continue
        assert listener.history.complete
        until(listener.has(2))
        other.leave(listener)
        got += [each.id for each in listener.history] + [each.id for each in listener.heard]
        since = got[-1]
    for writer in writers:
        writer.finish(now=True)
    until(lambda: len(steady.heard) >= len(got))
    assert got == [each.id for each in steady.heard][: len(got)]


def test_an_address_is_kept_for_a_while_when_nobody_listens(redis_server, processes, monkeypatch):
    monkeypatch.setattr(module, "LINGER", 0.5)
    monkeypatch.setattr(upkeep, "TICK", 0.1)
    process = processes(redis_server.url)
    before = subscribed(redis_server)
    listener = process.join("/a")
    process.leave(listener)
    again = process.join("/a")
    assert subscribed(redis_server) == before + 1
    process.leave(again)
    until(lambda: subscribed(redis_server) == before)
    process.send("/a", "nobody")
    last = process.join("/a")
    process.send("/a", "somebody")
    until(lambda: last.messages == ["somebody"])


def test_who_listens_is_not_let_go_of(redis_server, processes, monkeypatch):
    monkeypatch.setattr(module, "LINGER", 0.0)
    monkeypatch.setattr(upkeep, "TICK", 0.05)
    process = processes(redis_server.url)
    listener = process.join("/a")
    subscription = process.backplane._topics["/a"]
    until(lambda: subscription.idle is None)
    process.send("/a", "x")
    until(lambda: listener.messages == ["x"])


def test_a_join_that_fails_attaches_nothing_and_leaves_nothing(
    redis_server, relay, processes, monkeypatch
):
    monkeypatch.setattr(module, "LINGER", 0.0)
    monkeypatch.setattr(upkeep, "TICK", 0.05)
    between = relay(redis_server)
    between.refuse()
    process = processes(between.url, backplane_timeout=0.2)
    with pytest.raises(BackplaneError, match="no subscription within 0.2 s") as caught:
        process.join("/a", KEEP)
    assert caught.value.outcome == "not sent"
    assert process.receiver.listener_count("/a") == 0
    until(lambda: not process.backplane._topics)


def test_a_join_when_only_the_reading_fails_attaches_nothing(redis_server, relay, processes):
    between = relay(redis_server)
    process = processes(between.url, backplane_timeout=0.3)
    listener = process.join("/a")
    until(lambda: process.backplane._topics["/a"].feed.flows)
    process.backplane.commands.close()
    between.refuse()
    with pytest.raises(BackplaneError):
        process.join("/a", KEEP)
    between.accept()
    until(lambda: process.backplane._topics["/a"].feed.flows)
    process.backplane.commands._pools.clear()
    process.send("/a", "x")
    until(lambda: listener.messages == ["x"])


def test_a_join_that_the_redis_answers_with_an_error_casts_no_doubt_on_it(redis_server, processes):
    process = processes(redis_server.url)
    listener = process.join("/b")
    redis_server.ask("SET", process.backplane.publisher.keys("/a").meta, "no hash")
    with pytest.raises(BackplaneError, match="WRONGTYPE"):
        process.join("/a", KEEP)
    [channel] = [each for each in process.backplane._links._channels if each.endswith(b"/b}")]
    assert process.backplane._links._channels[channel].link.away() == ""
    process.send("/b", "x")
    until(lambda: listener.messages == ["x"])


# What gets lost.


def test_a_message_that_never_comes_is_found_at_the_next_one(redis_server, relay, processes):
    between = relay(redis_server)
    sender, other = processes(redis_server.url), processes(between.url)
    listener = other.join("/a", KEEP)
    sender.send("/a", "one", keep=KEEP)
    between.drop(b"two")
    between.repeat(b"three")
    for each in ("two", "three", "four"):
        sender.send("/a", each, keep=KEEP)
    until(listener.has(4))
    assert listener.messages == ["one", "two", "three", "four"]
    assert counted(other, "gaps") == 1
    assert other.receiver.interruptions == []


def test_and_without_a_next_one_when_it_is_looked_for(redis_server, relay, processes, monkeypatch):
    monkeypatch.setattr(module, "LOOK", 0.3)
    monkeypatch.setattr(upkeep, "TICK", 0.1)
    between = relay(redis_server)
    sender, other = processes(redis_server.url), processes(between.url)
    by_name, listener = other.join("/b"), other.join("/a", KEEP)
    sender.send("/b", "zero", keep=KEEP)
    until(by_name.has(1))
    between.drop(b"one", 2)
    sender.send("/a", "one", keep=KEEP)
    sender.send("/b", "one", keep=KEEP)
    until(lambda: listener.messages == ["one"] and by_name.messages == ["zero", "one"])
    assert counted(other, "gaps") == 2


def test_the_look_is_within_half_a_minute():
    assert module.LOOK + 3 * upkeep.TICK < 30


def test_what_is_lost_and_kept_no_more_is_told(redis_server, relay, processes, caplog):
    between = relay(redis_server)
    keep = Keep(1)
    sender, other = processes(redis_server.url), processes(between.url)
    listener = other.join("/a", keep)
    between.drop(b"", 3)
    ids = [sender.send("/a", each, keep=keep) for each in "12345"]
    until(lambda: "5" in listener.messages)
    assert listener.messages == ["4", "5"]
    until(lambda: other.receiver.interruptions)
    topic, complete, position = other.receiver.interruptions[0]
    assert (topic, complete) == ("/a", False)
    assert "messages for /a are lost" in caplog.text
    # From there on it gets everything: what was held is behind that place.
    place = MessageId.parse(position)
    assert ids.index(listener.heard[0].id) == place.offset


def test_who_lost_something_is_told_the_place_from_which_messages_go_on(redis_server, processes):
    """Whoever comes back from there must be given what was about to be given out."""
    here = processes(redis_server.url)
    listener = here.join("/a", KEEP)
    subscription = here.backplane._topics["/a"]
    here.receiver.ask(forget, subscription.feed)
    id = MessageId.parse(here.send("/a", "held", keep=KEEP))
    until(lambda: subscription.feed._held)
    here.receiver.ask(here.backplane._upkeep.add, subscription)
    until(listener.has(1))
    assert here.receiver.interruptions == [("/a", False, f"{id.epoch}-0-{NO_TAG}")]
    assert listener.heard[0].id == str(id)


def forget(feed):
    """As if its connection had been lost, and the Redis had lost what it had."""
    feed.hold()
    feed.position = MessageId("0" * 12, 5, NO_TAG)


# Outages.


@pytest.fixture
def pair(own_redis, processes, monkeypatch):
    """A Redis of its own, a process that sends and one that listens."""
    monkeypatch.setattr(upkeep, "TICK", 0.1)
    server = own_redis()
    return server, processes(server.url), processes(server.url)


def back(process, number=1):
    until(lambda: counted(process, "resubscribed") >= number)


def test_a_restart_with_its_data_loses_nothing(pair):
    server, sender, other = pair
    listener = other.join("/a", KEEP)
    sender.send("/a", "before", keep=KEEP)
    until(listener.has(1))
    server.restart()
    sender.send("/a", "while it may not have come back", keep=KEEP)
    back(other)
    sender.send("/a", "after", keep=KEEP)
    until(listener.has(3))
    assert listener.messages == ["before", "while it may not have come back", "after"]
    assert other.receiver.interruptions == []


def test_a_restart_with_older_data_is_told_and_never_silent(pair):
    server, sender, other = pair
    listener = other.join("/a", KEEP)
    sender.send("/a", "1", keep=KEEP)
    before = server.snapshot()
    lost = [sender.send("/a", each, keep=KEEP) for each in "23"]
    until(listener.has(3))
    server.restore(before)
    back(other)
    until(lambda: other.receiver.interruptions)
    for each in "45":  # These take the offsets of those that are gone.
        sender.send("/a", each, keep=KEEP)
    until(listener.has(5))
    assert listener.messages == list("12345")
    assert [each[1] for each in other.receiver.interruptions] == [False]
    for since in lost:
        assert state(sender.backplane.history("/a", since)) == ([], False)
        assert state(other.join("/a", KEEP, since).history) == ([], False)


def test_a_restart_with_nothing_is_told_and_goes_on(pair):
    server, sender, other = pair
    listener, named = other.join("/a", KEEP), other.join("/b")
    for topic in ("/a", "/b"):
        sender.send(topic, "1", keep=KEEP)
    until(lambda: listener.messages == named.messages == ["1"])
    server.wipe()
    back(other, 2)
    until(lambda: len(other.receiver.interruptions) == 2)
    assert sender.send("/a", "not kept but for the listeners") is not None
    until(listener.has(2))
    del listener.heard[1:]
    for each in "23":
        sender.send("/a", each, keep=KEEP)
        sender.send("/b", each, keep=KEEP)
    until(lambda: listener.messages == named.messages == ["1", "2", "3"])
    assert {each[:2] for each in other.receiver.interruptions} == {("/a", False), ("/b", False)}


def test_everything_forgotten_with_no_restart_is_told(pair, monkeypatch):
    monkeypatch.setattr(module, "LOOK", 0.3)
    server, sender, other = pair
    listener = other.join("/a", KEEP)
    sender.send("/a", "1", keep=KEEP)
    until(listener.has(1))
    server.ask("FLUSHALL")
    until(lambda: other.receiver.interruptions)
    sender.send("/a", "2", keep=KEEP)
    until(lambda: listener.messages == ["1", "2"])


def test_where_nothing_is_kept_messages_may_have_been_missed(pair, caplog):
    server, sender, other = pair
    listener = other.join("/a")
    server.restart()
    back(other)
    until(lambda: other.receiver.interruptions == [("/a", False, None)])
    assert "messages for /a may have been missed: none are kept" in caplog.text
    sender.send("/a", "x")
    until(lambda: listener.messages == ["x"])


def test_where_nobody_listens_any_more_nothing_is_said_of_it(pair, caplog):
    server, sender, other = pair
    other.leave(other.join("/a"))
    server.restart()
    back(other)
    assert other.receiver.interruptions == []
    assert "missed" not in caplog.text


def test_a_client_that_is_killed_comes_back_and_catches_up(pair):
    server, sender, other = pair
    listener = other.join("/a", KEEP)
    for number in range(10):
        server.ask("CLIENT", "KILL", "TYPE", "pubsub")
        sender.send("/a", str(number), keep=KEEP)
    until(listener.has(10))
    assert listener.messages == [str(number) for number in range(10)]
    assert other.receiver.interruptions == []


def test_a_join_during_an_outage_fails_and_one_behind_it_misses_nothing(pair):
    server, sender, other = pair
    listener = other.join("/a", KEEP)
    since = sender.send("/a", "1", keep=KEEP)
    until(listener.has(1))
    other.backplane.commands.timeout = 0.3
    server.stop()
    with pytest.raises(BackplaneError):
        until(lambda: not other.join("/b", KEEP), 5)
    server.start()
    back(other)
    other.backplane.commands.timeout = 5.0
    sender.send("/a", "2", keep=KEEP)
    again = other.join("/a", KEEP, since)
    until(lambda: texts(again.history) + again.messages == ["2"])


def test_a_catching_up_that_fails_is_tried_again(own_redis, relay, processes, monkeypatch):
    monkeypatch.setattr(upkeep, "TICK", 0.1)
    server = own_redis()
    between = relay(server)
    sender, other = processes(server.url), processes(between.url, backplane_timeout=0.3)
    listener = other.join("/a", KEEP)
    between.drop(b"one")
    sender.send("/a", "one", keep=KEEP)
    server.ask("ACL", "SETUSER", "default", "-evalsha", "-eval")
    raw(other, "/a", b"1 t 0123456789ab-7-0123456789ab 5 - k\nfrom elsewhere")
    until(lambda: counted(other, "gaps") == 1)
    server.ask("ACL", "SETUSER", "default", "+evalsha", "+eval")
    until(lambda: listener.messages == ["one"])


def test_many_addresses_come_back(pair):
    server, sender, other = pair
    listeners = [other.join(f"/{number}", KEEP) for number in range(100)]
    server.restart()
    for number in range(100):
        sender.send(f"/{number}", "x", keep=KEEP)
    until(lambda: all(each.messages == ["x"] for each in listeners))


# Sending, when it can't be sent.


def test_without_a_redis_a_send_fails(processes):
    process = processes("redis://127.0.0.1:1")
    with pytest.raises(BackplaneError, match="refused") as caught:
        process.send("/a", "x")
    assert caught.value.outcome == "not sent" and caught.value.key


def test_or_reaches_this_process_where_that_is_wanted(own_redis, processes, caplog):
    server = own_redis()
    process = processes(server.url, backplane_on_error="local")
    listener = process.join("/a", KEEP)
    server.kill()
    assert process.send("/a", "x", keep=KEEP) is None
    until(lambda: listener.messages == ["x"])
    assert "a message for /a reaches this process alone: not sent" in caplog.text
    assert counted(process, "published") == 0


def test_but_not_where_it_may_have_been_sent(own_redis, processes):
    server = own_redis()
    process = processes(server.url, backplane_on_error="local", backplane_timeout=0.4)
    listener = process.join("/a", KEEP)
    process.send("/a", "0", keep=KEEP)
    server.pause()
    with pytest.raises(BackplaneError) as caught:
        process.send("/a", "x", keep=KEEP)
    assert caught.value.outcome == "unknown"
    server.resume()
    process.backplane.commands.timeout = 10.0
    process.send("/a", "x", keep=KEEP, key=caught.value.key)
    process.send("/a", "y", keep=KEEP)
    until(lambda: "y" in listener.messages)
    assert listener.messages == ["0", "x", "y"]


# What is none of ours.


def test_a_message_of_another_version_is_skipped_counted_and_logged(
    redis_server, processes, caplog
):
    process = processes(redis_server.url)
    listener = process.join("/a")
    for each in (b"2 from the future", b"", b"1 t\n", b"1 t - 5 - k\n\xff"):
        raw(process, "/a", each)
    process.send("/a", "x")
    until(lambda: listener.messages == ["x"])
    assert counted(process, "skipped") == 4
    skipped = [each for each in caplog.records if "skipped a message for /a" in each.getMessage()]
    assert len(skipped) == 1, "the others are counted"
    assert "of version b'2'" in caplog.text
    peerlog.tell_all()
    assert "(the newest of 3 in" in caplog.text


def test_a_message_that_is_too_long_is_not_taken(redis_server, processes):
    sender, process = processes(redis_server.url), processes(redis_server.url, max_send_size=1000)
    listener = process.join("/a")
    sender.backplane.publish("/a", Message("x" * 1001), frozenset())
    sender.backplane.publish("/a", Message("x" * 1000), frozenset())
    until(lambda: listener.messages == ["x" * 1000])
    assert counted(process, "skipped") == 1


def test_a_history_that_can_not_be_read_is_not_complete(redis_server, processes):
    process = processes(redis_server.url)
    since = process.send("/a", "1", keep=KEEP)
    keys = process.backplane.publisher.keys("/a")
    process.send("/a", "2", keep=KEEP)
    redis_server.ask("XDEL", keys.history, "2-0")
    fields = ("m", "2 from the future", "t", 4_000_000_000_000, "g", "0" * 12)
    redis_server.ask("XADD", keys.history, "3-0", *fields)
    redis_server.ask("HSET", keys.meta, "top", 3, "tag", "0" * 12)
    assert state(process.backplane.history("/a", since)) == ([], False)


def test_what_comes_for_nobody_is_nothing(redis_server, processes):
    process = processes(redis_server.url)
    process.backplane._on_message(b"unknown", b"1 t - 5 - k\nx")
    process.backplane._hold([b"unknown"])
    process.backplane._back(b"unknown")
    process.backplane.unsubscribe("/unknown")
    assert process.receiver.delivered == []


def test_what_happened_is_counted(redis_server, processes):
    process = processes(redis_server.url)
    listener = process.join("/a")
    process.send("/a", "x")
    process.send("/a", "y")
    until(listener.has(2))
    assert counted(process, "published") == counted(process, "received") == 2
    assert 0 <= counted(process, "lag") < 60


def test_a_join_is_there_in_time_over_a_slow_line(redis_server, relay, processes):
    between = relay(redis_server)
    between.delay[UP] = between.delay[DOWN] = 0.02
    sender, other = processes(redis_server.url), processes(between.url, backplane_timeout=20)
    since = None
    for number in range(6):
        listener = other.join("/a", KEEP, since)
        sender.send("/a", str(number), keep=KEEP)
        until(listener.has(1))
        assert listener.messages == [str(number)]
        assert texts(listener.history) == []
        since = listener.heard[-1].id
        other.leave(listener)
