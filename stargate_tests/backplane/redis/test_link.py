import logging
import socket
import threading
import time
from contextlib import contextmanager

import pytest

from stargate.backplane.redis import link as module
from stargate.backplane.redis.address import parse
from stargate.backplane.redis.link import Link
from stargate_tests.redis_relay import DOWN, UP
from stargate_tests.waiting import wait_until


class Heard:
    """A link and what it has said."""

    def __init__(self, url, timeout=10.0):
        self.messages, self.lost, self.back = [], [], []
        address = parse(url)

        def open(timeout):
            connection = address.connection(timeout)
            connection.connect()
            return connection

        self.link = Link(
            "the backplane",
            open,
            ("SUBSCRIBE", "UNSUBSCRIBE"),
            timeout,
            on_message=lambda channel, payload: self.messages.append((channel, payload)),
            on_lost=self.lost.append,
            on_back=self.back.append,
        )

    def stand(self, *channels):
        for each in channels:
            assert self.link.want(each).wait(30), each

    def payloads(self):
        return [payload for _channel, payload in self.messages]


@pytest.fixture
def heard():
    """``heard(url)``: a link; closed after the test, and its thread has ended."""
    made = []

    def heard(url, timeout=10.0):
        made.append(Heard(url, timeout))
        return made[-1]

    yield heard
    for each in made:
        each.link.close()
        if each.link._thread is not None:
            each.link._thread.join(30)
            assert not each.link._thread.is_alive()


def subscribers(server, *channels):
    found = server.ask("PUBSUB", "NUMSUB", *channels)
    return dict(zip(found[::2], found[1::2], strict=True))


def publish(server, channel, *payloads):
    for each in payloads:
        server.ask("PUBLISH", channel, each)


def clients(server):
    return server.ask("CLIENT", "LIST", "TYPE", "pubsub").count("id=")


def test_what_is_wanted_stands_and_messages_come(redis_server, heard, namespace):
    found, name = heard(redis_server.url), namespace.encode()
    found.stand(name)
    publish(redis_server, namespace, "one", "two")
    wait_until(lambda: len(found.messages) == 2)
    assert found.messages == [(name, b"one"), (name, b"two")]
    assert len(found.link) == 1


def test_many_share_one_connection(own_redis, heard):
    server = own_redis()
    found = heard(server.url)
    for number in range(600):
        found.link.want(b"%d" % number)
    found.stand(*(b"%d" % number for number in range(600)))
    assert clients(server) == 1


def test_what_is_not_wanted_any_more_is_let_go_of(redis_server, heard, namespace):
    found, name = heard(redis_server.url), namespace.encode()
    found.stand(name, name + b"2")
    found.link.unwant([name, b"never wanted"])
    wait_until(lambda: subscribers(redis_server, namespace)[namespace] == 0)
    assert subscribers(redis_server, namespace + "2")[namespace + "2"] == 1


def test_a_join_while_an_unsubscribing_is_under_way_stands_when_it_says_so(
    redis_server, heard, relay, namespace
):
    """Over a relay that takes its time; each time, a message right behind it must come."""
    between = relay(redis_server)
    found, name = heard(between.url), namespace.encode()
    found.stand(name)
    between.delay[DOWN] = between.delay[UP] = 0.01
    for number in range(20):
        found.link.unwant([name])
        if number % 3 == 2:
            found.link.want(name)
            found.link.unwant([name])
        found.stand(name)
        publish(redis_server, namespace, str(number))
        wait_until(lambda number=number: found.messages[-1:] == [(name, b"%d" % number)])
    assert len(found.messages) == 20 and not found.lost


def test_it_comes_back_and_says_what_was_lost_and_what_is_back(redis_server, heard, relay, caplog):
    caplog.set_level(logging.INFO)
    between = relay(redis_server)
    found = heard(between.url)
    found.stand(b"a", b"b")
    between.cut()
    wait_until(lambda: len(found.back) == 2)
    assert found.lost == [[b"a", b"b"]]
    assert sorted(found.back) == [b"a", b"b"]
    found.stand(b"a", b"b")
    assert [each.levelname for each in caplog.records] == ["WARNING", "INFO"]
    assert "2 address(es) wait" in caplog.text and "back after" in caplog.text


def test_a_first_standing_is_no_coming_back(redis_server, heard, relay):
    between = relay(redis_server)
    between.refuse()
    found = heard(between.url)
    stands = found.link.want(b"a")
    assert not stands.wait(0.3)
    between.accept()
    assert stands.wait(30)
    assert found.back == [] and not any(found.lost)


def test_an_outage_is_logged_once_with_no_password_and_tried_again_ever_more_rarely(
    own_redis, heard, caplog, monkeypatch
):
    monkeypatch.setattr(module, "SHORTEST_WAIT", 0.01)
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.1)
    caplog.set_level(logging.INFO)
    server = own_redis(requirepass="hunter2")
    found = heard(server.url)
    opened, open = [], found.link._open
    found.link._open = lambda timeout: opened.append(time.monotonic()) or open(timeout)
    found.stand(b"a")
    server.kill()
    wait_until(lambda: len(opened) > 10)
    pauses = [after - before for before, after in zip(opened[1:], opened[2:], strict=False)]
    assert min(pauses[-3:]) > 0.04
    server.config["requirepass"] = "other"
    server.start()
    server.ask("CONFIG", "SET", "requirepass", "hunter2")
    wait_until(lambda: found.back)
    assert [each.levelname for each in caplog.records] == ["WARNING", "INFO"]
    assert "hunter2" not in caplog.text


def test_a_long_outage_is_logged_again(heard, caplog, monkeypatch):
    monkeypatch.setattr(module, "COMPLAIN_AFTER", 0.0)
    monkeypatch.setattr(module, "SHORTEST_WAIT", 0.01)
    heard("redis://127.0.0.1:1").link.want(b"a")
    wait_until(lambda: len(caplog.records) > 1)
    assert "refused" in caplog.text


def test_the_pauses_are_not_the_same_for_all(heard, monkeypatch):
    """Or all processes would come back at once."""
    pauses = []
    for _ in range(4):
        link = heard("redis://127.0.0.1:1").link

        def pause(seconds, link=link):
            pauses.append(seconds)
            link.closed = True

        monkeypatch.setattr(link, "_pause", pause)
        link._run()
    assert len(set(pauses)) == 4
    assert all(module.SHORTEST_WAIT / 2 <= each <= module.SHORTEST_WAIT for each in pauses)


@contextmanager
def patience(monkeypatch, ping, lost, tick=0.05):
    for name, value in (("PING_AFTER", ping), ("LOST_AFTER", lost), ("TICK", tick)):
        monkeypatch.setattr(module, name, value)
    yield


def test_a_silent_server_is_asked_and_is_not_lost_where_it_answers(
    redis_server, heard, relay, monkeypatch
):
    between = relay(redis_server)
    with patience(monkeypatch, 0.1, 1.0):
        found = heard(between.url)
        found.stand(b"a")
        before = between.passed[UP]
        wait_until(lambda: between.passed[UP] >= before + 5 * len(b"*1\r\n$4\r\nPING\r\n"))
    assert not found.lost


def test_a_server_that_answers_no_more_is_lost(own_redis, heard, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    server = own_redis()
    with patience(monkeypatch, 0.1, 0.4):
        found = heard(server.url, 0.4)
        found.stand(b"a")
        server.pause()
        wait_until(lambda: found.lost)
        wait_until(lambda: found.link._attempts > 3)
        server.resume()
        wait_until(lambda: found.back)
    assert [each.levelname for each in caplog.records] == ["WARNING", "INFO"]
    assert "nothing was heard for" in caplog.text


def test_a_server_that_takes_a_connection_and_says_nothing_is_left_sooner(heard, monkeypatch):
    with patience(monkeypatch, 60.0, 60.0), socket.create_server(("127.0.0.1", 0)) as listening:
        found = heard(f"redis://127.0.0.1:{listening.getsockname()[1]}", 0.2)
        found.link.want(b"a")
        wait_until(lambda: found.link._attempts > 2)


def test_a_subscribing_that_was_undone_is_not_taken_for_the_one_behind_it(
    redis_server, heard, relay, namespace
):
    between = relay(redis_server)
    found, name = heard(between.url), namespace.encode()
    found.stand(b"another")
    between.stall(DOWN)
    found.link.want(name)
    wait_until(lambda: subscribers(redis_server, namespace)[namespace] == 1)
    between.stall(UP)
    found.link.unwant([name])
    stands = found.link.want(name)
    between.flow(DOWN)
    assert not stands.wait(0.3)
    between.flow(UP)
    assert stands.wait(30)


def test_one_that_reads_too_slowly_is_cut_off_by_the_server_and_comes_back(own_redis, heard):
    server = own_redis(client_output_buffer_limit="pubsub 1mb 1mb 1")
    found, go_on = heard(server.url), threading.Event()
    found.stand(b"a")
    found.link._on_message = lambda channel, payload: go_on.wait(30)
    publisher = server.client()
    for _ in range(200):
        publisher.publish("a", "x" * 100_000)
    wait_until(lambda: not clients(server))
    go_on.set()
    wait_until(lambda: found.back == [b"a"])
    assert found.lost == [[b"a"]]


def test_a_channel_that_may_not_be_heard_is_an_outage(own_redis, heard, caplog):
    server = own_redis(user=["bob on >word ~* &yes* +@all"])
    found = heard(server.url.replace("://", "://bob:word@"))
    stands = found.link.want(b"no")
    wait_until(lambda: "the user of the URL may not do this" in caplog.text)
    assert not stands.is_set()
    wait_until(lambda: found.link._attempts > 2)
    assert len(caplog.records) == 1
    found.link.unwant([b"no"])
    found.stand(b"yes")


def test_what_is_no_reply_ends_the_connection(redis_server, heard, relay):
    between = relay(redis_server)
    found = heard(between.url)
    found.stand(b"a")
    found.link._reader.feed(b"?no\r\n")
    publish(redis_server, "a", "x")
    wait_until(lambda: found.back)


def test_an_error_of_ours_is_logged_and_it_begins_again(redis_server, heard, caplog):
    found = heard(redis_server.url)
    found.stand(b"a")
    found.link._on_message = lambda *_: 1 / 0
    publish(redis_server, "a", "x")
    wait_until(lambda: found.back)
    assert "ZeroDivisionError" in caplog.text


def test_writing_to_a_connection_that_has_gone_begins_again(redis_server, heard):
    found = heard(redis_server.url)
    found.stand(b"a")
    found.link._connection._sock.shutdown(1)
    found.link.want(b"b")
    found.link.want(b"c")
    found.stand(b"a", b"b", b"c")
    assert found.back in ([], [b"a"])


def test_closing_ends_it_and_nothing_is_said(redis_server, heard, caplog):
    found = heard(redis_server.url)
    found.stand(b"a")
    found.link.close()
    found.link._thread.join(30)
    assert not found.link.want(b"b").is_set()
    assert not found.lost and not caplog.records


def test_closing_ends_it_while_it_waits(heard):
    found = heard("redis://127.0.0.1:1")
    found.link.want(b"a")
    wait_until(lambda: found.lost)
    found.link.close()
