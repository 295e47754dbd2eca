"""The lock below all others of a patched standard library: between greenlets and OS threads.

eventlet's is for the greenlets of one OS thread. A thread that waits for it while another one
releases it is switched to by the wrong hub, or never. ``RLock``, ``Condition``, ``Event``,
``Semaphore``, ``queue`` and the handlers of ``logging`` are made of locks, so all of them work
between greenlets and OS threads where the lock does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from stargate.engine.quiet import eventlet

hubs = eventlet.hubs
getcurrent = eventlet.support.greenlets.getcurrent

os = eventlet.patcher.original("os")
thread = eventlet.patcher.original("_thread")
get_ident = thread.get_ident

#: Seconds between two looks of a hub at who has a lock.
LOOK = 0.02


class Lock:
    """As ``threading.Lock``: who waits for it gives way to the greenlets of the same OS thread.

    An OS thread without greenlets waits as for any lock. Whoever has waited longest is next.
    """

    __slots__ = ("__weakref__", "_given", "_owner", "_real", "_waiting")

    def __init__(self, _value: int = 1) -> None:
        self._real = thread.allocate_lock()
        #: The OS thread that has it, while it is locked.
        self._owner = 0
        #: Who waits. Whoever is taken out of it by ``release`` has the lock.
        self._waiting: list[_Waiting] = []
        #: Who was the last of those.
        self._given: _Waiting | None = None

    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Lock it; returns whether it has been, within ``timeout`` seconds where that is given."""
        if self._real.acquire(False):
            self._owner = get_ident()
            return True
        return blocking and self._wait(-1 if timeout is None else timeout)

    def _wait(self, timeout: float) -> bool:
        if timeout < 0 and timeout != -1:
            raise ValueError("timeout value must be a non-negative number")
        me = self._new_waiting()
        # Before the next look: whoever releases it looks in here behind that.
        self._waiting.insert(0 if isinstance(me, _OnHub) else len(self._waiting), me)
        if self._real.acquire(False):
            self._owner = get_ident()
            self._leave(me)
            return True
        try:
            me.wait(timeout)
        except BaseException:
            if not self._leave(me):
                self.release()
            raise
        taken = not self._leave(me)
        if taken:
            self._given = None
        return taken

    def _new_waiting(self) -> _Waiting:
        hub = getattr(hubs._threadlocal, "hub", None)
        if hub is None:
            return _InThread()
        if getcurrent() is hub.greenlet:
            return _OnHub(self, hub)
        return _InGreenlet(hub)

    def take_back(self) -> bool:
        """Have it in the place of a greenlet that has been given it, and is yet to go on; on a hub.

        Returns whether that could be. The greenlet is next.
        """
        given = self._given
        if not (isinstance(given, _InGreenlet) and given.take_back()):
            return False
        self._waiting.insert(0, given)
        return True

    def _leave(self, waiting: _Waiting) -> bool:
        """Wait no more; returns whether the lock has not been given already."""
        try:
            self._waiting.remove(waiting)
        except ValueError:
            return False
        return True

    def release(self, *_error: object) -> None:
        """Unlock it, or give it to whoever has waited longest; ``RuntimeError`` if not locked."""
        waiting = self._waiting
        while not (waiting and self._give()):
            self._real.release()
            if not waiting or not self._real.acquire(False):
                return

    def _give(self) -> bool:
        """Make it that of whoever has waited longest; returns whether somebody still did."""
        try:
            following = self._waiting.pop(0)
        except IndexError:
            return False
        self._given, self._owner = following, following.thread
        following.wake()
        return True

    __enter__, __exit__ = acquire, release

    def locked(self) -> bool:
        """Whether somebody has it."""
        return bool(self._real.locked())

    def _at_fork_reinit(self) -> None:
        self._real._at_fork_reinit()
        self._waiting.clear()


class _InThread:
    """Waits in an OS thread that has nothing else to do."""

    def __init__(self) -> None:
        self.thread = get_ident()
        self._woken = thread.allocate_lock()
        self._woken.acquire()
        self.wake: Callable[[], object] = self._woken.release

    def wait(self, timeout: float) -> None:
        self._woken.acquire(True, timeout)


class _OnHub(_InThread):
    """Waits on a hub, which can give way to nobody: its greenlets stand still meanwhile.

    So it comes before them. An OS thread that has the lock goes on, and does not keep it long.
    """

    def __init__(self, lock: Lock, hub: Any) -> None:
        super().__init__()
        self._lock, self._hub = lock, hub

    def wait(self, timeout: float) -> None:
        lock, end = self._lock, monotonic() + (timeout if timeout != -1 else float("inf"))
        while (left := end - monotonic()) > 0 and not self._woken.acquire(True, min(LOOK, left)):
            if lock.take_back():
                lock._leave(self)
                return
            if lock._owner == self.thread and self in lock._waiting:
                self._hub.switch()  # Raises an error: a greenlet has it.


class _InGreenlet:
    """Waits in a greenlet, while the others of its OS thread go on."""

    def __init__(self, hub: Any) -> None:
        self.thread = get_ident()
        self._hub, self._bell = hub, _bell_of(hub)
        self._greenlet = getcurrent()
        self._waits, self._given = True, False

    def wait(self, timeout: float) -> None:
        timer = None if timeout == -1 else self._hub.schedule_call_global(timeout, self._go_on)
        try:
            while self._waits:
                self._hub.switch()
        finally:
            self._waits = False
            if timer is not None:
                timer.cancel()

    def wake(self) -> None:
        self._given = True
        if self.thread == get_ident():
            self._hub.schedule_call_global(0, self._go_on_given)
        else:
            self._bell.ring(self._go_on_given)

    def take_back(self) -> bool:
        """Wait on; returns whether it was about to go on, in this OS thread."""
        taken = self._given and self._waits and self.thread == get_ident()
        if taken:
            self._given = False
        return taken

    def _go_on_given(self) -> None:
        if self._given:
            self._go_on()

    def _go_on(self) -> None:
        # A greenlet that has been thrown something waits for something else by now.
        if self._waits:
            self._waits = False
            self._greenlet.switch()


_Waiting = _InThread | _InGreenlet


class _Bell:
    """Lets other OS threads have something called on a hub."""

    def __init__(self, hub: Any) -> None:
        self.process = os.getpid()
        self._hub = hub
        self._calls: deque[Callable[[], object]] = deque()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        hub.add(hub.READ, self._fd, self._answer, self._answer, None).greenlet = hub.greenlet

    def ring(self, function: Callable[[], object]) -> None:
        """Call ``function`` on the hub soon; from any thread."""
        self._calls.append(function)
        os.eventfd_write(self._fd, 1)

    def _answer(self, _fd: object) -> None:
        os.eventfd_read(self._fd)
        while self._calls:
            # Not here: after an error in it eventlet would listen no more.
            self._hub.schedule_call_global(0, self._calls.popleft())


def _bell_of(hub: Any) -> _Bell:
    """The bell of the hub of the calling OS thread, made when it is first asked for."""
    bell: _Bell | None = getattr(hub, "stargate_bell", None)
    if bell is None or bell.process != os.getpid():
        bell = hub.stargate_bell = _Bell(hub)
    return bell
