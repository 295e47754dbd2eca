"""Work that blocks, from views of every kind; under the servers in functional/test_threads.py."""

import contextvars
import gc
import os
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from traceback import extract_tb
from urllib.error import HTTPError
from urllib.request import urlopen

import eventlet
import pytest
from greenlet import greenlet
from pyramid.response import Response
from websockets.sync.client import connect

import stargate
from stargate import WebSocketView, run_in_thread
from stargate.engine import current_engine, hub, threads
from stargate.testing import LiveServer
from stargate_tests.functional.tree import Node, make_app
from stargate_tests.waiting import turn, turn_until, wait_until

DEADLINE = 30

#: What a view waits for in its thread, and whoever tests it sets.
go_on = threading.Event()


class Boom(Exception):
    pass


@pytest.fixture(autouse=True)
def _nobody_waits_for_ever():
    go_on.clear()
    yield
    go_on.set()


def wait():
    assert go_on.wait(DEADLINE)
    return hub.threading.current_thread().name


def blocks(context, request):
    return Response(run_in_thread(wait))


def quick(context, request):
    return Response("quick")


def fails(context, request):
    return Response(run_in_thread(int, "x"))


def sends(context, request):
    """What the thread has sent comes before what the view sends behind it."""

    def work():
        for number in range(100):
            context.send(f"thread {number}")

    run_in_thread(work)
    context.send("view")
    return Response("sent")


class InHandler(WebSocketView):
    def handler(self, websocket):
        for message in websocket:
            websocket.send(run_in_thread(str.upper, message))
            run_in_thread(websocket.send, "from the thread")


class InOnMessage(WebSocketView):
    def on_message(self, websocket, message):
        websocket.send(run_in_thread(str.upper, message))


class Waits(WebSocketView):
    def handler(self, websocket):
        self.context.ended = []
        websocket.wait()
        self.context.ended.append(run_in_thread(wait))
        try:
            websocket.send("too late")
        except stargate.ConnectionClosed:
            self.context.ended.append("closed")
            go_on.ended.set()


def configure(config):
    for view in (blocks, quick, fails, sends):
        config.add_view(view, context=Node, name=view.__name__)
    config.add_websocket_view(InHandler, context=Node, name="in-handler")
    config.add_websocket_view(InOnMessage, context=Node, name="in-on-message")
    config.add_websocket_view(Waits, context=Node, name="waits")


@pytest.fixture
def engine():
    """That of this thread, as a server makes it."""
    engine = current_engine()
    yield engine
    turn(engine)
    engine.close()


@pytest.fixture
def live():
    with LiveServer(make_app(configure), thread_limit="2") as live:
        yield live


def get(live, path):
    with urlopen(live.url + path, timeout=DEADLINE) as answer:
        return answer.read().decode()


# What it returns and raises.


def test_a_view_gets_what_its_thread_returns_and_raises(live):
    go_on.set()
    assert get(live, "/x/@@blocks").startswith("stargate-thread-")
    with pytest.raises(HTTPError, match="500"):
        get(live, "/x/@@fails")


def test_an_error_shows_where_in_the_thread_it_was_raised(engine):
    found = []

    def work():
        raise SystemExit(3)

    def view():
        try:
            run_in_thread(work)
        except SystemExit as error:
            found.append((error.code, [frame.name for frame in extract_tb(error.__traceback__)]))

    engine.spawn(view)
    turn_until(engine, lambda: found)
    [(code, frames)] = found
    assert code == 3
    assert (frames[0], frames[-1]) == ("view", "work")


def test_others_go_on_while_a_view_waits_for_its_thread(live):
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(get, live, "/x/@@blocks")
        assert get(live, "/x/@@quick") == "quick"
        assert not blocked.done()
        go_on.set()
        assert blocked.result(DEADLINE).startswith("stargate-thread-")


def test_a_handler_and_on_message_wait_as_well(live):
    with connect(live.websocket_url("/x/@@in-handler")) as browser:
        browser.send("a")
        assert [browser.recv(DEADLINE), browser.recv(DEADLINE)] == ["A", "from the thread"]
    with connect(live.websocket_url("/x/@@in-on-message")) as browser:
        browser.send("b")
        assert browser.recv(DEADLINE) == "B"


def test_what_a_thread_has_sent_comes_before_what_its_view_sends(live):
    with connect(live.websocket_url("/x")) as browser:
        assert get(live, "/x/@@sends") == "sent"
        found = [browser.recv(DEADLINE) for _ in range(101)]
    assert found == [*(f"thread {number}" for number in range(100)), "view"]


# How many at once.


def test_as_many_threads_as_the_setting_says_and_the_others_wait_their_turn(live):
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(get, live, "/x/@@blocks") for _ in range(6)]
        threads = live.server.engine.threads
        wait_until(lambda: threads._open == 6)
        assert get(live, "/x/@@quick") == "quick"
        go_on.set()
        names = {answer.result(DEADLINE) for answer in answers}
    assert names <= {"stargate-thread-1", "stargate-thread-2"}


def test_a_thread_is_used_again_and_none_is_started_before_it_is_needed(live):
    assert live.server.engine.threads._started == 0
    go_on.set()
    for _ in range(3):
        assert get(live, "/x/@@blocks") == "stargate-thread-1"


def test_threads_are_daemons_and_end_with_their_engine(engine):
    found = []

    def work():
        eventlet.sleep(0)  # It has a hub by now, which has a descriptor.
        return hub.threading.current_thread()

    engine.spawn(lambda: found.append(run_in_thread(work)))
    turn_until(engine, lambda: found)
    assert found[0].daemon
    before = len(os.listdir("/proc/self/fd"))
    engine.threads.close()
    found[0].join(DEADLINE)
    assert not found[0].is_alive()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) < before


# Who stops waiting.


def test_a_thread_goes_on_when_its_websocket_has_ended(live):
    node = live.application.root["x"]
    go_on.ended = threading.Event()
    with connect(live.websocket_url("/x/@@waits")) as browser:
        browser.send("begin")
        wait_until(lambda: live.server.engine.threads._open)
    wait_until(lambda: not live.server.engine.connections)
    go_on.set()
    assert go_on.ended.wait(DEADLINE)
    assert [text.partition("-")[0] for text in node.ended] == ["stargate", "closed"]


def test_a_greenlet_that_is_ended_hears_no_more_of_its_thread(engine):
    """And what had not begun by then never does."""
    engine.threads.limit = 1
    log = []

    def view(name):
        try:
            run_in_thread(lambda: log.append(name) or wait())
        except Boom:
            log.append(f"{name} is ended")
            engine.park()
            log.append("woken by somebody else")

    views = [greenlet(lambda name=name: view(name), parent=engine._hub.greenlet) for name in "ab"]
    for each in views:
        engine.call_soon(each.switch)
    turn_until(engine, lambda: log == ["a"])
    for each in views:
        engine.call_soon(each.throw, Boom)
    turn_until(engine, lambda: len(log) == 3)
    go_on.set()
    turn_until(engine, lambda: engine.threads._open == 0)
    assert log == ["a", "a is ended", "b is ended"]
    for each in views:
        engine.call_soon(each.switch)
    turn_until(engine, lambda: len(log) == 5)


def test_nothing_that_a_call_held_lives_on(engine):
    class Thing:
        def fail(self):
            raise Boom

    thing, ended = Thing(), []
    gone = weakref.ref(thing)

    def view(call):
        with suppress(Boom):
            run_in_thread(call)
        ended.append(1)

    gc.collect()
    gc.disable()
    try:
        engine.spawn(view, thing.fail)
        del thing
        turn_until(engine, lambda: ended)
        wait_until(lambda: gone() is None)
    finally:
        gc.enable()


# Where there is nobody to hold up.


def test_an_os_thread_runs_it_on_the_spot(live):
    with ThreadPoolExecutor(1) as pool:
        name = pool.submit(lambda: (run_in_thread(threading.get_ident), threading.get_ident()))
        assert len(set(name.result(DEADLINE))) == 1


def test_a_thread_of_run_in_thread_runs_another_on_the_spot(engine):
    found = []
    engine.spawn(
        lambda: found.append(
            run_in_thread(lambda: (run_in_thread(threading.get_ident), threading.get_ident()))
        )
    )
    turn_until(engine, lambda: found)
    [(inner, outer)] = found
    assert inner == outer != threading.get_ident()


def test_a_process_that_serves_nothing_runs_it_on_the_spot_and_imports_no_eventlet():
    program = (
        "import sys, threading, stargate\n"
        "here = threading.get_ident() == stargate.run_in_thread(threading.get_ident)\n"
        "print(here, 'eventlet' in sys.modules, 'pyramid' in sys.modules)"
    )
    assert run(program) == "True False False"


def test_a_patched_process_has_threads_before_it_serves():
    """An application that waits for something while it is loaded, and so lets its greenlets run."""
    program = (
        "import stargate; stargate.patch()\n"
        "import threading, time\n"
        "from eventlet import patcher\n"
        "me = patcher.original('threading').get_ident\n"
        "found = []\n"
        "threading.Thread(target=lambda: found.append(stargate.run_in_thread(me))).start()\n"
        "while not found: time.sleep(0.001)\n"
        "print(found[0] != me())"
    )
    assert run(program) == "True"


@pytest.mark.parametrize("served", [True, False])
def test_it_runs_in_a_copy_of_the_context(engine, served):
    variable, found = contextvars.ContextVar("variable", default="unset"), []

    def work():
        found.append(variable.get())
        variable.set("by the thread")

    def view():
        variable.set("by the caller")
        run_in_thread(work)
        found.append(variable.get())

    if served:
        engine.spawn(view)
        turn_until(engine, lambda: len(found) == 2)
    else:
        thread = threading.Thread(target=view)
        thread.start()
        thread.join(DEADLINE)
    assert found == ["by the caller", "by the caller"]


def test_arguments_are_handed_on(engine):
    found = []
    engine.spawn(lambda: found.append(run_in_thread(sorted, [2, 1, 3], reverse=True)))
    turn_until(engine, lambda: found)
    assert found == [[3, 2, 1]]


def run(program):
    """What a process of its own says."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_thread_that_cannot_be_started_is_an_error_once(engine, monkeypatch):
    """Where there are others they do it; and the next call tries again."""

    class Refused(threads.threading.Thread):
        def start(self):
            raise RuntimeError("can't start new thread")

    engine.threads.limit = 2
    with monkeypatch.context() as no_room:
        no_room.setattr(threads.threading, "Thread", Refused)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="can't start"):
                engine.run_in_thread(lambda: 1)
    assert engine.run_in_thread(lambda: 2) == 2
    with monkeypatch.context() as no_room:
        no_room.setattr(threads.threading, "Thread", Refused)
        found = []
        engine.spawn(lambda: found.append(engine.run_in_thread(wait)))
        engine.spawn(lambda: found.append(engine.run_in_thread(lambda: 3)))
        turn(engine)
        go_on.set()
        turn_until(engine, lambda: len(found) == 2)
    assert found == ["stargate-thread-1", 3]
