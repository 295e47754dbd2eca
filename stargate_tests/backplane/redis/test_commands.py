import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from stargate.backplane.redis.address import parse
from stargate.backplane.redis.commands import (
    CONNECTIONS,
    NOT_SENT,
    PIPELINED,
    UNKNOWN,
    Commands,
    Deadline,
    is_moved_away,
    reason,
    was_answered,
)
from stargate.backplane.redis.scripts import Script
from stargate.exceptions import BackplaneError
from stargate_tests.redis_groups import replica_of
from stargate_tests.redis_relay import UP
from stargate_tests.waiting import wait_until

COUNT = Script("return redis.call('INCR', KEYS[1])")
SUM = Script("return ARGV[1] + ARGV[2]")

#: Seconds: the deadline of a call that is to fail.
SHORT = 0.5


@pytest.fixture
def commands():
    """``commands(url, timeout=...)``; closed after the test."""
    made = []

    def commands(url, timeout=SHORT):
        made.append(Commands(parse(url), timeout))
        return made[-1]

    yield commands
    for each in made:
        each.close()


@contextmanager
def failing(outcome, match=None, within=2.0):
    """One deadline: what fails has failed by then, and says what is certain."""
    began = time.monotonic()
    with pytest.raises(BackplaneError, match=match) as caught:
        yield
    assert time.monotonic() - began < within
    assert caught.value.outcome == outcome
    assert caught.value.key == "k"


def count(commands, key="n"):
    return commands.script(COUNT, (key,), (), key="k")


def count_is(server, number, key="n"):
    return server.ask("GET", key) == (str(number) if number else None)


# What is answered.


def test_a_script_is_sent_whole_once_and_by_its_hash_then(own_redis, commands):
    server = own_redis()
    found = commands(server.url, 10.0)
    assert [count(found) for _ in range(3)] == [1, 2, 3]
    server.ask("SCRIPT", "FLUSH")
    assert count(found) == 4
    stats = server.info("commandstats")
    assert stats["cmdstat_eval"].startswith("calls=2,")


def test_many_scripts_go_out_at_once(redis_server, commands):
    found = commands(redis_server.url, 10.0)
    calls = [(("x",), (number, 1)) for number in range(PIPELINED + 5)]
    assert found.scripts(SUM, calls) == [number + 1 for number in range(PIPELINED + 5)]


def test_an_error_for_one_of_many_is_among_the_answers(redis_server, commands, namespace):
    found = commands(redis_server.url, 10.0)
    redis_server.ask("SET", namespace, "no number")
    replies = found.scripts(COUNT, [((f"{namespace}1",), ()), ((namespace,), ())])
    assert replies[0] == 1
    assert "not an integer" in str(replies[1])
    assert found.scripts(COUNT, [((f"{namespace}1",), ())]) == [2]


def test_no_scripts_are_no_trouble(commands):
    assert commands("redis://127.0.0.1:1").scripts(COUNT, []) == []


def test_a_command_is_answered(redis_server, commands):
    assert commands(redis_server.url, 10.0).command("x", "ECHO", "x") == b"x"


def test_all_is_heard_in_one_place(commands):
    found = commands("redis://127.0.0.1:1")
    assert found.where("a") == found.where("b")


# What is certain when it fails.


def test_nobody_is_there(commands):
    with failing(NOT_SENT, "refused"):
        count(commands("redis://127.0.0.1:1"))


def test_a_server_that_stands_still(own_redis, commands):
    server = own_redis()
    found = commands(server.url)
    assert count(found) == 1
    server.pause()
    with failing(UNKNOWN, "no answer|timed out|not within"):
        count(found)
    with failing(UNKNOWN, "no answer|timed out|not within"):
        count(found)  # Over a new connection: the kernel accepts it.
    server.resume()
    wait_until(lambda: count_is(server, 3))  # Each once.
    assert count(found) == 4


def test_a_server_that_accepts_and_never_answers(commands):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with failing(NOT_SENT):  # It has not even logged in.
            count(commands(f"redis://:word@127.0.0.1:{port}"))


def test_a_server_that_does_not_accept(commands):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            with failing(NOT_SENT, "Timeout connecting|timed out|no answer"):
                count(commands(f"redis://127.0.0.1:{port}"))


def test_a_command_that_does_not_leave_as_a_whole(own_redis, commands):
    server = own_redis()
    found = commands(server.url)
    script = Script("return redis.call('SET', KEYS[1], ARGV[1])")
    found.command("x", "PING")
    server.pause()
    with failing(NOT_SENT):
        found.script(script, ("big",), (b"x" * 50_000_000,), key="k")
    server.resume()
    assert found.command("big", "EXISTS", "big") == 0


def test_all_connections_are_in_use(redis_server, commands, namespace):
    found = commands(redis_server.url, 10.0)
    others = [
        threading.Thread(target=found.command, args=("x", "BLPOP", f"{namespace}{each}", 8))
        for each in range(CONNECTIONS)
    ]
    for each in others:
        each.start()
    blocked = lambda: redis_server.info("clients")["blocked_clients"] == str(CONNECTIONS)  # noqa: E731
    wait_until(blocked)
    found.timeout = SHORT
    with failing(NOT_SENT, "all 32 connections are in use"):
        count(found)
    for each in range(CONNECTIONS):
        redis_server.ask("RPUSH", f"{namespace}{each}", "x")
    for each in others:
        each.join()
    found.timeout = 10.0
    assert count(found, namespace) == 1


def test_a_wrong_password(own_redis, commands):
    server = own_redis(requirepass="word")
    with failing(NOT_SENT, "does not take the user and password"):
        count(commands(server.url.replace("word", "other")))


def test_no_password(own_redis, commands):
    server = own_redis(requirepass="word")
    with failing(NOT_SENT, "Redis wants a password"):
        count(commands(server.url.replace(":word@", "")))


def test_a_user_who_may_not(own_redis, commands):
    server = own_redis(user=["bob on >word ~* &* +@all -incr"])
    found = commands(server.url.replace("://", "://bob:word@"))
    with failing(NOT_SENT, "can't run this command"):
        count(found)
    assert count_is(server, 0)
    assert found.command("x", "PING") == b"PONG"


def test_a_server_out_of_memory(own_redis, commands):
    server = own_redis(maxmemory_policy="noeviction")
    found = commands(server.url, 10.0)
    server.ask("CONFIG", "SET", "maxmemory", "1mb")
    with failing(NOT_SENT, "no memory left", 10.0):
        count(found)
    assert count_is(server, 0)
    server.ask("CONFIG", "SET", "maxmemory", "0")
    assert count(found) == 1


def test_a_server_that_loads_its_data(own_redis, commands):
    server = own_redis(key_load_delay=4_000, loading_process_events_interval_bytes=1024)
    server.ask("DEBUG", "POPULATE", 200, "filler", 1000)
    found = commands(server.url, 10.0)
    count(found)
    server.stop()
    server._spawn(False)
    loading = []

    def has_loaded():
        try:
            return count(found)
        except BackplaneError as error:
            assert error.outcome == NOT_SENT
            loading.append(str(error))

    wait_until(has_loaded)
    assert any("just been started" in each for each in loading)
    assert count_is(server, 2)


def test_a_replica_is_no_place_to_write(own_redis, commands):
    server = own_redis()
    with replica_of(server) as replica:
        found = commands(replica.url, 10.0)
        with failing(NOT_SENT, "is a replica", 10.0):
            count(found)
        wait_until(lambda: "addr=127.0.0.1" not in replica.ask("CLIENT", "LIST", "TYPE", "normal"))


def test_a_reply_that_is_cut(own_redis, relay, commands):
    server = own_redis()
    between = relay(server)
    found = commands(between.url)
    count(found)
    between.cut_after(1)
    with failing(UNKNOWN, "the server has closed the connection"):
        count(found)
    assert count_is(server, 2)
    assert count(found) == 3


def test_a_connection_that_is_cut_before_there_is_a_reply(own_redis, relay, commands):
    server = own_redis()
    between = relay(server)
    found = commands(between.url, 30.0)
    outcome = []
    call = threading.Thread(
        target=lambda: outcome.append(outcome_of(found.command, "x", "BLPOP", "x", 0))
    )
    call.start()
    wait_until(lambda: server.info("clients")["blocked_clients"] == "1")
    between.cut(reset=True)
    call.join()
    assert outcome == [UNKNOWN]
    assert count(found) == 1


def outcome_of(function, *args):
    try:
        function(*args)
    except BackplaneError as error:
        return error.outcome
    return None


def test_nothing_is_sent_twice_whatever_happens(own_redis, relay, commands):
    """At every byte of a reply, the connection is cut: each call has counted once."""
    server = own_redis()
    between = relay(server)
    found = commands(between.url)
    count(found)
    for number in range(2, 6):
        between.cut_after(number - 1)
        outcome = outcome_of(count, found)
        assert outcome == UNKNOWN if number < 5 else outcome in (None, UNKNOWN)
        assert count_is(server, number)


def test_an_idle_connection_that_has_died_is_found_before_anything_is_written(own_redis, commands):
    server = own_redis()
    for number, url in enumerate((server.url, server.unix_url)):
        found = commands(url, 10.0)
        assert count(found) == number * 2 + 1
        server.restart()
        assert count(found) == number * 2 + 2


def test_a_connection_too_many(own_redis, commands):
    server = own_redis(maxclients=1)
    others = [commands(server.url, 10.0)]
    count(others[0])
    refused = commands(server.url, 10.0)
    with failing(NOT_SENT, "too many connections", 10.0):
        count(refused)


# Replicas.


def test_replicas_are_waited_for(own_redis, commands):
    server = own_redis()
    with replica_of(server):
        found = commands(server.url, 10.0)
        assert found.script(COUNT, ("n",), (), replicas=1, key="k") == 1


def test_too_few_replicas_leave_it_unknown(own_redis, commands):
    server = own_redis()
    found = commands(server.url)
    with failing(UNKNOWN, "0 replica.s. have it, and stargate.backplane_replicas is 1"):
        found.script(COUNT, ("n",), (), replicas=1, key="k")
    assert count(found) == 2


def test_an_error_behind_the_writing_leaves_it_unknown(own_redis, commands):
    server = own_redis(user=["bob on >word ~* &* +@all -wait"])
    found = commands(server.url.replace("://", "://bob:word@"), 10.0)
    with failing(UNKNOWN, "permission", 10.0):
        found.script(COUNT, ("n",), (), replicas=1, key="k")
    assert count_is(server, 1)


# Threads, forks, kills.


def test_threads_share_a_few_connections(own_redis, commands):
    server = own_redis()
    found = commands(server.url, 30.0)
    threads = [
        threading.Thread(target=lambda: [count(found) for _ in range(20)]) for _ in range(50)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert count_is(server, 1000)
    assert int(server.info("clients")["connected_clients"]) <= CONNECTIONS + 2


FORKING = """
import os, sys
from stargate.backplane.redis.address import parse
from stargate.backplane.redis.commands import Commands
from stargate.backplane.redis.scripts import Script

script = Script("return redis.call('INCR', KEYS[1])")
found = Commands(parse(sys.argv[1]), 10.0)
count = lambda: found.script(script, ("n",), ())
assert count() == 1
id = found.command("x", "CLIENT", "ID")
child = os.fork()
if not child:
    right = [count(), count()] == [2, 3] and found.command("x", "CLIENT", "ID") != id
    os._exit(0 if right else 1)
assert os.waitpid(child, 0)[1] == 0
assert (count(), found.command("x", "CLIENT", "ID")) == (4, id)
child = os.fork()
if not child:
    found.close()
    os._exit(0)
os.waitpid(child, 0)
assert (count(), found.command("x", "CLIENT", "ID")) == (5, id)
found.close()
"""


def test_a_child_of_a_fork_has_connections_of_its_own(own_redis):
    with own_redis() as server:
        command = [sys.executable, "-c", FORKING, server.url]
        subprocess.run(command, check=True, timeout=60)


class Killed(BaseException):
    """As a greenlet is killed."""


def test_a_call_that_is_killed_leaves_no_reply_to_the_next(own_redis, commands):
    server = own_redis()
    found = commands(server.url, 10.0)
    count(found)

    def kill(_number, _frame):
        raise Killed

    before = signal.signal(signal.SIGUSR1, kill)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        timer.start()
        with pytest.raises(Killed):
            found.command("x", "BLPOP", "nothing", 5)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert count(found) == 2
    wait_until(lambda: server.info("clients")["blocked_clients"] == "0")


def test_closing_closes_all_of_them_now_or_when_they_come_back(own_redis):
    server = own_redis()
    found = Commands(parse(server.url), 30.0)
    threads = [
        threading.Thread(target=found.command, args=("x", "BLPOP", f"q{n}", 0)) for n in range(5)
    ]
    for each in threads:
        each.start()
    wait_until(lambda: server.info("clients")["blocked_clients"] == "5")
    for number in range(4):
        server.ask("RPUSH", f"q{number}", "x")
    wait_until(lambda: server.info("clients")["blocked_clients"] == "1")
    wait_until(lambda: sum(each.is_alive() for each in threads) == 1)
    found.close()
    wait_until(lambda: server.info("clients")["connected_clients"] == "2")
    server.ask("RPUSH", "q4", "x")
    for each in threads:
        each.join()
    wait_until(lambda: server.info("clients")["connected_clients"] == "1")
    found.close()


# Words.


def test_an_error_without_words_is_shown_by_its_name():
    assert reason(TimeoutError()) == "TimeoutError"
    assert reason(KeyError("x")) == "KeyError('x')"
    assert not was_answered(TimeoutError())
    assert not is_moved_away(None)


def test_a_deadline_ends():
    with pytest.raises(TimeoutError, match="not within 0 s"):
        Deadline(0).left()


def test_the_time_that_is_waited_for_a_connection_is_part_of_the_deadline(own_redis, relay):
    """The relay takes 0.4 s for each way: connecting, logging in and asking take too long."""
    server = own_redis(requirepass="word")
    between = relay(server, frames=False)
    between.delay[UP] = 0.4
    found = Commands(parse(between.url), 0.7)
    with failing(UNKNOWN, "no answer|not within", 1.2):
        count(found)
    found.close()


PATCHED = """
import sys
import stargate
stargate.patch()
import eventlet
from stargate.backplane.redis.address import parse
from stargate.backplane.redis.commands import Commands
from stargate.backplane.redis.scripts import Script

script = Script("return redis.call('INCR', KEYS[1])")
for number, url in enumerate(sys.argv[1:]):
    found = Commands(parse(url), 10.0)
    count = lambda: found.script(script, (f"n{number}",), ())
    assert count() == 1
    waiting = eventlet.spawn(found.command, "x", "BLPOP", "nothing", 5)
    eventlet.sleep(0.2)
    waiting.kill()
    assert count() == 2, "the reply of the one that was killed is for nobody"
    counts = eventlet.GreenPool(200).imap(lambda _: count(), range(200))
    assert sorted(counts) == list(range(3, 203))
    found.command("x", "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")
    eventlet.sleep(0.2)
    assert count() == 203, "connections that have died are found"
    found.close()
print("right")
"""


def test_under_a_patched_library_it_is_the_same(own_redis):
    server = own_redis()
    command = [sys.executable, "-W", "ignore", "-c", PATCHED, server.url, server.unix_url]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.stdout == "right\n", found.stderr
