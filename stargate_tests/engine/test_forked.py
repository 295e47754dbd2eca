"""What becomes of greenlets, locks and threads in a forked child; with servers: functional/."""

import os
import subprocess
import sys
import textwrap

import pytest

BEGIN = """
import os, sys, threading, time
import stargate
stargate.patch()
import eventlet.debug
write = eventlet.patcher.original("os").write
from stargate.engine import current_engine
engine = current_engine()

def code_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def fork(function):
    child = os.fork()
    if not child:
        function()
        os._exit(0)
    return code_of(child)
"""


def run(program, **environ):
    """What a program prints whose first lines are ``BEGIN``."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": os.getcwd(), **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1], done.stderr


ENDS = pytest.mark.parametrize(
    "end, code",
    [
        ("return", 0),
        ("sys.exit(3)", 3),
        ("sys.exit()", 0),
        ("sys.exit('why')", 1),
        ("raise ValueError('it is wrong')", 1),
    ],
)


@ENDS
def test_a_child_ends_with_the_greenlet_that_forked_it(end, code):
    out, err = run(f"""
        def view():
            child = os.fork()
            if not child:
                sys.stdout.write("work")
                {end}
            print(code_of(child))

        eventlet.spawn(view).wait()
        print("the end")
    """)
    assert out == [f"work{code}", "the end"]
    assert ("it is wrong" in err) == ("it is wrong" in end)


def test_a_child_of_a_child_does_its_work_and_ends_as_well():
    out, _ = run("""
        def view():
            code = fork(lambda: os._exit(fork(lambda: write(1, b"work\\n"))))
            print(code)

        eventlet.spawn(view).wait()
    """)
    assert out == ["work", "0"]


@ENDS
def test_a_child_of_an_os_thread_ends_with_the_function_that_forked_it(end, code):
    out, err = run(f"""
        def work():
            child = os.fork()
            if not child:
                sys.stdout.write("work")
                {end}
            return child

        print(code_of(stargate.run_in_thread(work)))
        print("the end")
    """)
    assert out == [f"work{code}", "the end"]
    assert ("it is wrong" in err) == ("it is wrong" in end)


def test_a_child_of_the_first_greenlet_goes_on_to_the_end_of_the_program():
    out, _ = run("""
        del eventlet.hubs._threadlocal.hub  # As before anything has waited.
        child = os.fork()
        if child:
            print(code_of(child))
        else:
            time.sleep(0.01)
            print("child", flush=True)
    """)
    assert out == ["child", "0"]


def test_a_child_has_an_engine_and_a_hub_of_its_own_and_so_has_its_child():
    out, _ = run("""
        hub = eventlet.hubs.get_hub()

        def child():
            assert eventlet.hubs.get_hub() is not hub and engine.closed
            other = current_engine()
            assert other is not engine and not other.closed
            assert fork(lambda: current_engine() is not other or os._exit(7)) == 0
            other.close()
            assert fork(current_engine) == 0
            write(1, b"all is well\\n")

        assert fork(child) == 0
        assert current_engine() is engine and not engine.closed
    """)
    assert out == ["all is well"]


@pytest.mark.parametrize("kind", ["epolls", "poll", "selects"])
def test_no_greenlet_of_the_parent_runs_in_a_child(kind):
    """Not by the time, not by a descriptor, not by a lock that the child releases."""
    out, _ = run(
        """
        eventlet.debug.hub_prevent_multiple_readers(False)
        lock, reader, writer = threading.Lock(), *os.pipe()
        lock.acquire()
        me = os.getpid()

        def run(wait, *args):
            try:
                wait(*args)
            finally:
                write(1, b"parent\\n" if os.getpid() == me else b"child!\\n")

        for wait, *args in (
            (time.sleep, 0.05),
            (lock.acquire,),
            (eventlet.hubs.trampoline, reader, True),
            (eventlet.hubs.trampoline, reader, True),
        ):
            threading.Thread(target=run, args=(wait, *args)).start()
        engine.lend(run, time.sleep, 0)

        def child():
            mine = threading.Lock()
            mine.acquire()
            threading.Thread(target=lambda: (mine.acquire(), write(1, b"mine\\n"))).start()
            time.sleep(0.01)
            write(writer, b"x")
            mine.release()
            lock.release()
            engine.lend(run, time.sleep, 0)
            time.sleep(0.2)

        time.sleep(0)
        assert fork(child) == 0
        lock.release()
        time.sleep(0.1)
        """,
        EVENTLET_HUB=kind,
    )
    assert sorted(out) == ["mine", *5 * ["parent"]]


def test_nothing_that_a_child_keeps_of_the_parent_is_ended_in_it():
    out, _ = run("""
        def wait():
            try:
                eventlet.hubs.get_hub().switch()
            except BaseException as error:
                write(1, f"{error!r}\\n".encode())
                raise

        eventlet.spawn_n(wait)
        time.sleep(0)

        def child():
            import gc
            time.sleep(0.01)
            gc.collect()

        assert fork(child) == 0
    """)
    assert out == []


def test_a_child_waits_for_no_thread_of_its_parent():
    out, _ = run("""
        threads = [threading.Thread(target=time.sleep, args=(3600,)) for _ in range(2)]
        for each in threads:
            each.daemon = False
            each.start()
        import eventlet.tpool
        eventlet.tpool.execute(time.sleep, 0)

        def child():
            threads[0].join(30)
            assert not threads[0].is_alive()
            threading.Thread(target=write, args=(1, b"one of its own\\n"), daemon=False).start()
            assert eventlet.tpool.execute(lambda: 5) == 5
            threading._shutdown()

        assert fork(child) == 0
        assert threads[0].is_alive()
        sys.stdout.flush()
        os._exit(0)
    """)
    assert out == ["one of its own"]


def test_a_hub_that_forks_goes_no_further_in_the_child():
    out, _ = run("""
        def call():
            child = os.fork()
            if child:
                codes.append(code_of_now(child))

        def code_of_now(child):
            from eventlet.patcher import original
            while not (found := os.waitpid(child, os.WNOHANG))[0]:
                original("time").sleep(0.01)
            return os.waitstatus_to_exitcode(found[1])

        codes = []
        hub = eventlet.hubs.get_hub()
        reader, writer = os.pipe()
        write(writer, b"x")
        hub.schedule_call_global(0, call)
        hub.schedule_call_global(0, write, 1, b"next\\n")
        hub.add(hub.READ, reader, lambda fd: (os.read, hub.remove(listener)), None, None)
        listener = hub.listeners[hub.READ][reader]
        time.sleep(0.1)
        print(codes)
    """)
    assert out == ["next", "[0]"]


def test_descriptors_are_let_go_of_where_there_are_no_others():
    out, _ = run("""
        import resource, socket
        from stargate.engine.forked import let_go
        pairs = [socket.socketpair() for _ in range(2)]
        most = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, 4096))
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            let_go([-1, *(each.fileno() for each, _ in pairs)])
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        let_go([])
        for ours, theirs in pairs:
            assert theirs.recv(1) == b""
            try:
                ours.send(b"x")
            except BrokenPipeError:
                print("gone")
    """)
    assert out == ["gone", "gone"]


def test_a_child_of_an_os_thread_ends_with_it():
    out, _ = run("""
        from eventlet.patcher import original

        def work():
            child = os.fork()
            if not child:
                time.sleep(0.01)
                write(1, b"child\\n" if engine.closed else b"")
            else:
                codes.append(os.waitpid(child, 0)[1])

        codes = []
        thread = original("threading").Thread(target=work)
        thread.start()
        while thread.is_alive():
            time.sleep(0.01)
        print(codes)
    """)
    assert out == ["child", "[0]"]
