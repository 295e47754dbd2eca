"""A Redis with a replica and a Sentinel: fail-overs, with and without what was written last."""

import threading
from contextlib import ExitStack

import pytest
import redis

from stargate.backplane.contract.process import state, texts
from stargate.backplane.redis.kinds import commands_to
from stargate.exceptions import BackplaneError
from stargate.history import Keep
from stargate_tests.backplane.redis.processes import process
from stargate_tests.redis_groups import Sentinel, replica_of
from stargate_tests.redis_servers import free_port
from stargate_tests.waiting import wait_until

KEEP = Keep(10_000)


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def primary(own_redis):
    return own_redis(requirepass="word")


@pytest.fixture
def replica(primary, stack):
    return stack.enter_context(replica_of(primary, requirepass="word"))


@pytest.fixture
def sentinel(primary, replica, stack):
    """It is ready to promote the replica."""
    found = stack.enter_context(Sentinel(primary))
    wait_until(found.sees_replicas)
    return found


@pytest.fixture
def start(stack, namespace):
    """``start(url, **settings)``: a process of an application."""
    return lambda url, **settings: stack.enter_context(process(url, namespace, **settings))


class Insistent:
    """Sends numbers from a thread of its own, each as often as its key needs it."""

    def __init__(self, process, topic, keep=None):
        self.sent, self.acknowledged = [], []
        self._process, self._topic, self._keep = process, topic, keep
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._end.is_set():
            message, key = str(len(self.sent)), None
            self.sent.append(message)
            for _ in range(50):
                try:
                    self._process.send(self._topic, message, keep=self._keep, key=key)
                except BackplaneError as error:
                    key = error.key
                else:
                    self.acknowledged.append(message)
                    break
            self._end.wait(0.001)

    def finish(self):
        self._end.set()
        self._thread.join(60)


# The primary.


def test_messages_travel_by_way_of_the_primary(sentinel, start):
    sender, other = start(sentinel.url), start(sentinel.url)
    listener = other.join("/a", KEEP)
    id = sender.send("/a", "hello", keep=KEEP)
    wait_until(lambda: listener.messages == ["hello"])
    assert [each.id for each in other.backplane.history("/a")] == [id]


def test_who_sends_gets_to_know_how_many_listen(sentinel, start):
    process, other = start(sentinel.url), start(sentinel.url)
    for count, each in enumerate((process, other), 1):
        each.join("/a")
        assert process.backplane.publisher.send("/a", "t", b"x").processes == count


def test_a_sentinel_that_is_out_of_reach_leaves_it_to_the_next(sentinel, start):
    gone = f"127.0.0.1:{free_port()}"
    url = sentinel.url.replace("127.0.0.1", f"{gone},127.0.0.1")
    process = start(url)
    listener = process.join("/a")
    process.send("/a", "hello")
    wait_until(lambda: listener.messages == ["hello"])
    assert process.backplane.commands._sentinels[0] == ("127.0.0.1", sentinel.port)


def test_a_name_that_no_sentinel_knows_is_an_error(sentinel, start):
    process = start(sentinel.url.replace("/stargate/", "/other/"))
    with pytest.raises(BackplaneError, match="nothing of the name 'other'") as caught:
        process.send("/a", "never", key="k")
    assert (caught.value.outcome, caught.value.key) == ("not sent", "k")
    with pytest.raises(BackplaneError, match="'other'"):
        process.join("/a")


def test_without_any_sentinel_nothing_is_sent(namespace, start):
    url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{free_port()}/stargate/0"
    process = start(url, backplane_timeout=0.5)
    with pytest.raises(BackplaneError, match="refused.*refused") as caught:
        process.send("/a", "never")
    assert caught.value.outcome == "not sent"


def test_sentinels_that_do_not_answer_are_waited_for_no_longer_than_anything(sentinel, start):
    process = start(sentinel.url, backplane_timeout=0.5)
    sentinel.pause()
    with pytest.raises(BackplaneError) as caught:
        process.send("/a", "never")
    assert caught.value.outcome == "not sent"
    sentinel.resume()


def test_a_primary_that_is_known_is_used_when_all_sentinels_have_gone(sentinel, start):
    process = start(sentinel.url)
    listener = process.join("/a")
    sentinel.kill()
    process.backplane.commands._ask_at = 0.0
    process.send("/a", "hello")
    process.backplane.commands.look_again()
    process.send("/a", "again")
    wait_until(lambda: listener.messages == ["hello", "again"])


def test_a_replica_is_not_taken_for_a_primary(replica, sentinel):
    commands = commands_to(sentinel.url, 0.5)
    commands._moved(None, ("127.0.0.1", replica.port))
    commands._ask_at = float("inf")
    with pytest.raises(redis.ConnectionError, match="no primary"):
        commands.open_subscriber(commands.where(""), 2.0)
    assert commands.command("key", "SET", "key", "value") == b"OK"
    assert commands.where("") == ("127.0.0.1", sentinel.primary_port)
    commands.close()


def test_who_may_not_ask_for_the_role_is_told_so_when_it_writes(primary, replica, sentinel):
    for each in (primary, replica):
        each.ask("ACL", "SETUSER", "worker", "on", ">word", "~*", "&*", "+@all", "-role")
    commands = commands_to(sentinel.url.replace("://:", "://worker:"), 2.0)
    commands._moved(None, ("127.0.0.1", replica.port))
    commands._ask_at = float("inf")
    assert commands.command("key", "SET", "key", "value") == b"OK"
    assert commands.where("") == ("127.0.0.1", sentinel.primary_port)
    commands.close()


# Fail-over.


def test_a_primary_dies_and_no_message_that_is_kept_comes_twice_or_is_lost_in_silence(
    primary, sentinel, start
):
    sender, other = start(sentinel.url), start(sentinel.url)
    listener, without = other.join("/a", KEEP), other.join("/without")
    writers = [Insistent(sender, "/a", KEEP), Insistent(sender, "/without")]
    wait_until(lambda: len(listener.heard) > 50 and len(without.heard) > 50)
    primary.kill()
    wait_until(lambda: other.receiver.interruptions)
    for each in (listener, without):
        count = len(each.heard)
        wait_until(each.has(count + 20))
    for writer in writers:
        writer.finish()
    wait_until(lambda: listener.messages[-1:] == writers[0].acknowledged[-1:])
    wait_until(lambda: without.messages[-1:] == writers[1].acknowledged[-1:])
    told = {topic for topic, _complete, _position in other.receiver.interruptions}
    assert "/without" in told
    assert len(listener.heard) == len({each.id for each in listener.heard})
    if "/a" not in told:
        assert listener.messages == writers[0].acknowledged


def test_a_primary_is_replaced_while_it_is_there_and_its_listeners_follow(
    primary, replica, sentinel, start
):
    sender, other = start(sentinel.url), start(sentinel.url)
    listener, without = other.join("/a", KEEP), other.join("/without")
    sender.send("/a", "before", keep=KEEP)
    replica.catch_up()
    sentinel.fail_over()
    new = ("127.0.0.1", replica.port)
    wait_until(lambda: other.backplane.commands.where("") == new)
    wait_until(lambda: sender.backplane.commands.where("") == new or sender.send("/b", "x"))
    sender.send("/a", "after", keep=KEEP)
    wait_until(lambda: listener.messages == ["before", "after"])
    wait_until(lambda: [each[0] for each in other.receiver.interruptions] == ["/without"])
    sender.send("/without", "after")
    wait_until(lambda: without.messages == ["after"])
    assert list(other.backplane._links._links) == [new]


def test_the_last_messages_are_lost_with_a_replica_that_lags_and_that_is_told(
    primary, replica, sentinel, start
):
    sender, other = start(sentinel.url), start(sentinel.url)
    listener = other.join("/a", KEEP)
    first = sender.send("/a", "1", keep=KEEP)
    replica.catch_up()
    replica.lag()
    lost = [sender.send("/a", each, keep=KEEP) for each in ("2", "3")]
    wait_until(lambda: listener.messages == ["1", "2", "3"])
    primary.kill()
    wait_until(lambda: sentinel.primary_port == replica.port)
    # As many as were lost, and of the same offsets.
    for each in ("two", "three", "four"):
        sender.send("/a", each, keep=KEEP)
    assert texts(sender.backplane.history("/a")) == ["1", "two", "three", "four"]
    wait_until(lambda: other.receiver.interruptions)
    assert [each[:2] for each in other.receiver.interruptions] == [("/a", False)]
    for id in lost:
        assert state(other.join("/a", KEEP, id).history) == ([], False)
    assert state(other.join("/a", KEEP, first).history) == (["two", "three", "four"], True)
    sender.send("/a", "five", keep=KEEP)
    wait_until(lambda: listener.messages[-1] == "five")
    assert len(set(listener.messages)) == len(listener.messages)


# With replicas.


def test_a_message_that_no_replica_has_is_of_unknown_outcome(primary, replica, start):
    sender = start(primary.url, backplane_replicas=1, backplane_timeout=1.5)
    listener = sender.join("/a", KEEP)
    replica.catch_up()
    assert sender.send("/a", "1", keep=KEEP)
    replica.lag()
    for _ in range(2):
        with pytest.raises(BackplaneError, match=r"0 replica\(s\) have it") as caught:
            sender.send("/a", "2", keep=KEEP, key="k")
        assert (caught.value.outcome, caught.value.key) == ("unknown", "k")
        sender.backplane.commands.close()  # Another connection has written nothing yet.
        sender.backplane.commands._pools.clear()
    replica.catch_up()
    id = sender.send("/a", "2", keep=KEEP, key="k")
    wait_until(lambda: listener.messages == ["1", "2"])
    assert listener.heard[-1].id == id


def test_what_a_replica_has_is_there_when_it_is_promoted(primary, replica, sentinel, start):
    sender = start(sentinel.url, backplane_replicas=1)
    id = sender.send("/a", "1", keep=KEEP)
    primary.kill()
    wait_until(lambda: sentinel.primary_port == replica.port)
    assert [each.id for each in sender.backplane.history("/a")] == [id]
