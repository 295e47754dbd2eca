"""OS threads for work that blocks: a few of an engine's own, started when they are first needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stargate.engine.forked import end_child
from stargate.engine.quiet import eventlet

if TYPE_CHECKING:
    from stargate.engine.hub import Engine

hubs = eventlet.hubs
os = eventlet.patcher.original("os")
queue = eventlet.patcher.original("queue")
threading = eventlet.patcher.original("threading")

#: How many work at once, where no setting says so.
LIMIT = 20


class Threads:
    """Runs calls in OS threads; everything here belongs to the OS thread of the engine.

    The threads are daemons: none keeps the process from ending, whatever it does.
    """

    def __init__(self, engine: Engine) -> None:
        self.limit = LIMIT
        self._engine = engine
        self._calls: Any = queue.SimpleQueue()
        self._started = 0
        #: How many calls have not been answered, running or waiting.
        self._open = 0

    def run(self, function: Callable[[], Any]) -> Any:
        """Call ``function`` in an OS thread, wait in greenlet style, return or raise what it does.

        Where the greenlet is thrown something while it waits, what has begun goes on and nobody
        hears of its end; what has not begun never does.
        """
        if self._started < min(self._open + 1, self.limit):
            self._start_one()
        call = _Call(function, self._engine, self._engine.greenlet, self._on_end)
        self._open += 1
        self._calls.put(call)
        return call.wait()

    def _start_one(self) -> None:
        name = f"stargate-thread-{self._started + 1}"
        try:
            threading.Thread(target=_work, args=(self._calls,), name=name, daemon=True).start()
        except RuntimeError:  # The system has no room for one more; the others will do.
            if not self._started:
                raise
        else:
            self._started += 1

    def _on_end(self) -> None:
        self._open -= 1

    def close(self) -> None:
        """Let the threads end when they have nothing more to do; none is waited for."""
        for _ in range(self._started):
            self._calls.put(None)


def _work(calls: Any) -> None:
    while (call := calls.get()) is not None:
        call.run()
        call = None  # Or what it holds would live until the next one comes.
    hub = getattr(hubs._threadlocal, "hub", None)
    if hub is not None and hub.running:
        hub.abort(wait=True)  # Something has slept in here; its descriptor would stay open.


class _Call:
    """One call in an OS thread, and the greenlet that waits for its end."""

    def __init__(
        self,
        function: Callable[[], Any],
        engine: Engine,
        greenlet: Any,
        on_end: Callable[[], object],
    ) -> None:
        self._function: Callable[[], Any] | None = function
        self._engine, self._greenlet, self._on_end = engine, greenlet, on_end
        self._value: Any = None
        self._error: BaseException | None = None
        self._waits, self._ended = True, False

    def run(self) -> None:
        """Do it; in an OS thread."""
        function, self._function = self._function, None
        assert function is not None
        if self._waits:
            try:
                self._value = function()
            except BaseException as error:
                self._error = error
            # The function has forked. What measures this ends with the child.
            if os.getpid() != self._engine.process:  # pragma: no cover
                end_child(self._error)
        # Behind what was sent in there, which so has its place before what the greenlet sends.
        self._engine.call_from_thread(self._end)

    def _end(self) -> None:
        self._ended = True
        self._on_end()
        if self._waits:
            self._engine.resume(self._greenlet)

    def wait(self) -> Any:
        """What was returned or raised; in the greenlet."""
        try:
            while not self._ended:
                self._engine.park()
        finally:
            self._waits = False
        if self._error is None:
            return self._value
        error, self._error = self._error, None
        try:
            raise error
        finally:
            del error  # It knows this frame.
