import logging
import os
import socket
import subprocess
import sys
import threading
import weakref
from contextlib import ExitStack
from itertools import pairwise

import pytest

from stargate.engine import current_engine, hub
from stargate.engine.hub import READ, WRITE, Engine
from stargate.engine.peerlog import peerlog
from stargate_tests.waiting import turn, turn_until, wait_until


class Boom(Exception):
    pass


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def pairs():
    """Three pairs of connected sockets."""
    with ExitStack() as stack:
        yield [tuple(stack.enter_context(sock) for sock in socket.socketpair()) for _ in range(3)]


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


# Which engine.


def test_a_thread_has_one_engine(engine):
    first = current_engine()
    try:
        assert current_engine() is first
    finally:
        turn(first)
        first.close()


def test_another_thread_has_another():
    found = []

    def run():
        engine = current_engine()
        found.append(engine)
        turn(engine)
        engine.close()

    mine = current_engine()
    try:
        in_thread(run).join(10)
        assert found and found[0] is not mine
    finally:
        turn(mine)
        mine.close()


def test_after_closing_a_thread_gets_a_new_one():
    first = current_engine()
    turn(first)
    first.close()
    assert first.closed
    second = current_engine()
    assert second is not first and not second.closed
    turn(second)
    second.close()


def run_python(program):
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=10
    )


def test_an_engine_whose_hub_never_ran_can_be_closed():
    done = run_python("from stargate.engine.hub import Engine; Engine().close(); print('closed')")
    assert done.stdout == "closed\n", done.stderr


def test_a_fork_gets_an_engine_of_its_own():
    program = """
import os, sys
from stargate.engine import current_engine, hub
parent = current_engine()
pid = os.fork()
if pid == 0:
    child = current_engine()
    os._exit(0 if child is not parent and child.process == os.getpid() else 1)
assert current_engine() is parent
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = run_python(program)
    assert done.returncode == 0, done.stderr


def test_closing_releases_its_descriptors():
    def count():
        return len(os.listdir("/proc/self/fd"))

    warm = Engine()
    turn(warm)
    warm.close()
    before = count()
    for _ in range(5):
        engine = Engine()
        turn(engine)
        engine.close()
    assert count() <= before


# Descriptors.


def test_a_watcher_is_called_when_there_is_something_to_read(engine, pair):
    ours, theirs = pair
    events = []
    engine.watch(ours.fileno(), READ, lambda event: events.append((event, ours.recv(10))))
    turn(engine)
    assert events == [] and engine.watched == 1
    theirs.send(b"a")
    turn_until(engine, lambda: events == [(READ, b"a")])
    engine.unwatch(ours.fileno())
    assert engine.watched == 0


def test_what_is_watched_for_can_be_changed(engine, pair):
    ours, theirs = pair
    events = []
    engine.watch(ours.fileno(), 0, events.append)
    theirs.send(b"a")
    turn(engine, 0.01)
    assert events == []
    engine.rewatch(ours.fileno(), READ | WRITE)
    turn_until(engine, lambda: READ | WRITE in events)
    engine.unwatch(ours.fileno())


def test_what_is_broken_is_always_told(engine, pair):
    ours, theirs = pair
    events = []
    engine.watch(ours.fileno(), 0, events.append)
    theirs.close()
    turn_until(engine, lambda: events)
    engine.unwatch(ours.fileno())


def test_what_is_not_watched_any_more_is_not_told(engine, pair):
    ours, theirs = pair
    events = []
    engine.watch(ours.fileno(), READ, events.append)
    engine.unwatch(ours.fileno())
    theirs.send(b"a")
    turn(engine, 0.01)
    assert events == []
    engine.unwatch(ours.fileno())


def test_a_watcher_that_ends_another_of_the_same_turn_is_heeded(engine, pairs):
    told = []

    def ready(_event):
        told.append(1)
        for ours, _theirs in pairs:
            engine.unwatch(ours.fileno())

    for ours, theirs in pairs:
        engine.watch(ours.fileno(), READ, ready)
        theirs.send(b"a")
    turn_until(engine, lambda: told)
    turn(engine, 0.01)
    assert told == [1]


def test_a_watcher_that_raises_does_not_stop_the_others(engine, pairs, caplog):
    seen = []

    def fails(_event):
        engine.unwatch(pairs[0][0].fileno())
        raise Boom

    def reads(ours):
        return lambda _event: seen.append(ours.recv(1))

    engine.watch(pairs[0][0].fileno(), READ, fails)
    for ours, _theirs in pairs[1:]:
        engine.watch(ours.fileno(), READ, reads(ours))
    with caplog.at_level(logging.ERROR):
        for _ours, theirs in pairs:
            theirs.send(b"a")
        turn_until(engine, lambda: len(seen) == 2 and caplog.records)
        pairs[1][1].send(b"b")
        turn_until(engine, lambda: len(seen) == 3)
    for ours, _theirs in pairs[1:]:
        engine.unwatch(ours.fileno())


def test_a_watcher_that_raises_is_logged_with_its_traceback(engine, pair, caplog):
    ours, theirs = pair

    def fails(_event):
        engine.unwatch(ours.fileno())
        raise Boom

    engine.watch(ours.fileno(), READ, fails)
    theirs.send(b"a")
    with caplog.at_level(logging.ERROR):
        turn_until(engine, lambda: caplog.records)
    (record,) = caplog.records
    assert "the watcher of descriptor" in record.getMessage()
    assert record.exc_info[0] is Boom


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_watcher_that_wants_to_exit_may(engine, pair, error):
    ours, theirs = pair

    def exits(_event):
        raise error

    engine.watch(ours.fileno(), READ, exits)
    theirs.send(b"a")
    with pytest.raises(error):
        engine._dispatch(None)
    engine.unwatch(ours.fileno())


# Greenlets and timers.


def test_a_spawned_function_runs_at_the_next_turn(engine):
    seen = []
    engine.spawn(seen.append, "ran")
    assert seen == []
    turn(engine)
    turn(engine)
    assert seen == ["ran"]


def test_a_spawned_function_is_in_a_greenlet_of_its_own_and_may_park(engine):
    seen = []

    def parks():
        mine = engine.greenlet
        engine.call_later(0.001, engine.resume, mine, "woken")
        seen.append(engine.park())

    engine.spawn(parks)
    turn_until(engine, lambda: seen == ["woken"])


def test_a_greenlet_that_is_not_the_hub_can_resume_another(engine):
    seen, parked = [], []

    def parks():
        parked.append(engine.greenlet)
        seen.append(engine.park())

    engine.spawn(parks)
    turn_until(engine, lambda: parked)
    engine.resume(parked[0], "by hand")
    assert seen == []
    turn_until(engine, lambda: seen == ["by hand"])


def test_the_hub_starts_a_greenlet_at_once(engine):
    seen = []

    def on_the_hub():
        assert engine.on_hub
        engine.start(seen.append, "at once")
        seen.append("then")

    engine.call_soon(on_the_hub)
    turn_until(engine, lambda: seen == ["at once", "then"])
    assert not engine.on_hub


def test_calls_keep_their_order(engine):
    seen = []
    for number in range(10):
        engine.call_soon(seen.append, number)
    turn(engine)
    assert seen == [*range(10)]


def test_a_timer_fires_after_its_time_and_can_be_cancelled(engine):
    seen = []
    engine.call_later(0.01, seen.append, "later")
    engine.call_later(0.01, seen.append, "never").cancel()
    engine.call_soon(seen.append, "soon")
    turn(engine)
    assert seen == ["soon"]
    turn_until(engine, lambda: len(seen) > 1)
    turn(engine, 0.02)
    assert seen == ["soon", "later"]


# Other threads.


def test_an_engine_knows_its_own_thread(engine):
    seen = []
    in_thread(lambda: seen.append(engine.in_own_thread())).join(10)
    assert seen == [False] and engine.in_own_thread()


def test_calls_from_a_thread_keep_their_order(engine):
    seen = []
    thread = in_thread(
        lambda: [engine.call_from_thread(seen.append, number) for number in range(1000)]
    )
    turn_until(engine, lambda: len(seen) == 1000)
    thread.join(10)
    assert seen == [*range(1000)]


def test_calls_from_many_threads_all_arrive_each_threads_in_order(engine):
    seen = []

    def calls(name):
        for number in range(300):
            engine.call_from_thread(seen.append, (name, number))

    threads = [in_thread(calls, name) for name in "abcd"]
    turn_until(engine, lambda: len(seen) == 1200)
    for thread in threads:
        thread.join(10)
    for name in "abcd":
        assert [number for who, number in seen if who == name] == [*range(300)]


def test_a_call_from_a_thread_wakes_a_hub_that_sleeps(engine):
    seen = []
    mine = engine.greenlet
    in_thread(engine.call_from_thread, lambda: (seen.append(1), mine.switch()))
    timer = engine.call_later(10, mine.switch)
    engine.park()
    timer.cancel()
    assert seen == [1]


def test_a_call_that_raises_is_logged_with_its_traceback(engine, caplog):
    def fails():
        raise Boom

    with caplog.at_level(logging.ERROR):
        engine.call_from_thread(fails)
        turn_until(engine, lambda: caplog.records)
    (record,) = caplog.records
    assert "a call from another thread failed" in record.getMessage()
    assert record.exc_info[0] is Boom


def test_a_call_that_raises_does_not_stop_the_next(engine, caplog):
    seen = []

    def fails():
        raise Boom

    with caplog.at_level(logging.ERROR):
        engine.call_from_thread(fails)
        engine.call_from_thread(seen.append, "next")
        turn_until(engine, lambda: seen and caplog.records)


def test_a_thread_waits_while_too_many_calls_are_queued(monkeypatch):
    monkeypatch.setattr("stargate.engine.hub.THREAD_CALLS", 5)
    engine, seen = Engine(), []
    thread = in_thread(
        lambda: [engine.call_from_thread(seen.append, number) for number in range(20)]
    )
    wait_until(lambda: len(engine._calls) == 5)
    thread.join(0.05)
    assert thread.is_alive() and len(engine._calls) == 5
    turn_until(engine, lambda: len(seen) == 20)
    assert seen == [*range(20)]
    engine.close()


def test_asking_returns_what_the_function_does(engine):
    answers = []
    in_thread(lambda: answers.append(engine.ask_from_thread(lambda a, b: a + b, 1, 2)))
    turn_until(engine, lambda: answers == [3])


def test_asking_raises_what_the_function_does(engine):
    caught = []

    def fails():
        raise Boom("there")

    def asks():
        try:
            engine.ask_from_thread(fails)
        except Boom as error:
            caught.append(str(error))

    in_thread(asks)
    turn_until(engine, lambda: caught == ["there"])


def test_what_is_asked_may_park(engine):
    answers = []

    def parks():
        engine.call_later(0.001, engine.resume, engine.greenlet, "woken")
        return engine.park()

    in_thread(lambda: answers.append(engine.ask_from_thread(parks)))
    turn_until(engine, lambda: answers == ["woken"])


def test_an_interruption_is_made_soon_and_never_waits(monkeypatch):
    monkeypatch.setattr("stargate.engine.hub.THREAD_CALLS", 1)
    engine, seen = Engine(), []
    for number in range(5):
        engine.interrupt(seen.append, number)
    turn_until(engine, lambda: seen == [*range(5)])
    engine.close()


def test_wake_ups_that_nobody_reads_do_not_block(engine):
    seen = []
    for _ in range(100_000):
        engine._woken = False
        engine._wake()
    engine.call_from_thread(seen.append, 1)
    turn_until(engine, lambda: seen)


def test_whoever_asks_an_engine_that_ends_meanwhile_is_told_so(engine):
    asked = []

    def ask():
        try:
            engine.ask_from_thread(lambda: None)
        except RuntimeError as error:
            asked.append(str(error))

    engine.call_from_thread = lambda *args: setattr(engine, "closed", True)
    in_thread(ask).join(30)
    engine.closed = False  # The fixture closes it.
    del engine.call_from_thread
    assert asked == ["the server has ended"]


def test_an_interrupt_of_the_keyboard_is_no_error_of_a_call(engine):
    def interrupted():
        raise KeyboardInterrupt

    in_thread(engine.call_from_thread, interrupted).join(30)
    with pytest.raises(KeyboardInterrupt):
        engine.park()


def test_an_interrupt_takes_no_lock(engine):
    """A signal may come in the midst of whoever holds it, in the very thread of the handler."""
    seen, held, done = [], threading.Event(), threading.Event()

    def hold():
        with engine._room:
            held.set()
            done.wait(30)

    holder = in_thread(hold)
    assert held.wait(30)
    engine.interrupt(seen.append, "stop")
    done.set()
    holder.join(30)
    turn_until(engine, lambda: seen == ["stop"])


@pytest.mark.parametrize("size", [0, 2_000])
def test_calls_of_threads_leave_the_sockets_their_turns(engine, size):
    called, turns = [], []

    def tick():
        turns.append(len(called))
        if len(called) < 1000:
            engine.call_soon(tick)

    def call():
        for number in range(1000):
            engine.call_from_thread(called.append, number, size=size)

    thread = in_thread(call)
    if not size:
        thread.join(30)  # All of them wait by now.
    tick()
    turn_until(engine, lambda: len(called) == 1000)
    assert called == [*range(1000)]
    assert max(after - before for before, after in pairwise(turns)) <= 256
    thread.join(30)


def test_a_thread_that_waits_for_room_is_let_go_when_the_engine_ends():
    engine = Engine()
    turn(engine)
    engine.call_from_thread(print, size=2_000_000)
    waiting = in_thread(engine.call_from_thread, print)
    assert waiting.is_alive()
    engine.close()
    waiting.join(30)
    assert not waiting.is_alive()


def test_a_lent_greenlet_is_lent_again(engine):
    seen = []
    for count in (1, 2, 3):
        engine.call_soon(engine.lend, lambda: seen.append(engine.greenlet))
        turn_until(engine, lambda count=count: len(seen) == count)
    assert seen[0] is seen[1] is seen[2]


def test_work_for_which_there_is_no_memory_is_done_later(engine, monkeypatch):
    class Full:
        def __getattr__(self, name):
            return getattr(greenlets, name)

        def greenlet(self, *_args, **_options):
            refused.append(1)
            monkeypatch.undo()
            raise MemoryError

    seen, refused, greenlets = [], [], hub.greenlets
    monkeypatch.setattr(hub, "NO_ROOM_SECONDS", 0.01)
    monkeypatch.setattr(hub, "greenlets", Full())
    engine.call_soon(engine.lend, seen.append, "done")
    turn_until(engine, lambda: seen)
    assert (seen, refused) == (["done"], [1])


@pytest.fixture
def round_of(engine):
    """``round_of(*work)``: watchers of one round that lend ``work``; returns what they saw."""
    ends = [os.pipe() for _ in range(3)]

    def lend(*work):
        seen = []
        for (end, _), piece in zip(ends, work, strict=True):
            engine.watch(end, READ, lambda _e, p=piece, e=end: (engine.unwatch(e), lend_one(p)))

        def lend_one(piece):
            seen.append("watcher")
            engine.lend(piece, seen)

        for _, end in ends:
            os.write(end, b"x")
        turn_until(engine, lambda: seen.count("watcher") == 3 and len(seen) >= 6)
        return seen

    yield lend
    for both in ends:
        for end in both:
            os.close(end)


def test_the_work_of_one_round_is_done_at_its_end_by_one_greenlet(engine, round_of):
    seen = round_of(*[lambda seen: seen.append(engine.greenlet)] * 3)
    assert seen[:3] == ["watcher"] * 3
    assert seen[3] is seen[4] is seen[5]


def test_work_that_parks_does_not_keep_the_rest_of_the_round_waiting(engine, round_of):
    mine = []

    def parks(seen):
        mine.append(engine.greenlet)
        engine.park()
        seen.append("parked")

    def says(seen):
        if len(seen) == 3:
            engine.call_soon(engine.resume, mine[0])
        seen.append(engine.greenlet is mine[0])

    assert round_of(parks, says, says)[3:] == [False, False, "parked"]


def test_work_that_fails_takes_none_of_the_round_along(engine, round_of):
    def fails(seen):
        seen.append("failed")
        raise Boom

    assert round_of(fails, *[lambda seen: seen.append("done")] * 2)[3:] == [
        "failed",
        "done",
        "done",
    ]


@pytest.fixture
def one_watcher(engine, pair):
    """``one_watcher(*work)``: one that lends ``work``, calls with ``seen`` as argument.

    Returns what was seen until the hub's next turn, which leaves its own word behind it.
    """

    def lend(*work):
        ours, theirs = pair
        seen = []

        def ready(_events):
            engine.unwatch(ours.fileno())
            engine.call_soon(seen.append, "next turn")
            for piece in work:
                engine.lend(piece, seen)
            seen.append("round over")

        engine.watch(ours.fileno(), READ, ready)
        theirs.send(b"x")
        turn_until(engine, lambda: "next turn" in seen)
        return seen

    return lend


def says(word):
    return lambda seen: seen.append(word)


def test_work_is_done_in_the_order_in_which_it_was_lent(one_watcher):
    assert one_watcher(*map(says, "abc")) == ["round over", *"abc", "next turn"]


def test_the_rest_is_done_in_the_same_turn_when_a_piece_parks(engine, one_watcher):
    parked = []

    def parks(_seen):
        parked.append(engine.greenlet)
        engine.park()

    def tells(seen):
        seen.append(engine.greenlet in parked)

    seen = one_watcher(parks, tells, parks, tells)
    assert seen == ["round over", False, False, "next turn"]
    assert len(set(parked)) == 2
    for greenlet in parked:
        engine.resume(greenlet)
    turn(engine)


def test_a_greenlet_that_parked_goes_on_with_what_has_been_lent_since(engine):
    seen, parked = [], []

    def parks():
        parked.append(engine.greenlet)
        engine.park()
        engine.lend(lambda: seen.append(engine.greenlet is parked[0]))

    engine.lend(parks)
    turn_until(engine, lambda: parked)
    engine.resume(parked[0])
    turn_until(engine, lambda: seen)
    assert seen == [True]


def test_the_rest_is_done_in_the_same_turn_when_a_piece_fails(one_watcher, caplog):
    def fails(seen):
        seen.append("failed")
        raise Boom

    seen = one_watcher(fails, says("a"), fails, says("b"))
    assert seen == ["round over", "failed", "a", "failed", "b", "next turn"]
    assert [record.exc_info[0] for record in caplog.records] == [Boom]
    peerlog.tell_all()
    assert "failed: Boom() (the newest of 1 in" in caplog.text


def test_what_a_watcher_has_lent_is_done_though_it_fails_itself(engine, pair, caplog):
    ours, theirs = pair
    seen = []

    def ready(_events):
        engine.unwatch(ours.fileno())
        engine.lend(seen.append, "done")
        raise Boom

    engine.watch(ours.fileno(), READ, ready)
    theirs.send(b"x")
    turn_until(engine, lambda: seen == ["done"])


@pytest.fixture
def after_a_round(engine):
    """An engine that has had a round of watchers, and will have none unless there is one ready."""
    seen = []
    engine.call_from_thread(seen.append, "called")
    turn_until(engine, lambda: seen)
    return engine


def test_the_hub_may_lend_outside_a_round_of_watchers(after_a_round):
    engine, seen = after_a_round, []
    engine.call_soon(engine.lend, lambda: seen.append(engine.on_hub))
    turn_until(engine, lambda: seen == [False])


def test_a_greenlet_that_is_not_the_hub_may_lend_and_is_not_interrupted(after_a_round):
    engine, seen = after_a_round, []

    def lends():
        for word in "ab":
            engine.lend(seen.append, word)
        seen.append("goes on")

    engine.spawn(lends)
    turn_until(engine, lambda: len(seen) == 3)
    assert seen == ["goes on", "a", "b"]


def test_a_greenlet_that_a_watcher_resumes_may_lend(engine, pair):
    ours, theirs = pair
    seen = []

    def lends():
        engine.park()
        engine.lend(says("lent"), seen)
        seen.append("goes on")

    def ready(_events):
        engine.unwatch(ours.fileno())
        engine.resume(greenlet[0])
        seen.append("round over")

    greenlet = []
    engine.start(lambda: (greenlet.append(engine.greenlet), lends()))
    turn_until(engine, lambda: greenlet)
    engine.watch(ours.fileno(), READ, ready)
    theirs.send(b"x")
    turn_until(engine, lambda: len(seen) == 3)
    assert seen == ["goes on", "round over", "lent"]


def test_an_os_thread_may_have_work_lent(engine):
    seen = []
    in_thread(engine.call_from_thread, engine.lend, seen.append, "lent")
    turn_until(engine, lambda: seen == ["lent"])


def test_work_may_lend_work(engine):
    seen = []
    engine.lend(lambda: engine.lend(seen.append, "second"))
    turn_until(engine, lambda: seen == ["second"])


def test_work_that_work_lends_in_a_round_comes_behind_the_rest(engine, one_watcher):
    def lends(seen):
        engine.lend(says("last"), seen)
        seen.append("first")

    seen = one_watcher(lends, says("second"))
    assert seen == ["round over", "first", "second", "last", "next turn"]


def test_work_that_parks_keeps_its_greenlet_to_itself(engine):
    seen = []

    def parks():
        mine = engine.greenlet
        engine.call_later(0.01, engine.resume, mine)
        engine.park()
        seen.append(engine.greenlet is mine)

    for _ in range(40):
        engine.lend(parks)
    turn_until(engine, lambda: seen == [True] * 40)
    assert len(engine._idle) == 32  # The others have ended.


def test_a_lent_greenlet_that_waits_for_work_keeps_nothing_of_the_last(engine):
    class Work:
        def do(self):
            pass

    work = Work()
    gone = weakref.ref(work)
    engine.lend(work.do)
    del work
    turn(engine)
    assert engine._idle
    assert gone() is None


def test_lent_work_that_fails_is_reported_and_takes_its_greenlet_along(engine, caplog):
    def fails():
        raise Boom

    engine.lend(fails)
    turn(engine)
    turn(engine)
    assert engine._idle == []
    assert caplog.records[0].exc_info[0] is Boom


def test_lent_greenlets_end_with_the_engine():
    engine, seen = Engine(), []
    engine.lend(lambda: seen.append(engine.greenlet))
    turn_until(engine, lambda: seen)
    turn(engine)
    engine.close()
    assert seen[0].dead


# The end of what is served.


def test_what_is_to_be_done_at_the_end_is_done_once(engine):
    ended = []
    engine.when_ending(lambda: ended.append("one"))
    engine.when_ending(lambda: ended.append("two"))
    engine.end()
    engine.end()
    assert sorted(ended) == ["one", "two"]


def test_an_ending_that_fails_is_logged_and_the_others_are_done(engine, caplog):
    ended = []

    def fail():
        raise Boom("at the end")

    engine.when_ending(lambda: ended.append(1))
    engine.when_ending(fail)
    engine.when_ending(lambda: ended.append(2))
    engine.end()
    assert sorted(ended) == [1, 2]
    (record,) = caplog.records
    assert (record.getMessage(), record.exc_info[0]) == ("an ending failed", Boom)


def test_an_ending_may_wait(engine, run):
    ended = []

    def wait():
        turn(engine)
        ended.append(1)

    engine.when_ending(wait)
    run(engine.end)
    assert ended == [1]
