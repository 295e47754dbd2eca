"""Walks: each message's way to its listeners, in one order for all resources of an engine.

``send`` only queues a walk. At the next turn of the hub all messages for the same listeners leave
together, one system call a socket. A walk over many gives way to the hub between slices; a short
one overtakes it, and whoever is in both gets the older messages first, so that the order holds.
No topic, view or backplane is known here. Everything belongs to the engine's own OS thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import count, islice
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from stargate.websocket.backlog import Backlog

if TYPE_CHECKING:
    from stargate.engine.hub import Engine
    from stargate.message.message import Message
    from stargate.websocket.connection import Connection
    from stargate.websocket.outbox import Topic
    from stargate.websocket.sending import Sending

#: Listeners served before a walk gives way to the hub: about 3 ms.
SLICE = 512

#: A walk over at most this many overtakes a longer one that is under way.
SHORT = 64

NOBODY: frozenset[Connection] = frozenset()

#: One sequence for all engines, so that a number says "before" or "after" wherever it is met.
_numbers = count(1)

#: What may be queued before ``send`` itself walks: a caller that never yields must still deliver.
QUEUED_BYTES, QUEUED_MESSAGES, QUEUED_SECONDS = 1_048_576, 1_024, 0.05


class Snapshot(Protocol):
    """Who listens to something at one moment; it never changes."""

    @property
    def plain(self) -> bool:
        """Whether all of them take plain frames."""

    @property
    def topic(self) -> Topic | None:
        """Where they listen; ``None`` where nobody does."""

    @property
    def members(self) -> Mapping[Connection, object]:
        """Those who listen, as keys."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Connection]: ...
    def __contains__(self, listener: object, /) -> bool: ...


class Walks:
    """The queue of one engine; with none (a unit test, no server) a walk is made on the spot."""

    __slots__ = (
        "_bytes",
        "_engine",
        "_messages",
        "_queue",
        "_scheduled",
        "_since",
        "backlog",
        "serving",
    )

    def __init__(self, engine: Engine | None = None) -> None:
        self._engine = engine
        #: What waits for those who do not take it at once.
        self.backlog = Backlog(engine)
        #: The walk whose messages are being written at this moment.
        self.serving: _Walk | None = None
        self._queue: deque[_Walk] = deque()
        self._bytes = self._messages = 0
        self._since = 0.0
        self._scheduled = False

    def add(
        self, listeners: Snapshot, message: Message, exclude: frozenset[Connection] = NOBODY
    ) -> None:
        """Queue ``message`` for ``listeners`` but for ``exclude``, behind all that was added."""
        last = self._queue[-1] if self._queue else None
        if last is not None and last.takes(listeners, exclude):
            last.take(message)
        else:
            self._append(_Walk(next(_numbers), listeners, message, exclude))
        if not self._messages:
            self._since = monotonic()
        self._messages += 1
        self._bytes += len(message.frame)
        if self._engine is None:
            self.run()
        elif self._overdue():
            self.backlog.let_drain()
            self.run()
        else:
            self._schedule(self._engine)

    def settle(self, listener: Connection) -> None:
        """Give ``listener`` at once what is queued for it, so that what comes next is behind it."""
        if self._queue:
            self._settle(listener, self._queue[-1].number)

    def waiting(self, listener: Sending) -> int:
        """How many messages are queued that ``listener`` has not been given.

        Of a walk under way by itself it cannot be told whom it has come to: it does not count.
        """
        return sum(
            len(walk.messages)
            for walk in self._queue
            if walk.tells and listener._served < walk.number and listener in walk.listeners
        )

    def run(self) -> None:
        """Make every queued walk, now and to the end."""
        while self._queue:
            self._advance(self._queue[0], self._queue[0].left)

    def _overdue(self) -> bool:
        return (
            self._bytes > QUEUED_BYTES
            or self._messages > QUEUED_MESSAGES
            or monotonic() - self._since > QUEUED_SECONDS
        )

    def _append(self, walk: _Walk) -> None:
        for listener in walk.exclude:
            # Served already, as far as this walk goes: its loop need not look for the excluded.
            self.settle(listener)
            listener._served = walk.number
        self._queue.append(walk)

    def _schedule(self, engine: Engine) -> None:
        if not self._scheduled:
            self._scheduled = True
            engine.call_soon(self._turn, engine)

    def _turn(self, engine: Engine) -> None:
        self._scheduled = False
        budget = SLICE
        if len(self._queue) > 1 and self._queue[0].started:
            budget = self._overtake(budget)
        while self._queue and budget > 0:
            budget -= self._advance(self._queue[0], budget)
        if self._queue:
            self._schedule(engine)
        # Last: before the hub has looked for sockets again, none has had a chance to take more.
        self.backlog.turns += 1

    def _advance(self, walk: _Walk, budget: int) -> int:
        """Serve at most ``budget`` listeners of ``walk``; returns what that cost of it.

        A short walk is never cut: all that come behind it would have to overtake it.
        """
        walk.start()
        self.serving = walk
        try:
            served = walk.serve(max(budget, SHORT))
        finally:
            self.serving = None
        if walk.left == 0:
            self._finish(walk)
        return max(served, 1)

    def _overtake(self, budget: int) -> int:
        """Serve the short walks behind the long one under way; returns what is left of budget."""
        for walk in list(islice(self._queue, 1, None)):
            if budget <= 0:
                break
            if len(walk.listeners) <= SHORT:
                for listener in walk.listeners:
                    self._settle(listener, walk.number)
                budget -= len(walk.listeners)
                self._finish(walk)
        return budget

    def _finish(self, walk: _Walk) -> None:
        self._queue.remove(walk)
        if walk.counters is not None:
            walk.counters.walks += 1
        self._messages -= len(walk.messages)
        self._bytes -= walk.size
        self._since = monotonic()

    def _settle(self, listener: Connection, number: int) -> None:
        for walk in self._queue:
            if walk.number > number:
                break
            if walk.number > listener._served and listener in walk.listeners:
                walk.mark()
                if walk.number > listener._served:
                    self.serving = walk
                    try:
                        walk.serve_one(listener)
                    finally:
                        self.serving = None


class _Walk:
    """Messages that go together to the same listeners, and how far they have come.

    Whoever was served out of turn has the walk's number as a mark. Most walks know no such
    listener: they neither write nor look for marks.
    """

    __slots__ = (
        "_buffers",
        "_iterator",
        "_marked",
        "counters",
        "exclude",
        "left",
        "listeners",
        "messages",
        "number",
        "size",
    )

    def __init__(
        self,
        number: int,
        listeners: Snapshot,
        message: Message,
        exclude: frozenset[Connection],
    ) -> None:
        self.number, self.listeners, self.exclude = number, listeners, exclude
        self.messages, self.size = [message], len(message.frame)
        topic = listeners.topic
        self.counters = topic.counters if topic is not None else None
        #: How many listeners it has not come to.
        self.left = len(listeners.members)
        self._buffers: dict[int | None, bytes] = {}
        self._iterator: Iterator[Connection] | None = None
        # Where buffers differ, each is looked at anyway, and marks are written from the first on.
        self._marked = bool(exclude) or not listeners.plain

    @property
    def started(self) -> bool:
        return self._iterator is not None

    @property
    def tells(self) -> bool:
        """Whether the marks say who has been served."""
        return self._marked or not self.started

    def takes(self, listeners: Snapshot, exclude: frozenset[Connection]) -> bool:
        """Whether another message for ``listeners`` can still go with these."""
        return self._iterator is None and self.listeners is listeners and self.exclude == exclude

    def take(self, message: Message) -> None:
        """Let ``message`` go along, behind the others."""
        self.messages.append(message)
        self.size += len(message.frame)

    def start(self) -> None:
        """From here on no message is added."""
        if self._iterator is None:
            self._iterator = iter(self.listeners.members)  # The walk keeps the snapshot.

    def mark(self) -> None:
        """From here on marks count: put one on whoever was served in turn."""
        self.start()
        if not self._marked:
            self._marked = True
            for listener in islice(self.listeners.members, len(self.listeners) - self.left):
                listener._served = self.number

    def buffer(self, form: int | None) -> bytes:
        """All messages as one buffer, made once for all listeners that take this form."""
        found = self._buffers.get(form)
        if found is None:
            frames = self.frames(form)
            found = self._buffers[form] = frames[0] if len(frames) == 1 else b"".join(frames)
        return found

    def frames(self, form: int | None) -> list[bytes]:
        """The frame of each message, as :meth:`buffer` has them joined."""
        if form is None:
            return [message.frame for message in self.messages]
        return [message.frame_as(form) for message in self.messages]

    def serve(self, budget: int) -> int:
        """Send to the next ``budget`` listeners; returns how many it came to."""
        assert self._iterator is not None, "not started"
        count = min(budget, self.left)
        self.left -= count
        if self._marked:
            self._look_and_serve(islice(self._iterator, count))
        else:
            self._serve_all(islice(self._iterator, count), count)
        return count

    def _serve_all(self, listeners: Iterator[Connection], count: int) -> None:
        buffer = self.buffer(None)
        size = len(buffer)
        if self.counters is not None:
            self.counters.messages_out += count * len(self.messages)
            self.counters.bytes_out += count * size
        for listener in listeners:
            # This is ``write`` in place: a call a listener is what this loop cannot afford.
            try:
                sent = listener._write(buffer)
            except BlockingIOError:
                listener._hold(buffer, 0)
            except (OSError, MemoryError):
                listener._lose()
            else:
                if sent != size:
                    listener._hold(buffer, sent)

    def _look_and_serve(self, listeners: Iterator[Connection]) -> None:
        number = self.number
        for listener in listeners:
            if listener._served < number:
                self.serve_one(listener)

    def serve_one(self, listener: Connection) -> None:
        """Send to ``listener``, in turn or out of turn, and mark it as served."""
        listener._served = self.number
        buffer = self.buffer(listener._form)
        if self.counters is not None:
            self.counters.messages_out += len(self.messages)
            self.counters.bytes_out += len(buffer)
        write(listener, buffer)


def write(listener: Connection, buffer: bytes) -> None:
    """Send ``buffer``, or leave to its outbox what the socket does not take; never raises."""
    try:
        sent = listener._write(buffer)
    except BlockingIOError:
        listener._hold(buffer, 0)
    except (OSError, MemoryError):
        listener._lose()
    else:
        if sent != len(buffer):
            listener._hold(buffer, sent)
