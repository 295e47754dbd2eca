"""Frames that wait for one socket, in order, and which of them may be dropped; no I/O.

When there are too many of them is the connection's decision; the sum of all outboxes of an engine
is ``backlog.py``'s.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from stargate.message.message import BINARY, TEXT, frame_end

if TYPE_CHECKING:
    from stargate.stats import Counters

#: What one ``sendmsg`` is given: at most this many buffers, and a buffer more than this many bytes.
GATHER_BUFFERS, GATHER_BYTES = 64, 262_144

#: What a buffer in an outbox costs besides its bytes. Without it 4 MiB of three-byte frames would
#: be 60 MiB of memory.
BOOKKEEPING = 48

#: What happens to a listener of a resource that reads too slowly: it is closed; the oldest
#: messages of that resource are dropped; all of them but the newest are.
CLOSE, DROP_OLDEST, LATEST = "close", "drop_oldest", "latest"
POLICIES = (CLOSE, DROP_OLDEST, LATEST)


class Total:
    """What all outboxes of an engine cost together, in bytes."""

    __slots__ = ("cost",)

    def __init__(self) -> None:
        self.cost = 0


class Topic(Protocol):
    """Where a listener listens: to an outbox a key, to a listener what it leaves at its end."""

    @property
    def counters(self) -> Counters:
        """Those of its application."""

    def discard(self, listener: Any, /) -> object:
        """Remove ``listener``."""


class _Entry:
    """A buffer of which more is known than that it is one message that may not be dropped."""

    __slots__ = ("buffer", "messages", "streamed", "topic")

    def __init__(
        self, buffer: bytes, messages: int, topic: Topic | None = None, streamed: bool = False
    ) -> None:
        #: ``None`` once it has been dropped.
        self.buffer: bytes | None = buffer
        self.messages = messages
        #: Whose message this is, where it may be dropped.
        self.topic = topic
        self.streamed = streamed


class Outbox:
    """A queue of buffers whose first one may have left in part."""

    __slots__ = (
        "_counted",
        "_cut",
        "_dropped",
        "_entries",
        "_of_topic",
        "_total",
        "_turn",
        "_waited",
        "messages",
        "missed",
        "moved",
        "size",
        "streamed",
        "taken",
    )

    def __init__(self, total: Total, turn: int = 0) -> None:
        self._total = total
        self._counted = 0
        #: The turn of the hub in which something was queued last, and the cost before it.
        self._turn, self._waited = turn, 0
        self._entries: deque[bytes | _Entry] = deque()
        #: How many bytes of the first buffer have left already.
        self._cut = 0
        #: How many entries are there that have been dropped.
        self._dropped = 0
        #: The entries that may be dropped, oldest first.
        self._of_topic: dict[Topic, deque[_Entry]] = {}
        #: Bytes that wait; those of them that a view sends to its own WebSocket, and waits for.
        self.size = self.streamed = 0
        #: Messages that wait, one that has left in part included.
        self.messages = 0
        #: Messages that were dropped, and whose listener has not been told so.
        self.missed = 0
        #: Bytes that have left since this outbox was made, and when the last of them did.
        self.taken = 0
        self.moved = monotonic()

    @property
    def cost(self) -> int:
        """Bytes that wait, and what it takes to keep them: this is what is bounded."""
        return self.size - self.streamed + BOOKKEEPING * (len(self._entries) - self._dropped)

    def look(self, turn: int) -> None:
        """Something is going to be queued in this turn of the hub."""
        if turn != self._turn:
            self._turn, self._waited = turn, self.cost

    def filled_at_once(self, turn: int, bound: int) -> bool:
        """Whether it has come to ``bound`` within this turn of the hub, from less than half."""
        return self._turn == turn and self._waited * 2 < bound

    def append(
        self, buffer: bytes, sent: int = 0, *, messages: int = 1, streamed: bool = False
    ) -> None:
        """Queue ``buffer``, of which ``sent`` bytes have left (only ever of the first one).

        It is not dropped. ``messages`` is how many there are in it. What is ``streamed`` is not
        part of :attr:`cost`: whoever sends it waits for it.
        """
        plain = messages == 1 and not streamed
        self._entries.append(buffer if plain else _Entry(buffer, messages, None, streamed))
        self._cut += sent
        self.size += len(buffer) - sent
        self.messages += messages
        if streamed:
            self.streamed += len(buffer) - sent
        self._account()

    def append_droppable(self, topic: Topic, frame: bytes) -> None:
        """Queue the frame of one message of ``topic`` that may be dropped until it has begun."""
        entry = _Entry(frame, 1, topic)
        self._entries.append(entry)
        self._of_topic.setdefault(topic, deque()).append(entry)
        self.size += len(frame)
        self.messages += 1
        self._account()

    def drop(self, topic: Topic, bound: float = -1) -> int:
        """Drop messages of ``topic``, the oldest first, until less than ``bound`` is the cost.

        By default all of them. Returns how many.
        """
        entries = self._of_topic.get(topic)
        count = 0
        while entries and self.cost >= bound:
            self._forget(entries.popleft())
            count += 1
        self._account()
        return count

    def drop_all(self) -> int:
        """Drop all that may be dropped; returns how many messages that were."""
        return sum(self.drop(topic) for topic in list(self._of_topic))

    def _forget(self, entry: _Entry) -> None:
        assert entry.buffer is not None and entry.topic is not None
        self.size -= len(entry.buffer)
        self.messages -= 1
        entry.buffer = None
        self._dropped += 1
        if not self._of_topic[entry.topic]:
            del self._of_topic[entry.topic]
        if self._dropped > GATHER_BUFFERS and self._dropped * 2 > len(self._entries):
            self._entries = deque(
                entry for entry in self._entries if type(entry) is bytes or _alive(entry)
            )
            self._dropped = 0

    def gather(self) -> list[memoryview | bytes]:
        """The buffers to hand to one ``sendmsg``."""
        found: list[memoryview | bytes] = []
        size = 0
        for entry in self._entries:
            buffer = entry if type(entry) is bytes else entry.buffer  # type: ignore[union-attr]
            if buffer is None:
                continue
            found.append(buffer)
            size += len(buffer)
            if size >= GATHER_BYTES or len(found) == GATHER_BUFFERS:
                break
        if self._cut:
            found[0] = memoryview(found[0])[self._cut :]
        return found

    def advance(self, sent: int) -> None:
        """Forget the first ``sent`` bytes: the kernel has them."""
        self.size -= sent
        self.taken += sent
        self.moved = monotonic()
        sent += self._cut
        before = self._cut
        entries = self._entries
        while entries:
            entry = entries[0]
            buffer = entry if type(entry) is bytes else entry.buffer  # type: ignore[union-attr]
            if buffer is None:
                self._dropped -= 1
            elif sent < len(buffer):
                break
            else:
                sent -= len(buffer)
                self._left(entry, len(buffer) - before)
                before = 0
            entries.popleft()
        self._cut = sent
        if sent:
            self._begun(sent - before)
        self._account()

    def _left(self, entry: bytes | _Entry, size: int) -> None:
        """``entry`` has left; ``size`` bytes of it just now."""
        if isinstance(entry, bytes):
            self.messages -= 1
            return
        self.messages -= entry.messages
        if entry.streamed:
            self.streamed -= size
        if entry.topic is not None:
            self._keep(entry)

    def _begun(self, size: int) -> None:
        """The first entry has left in part, ``size`` bytes of it just now: it must go on."""
        first = self._entries[0]
        if not isinstance(first, bytes):
            if first.streamed:
                self.streamed -= size
            if first.topic is not None:
                self._keep(first)

    def _keep(self, entry: _Entry) -> None:
        """``entry``, the oldest of its topic, may not be dropped any more."""
        assert entry.topic is not None
        entries = self._of_topic[entry.topic]
        entries.popleft()
        if not entries:
            del self._of_topic[entry.topic]
        entry.topic = None

    def keep_started(self) -> int:
        """Drop all but a frame that has left in part: the peer could not read on without it.

        Returns how many messages were dropped.
        """
        first = self._entries[0] if self._entries else b""
        buffer = first if isinstance(first, bytes) else first.buffer or b""
        waited = self.messages
        kept, counts, gone = _rest(buffer, self._cut)
        self._entries.clear()
        self._of_topic.clear()
        self.size = self.streamed = self.messages = self._dropped = 0
        cut, self._cut = self._cut, 0
        if kept:
            self.append(kept, cut, messages=counts)
        self._account()
        return waited - gone - counts

    def clear(self) -> None:
        """Forget everything: the connection has ended."""
        self._total.cost -= self._counted
        self._counted = 0

    def _account(self) -> None:
        # Streamed bytes are memory as any: here they count.
        cost = self.size + BOOKKEEPING * len(self._entries)
        self._total.cost += cost - self._counted
        self._counted = cost


def _alive(entry: bytes | _Entry) -> bool:
    return isinstance(entry, bytes) or entry.buffer is not None


def _rest(buffer: bytes, cut: int) -> tuple[bytes, int, int]:
    """What of ``buffer`` must follow the ``cut`` bytes that have left, up to the end of a frame.

    And how many messages that is, and how many have left whole. The answer to a handshake, which
    is no frame, must always go.
    """
    if buffer and buffer[0] < 0x80:
        return buffer, 0, 0
    end = gone = 0
    count = 0
    while end < cut:
        gone += count
        count = buffer[end] & 0x0F in (TEXT, BINARY)
        end = frame_end(buffer, end)
    if end == cut:
        return b"", 0, gone + count
    return buffer[:end], int(count), gone
