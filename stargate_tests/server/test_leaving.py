"""What keeps a process from its end, and that it is told; the end itself is in functional/."""

import io
import logging
import subprocess
import sys

import pytest
from greenlet import getcurrent, greenlet

from stargate.engine.hub import threading
from stargate.server import leaving


@pytest.fixture
def held():
    """An OS thread that waits; its name."""
    begun, end = threading.Event(), threading.Event()

    def wait_here():
        begun.set()
        end.wait()

    thread = threading.Thread(target=wait_here, name="held-thread", daemon=True)
    thread.start()
    begun.wait()
    yield thread.name
    end.set()
    thread.join()


def left(waits=None):
    return list(leaving.left_behind(threading.get_ident(), waits or getcurrent()))


def test_threads_are_named_with_the_place_where_they_are(held):
    (found,) = [each for each in left() if each.startswith(f"thread {held} in ")]
    assert ".py:" in found


def test_those_that_watch_are_nobodys_business():
    seen = []
    leaving._start(lambda: seen.extend(left()))
    while not seen:
        pass
    assert not [each for each in seen if leaving.WATCHER in each]


def test_children_are_named_while_they_run():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert f"child process {child.pid}" in left()
        child.stdin.close()
        with open(f"/proc/{child.pid}/stat") as stat:
            while ") Z" not in stat.read():
                stat.seek(0)
        assert f"child process {child.pid}" not in left()
    assert f"child process {child.pid}" not in left()
    assert not leaving._runs(str(child.pid))


def goodbye():
    getcurrent().parent.switch()


def test_the_main_thread_is_where_its_waiting_greenlet_is():
    waits = greenlet(goodbye)
    waits.switch()
    assert left(waits)[-1].startswith("the main thread in goodbye (")
    waits.switch()


def test_it_is_told_and_written(held, caplog, monkeypatch):
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out))
    monkeypatch.setattr(sys, "stderr", None)
    print("printed")
    told = threading.Event()
    leaving._tell(threading.get_ident(), getcurrent(), told)
    assert told.is_set()
    assert f"thread {held} in " in caplog.text
    assert out.getvalue() == b"printed\n"


def test_it_has_a_second_at_least(monkeypatch):
    later, started = [], []
    monkeypatch.setattr(
        leaving.faulthandler, "dump_traceback_later", lambda *a, **k: later.append(a)
    )
    monkeypatch.setattr(leaving, "_start", lambda *args: started.append(args))
    leaving.leave_within(-3)
    leaving.leave_within(7)
    assert [args[1] for args in started] == [1.0, 7]
    assert later == [(1.75,), (7.75,)]
