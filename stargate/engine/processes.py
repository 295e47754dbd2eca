"""``multiprocessing`` that gives way: its pipes and its locks, which wait in C.

A pool has two threads at one pipe, one of which reads it; and a lock that a greenlet holds while it
waits would be waited for by the whole process.
"""

from __future__ import annotations

from functools import partial
from multiprocessing import connection, synchronize
from select import PIPE_BUF
from time import monotonic
from typing import Any

from stargate.engine.quiet import eventlet

hubs = eventlet.hubs

os = eventlet.patcher.original("os")

#: Seconds between two looks at a lock that another process may hold.
LOOK = 0.005


def patch_processes() -> None:
    """Make pipes and locks between processes cooperative; a second call changes nothing."""
    kind: Any = connection.Connection
    kind._recv.__defaults__, kind._send.__defaults__ = (_read,), (_write,)
    lock: Any = synchronize.SemLock
    lock._make_methods, lock.__enter__ = _make_methods, _enter


def _read(fd: int, size: int) -> bytes:
    _wait(fd, read=True)
    return bytes(os.read(fd, size))


def _write(fd: int, buffer: Any) -> int:
    _wait(fd, write=True)
    # A pipe that is writable takes so much without waiting (POSIX).
    return int(os.write(fd, memoryview(buffer)[:PIPE_BUF]))


def _wait(fd: int, **what: bool) -> None:
    """Wait under another number: eventlet lets one greenlet alone wait for a descriptor."""
    other = os.dup(fd)
    try:
        hubs.trampoline(other, **what)
    finally:
        os.close(other)


def _make_methods(self: Any) -> None:
    self.acquire, self.release = partial(_acquire, self._semlock), self._semlock.release


def _enter(self: Any) -> bool:
    return bool(self.acquire())


def _acquire(semlock: Any, block: bool = True, timeout: float | None = None) -> bool:
    end = None if timeout is None else monotonic() + timeout
    while not semlock.acquire(False):
        if not block or (end is not None and monotonic() >= end):
            return False
        eventlet.sleep(LOOK)
    return True
