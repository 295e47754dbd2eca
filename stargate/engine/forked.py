"""A child that is forked off a process that serves: nothing of what is served is the child's.

Its copies of the parent's sockets are closed without a word to any peer. It has a hub of its own,
on which no greenlet of the parent's runs, and it ends with the code that forked it. What the rooms
above have to begin anew is said by ``Engine.when_forked``.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from stargate.engine.quiet import eventlet

patcher = eventlet.patcher
hubs = eventlet.hubs
greenlets = eventlet.support.greenlets
Semaphore = eventlet.semaphore.Semaphore

socket = patcher.original("socket")
#: Of the operating system, as the engine's own are.
threads = patcher.original("threading")

#: What a server, or gunicorn, has a handler for.
SIGNALS = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGABRT, signal.SIGWINCH),
)

#: The engines of this process that have not been closed.
engines: set[Any] = set()

#: What is the parent's, in a child. A greenlet that nothing refers to any more has an exception
#: raised in it, and would answer its peer with an error.
_parents: list[Any] = []

#: The greenlets of the parents' hubs.
_hubs: list[Any] = []

_asked = False


def ask_for_forks() -> None:
    """Have every child begin anew from here on; asking twice is asking once."""
    global _asked
    if not _asked:
        _asked = True
        os.register_at_fork(after_in_child=_begin_anew)


def let_go(descriptors: Iterable[int]) -> None:
    """Close ``descriptors`` and have, in their places, a connection whose peer has gone.

    So no number comes to mean another file for what still has it.
    """
    gone = [each for each in descriptors if each >= 0]
    for each in gone[:2]:
        os.close(each)  # First: there may be no others left.
    one, other = socket.socketpair()
    other.close()
    nobody = one.detach()
    for each in gone:
        if each != nobody:
            os.dup2(nobody, each, inheritable=False)
    if nobody not in gone:
        os.close(nobody)


def _begin_anew() -> None:
    """In a child, before any other code of the application's."""
    forker = greenlets.getcurrent()
    _end_with(forker)
    _leave_hub(forker)
    if engines:
        _leave_signals()
    for engine in list(engines):
        engines.discard(engine)
        _parents.append((engine, _abandon(engine)))
    _forget_threads()
    _forget_tpool()


def _abandon(engine: Any) -> object:
    """Leave to the parent what ``engine`` serves. What this returns is to be kept."""
    engine.closed = True
    ours = engine._epoll.fileno(), engine._wake_end, engine._waker
    let_go([*ours, *engine._watchers, *(each.disown() for each in engine.connections)])
    found = [each() for each in engine._forked]
    kept = [each() for each in found if each is not None]
    for some in (engine._work, engine._watchers, engine._calls, engine._interrupts):
        kept.append(some.copy())
        some.clear()
    engine._hub, engine._room = hubs.get_hub(), threads.Condition()
    engine.lend = _lend_nobody
    return kept


def _lend_nobody(_function: Callable[..., object], *_args: Any) -> None:
    """What becomes of work in a child."""


# The end of the child.


def _end_with(forker: Any) -> None:
    """Have the child end where ``forker`` does, or the parent's hub would go on from there."""
    if forker.parent is None:
        return  # The first greenlet of its OS thread ends with that, and the process with it.
    root = forker
    while root.parent is not None:
        root = root.parent
    last = greenlets.greenlet(_end, parent=root)
    last.switch(forker)
    _parents.append(forker.parent)  # Where a child forks, it is one like this.
    forker.parent = last


def _end(forker: Any) -> None:
    error = None
    try:
        forker.switch()  # What it returns or raises at its end comes here.
    except BaseException as found:  # pragma: no cover - it is, and what measures is elsewhere
        error = found
    end_child(error)  # pragma: no cover


def end_child(error: BaseException | None) -> None:
    """End the process as Python does where ``error`` has come out of everything."""
    code = int(error is not None)
    if isinstance(error, SystemExit) and isinstance(error.code, int | None):
        code = error.code or 0
    elif error is not None:
        traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


def _leave_signals() -> None:
    """Have those that the parent hears do what they do in any other process."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        if callable(signal.getsignal(number)):
            default = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if default else signal.SIG_DFL)


# The hub.


def _leave_hub(forker: Any) -> None:
    """Give this thread a hub of its own; the parent's ends where it stands, should it go on."""
    old = getattr(hubs._threadlocal, "hub", None)
    if old is None:
        return
    listeners = list(_listeners(old))
    calls = [(each.cb, each.tb, each.greenlet) for each in listeners]
    _parents.append((old, old.timers[:], old.next_timers[:], old.closed[:], listeners, calls))
    for each in listeners:
        each.cb = _is_gone  # It may be in the midst of a round of them.
    for some in (*old.listeners.values(), *old.secondaries.values()):
        some.clear()
    del old.timers[:], old.next_timers[:], old.closed[:]
    old.stopping = True
    old.schedule_call_global(0, _is_gone)  # It waits for the next no longer than that.
    if hasattr(getattr(old, "poll", None), "close"):
        old.poll.close()
    if old.greenlet is not forker:
        _hubs.append(old.greenlet)
    del hubs._threadlocal.hub
    hubs.get_hub()  # Now: the greenlet that goes on is to be its parent.
    Semaphore._do_acquire = _do_acquire


def _listeners(hub: Any) -> Iterator[Any]:
    for some in hub.listeners.values():
        yield from some.values()
    for some in hub.secondaries.values():
        for several in some.values():
            yield from several


def _is_gone(*_args: object) -> None:
    """What is called of the parent's, in a child."""


def _do_acquire(self: Any) -> None:
    """As eventlet's, but no lock goes to a greenlet that waits for it in the parent."""
    while self._waiters and self.counter > 0 and _is_parents(self._waiters[0]):
        _parents.append(self._waiters.popleft())
    if self._waiters and self.counter > 0:
        self._waiters.popleft().switch()


def _is_parents(greenlet: Any) -> bool:
    while greenlet is not None:
        if greenlet in _hubs:
            return True
        greenlet = greenlet.parent
    return False


# Threads.


def _forget_threads() -> None:
    """Let nobody wait for a green thread of the parent's: Python itself does, at the child's end.

    eventlet has ``threading`` take no notice of a fork.
    """
    known: Any = threading
    for ident, thread in list(known._active.items()):
        if ident == threading.get_ident() or thread is threading.main_thread():
            continue
        _parents.append(known._active.pop(ident))
        thread._is_stopped, thread._tstate_lock = True, None
        with suppress(AttributeError):  # It has one since Python 3.13; not a real thread's.
            thread._handle._greenthread, thread._handle._done = None, True
    _parents.append(vars(known).get("_shutdown_locks"))  # Until Python 3.12.
    known._shutdown_locks = set()


def _forget_tpool() -> None:
    """The threads of ``eventlet.tpool`` are the parent's; the child starts its own."""
    tpool: Any = sys.modules.get("eventlet.tpool")
    if tpool is not None:
        _parents.append(dict(vars(tpool), _threads=list(tpool._threads)))
        tpool._threads.clear()
        tpool._setup_already = False
