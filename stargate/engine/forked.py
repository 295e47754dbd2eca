"""A child that is forked off a process that serves: nothing of what is served is the child's.

Its copies of the parent's sockets are closed without a word to any peer. It has a hub of its own,
on which no greenlet of the parent's runs, and it ends with the code that forked it. What the rooms
above have to begin anew is said by ``Engine.when_forked``.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from stargate.engine.quiet import eventlet

patcher = eventlet.patcher
hubs = eventlet.hubs
greenlets = eventlet.support.greenlets
Semaphore = eventlet.semaphore.Semaphore

os = patcher.original("os")
socket = patcher.original("socket")

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
    ours, theirs = socket.socketpair()
    theirs.close()
    for each in gone:
        if each != ours.fileno():
            os.dup2(ours.fileno(), each, inheritable=False)
    (ours.detach if ours.fileno() in gone else ours.close)()


def _begin_anew() -> None:
    """In a child, before any other code of the application's."""
    forker = greenlets.getcurrent()
    _end_with(forker)
    _leave_hub(forker)
    for engine in list(engines):
        engines.discard(engine)
        _parents.append((engine, engine.abandon()))
    _forget_threads()
    _forget_tpool()


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
    forker.parent = last


def _end(forker: Any) -> None:
    code = 1
    try:
        forker.switch()  # What it returns or raises at its end comes here.
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


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
    if hasattr(old.poll, "close"):
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
    while self._waiters and self.counter > 0:
        waiter = self._waiters.popleft()
        if not _is_parents(waiter):
            waiter.switch()
            return
        _parents.append(waiter)


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
        if not hasattr(thread, "_handle"):  # Before Python 3.13.
            thread._is_stopped, thread._tstate_lock = True, None
        elif hasattr(thread._handle, "_greenthread"):
            thread._handle._greenthread, thread._handle._done = None, True
    if hasattr(known, "_shutdown_locks"):
        _parents.append(known._shutdown_locks)
        known._shutdown_locks = set()


def _forget_tpool() -> None:
    """The threads of ``eventlet.tpool`` are the parent's; the child starts its own."""
    tpool: Any = sys.modules.get("eventlet.tpool")
    if tpool is not None:
        _parents.append(dict(vars(tpool), _threads=list(tpool._threads)))
        tpool._threads.clear()
        tpool._setup_already = False
