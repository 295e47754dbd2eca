"""Presence with a real Redis, real threads, and times that are a twentieth of the real ones."""

from contextlib import ExitStack

import pytest

from stargate.backplane.redis.address import parse
from stargate.backplane.redis.commands import Commands
from stargate.backplane.redis.presence import Presence, Times
from stargate.backplane.redis.who import Reader
from stargate_tests.waiting import wait_until

TIMES = Times(lease=1.5, beat=0.1, gather=0.002, verify=0.6, retry=0.05)
CALM = Times(lease=120.0, beat=0.1, gather=0.002, verify=0.6, retry=0.05)
DEADLINE = 10.0


class Worker:
    """The presence of one process, and what it has reported."""

    def __init__(self, url, namespace, times=CALM, timeout=DEADLINE):
        self.commands = Commands(parse(url), timeout)
        self.events = []
        self.presence = Presence(self.commands, namespace, self.events.append, times)
        self.reader = Reader(self.commands, namespace)

    def enter(self, topic, *names):
        for who in names:
            self.presence.change(topic, who, 1)

    def leave(self, topic, *names):
        for who in names:
            self.presence.change(topic, who, -1)

    def told(self):
        """Wait until the Redis knows of everything."""
        self.presence.catch_up(DEADLINE)
        return self

    def here(self, topic):
        self.told()
        return self.reader.presence(topic)

    def signs(self):
        """The events so far as "+ann", "-ann"."""
        return [f"{'+' if each.came else '-'}{each.who}" for each in self.events]

    def vanish(self):
        """End without a word, as by kill -9."""
        self.presence._closed = True
        self.presence._news.set()
        self.presence._thread.join(DEADLINE)

    def close(self):
        self.presence.close(DEADLINE)
        self.commands.close()


@pytest.fixture
def workers(namespace):
    """``workers(server, times=..., timeout=...)``: a worker, closed at the end."""
    with ExitStack() as stack:

        def make(server, times=CALM, timeout=DEADLINE):
            worker = Worker(server.url, namespace, times, timeout)
            stack.callback(worker.close)
            return worker

        yield make


def test_who_comes_is_told_of_and_listed_in_every_worker(redis_server, workers):
    one, other = workers(redis_server), workers(redis_server)
    one.enter("/a", "ann", 7)
    assert one.here("/a") == {"ann": 1, 7: 1}
    assert other.here("/a") == {"ann": 1, 7: 1}
    assert sorted(one.signs()) == ["+7", "+ann"]
    assert other.events == []


def test_a_persons_first_and_last_websocket_over_all_workers_are_told_of_once(
    redis_server, workers
):
    one, other = workers(redis_server), workers(redis_server)
    one.enter("/a", "ann", "ann")
    one.told()
    other.enter("/a", "ann")
    assert other.here("/a") == {"ann": 3}
    one.leave("/a", "ann", "ann")
    assert one.here("/a") == {"ann": 1}
    assert other.events == []
    other.leave("/a", "ann")
    assert other.here("/a") == {}
    assert one.signs() == ["+ann"]
    assert other.signs() == ["-ann"]


def test_listeners_without_a_name_are_counted_and_not_told_of(redis_server, workers):
    one, other = workers(redis_server), workers(redis_server)
    one.enter("/a", None, None, "ann")
    other.enter("/a", None)
    one.told()
    other.told()
    assert one.reader.listener_count("/a") == other.reader.listener_count("/a") == 4
    assert one.here("/a") == {"ann": 1}
    assert one.signs() == ["+ann"]
    assert other.signs() == []


def test_a_worker_that_ends_is_here_no_more_and_others_tell_of_it(redis_server, workers):
    one, other = workers(redis_server), workers(redis_server)
    other.enter("/b", "bob")
    other.told()
    one.enter("/a", "ann")
    one.told()
    one.close()
    assert other.here("/a") == {}
    other.presence._patient = 0
    wait_until(lambda: other.signs() == ["+bob", "-ann"], DEADLINE)


def test_the_last_worker_to_end_leaves_nothing_but_a_note(redis_server, workers, namespace):
    one = workers(redis_server)
    one.enter("/a", "ann", None)
    one.told()
    name = one.presence.worker
    one.close()
    assert one.signs() == ["+ann", "-ann"]
    left = redis_server.client().keys(f"stargate:{{{namespace}*")
    assert sorted(left) == [f"stargate:{{{namespace}}}:{each}" for each in ("epoch", "gone")]
    assert redis_server.client().zrange(f"stargate:{{{namespace}}}:gone", 0, -1) == [name]


def test_a_worker_that_is_killed_is_called_gone_by_another_when_its_lease_ends(
    redis_server, workers
):
    one, other = workers(redis_server, TIMES), workers(redis_server, TIMES)
    one.enter("/a", "ann", "bob")
    one.enter("/b", "ann")
    one.told()
    other.enter("/a", "bob")
    other.told()
    one.vanish()
    assert other.here("/a") == {"ann": 1, "bob": 2}
    wait_until(lambda: other.reader.presence("/a") == {"bob": 1}, DEADLINE)
    wait_until(lambda: len(other.events) == 2, DEADLINE)
    assert {(each.came, each.topic, each.who) for each in other.events} == {
        (False, "/a", "ann"),
        (False, "/b", "ann"),
    }
