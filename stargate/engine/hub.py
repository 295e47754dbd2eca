"""The engine on eventlet's hub: one poller of our own inside it, greenlets, timers, other threads.

Thousands of sockets are one descriptor for eventlet: an epoll instance that its hub watches. So a
parked connection costs the hub nothing, and a wake-up walks no lists of eventlet's.

Which thread may call what: everything here belongs to the OS thread that made the engine, but for
``in_own_thread``, ``call_from_thread`` and ``interrupt``, which any thread may call.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any

from zope.interface import implementer

from stargate.engine.containment import contained, log_of_application
from stargate.engine.forked import ask_for_forks, engines
from stargate.engine.peerlog import peerlog
from stargate.engine.quiet import eventlet
from stargate.engine.threads import Threads
from stargate.interfaces import IEngine

patcher = eventlet.patcher
hubs = eventlet.hubs
greenlets = eventlet.support.greenlets

os = patcher.original("os")
select = patcher.original("select")
socket = patcher.original("socket")
threading = patcher.original("threading")
time = patcher.original("time")

log = logging.getLogger(__name__)

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
BROKEN = select.EPOLLERR | select.EPOLLHUP

#: Ready descriptors looked at in one turn of the hub, so that eventlet's own get their turn too.
READY_AT_ONCE = 256

#: Calls from other threads that may wait, and bytes with them; past either the thread waits.
THREAD_CALLS, THREAD_BYTES = 10_000, 1_048_576

#: Calls from other threads, and bytes, in one turn of the hub: sockets must get their turn as well.
CALLS_A_TURN, CALL_BYTES_A_TURN = 256, 262_144

#: Greenlets that are kept for the next piece of work when they have nothing to do.
IDLE_GREENLETS = 32

#: Seconds until work is tried again for which there was no memory.
NO_ROOM_SECONDS = 0.1

_engines = threading.local()


def current_engine() -> Engine:
    """The engine of the calling OS thread; after a fork the child makes its own."""
    engine = engine_here()
    if engine is None:
        engine = _engines.engine = Engine()
    return engine


def engine_here() -> Engine | None:
    """The engine of the calling OS thread, if it has made one since the last fork."""
    engine: Engine | None = getattr(_engines, "engine", None)
    return engine if engine is not None and engine.process == os.getpid() else None


def made_here() -> bool:
    """Whether an engine has been made in this process, not only in one that it was forked from."""
    return Engine.last_made_in == os.getpid()


@implementer(IEngine)
class Engine:
    """Watches descriptors, runs greenlets and timers, and lets other threads in."""

    #: The process that made the last engine.
    last_made_in = 0

    def __init__(self) -> None:
        self.process = Engine.last_made_in = os.getpid()
        #: Every open WebSocket of this engine: what a server says good-bye to when it stops.
        self.connections: set[Any] = set()
        #: Connections and requests refused before any application knew of them, by cause.
        self.refusals: dict[str, int] = {}
        #: How often the hub has looked for ready descriptors.
        self.turns = 0
        #: How many views run at this moment, parked ones not counted.
        self.running = 0
        #: One object a class, for the rooms above: what they share among all users of an engine.
        self.shared: dict[type, Any] = {}
        self.closed = False
        #: For work that blocks.
        self.threads = Threads(self)
        self._enders: list[Callable[[], object]] = []
        self._forked: list[weakref.WeakMethod[Callable[[], object]]] = []
        self._idle: list[Any] = []
        #: What waits for a greenlet, and whether it can wait for the end of a round of watchers.
        self._work: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._dispatching = False
        self._thread = threading.get_ident()
        self._hub = hubs.get_hub()
        self._epoll = select.epoll()
        self._watchers: dict[int, Callable[[int], object]] = {}
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...], int]] = deque()
        self._call_bytes = 0
        self._room = threading.Condition()
        self._interrupts: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._woken = False
        self._wake_end, self._waker = os.pipe()
        os.set_blocking(self._wake_end, False)
        os.set_blocking(self._waker, False)
        self.watch(self._wake_end, READ, self._drain_calls)
        self._listener = self._hub.add(
            self._hub.READ, self._epoll.fileno(), self._dispatch, self._dispatch, None
        )
        # eventlet remembers the greenlet that asked, and would keep it alive.
        self._listener.greenlet = self._hub.greenlet
        engines.add(self)
        ask_for_forks()

    def when_ending(self, function: Callable[[], object]) -> None:
        """Have ``function`` called when what is served on this engine comes to its end."""
        self._enders.append(function)

    def end(self) -> None:
        """Call what :meth:`when_ending` was given, once; in a greenlet, which may wait."""
        while self._enders:
            try:
                self._enders.pop()()
            except BaseException as error:
                log.error("an ending failed", exc_info=error)
        peerlog.tell_all()

    def close(self) -> None:
        """Release the descriptors, and end the hub; a thread that waits for room is let go.

        To be called where the thread began, not in a greenlet of the hub.
        """
        self.closed = True
        engines.discard(self)
        self.threads.close()
        self._hub.remove(self._listener)
        self._epoll.close()
        os.close(self._wake_end)
        os.close(self._waker)
        with self._room:
            self._room.notify_all()
        if getattr(_engines, "engine", None) is self:
            del _engines.engine
        if self._hub.running:
            self._end_idle()
            # Left suspended, it would keep alive all that its greenlets know.
            self._hub.abort(wait=True)

    def when_forked(self, function: Callable[[], object]) -> None:
        """Have a method called in each child that is forked off, which is to serve nothing.

        What it returns is kept for good: greenlets of the parent's may be in it.
        """
        self._forked.append(weakref.WeakMethod(function))

    def _end_idle(self) -> None:
        for worker in self._idle:
            self.call_soon(worker.switch)
        self._idle.clear()
        self.call_soon(greenlets.getcurrent().switch)
        self.park()

    # Whatever the application raises.

    @property
    def ends_on(self) -> tuple[type[BaseException], ...]:
        """What ends the process when it is raised here: nothing while errors are contained."""
        found: tuple[type[BaseException], ...] = self._hub.SYSTEM_EXCEPTIONS
        return found

    def contained(self) -> AbstractContextManager[None]:
        """Meanwhile nothing that is raised ends the hub: for a server that hears the signals."""
        report = partial(self.spawn, log_of_application)
        return contained(self._hub, self._epoll.fileno(), self._waker, report)

    # Descriptors.

    def watch(self, fd: int, events: int, ready: Callable[[int], object]) -> None:
        """Call ``ready(events)`` on the hub whenever ``fd`` is ready; broken is always told."""
        self._epoll.register(fd, events)  # First: the machine may have no room for it.
        self._watchers[fd] = ready

    def rewatch(self, fd: int, events: int) -> None:
        """Change the events that a watched descriptor is watched for."""
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Stop watching ``fd``, which is still open."""
        if self._watchers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def wait_writable(self, fd: int, seconds: float) -> bool:
        """Hold everybody up until ``fd`` takes bytes, or for ``seconds``; returns which it was."""
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))

    @property
    def patched(self) -> bool:
        """Whether what waits for a network gives way to others, as it must in this thread."""
        return bool(patcher.is_monkey_patched("socket"))

    @property
    def watched(self) -> int:
        """How many descriptors are watched."""
        return len(self._watchers) - 1

    def _dispatch(self, _fd: object) -> None:
        find = self._watchers.get
        self.turns += 1
        self._dispatching = True
        try:
            for fd, events in self._epoll.poll(0, READY_AT_ONCE):
                ready = find(fd)
                if ready is None:
                    continue
                try:
                    ready(events)
                except self.ends_on:
                    raise
                except BaseException as error:
                    # eventlet would stop watching every socket of ours after one error.
                    self._report(error, "the watcher of descriptor %d failed", fd)
        finally:
            self._dispatching = False
        if self._work:
            self._lend_out()

    # Greenlets and timers.

    @property
    def greenlet(self) -> Any:
        """The greenlet that runs now."""
        return greenlets.getcurrent()

    @property
    def on_hub(self) -> bool:
        """Whether the caller is the hub itself, which must never wait."""
        return greenlets.getcurrent() is self._hub.greenlet

    def spawn(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function`` in a greenlet of its own, at the next turn of the hub."""
        self.call_soon(self.start, function, *args)

    def lend(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function`` in a greenlet that others have had and will have: for short work.

        A new one has to be given its stack by the system, which costs more than most work does;
        and one greenlet does all the work of a turn, as long as none of it waits.
        """
        self._work.append((function, args))
        if self._dispatching:
            return  # At the end of the round.
        if self.on_hub:
            self._lend_out()
        else:
            self.call_soon(self._lend_out)

    def _lend_out(self) -> None:
        """Have all the work done that there is; a greenlet that comes to wait is left to wait."""
        work, idle, hub = self._work, self._idle, self._hub.greenlet
        while work:
            try:
                worker = idle.pop() if idle else greenlets.greenlet(self._be_lent, parent=hub)
            except MemoryError:
                # It must not get out: eventlet would stop watching every socket of ours.
                self.call_later(NO_ROOM_SECONDS, self._lend_out)
                return
            try:
                worker.switch()
            except self.ends_on:
                raise
            except BaseException as error:
                self._report(error, "a piece of work failed")

    def _be_lent(self) -> None:
        work, me, hub = self._work, greenlets.getcurrent(), self._hub.greenlet
        while not self.closed:
            while work:
                function, args = work.popleft()
                function(*args)
                del function, args  # Or a view and its request would live on while this waits.
            if self.closed or len(self._idle) >= IDLE_GREENLETS:
                return
            self._idle.append(me)
            hub.switch()

    def start(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function`` in a greenlet of its own: at once when the caller is the hub."""
        self.resume(greenlets.greenlet(function, parent=self._hub.greenlet), *args)

    def resume(self, greenlet: Any, *args: Any) -> None:
        """Go on with a parked greenlet: at once when the caller is the hub."""
        if greenlets.getcurrent() is self._hub.greenlet:
            greenlet.switch(*args)
        else:
            self._hub.schedule_call_global(0, greenlet.switch, *args)

    def park(self) -> Any:
        """Give way until somebody resumes the current greenlet; returns what it was given."""
        return self._hub.switch()

    def call_soon(self, function: Callable[..., object], *args: Any) -> Any:
        """Call ``function`` on the hub at its next turn; the answer has a ``cancel()``."""
        return self._hub.schedule_call_global(0, function, *args)

    def call_later(self, seconds: float, function: Callable[..., object], *args: Any) -> Any:
        """Call ``function`` on the hub after ``seconds``; the answer has a ``cancel()``."""
        return self._hub.schedule_call_global(seconds, function, *args)

    # Other threads and signals.

    def in_own_thread(self) -> bool:
        """Whether the caller is in the OS thread of this engine; of one that is closed, all are."""
        return self.closed or bool(threading.get_ident() == self._thread)

    def call_from_thread(self, function: Callable[..., object], *args: Any, size: int = 0) -> None:
        """Call ``function`` on the hub soon; calls keep their order.

        ``size`` bytes wait with it. The caller waits while too much waits already.
        """
        with self._room:
            while not self.closed and (
                len(self._calls) >= THREAD_CALLS or self._call_bytes >= THREAD_BYTES
            ):
                self._room.wait()
            self._call_bytes += size
            self._calls.append((function, args, size))
        self._wake()

    def ask_from_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run ``function`` in a greenlet, wait for it, and return or raise what it does."""
        done = threading.Event()
        answer: list[Any] = [None, None]

        def call() -> None:
            try:
                answer[0] = function(*args)
            except BaseException as error:
                answer[1] = error
            finally:
                done.set()

        self.call_from_thread(self.start, call)
        while not done.wait(0.5) and not self.closed:
            pass
        if not done.is_set():
            raise RuntimeError("the server has ended")
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def run_in_thread(self, function: Callable[[], Any]) -> Any:
        """Call ``function`` in an OS thread, wait in a greenlet, return or raise what it does."""
        return self.threads.run(function)

    def interrupt(self, function: Callable[..., object], *args: Any) -> None:
        """As ``call_from_thread``, for a signal handler: it takes no lock and never waits.

        The handler may have come between the lines of whoever holds that lock, in its own thread.
        """
        self._interrupts.append((function, args))
        with suppress(OSError):
            os.write(self._waker, b"\0")

    def _wake(self) -> None:
        if self._woken:
            return
        self._woken = True
        with suppress(OSError):  # Full of wake-ups, one of which will do; or closed by now.
            os.write(self._waker, b"\0")

    def _drain_calls(self, _events: int) -> None:
        os.read(self._wake_end, 4096)
        self._woken = False
        while self._interrupts:
            self._call(*self._interrupts.popleft())
        self._call_some()

    def _call_some(self) -> None:
        """Make a turn's share of the calls from other threads, and let those on that wait."""
        called = size = 0
        while self._calls and called < CALLS_A_TURN and size < CALL_BYTES_A_TURN:
            function, args, with_it = self._calls.popleft()
            called += 1
            size += with_it
            self._call(function, args)
        with self._room:
            self._call_bytes -= size
            self._room.notify_all()
        if self._calls:
            self._wake()

    def _call(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        try:
            function(*args)
        except self.ends_on:
            raise
        except BaseException as error:
            self._report(error, "a call from another thread failed: %r", function)

    def _report(self, error: BaseException, text: str, *args: object) -> None:
        # Not here: a handler of the log may wait, and the hub must not.
        self.spawn(partial(peerlog.error, log, text, *args, exc_info=error))
