"""Monkey-patching: early enough, or with a warning, and a repair for Pyramid's thread-locals."""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading

from stargate.engine.quiet import eventlet

get_ident = eventlet.patcher.original("_thread").get_ident
getcurrent = eventlet.support.greenlets.getcurrent

log = logging.getLogger("stargate.server")

#: Modules that make thread-locals or locks of the kind that was current when they were imported.
EARLY = ("pyramid.threadlocal", "transaction", "sqlalchemy")


#: The OS thread in which the standard library was patched; its greenlets are what it is for.
_patched_in: int | None = None


def patched_here() -> bool:
    """Whether the standard library was patched in the calling OS thread."""
    return _patched_in == get_ident()


def patch() -> None:
    """Make the standard library cooperative; a second call does nothing.

    Warns by name of modules that were imported too early for it.
    """
    global _patched_in
    if _patched_in is None:
        _patched_in = get_ident()
    if not eventlet.patcher.is_monkey_patched("thread"):
        early = [name for name in EARLY if name in sys.modules]
        # psycopg 3 would wait for the server in C, and the whole process with it.
        os.environ.setdefault("PSYCOPG_WAIT_FUNC", "wait_selector")
        _let_threads_end()
        _share_locks_with_threads()
        eventlet.monkey_patch()
        from stargate.engine.processes import patch_processes

        patch_processes()
        if early:
            log.warning(
                "%s imported before stargate could patch the standard library: thread-locals of "
                "%s may be shared by requests. Start with pserve, or call stargate.patch() first",
                ", ".join(early) + (" was" if len(early) == 1 else " were"),
                "it" if len(early) == 1 else "them",
            )
    repair_threadlocals()


def _let_threads_end() -> None:
    """Keep threads that run already (the reloader's) from ending with a traceback.

    At their end they would look for themselves in a list that is new, under a greenlet's name.
    """
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread._delete = lambda: None  # type: ignore[attr-defined]


def _share_locks_with_threads() -> None:
    """Have eventlet put locks and queues in their places that OS threads can wait for too."""
    from eventlet.green import Queue, thread
    from eventlet.green import threading as green
    from eventlet.lock import Lock as GreenLock

    from stargate.engine.locks import Lock

    thread.Lock = thread.LockType = Lock
    if green.Lock is GreenLock:  # Since Python 3.13; before, what makes one.
        green.Lock = Lock
    Queue.__patched__.clear()  # The standard library's are made of locks.
    # In Python 3.11 a cached_property has one for all objects: a thread that works out the value
    # for one of them would hold up every greenlet that wants another's.
    functools.RLock = threading._PyRLock  # type: ignore[attr-defined]


def repair_threadlocals() -> None:
    """Give each greenlet a stack of Pyramid's thread-locals of its own, patched early or not."""
    from pyramid.threadlocal import ThreadLocalManager, manager

    if isinstance(ThreadLocalManager.__dict__.get("stack"), _StackOfGreenlet):
        return
    before = manager.stack
    if issubclass(ThreadLocalManager, eventlet.corolocal.local):
        # Patched early: its stack would be the greenlet's already, at several microseconds an
        # access. With the stack out of it, nothing in it depends on the greenlet any more.
        ThreadLocalManager.__getattribute__ = object.__getattribute__
        ThreadLocalManager.__setattr__ = object.__setattr__
    ThreadLocalManager.stack = _StackOfGreenlet()
    manager.stack[:] = before


class _StackOfGreenlet:
    """A data descriptor: whatever the manager keeps, its stack is the current greenlet's."""

    def __get__(self, manager: object, owner: type | None = None) -> object:
        if manager is None:
            return self
        stacks = getcurrent().__dict__.setdefault("stargate_threadlocals", {})
        return stacks.setdefault(id(manager), [])

    def __set__(self, manager: object, stack: list[object]) -> None:
        getcurrent().__dict__.setdefault("stargate_threadlocals", {})[id(manager)] = stack
