"""The subscribing connections of a process, where they lead and what they follow."""

import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

from stargate.backplane.redis import link
from stargate.backplane.redis.kinds import commands_to
from stargate.backplane.redis.links import Links
from stargate.exceptions import BackplaneError
from stargate_tests.redis_groups import ClusterNode
from stargate_tests.waiting import wait_until


class Told:
    """What the links have called."""

    def __init__(self):
        self.messages, self.lost, self.back = [], [], []

    def on_message(self, *message):
        self.messages.append(message)


@contextmanager
def linked(url):
    """Links, what they tell, and commands to the same."""
    told, commands = Told(), commands_to(url, 2.0)
    links = Links(
        commands, on_message=told.on_message, on_lost=told.lost.extend, on_back=told.back.append
    )
    before = set(threading.enumerate())
    try:
        yield links, told, commands
    finally:
        links.close()
        commands.close()
        wait_until(lambda: not set(threading.enumerate()) - before)


def stand(links, *names):
    for each in [links.want(name).stands for name in names]:
        assert each.wait(30)


@pytest.fixture(scope="module")
def lonely(redis_path):
    """A Cluster of one node that has all slots, and goes on with the others where one is gone."""
    with ClusterNode(cluster_require_full_coverage="no") as node:
        node.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: "cluster_state:ok" in node.ask("CLUSTER", "INFO"))
        yield node


@pytest.fixture
def alone(lonely):
    """Links to it, what they tell, and commands to it."""
    with linked(f"redis+cluster://127.0.0.1:{lonely.port}") as found:
        yield found


# One server.


def test_what_is_wanted_is_heard_until_it_is_not(redis_server, namespace):
    name, other = namespace.encode(), b"other-" + namespace.encode()
    with linked(redis_server.url) as (links, told, commands):
        stand(links, name, other)
        assert links.want(name) is links.want(name)
        commands.command(namespace, "PUBLISH", name, "1")
        wait_until(lambda: told.messages == [(name, b"1")])
        links.unwant([name, b"never wanted"])
        commands.command(namespace, "PUBLISH", name, "2")
        commands.command(namespace, "PUBLISH", other, "3")
        wait_until(lambda: told.messages[1:] == [(other, b"3")])
        assert (told.lost, told.back) == ([], [])


def test_with_one_server_nobody_watches_where_it_is(redis_server, namespace):
    with linked(redis_server.url) as (links, _told, _commands):
        stand(links, namespace.encode())
        assert links._thread is None


def test_what_was_unwanted_and_is_wanted_again_stands_again(alone, namespace, monkeypatch):
    links, told, commands = alone
    name, revoked = namespace.encode(), []
    monkeypatch.setattr(links, "_revoked", lambda *args: revoked.append(args))
    for number in range(20):
        stand(links, name)
        commands.command(namespace, "SPUBLISH", name, str(number))
        wait_until(lambda: told.messages)
        links.unwant([name])
        again = links.want(name).stands
        assert again.wait(30)
        links.unwant([name])
        told.messages.clear()
    assert (told.lost, told.back, revoked) == ([], [], [])


# A slot that nobody has for a while.


def known(commands, channel):
    """Whether it is known where ``channel`` is."""
    try:
        return commands.where(channel)
    except BackplaneError as error:
        assert "no node has slot" in str(error)
        return None


def test_what_nobody_has_is_waited_for(lonely, alone, namespace):
    links, told, commands = alone
    name, slot = namespace.encode(), commands.slot(namespace.encode())
    stand(links, name)
    lonely.ask("CLUSTER", "DELSLOTS", slot)
    wait_until(lambda: told.lost == [name])
    wait_until(lambda: not known(commands, namespace))
    assert not links.want(name).stands.is_set()
    lonely.ask("CLUSTER", "ADDSLOTS", slot)
    wait_until(lambda: told.back == [name])
    stand(links, name)
    commands.command(namespace, "SPUBLISH", name, "here")
    wait_until(lambda: told.messages == [(name, b"here")])


def test_what_nobody_has_may_be_unwanted(lonely, alone, namespace):
    links, told, commands = alone
    name, slot = namespace.encode(), commands.slot(namespace.encode())
    stand(links, name)
    lonely.ask("CLUSTER", "DELSLOTS", slot)
    wait_until(lambda: links._homeless)
    links.unwant([name])
    lonely.ask("CLUSTER", "ADDSLOTS", slot)
    stand(links, name)
    assert told.back == []
    assert told.lost == [name]


def test_a_watch_that_fails_is_logged_and_goes_on(lonely, alone, namespace, monkeypatch, caplog):
    links, told, commands = alone
    name, slot = namespace.encode(), commands.slot(namespace.encode())
    stand(links, name)
    with monkeypatch.context() as patch:
        patch.setattr(commands, "look_again", lambda now: 1 / 0)
        links._trouble.set()
        wait_until(lambda: "the watch over the backplane failed" in caplog.text)
    lonely.ask("CLUSTER", "DELSLOTS", slot)
    lonely.ask("CLUSTER", "ADDSLOTS", slot)
    wait_until(lambda: told.back == [name])


def test_after_the_end_nothing_is_connected_to(redis_server, namespace):
    with ExitStack() as stack:
        links, _told, _commands = stack.enter_context(linked(redis_server.url))
        links.close()
        assert not links.want(namespace.encode()).stands.is_set()


# A server that is known to be away.


def failure(links, name):
    """How long it takes until a channel is known not to stand, and why."""
    began = time.monotonic()
    with pytest.raises(BackplaneError) as caught:
        links.stand(name)
    assert caught.value.outcome == "not sent"
    return time.monotonic() - began, str(caught.value)


def test_what_is_away_is_waited_for_shortly_and_then_not_at_all(own_redis, namespace):
    redis, name = own_redis(), namespace.encode()
    redis.stop()
    with linked(redis.url) as (links, _told, commands):
        commands.timeout = 30.0
        took, why = failure(links, name)
        assert took < 20 and "out of reach for " in why and "Connection refused" in why
        for other in (name, b"another", b"a third"):
            took, why = failure(links, other)
            assert took < 0.5 and "out of reach for " in why
        assert set(links._channels) == {name}  # Nothing is remembered for those who failed.
        redis.start()
        wait_until(lambda: not links._channels[name].link.away())
        links.stand(b"another")


def test_what_does_not_answer_is_waited_for_once(own_redis, namespace):
    redis, name = own_redis(), namespace.encode()
    with linked(redis.url) as (links, _told, commands):
        commands.timeout = 30.0
        links.stand(name)
        redis.pause()
        links.doubt(name, time.monotonic())
        for other in (name, b"another"):
            took, why = failure(links, other)
            assert took < 0.5 and "it does not answer" in why
        redis.resume()
        wait_until(lambda: not links._channels[name].link.away())
        links.stand(name)
        links.stand(b"another")


def test_what_has_been_heard_since_is_not_doubted(redis_server, namespace):
    name, began = namespace.encode(), time.monotonic()
    with linked(redis_server.url) as (links, _told, _commands):
        links.doubt(name, time.monotonic())  # Nobody knows it.
        links.stand(name)
        links.doubt(name, began)
        assert links._channels[name].link.away() == ""


def test_what_answers_is_not_doubted_for_long(redis_server, namespace, monkeypatch):
    """It is asked at once, and not when it has been silent for long enough."""
    monkeypatch.setattr(link, "PING_AFTER", 1000.0)
    monkeypatch.setattr(link, "LOST_AFTER", 1000.0)
    name = namespace.encode()
    with linked(redis_server.url) as (links, _told, _commands):
        links.stand(name)
        for _ in range(3):
            links.doubt(name, time.monotonic() + 60)
            links.doubt(name, time.monotonic() + 60)
            wait_until(lambda: not links._channels[name].link.away())


def test_where_nobody_says_where_it_is_that_is_asked_once_in_a_while(namespace, monkeypatch):
    asked = []
    with linked("redis+sentinel://127.0.0.1:1/main") as (links, _told, _commands):
        where = links._commands.where
        monkeypatch.setattr(
            links._commands, "where", lambda name: asked.append(name) or where(name)
        )
        for name in (b"a", b"b", b"c"):
            assert "Connection refused" in failure(links, name)[1]
        assert asked == ["a"]
        links._ask_at = 0.0
        failure(links, b"d")
        assert asked == ["a", "d"]


def test_a_slot_that_nobody_has_says_nothing_of_the_others(alone, monkeypatch):
    links, _told, commands = alone

    def nobody(name):
        raise BackplaneError("not sent", "no node has slot 1")

    with monkeypatch.context() as patch:
        patch.setattr(commands, "where", nobody)
        with pytest.raises(BackplaneError, match="no node has slot 1"):
            links.want(b"a")
    stand(links, b"b")
