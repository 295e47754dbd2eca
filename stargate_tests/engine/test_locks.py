"""What greenlets and OS threads share under the patch, and the lock that all of it is made of.

Mostly in processes of their own: this one is not patched.
"""

import subprocess
import sys
import threading

import pytest

from stargate.engine import locks
from stargate_tests.engine import contention
from stargate_tests.waiting import turn_until, wait_until

EARLY = """
import logging
logging.getLogger("early").addHandler(logging.StreamHandler())
import stargate
stargate.patch()
from stargate_tests.engine import contention
"""

PATCHED = """
import stargate
stargate.patch()
import threading, time, eventlet
from eventlet import patcher
real, clock = patcher.original("threading"), patcher.original("time")
from stargate.engine.locks import Lock
lock, log = Lock(), []

def start(function):
    threading.Thread(target=function, daemon=True).start()

def start_thread(function):
    thread = real.Thread(target=function, daemon=True)
    thread.start()
    return thread

def wait_until(found, end=time.monotonic() + 20):
    while not found():
        assert time.monotonic() < end, log
        time.sleep(0.001)

def hold(name):
    with lock:
        log.append(name)
        time.sleep(0.01)
"""


class Lock(locks.Lock):
    """One whose parts a test can replace."""


class Waiting:
    """Stands where a greenlet or a thread would wait."""

    thread = woken = 0

    def wake(self):
        self.woken += 1


class Real:
    """A real lock with another way to release it."""

    def __init__(self, real, release):
        self.acquire, self.locked, self.release = real.acquire, real.locked, release


@pytest.fixture
def lock():
    return Lock()


def run(program):
    """What a process of its own says."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("case", contention.CASES)
def test_greenlets_and_threads_share_it(case):
    run(f"{EARLY}\ncontention.main({case!r})")


def test_a_lock_has_what_those_of_the_standard_library_have():
    said = run(
        f"""{PATCHED}
print(type(threading.Lock()).__module__, lock.acquire(), lock.locked(), lock.acquire(False))
print(lock.acquire(timeout=0), lock.acquire(timeout=0.001), lock.release(), lock.locked())
for call in (lock.release, lambda: lock.acquire() and lock.acquire(timeout=-2)):
    try:
        call()
    except (RuntimeError, ValueError) as error:
        print(error)
"""
    )
    assert said.splitlines() == [
        "stargate.engine.locks True True False",
        "False False None False",
        "release unlocked lock",
        "timeout value must be a non-negative number",
    ]


def test_who_waits_longest_is_next_and_nobody_comes_between():
    said = run(
        f"""{PATCHED}
def again():
    for _ in range(3):
        hold("greedy")
for each in (again, lambda: hold("a"), lambda: hold("b")):
    start(each)
wait_until(lambda: len(log) == 5)
print(*log)
"""
    )
    assert said == "greedy a b greedy greedy"


def test_a_greenlet_that_stops_waiting_takes_nothing_with_it():
    """Killed while it waits, killed when it has just been given the lock, and too late."""
    said = run(
        f"""{PATCHED}
lock.acquire()
killed = eventlet.spawn(hold, "killed")
time.sleep(0)
killed.kill()
given = eventlet.spawn(hold, "killed too")
time.sleep(0)
lock.release()
given.kill()
wait_until(lambda: not lock.locked())
lock.acquire()
print(lock.acquire(timeout=0.001))
lock.release()
print(lock.acquire(timeout=0.001), log)
"""
    )
    assert said == "False\nTrue []"


def test_a_greenlet_that_was_given_the_lock_and_went_on_is_not_woken_elsewhere():
    said = run(
        f"""{PATCHED}
def impatient():
    with eventlet.Timeout(0.001, False):
        lock.acquire()
    began = time.monotonic()
    time.sleep(0.05)
    log.append(time.monotonic() - began >= 0.05)
lock.acquire()
start(impatient)
clock.sleep(0)
time.sleep(0)
clock.sleep(0.01)
# In one turn of the hub: its time is over, and the lock is there.
eventlet.hubs.get_hub().schedule_call_global(0, lock.release)
wait_until(lambda: log)
print(log, lock.locked())
"""
    )
    assert said == "[True] False"


def test_a_thread_waits_with_a_limit():
    said = run(
        f"""{PATCHED}
lock.acquire()
thread = start_thread(lambda: log.append(lock.acquire(timeout=0.01)))
wait_until(lambda: log)
lock.release()
print(log, lock.acquire(False))
"""
    )
    assert said == "[False] True"


def test_the_hub_itself_waits_for_a_thread_and_for_no_greenlet():
    said = run(
        f"""{PATCHED}
def in_hub():
    with lock:
        log.append("hub")
def in_thread():
    with lock:
        log.append("thread")
        clock.sleep(0.05)
thread = start_thread(in_thread)
wait_until(lambda: log)
eventlet.hubs.get_hub().schedule_call_global(0, in_hub)
wait_until(lambda: len(log) == 2)
lock.acquire()
def ask_too_much():
    try:
        lock.acquire()
    except AssertionError as error:
        log.append(str(error))
eventlet.hubs.get_hub().schedule_call_global(0, ask_too_much)
wait_until(lambda: len(log) == 3)
print(*log, sep=", ")
"""
    )
    assert said == "thread, hub, Cannot switch to MAINLOOP from MAINLOOP"


IN_HUB = """
def in_hub():
    with lock:
        log.append("hub")
"""


def test_the_hub_comes_before_the_greenlets_that_could_not_go_on_meanwhile():
    said = run(
        f"""{PATCHED}{IN_HUB}
def in_thread():
    with lock:
        log.append("thread")
        while len(lock._waiting) < 2:
            clock.sleep(0.001)
thread = start_thread(in_thread)
wait_until(lambda: log)
start(lambda: hold("greenlet"))
wait_until(lambda: lock._waiting)
eventlet.hubs.get_hub().schedule_call_global(0, in_hub)
wait_until(lambda: len(log) == 3)
print(*log, lock.locked(), sep=", ")
"""
    )
    assert said == "thread, hub, greenlet, True"


def test_the_hub_has_the_lock_of_a_greenlet_that_is_yet_to_go_on_with_it():
    said = run(
        f"""{PATCHED}{IN_HUB}
lock.acquire()
start(lambda: hold("greenlet"))
wait_until(lambda: lock._waiting)
eventlet.hubs.get_hub().schedule_call_global(0, in_hub)
lock.release()
wait_until(lambda: len(log) == 2)
wait_until(lambda: not lock.locked())
print(*log, sep=", ")
"""
    )
    assert said == "hub, greenlet"


def test_a_thread_that_has_slept_waits_as_greenlets_do():
    """It has a hub of its own by then, and may have greenlets on it."""
    said = run(
        f"""{PATCHED}
def in_thread():
    start(lambda: (time.sleep(0.01), log.append("its greenlet")))
    time.sleep(0)
    with lock:
        log.append("thread")
lock.acquire()
thread = start_thread(in_thread)
wait_until(lambda: log)
lock.release()
wait_until(lambda: len(log) == 2)
print(*log, sep=", ")
"""
    )
    assert said == "its greenlet, thread"


def test_a_child_has_locks_and_a_way_to_wake_its_hub_of_its_own():
    said = run(
        f"""{PATCHED}
import os
def contend(name):
    thread = start_thread(lambda: (lock.acquire(), log.append("thread"), lock.release()))
    lock.acquire(timeout=0.001)
    lock.acquire(timeout=0.001)
    started = start_thread(lambda: (clock.sleep(0.01), lock.release()))
    with lock:
        log.append(name)
lock.acquire()
contend("parent")
lock.acquire()
child = os.fork()
if not child:
    lock._at_fork_reinit()
    try:
        log.clear()
        lock.acquire()
        contend("child")
        assert "child" in log, log
    except BaseException:
        os._exit(1)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "parent" in log)
"""
    )
    assert said == "0 True"


def test_a_greenlet_that_waits_for_a_cached_property_holds_nobody_up():
    said = run(
        f"""{PATCHED}
import functools
class Thing:
    @functools.cached_property
    def value(self):
        log.append("begins")
        if real.current_thread() is not real.main_thread():
            clock.sleep(0.2)
        return 1
turns = []
start_thread(lambda: Thing().value)
wait_until(lambda: log)
start(lambda: turns.append(Thing().value))
end = time.monotonic() + 0.1
while time.monotonic() < end:
    time.sleep(0.001)
    turns.append(0)
print(len(turns) > 10, turns[0])
"""
    )
    assert said == "True 0" if sys.version_info < (3, 12) else "True 1"


# What takes two threads at the same line: here it is brought about.


def test_a_lock_that_is_released_while_somebody_begins_to_wait_is_taken(lock):
    lock.acquire()
    lock._new_waiting = lambda: (lock.release(), Waiting())[1]
    assert lock.acquire()
    assert lock.locked() and not lock._waiting


def test_who_begins_to_wait_while_it_is_released_is_given_it(lock):
    lock.acquire()
    waiting, free = Waiting(), lock._real.release
    lock._real = Real(lock._real, lambda: (free(), lock._waiting.append(waiting)))
    lock.release()
    assert (waiting.woken, lock.locked()) == (1, True)


def test_a_lock_is_free_when_whoever_waited_has_just_left(lock):
    class Leaving(list):
        def pop(self, _index):
            self.clear()
            raise IndexError

    lock.acquire()
    lock._waiting = Leaving([Waiting()])
    lock.release()
    assert not lock.locked()


def test_one_thread_waits_for_another(lock):
    log = []

    def hold():
        with lock:
            log.append("thread")

    lock.acquire()
    threads = [threading.Thread(target=hold) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(lock._waiting) == 2)
    log.append("here")
    lock.release()
    for thread in threads:
        thread.join(30)
    assert log == ["here", "thread", "thread"] and not lock.locked()


def test_the_hub_waits_for_a_thread(lock, engine):
    log = []
    begun, go_on = threading.Event(), threading.Event()

    def hold():
        with lock:
            begun.set()
            go_on.wait(30)
            log.append("thread")

    def on_hub():
        go_on.set()
        with lock:
            log.append("hub")

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(30)
    engine.call_soon(on_hub)
    turn_until(engine, lambda: len(log) == 2)
    thread.join(30)
    assert log == ["thread", "hub"]


def test_a_lock_is_new_after_a_fork(lock):
    lock.acquire()
    lock._waiting.append(Waiting())
    lock._at_fork_reinit()
    assert not lock.locked() and not lock._waiting


def test_a_thread_that_only_waits_for_locks_needs_no_descriptors():
    said = run(
        f"""{PATCHED}
import os
def count():
    return len(os.listdir("/proc/self/fd"))
lock.acquire()
start_thread(lambda: lock.acquire(timeout=0.001)).join()
before = count()
for _ in range(20):
    start_thread(lambda: lock.acquire(timeout=0.001)).join()
print(count() - before)
"""
    )
    assert said == "0"
