"""Presence with a real Redis, real threads, and times that are a fraction of the real ones."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random, SystemRandom
from time import monotonic

import pytest

import stargate.backplane.redis.presence as presence_module
from stargate.backplane.redis.address import parse
from stargate.backplane.redis.commands import Commands
from stargate.backplane.redis.lease import Times
from stargate.backplane.redis.who import Reader
from stargate.exceptions import BackplaneError
from stargate_tests.backplane.redis import listening
from stargate_tests.backplane.redis.presences import CALM, DEADLINE, Closed, Unlucky
from stargate_tests.redis_servers import ping
from stargate_tests.waiting import wait_until

TIMES = Times(lease=1.0, beat=0.1, gather=0.002, verify=0.6, retry=0.05)


ROOT = Path(__file__).parents[3]


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


def test_of_workers_that_end_at_the_same_time_the_last_one_leaves_nothing(
    redis_server, workers, namespace
):
    crowd = [workers(redis_server, CALM._replace(beat=60.0)) for _ in range(3)]
    for number, each in enumerate(crowd):
        each.enter("/a", number)
        each.told()
    for each in crowd:
        each.close()
    assert sorted(crowd[-1].signs()) == ["+2", "-0", "-1", "-2"]
    left = redis_server.client().keys(f"stargate:{{{namespace}*")
    assert sorted(left) == [f"stargate:{{{namespace}}}:{each}" for each in ("epoch", "gone")]


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


# The Redis fails.


def test_a_pause_of_the_redis_changes_nothing(own_redis, workers):
    server = own_redis()
    times = Times(*(each / 10 for each in Times()))
    one, other = workers(server, times, 0.2), workers(server, times, 0.2)
    one.enter("/a", "ann", "bob")
    one.told()
    other.enter("/a", "bob")
    before = other.here("/a")
    server.pause()
    begun = monotonic()
    wait_until(lambda: monotonic() - begun > 1.5, DEADLINE)
    server.resume()
    looked = one.presence._lease._looked, other.presence._lease._looked
    wait_until(lambda: one.presence._lease._looked > looked[0], DEADLINE)
    wait_until(lambda: other.presence._lease._looked > looked[1], DEADLINE)
    wait_until(lambda: ping(server.client()), DEADLINE)
    assert other.reader.presence("/a") == before == {"ann": 1, "bob": 2}
    assert sorted(one.signs() + other.signs()) == ["+ann", "+bob"]


def test_changes_while_the_redis_is_away_are_told_when_it_is_back(own_redis, workers, caplog):
    server = own_redis()
    one = workers(server, timeout=0.5)
    one.enter("/a", "ann")
    one.told()
    server.stop()
    one.enter("/a", "bob")
    one.leave("/a", "ann")
    for _ in range(3):
        with pytest.raises(BackplaneError):
            one.told()
    server.start()
    wait_until(lambda: one.signs() == ["+ann", "+bob", "-ann"], DEADLINE)
    assert one.here("/a") == {"bob": 1}
    complaints = [each for each in caplog.messages if "can't be told" in each]
    assert len(complaints) == 1
    assert server.url not in complaints[0]


def test_an_emptied_redis_is_filled_again_and_nobody_is_told_of(own_redis, workers):
    server = own_redis()
    one, other = workers(server, TIMES), workers(server, TIMES)
    one.enter("/a", "ann", "bob", None)
    one.told()
    other.enter("/a", "bob", "cid")
    before = other.here("/a")
    events = sorted(one.signs() + other.signs())
    assert before == {"ann": 1, "bob": 2, "cid": 1}
    server.client().flushall()
    wait_until(lambda: other.reader.presence("/a") == before, DEADLINE)
    for each in (one, other):
        wait_until(lambda each=each: each.presence._lease.settled, DEADLINE)
        each.told()
    assert other.reader.listener_count("/a") == 5
    assert sorted(one.signs() + other.signs()) == events


def test_a_redis_that_comes_back_empty_is_filled_again_and_nobody_is_told_of(own_redis, workers):
    server = own_redis()
    one = workers(server, TIMES, 0.5)
    one.enter("/a", "ann")
    one.told()
    server.wipe()
    wait_until(lambda: one.reader.presence("/a") == {"ann": 1}, DEADLINE)
    one.told()
    assert one.signs() == ["+ann"]


def test_who_is_at_a_worker_that_has_not_filled_an_emptied_redis_neither_comes_nor_goes(
    own_redis, workers
):
    server = own_redis()
    quick = workers(server, CALM._replace(verify=60.0))
    slow = workers(server, CALM)
    quick.enter("/a", "ann", "bob")
    quick.told()
    slow.enter("/a", "ann", "cid")
    slow.told()
    quick.presence._look()  # It knows that there is another.
    slow.presence._lease._commands = Closed(slow.commands)
    server.client().flushall()
    quick.leave("/a", "ann", "bob")
    quick.enter("/a", "cid", "dan")
    assert quick.here("/a") == {"cid": 1, "dan": 1}
    assert quick.signs() == ["+ann", "+bob"]
    slow.presence._lease._commands = slow.commands
    wait_until(lambda: len(quick.events + slow.events) == 5, DEADLINE)
    assert quick.here("/a") == {"ann": 1, "cid": 2, "dan": 1}
    slow.told()
    assert sorted(quick.signs() + slow.signs()) == ["+ann", "+bob", "+cid", "+dan", "-bob"]


def test_older_copies_of_the_redis_are_put_right(own_redis, workers):
    server = own_redis()
    one, other = workers(server, TIMES, 0.5), workers(server, TIMES, 0.5)
    one.enter("/a", "ann", "bob")
    one.enter("/b", "ann")
    one.told()
    other.enter("/a", "cid")
    other.told()
    old = server.snapshot()
    one.leave("/a", "ann")
    one.leave("/b", "ann")
    one.enter("/a", "dan")
    one.enter("/c", "dan")
    one.told()
    before = sorted(one.signs() + other.signs())
    server.restore(old)
    expected = {"/a": {"bob": 1, "cid": 1, "dan": 1}, "/b": {}, "/c": {"dan": 1}}

    def found():
        try:
            return {topic: other.reader.presence(topic) for topic in expected}
        except BackplaneError:
            return None

    wait_until(lambda: found() == expected, DEADLINE)
    for each in (one, other):
        wait_until(lambda each=each: each.presence._lease.settled, DEADLINE)
        each.told()
    after = [each for each in one.signs() + other.signs() if each not in ("-ann",)]
    assert sorted(after) == [each for each in before if each != "-ann"]


def test_what_was_lost_at_one_address_alone_is_found_and_written_again(redis_server, workers):
    one = workers(redis_server)
    one.enter("/a", "ann")
    one.enter("/b", "bob")
    one.told()
    redis_server.client().delete(one.place("/a"))
    wait_until(lambda: one.reader.presence("/a") == {"ann": 1}, DEADLINE)
    assert one.here("/b") == {"bob": 1}
    assert sorted(one.signs()) == ["+ann", "+bob"]


def test_an_answer_that_was_lost_comes_again_with_the_same_events(redis_server, workers):
    one = workers(redis_server, commands=Unlucky(redis_server.url))
    one.enter("/a", "ann", "bob")
    one.told()
    one.commands.unlucky = 1
    one.leave("/a", "ann")
    with pytest.raises(BackplaneError):
        one.told()
    one.enter("/a", "ann")
    assert one.here("/a") == {"ann": 1, "bob": 1}
    assert sorted(one.signs()[:2]) == ["+ann", "+bob"]
    assert one.signs()[2:] == ["-ann", "+ann"]


def test_ten_thousand_joins_are_told_in_few_round_trips(redis_server, workers):
    one = workers(redis_server, Times(lease=120.0, beat=60.0))
    calls = []
    at = one.commands._at
    one.commands._at = lambda *args: calls.append(args) or at(*args)
    one.enter("/a", *range(10_000))
    one.told()
    assert len(calls) < 40, "calls for names at one address"
    calls.clear()
    for number in range(2_000):
        one.enter(f"/{number}", None)
    one.told()
    assert len(calls) < 40, "calls for as many addresses"
    assert one.reader.listener_count("/a") == 10_000
    assert one.reader.listener_count("/77") == 1
    assert len(one.events) == 10_000


def test_changes_wait_for_others_that_come_soon(redis_server, workers):
    one = workers(redis_server)
    one.enter("/a", "ann")
    one.told()
    one.leave("/a", "ann")
    one.enter("/a", "ann")
    one.told()
    assert one.signs() == ["+ann"], "a reload of a page"


@pytest.mark.parametrize("run", range(3))
def test_at_random_all_is_as_it_should_be(redis_server, workers, run):
    """Three workers whose calls fail at random, and a model of what should be here."""
    seed = int(os.environ.get("PRESENCE_SEED", 0)) or SystemRandom().randrange(1, 10**9)
    print(f"PRESENCE_SEED={seed}")
    times = CALM._replace(retry=0.002, beat=0.02)
    crowd = [
        workers(redis_server, times, commands=Unlucky(redis_server.url, Random(seed + number)))
        for number in range(3)
    ]
    model = [Counter() for _ in crowd]
    threads = [
        threading.Thread(target=live, args=(Random(seed * 7 + number), *each))
        for number, each in enumerate(zip(crowd, model, strict=True))
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join(DEADLINE)
    for each in crowd:
        each.commands.random = None
        wait_until(lambda each=each: is_told(each), DEADLINE)
    for topic in TOPICS:
        judge(topic, crowd, sum(model, Counter()))


TOPICS, NAMES = ("/0", "/1", "/2"), ("ann", "bob", 3, None)


def live(random, worker, mine):
    """Come and go; ``mine`` is who is here in the end."""
    for _ in range(400):
        key = random.choice(TOPICS), random.choice(NAMES)
        if mine[key] and random.randrange(2):
            worker.leave(*key)
            mine[key] -= 1
        else:
            worker.enter(*key)
            mine[key] += 1
        if random.randrange(3) == 0:
            time.sleep(0)
    for key, left in mine.items():
        mine[key] = random.choice((0, left))
        for _ in range(left - mine[key]):
            worker.leave(*key)


def judge(topic, crowd, model):
    here = {who: sockets for (at, who), sockets in model.items() if at == topic and sockets}
    reader = crowd[0].reader
    assert reader.listener_count(topic) == sum(here.values())
    assert reader.presence(topic) == {who: here[who] for who in here if who is not None}
    events = [each for worker in crowd for each in worker.events if each.topic == topic]
    for who in filter(None, NAMES):
        came = {each.id: each.came for each in sorted(events, key=order) if each.who == who}
        assert list(came.values()) == [not index % 2 for index in range(len(came))], "in turn"
        assert len(came) % 2 == (who in here)


def order(event):
    return event.id


def is_told(worker):
    try:
        worker.told()
    except BackplaneError:
        return False
    return True


def test_an_address_that_can_not_be_forgotten_now_is_forgotten_later(redis_server, workers):
    one = workers(redis_server, CALM._replace(verify=0.2))
    refused = []

    def forget(worker, places):
        refused.extend(places)
        one.presence._ledger.forget = before
        return [BackplaneError("not sent", "out of reach")]

    before, one.presence._ledger.forget = one.presence._ledger.forget, forget
    one.enter("/a", "ann")
    one.told()
    one.leave("/a", "ann")
    one.told()
    wait_until(lambda: not redis_server.client().exists(one.place("/a")), DEADLINE)
    assert [topic for topic, _serial in refused] == ["/a"]
    assert one.signs() == ["+ann", "-ann"]


def test_all_of_it_works_on_a_cluster_whose_slots_move(redis_cluster, workers):
    topics = [f"/{number}" for number in range(30)]
    one, other = workers(redis_cluster), workers(redis_cluster)
    for topic in topics:
        one.enter(topic, "ann", None)
        other.enter(topic, "bob")
    one.told()
    other.told()
    for key in (one.keys.workers, one.place("/3")):
        source = redis_cluster.node_of(key)
        target = next(each for each in redis_cluster.nodes if each is not source)
        redis_cluster.move_slot(redis_cluster.slot(key), source, target)
    one.leave("/3", "ann")
    wait_until(lambda: one.signs()[-1] == "-ann", DEADLINE)
    assert other.here("/3") == {"bob": 1}
    one.close()
    wait_until(lambda: other.signs().count("-ann") == len(topics) - 1, DEADLINE)
    for topic in topics:
        assert other.here(topic) == {"bob": 1}
        assert other.reader.listener_count(topic) == 1


def test_an_address_that_the_server_refuses_does_not_hold_up_others(redis_server, workers):
    one = workers(redis_server)
    one.enter("/b", "bob")
    one.told()
    redis_server.client().set(one.place("/a"), "somebody else's")
    one.enter("/a", "ann")
    one.enter("/b", "ann")
    with pytest.raises(BackplaneError, match="WRONGTYPE"):
        one.told()
    assert one.reader.presence("/b") == {"ann": 1, "bob": 1}
    redis_server.client().delete(one.place("/a"))
    wait_until(lambda: one.signs()[-1] == "+ann" and len(one.events) == 3, DEADLINE)


def test_a_lease_that_is_lost_is_missed_before_anything_is_told(own_redis, workers):
    server = own_redis()
    one = workers(server, CALM._replace(beat=60.0))
    one.enter("/a", "ann")
    one.told()
    server.client().flushall()
    one.enter("/b", "bob")
    assert one.here("/b") == {"bob": 1}
    assert one.reader.presence("/a") == {"ann": 1}, "all was written again"
    assert one.signs() == ["+ann", "+bob"]


def test_a_worker_that_is_only_at_an_address_called_gone_is_new(redis_server, workers):
    one = workers(redis_server)
    one.enter("/a", "ann")
    one.told()
    name = one.presence.worker
    redis_server.client().delete(one.place("/a"))
    redis_server.client().hset(one.place("/a"), f"@{name}", "gone {}")
    one.enter("/a", "bob")
    assert one.here("/a") == {"ann": 1, "bob": 1}
    assert one.presence.worker != name


def test_a_redis_that_loses_all_that_it_is_told_is_not_told_for_ever(
    redis_server, workers, monkeypatch
):
    monkeypatch.setattr(presence_module, "PASSES", 5)
    one = workers(redis_server)
    one.presence._ledger.change = lambda calls: [None] * len(calls)
    one.enter("/a", "ann")
    with pytest.raises(BackplaneError, match="loses what it is told"):
        one.told()


def test_a_mistake_of_ours_is_logged_and_ends_nothing(redis_server, workers, caplog):
    one = workers(redis_server)
    change = one.presence._ledger.change
    one.presence._ledger.change = lambda calls: 1 // 0
    one.enter("/a", "ann")
    with pytest.raises(BackplaneError, match="ZeroDivisionError"):
        one.told()
    one.presence._ledger.change = change
    wait_until(lambda: one.signs() == ["+ann"], DEADLINE)
    assert "presence failed" in caplog.text


def test_a_report_that_fails_keeps_no_other_from_coming(redis_server, workers, caplog):
    one = workers(redis_server)
    reported = []

    def report(event):
        reported.append(event.who)
        if event.who == "ann":
            raise RuntimeError("nobody wants to know")

    one.presence._report = report
    one.enter("/a", "ann", "bob")
    one.told()
    assert sorted(reported) == ["ann", "bob"]
    assert "nobody could be told" in caplog.text


def test_a_redis_that_stands_still_holds_up_nobody_for_longer_than_it_may(own_redis, workers):
    server = own_redis()
    one = workers(server, timeout=60.0)
    one.enter("/a", "ann")
    one.told()
    server.pause()
    one.enter("/a", "bob")
    with pytest.raises(BackplaneError, match="not told within 0.1 s"):
        one.presence.catch_up(0.1)
    begun = monotonic()
    one.presence.close(0.1)
    assert 0.1 <= monotonic() - begun < DEADLINE
    server.resume()
    one.presence._thread.join(DEADLINE)


def test_a_redis_that_has_gone_keeps_nobody_from_ending(own_redis, workers, caplog):
    server = own_redis()
    one = workers(server)
    one.enter("/a", "ann")
    one.told()
    server.kill()
    one.enter("/a", "bob")
    one.presence.close(DEADLINE)
    wait_until(lambda: not one.presence._thread.is_alive())
    assert "that nobody is here any more" in caplog.text


def test_after_its_end_it_takes_no_more(redis_server, workers):
    one = workers(redis_server)
    one.presence.close(DEADLINE)
    one.enter("/a", "ann")
    one.told()
    assert one.here("/a") == {}
    assert one.presence._thread is None


def test_addresses_at_which_nobody_is_are_forgotten(redis_server, workers):
    one = workers(redis_server, CALM._replace(verify=0.2))
    one.enter("/a", "ann")
    one.enter("/b", "bob")
    one.told()
    one.leave("/a", "ann")
    one.told()
    client = redis_server.client()
    wait_until(lambda: not client.exists(one.place("/a")), DEADLINE)
    wait_until(
        lambda: client.smembers(one.keys.addresses(one.presence.worker)) == {"/b"},
        DEADLINE,
    )
    one.enter("/a", "ann")
    assert one.here("/a") == {"ann": 1}
    assert one.signs().count("+ann") == 2


def test_an_address_that_is_to_be_forgotten_and_has_changed_is_put_right(redis_server, workers):
    one = workers(redis_server, CALM._replace(beat=60.0))
    one.enter("/a", "ann")
    one.told()
    one.leave("/a", "ann")
    one.told()
    client, name = redis_server.client(), one.presence.worker
    client.hset(one.place("/a"), mapping={f"@{name}": "77 {}", '"ann"': f"1 {name}=1"})
    one.presence._places["/a"].changed_at = -100.0
    one.presence._verify_at = 0.0
    one.told()
    assert one.here("/a") == {}
    assert one.signs() == ["+ann", "-ann", "-ann"]


def test_a_worker_that_was_called_gone_comes_again_with_all_who_are_there(redis_server, workers):
    one, other = workers(redis_server), workers(redis_server)
    one.enter("/a", "ann", "bob")
    one.told()
    other.enter("/a", "bob")
    other.told()
    name = one.presence.worker
    one.presence._lease.next_look = monotonic() + 60  # It is asleep.
    wait_until(lambda: not one.presence._news.is_set(), DEADLINE)
    redis_server.client().zadd(one.keys.workers, {name: 1})
    other.events += other.presence._ledger.sweep(name, "somebody", 60.0)
    assert other.signs() == ["-ann"]
    one.enter("/a", "cid")
    wait_until(lambda: one.presence.worker != name, DEADLINE)
    assert one.here("/a") == {"ann": 1, "bob": 2, "cid": 1}
    assert sorted(one.signs()) == ["+ann", "+ann", "+bob", "+cid"]


def test_a_child_of_a_process_is_a_worker_of_its_own(redis_server, workers):
    one = workers(redis_server)
    one.enter("/a", "ann")
    one.told()
    name = one.presence.worker
    one.presence._process = -1  # As in a child.
    parent = one.presence._thread
    one.presence.catch_up(0.0)
    one.enter("/a", "bob")
    assert one.presence.worker != name
    assert one.here("/a") == {"ann": 1, "bob": 1}
    assert one.presence._thread is not parent


def program(server, namespace, *names):
    command = [sys.executable, "-m", listening.__name__, server.url, namespace, *names]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def lines_until(process, wanted):
    found = []
    while not found or found[-1] != wanted:
        line = process.stdout.readline()
        assert line, f"{wanted} is not in {found}"
        found.append(line.strip())
    return found


def test_a_killed_process_is_seen_gone_by_another_and_a_frozen_one_comes_back(
    redis_server, namespace
):
    with ExitStack() as stack:
        first, second, third = (
            stack.enter_context(ended(program(redis_server, namespace, "/a", *names)))
            for names in (("ann", "bob"), ("bob",), ("cid",))
        )
        for each in (first, second, third):
            lines_until(each, "ready")
        reader = Reader(Commands(parse(redis_server.url), DEADLINE), namespace)
        assert reader.presence("/a") == {"ann": 1, "bob": 2, "cid": 1}
        begun = monotonic()
        first.kill()
        wait_until(lambda: reader.presence("/a") == {"bob": 1, "cid": 1}, DEADLINE)
        assert monotonic() - begun < 30.0 / 10 + 2, "and 2 s for a busy machine"
        third.send_signal(signal.SIGSTOP)
        wait_until(lambda: reader.presence("/a") == {"bob": 1}, DEADLINE)
        assert lines_until(second, "-cid") == ["-ann", "-cid"]
        third.send_signal(signal.SIGCONT)
        assert lines_until(third, "+cid") == ["+cid"]
        assert reader.presence("/a") == {"bob": 1, "cid": 1}
        reader._commands.close()


@contextmanager
def ended(process):
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE)


#: In a process as pserve and gunicorn make it, where every thread is a greenlet.
FIRST_LISTENER = """
import sys

from stargate.engine.patching import patch

patch()

import eventlet

from stargate.backplane.redis.backplane import RedisBackplane
from stargate.history import Keep
from stargate.settings.application import read_application
from stargate.stats import Counters


class Receiver:
    def ask(self, function, *args):
        return function(*args)

    tell = ask

    def listener_count(self, topic):
        return 1


settings = {"stargate.backplane": sys.argv[1], "stargate.namespace": "first"}
backplane = RedisBackplane(read_application(settings), Receiver(), Counters())
backplane.subscribe("/a", Keep(10))
turns = []
eventlet.spawn(turns.append, "another's turn")
backplane.enter("/a", "ann")
print(turns)
backplane.close()
"""


def test_between_the_first_subscription_and_the_attachment_nobody_else_has_a_turn(redis_server):
    """Else what comes then reaches the newcomer before what it has missed."""
    command = [sys.executable, "-W", "ignore", "-c", FIRST_LISTENER, redis_server.url]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)
    assert (found.stdout, found.returncode) == ("[]\n", 0), found.stderr
