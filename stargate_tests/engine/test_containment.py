"""The hub goes on, whatever is raised in what it runs; under other servers it ends as ever."""

import logging
import os
import signal
import socket
import threading
from pathlib import Path

import eventlet
import pytest

from stargate_tests.waiting import wait_until

#: The numbers of ``epoll_wait`` and ``epoll_pwait`` on x86-64, and of the latter on ARM.
EPOLL = ("232", "281", "22")


class Own(BaseException):
    pass


@pytest.fixture
def hub(engine):
    return engine._hub


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def turn(engine):
    engine.call_later(0.01, engine.greenlet.switch)
    engine.park()


def raising(error):
    def fail(*_args):
        raise error

    return fail


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), Own()])
def test_a_timer_that_raises_is_logged_once(engine, caplog, error):
    with engine.contained():
        engine.call_soon(raising(error))
        turn(engine)
        turn(engine)
    (record,) = caplog.records
    assert record.exc_info[1] is error


def test_elsewhere_it_ends_the_hub(engine):
    with engine.contained():
        turn(engine)
    engine.call_soon(raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        turn(engine)


def test_elsewhere_what_a_lent_greenlet_raises_ends_it_too(engine):
    engine.call_soon(engine.lend, raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        turn(engine)


def test_a_callback_of_a_descriptor_that_raises_is_called_no_more(engine, hub, pair, caplog):
    ours, theirs = pair
    fd = ours.fileno()
    with engine.contained():
        hub.add(hub.READ, fd, raising(SystemExit(3)), raising(Own()), None)
        theirs.send(b"a")
        turn(engine)
        turn(engine)
        assert fd not in hub.listeners[hub.READ]
    (record,) = caplog.records
    assert record.exc_info[0] is SystemExit


def test_whoever_waits_for_a_descriptor_that_is_closed_ends_alone(engine, hub, pair, caplog):
    ours, _theirs = pair

    def wait():
        eventlet.hubs.trampoline(ours.fileno(), read=True)

    with engine.contained():
        eventlet.spawn_n(wait)
        turn(engine)
        hub.mark_as_reopened(ours.fileno())
        turn(engine)
        turn(engine)
    (record,) = caplog.records
    assert "was closed" in record.getMessage()
    assert record.exc_info[0] is eventlet.hubs.IOClosed


def test_a_handler_of_the_log_that_raises_is_told_of_elsewhere(engine, capsys):
    class Broken(logging.Handler):
        def emit(self, record):
            raise SystemExit(4)

    handler = Broken()
    log = logging.getLogger("stargate.engine.containment")
    log.addHandler(handler)
    try:
        with engine.contained():
            engine.call_soon(raising(Own()))
            turn(engine)
            turn(engine)
    finally:
        log.removeHandler(handler)
    assert capsys.readouterr().err.count("SystemExit: 4") == 1


def test_what_a_signals_handler_raises_on_the_hub_is_logged(engine, caplog):
    before = signal.signal(signal.SIGALRM, raising(SystemExit(3)))
    try:
        with engine.contained():
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            wait_until(lambda: turn(engine) or caplog.records)
    finally:
        signal.signal(signal.SIGALRM, before)
    (record,) = caplog.records
    assert record.exc_info[0] is SystemExit


def test_the_engine_hears_on_after_such_an_error_in_the_midst_of_its_own_work(
    engine, hub, pair, caplog
):
    ours, theirs = pair
    heard = []
    with engine.contained():
        engine.watch(ours.fileno(), 1, lambda _events: heard.append(ours.recv(1)))
        hub.squelch_exception(engine._epoll.fileno(), (SystemExit, SystemExit(3), None))
        theirs.send(b"a")
        wait_until(lambda: turn(engine) or heard)
        engine.unwatch(ours.fileno())
    assert heard == [b"a"]
    (record,) = caplog.records
    assert record.exc_info[0] is SystemExit


def test_a_signal_is_heard_at_once_though_nothing_interrupts_the_hub(engine):
    """As when it comes just before the hub waits: here another thread gets it."""
    main = Path(f"/proc/self/task/{os.getpid()}/syscall")
    go_on = engine.greenlet.switch

    def send():
        wait_until(lambda: main.read_text().split()[0] in EPOLL)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_signal: engine.interrupt(go_on, "heard"))
    try:
        with engine.contained():
            thread = threading.Thread(target=send)
            engine.call_soon(thread.start)
            late = engine.call_later(20, go_on, "late")
            assert engine.park() == "heard"
            late.cancel()
            thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert signal.set_wakeup_fd(-1) == -1
