"""Frames that wait for one socket, in order, with a count of their bytes; no I/O.

What happens when there are too many of them is the connection's decision, not the outbox's.
"""

from __future__ import annotations

from collections import deque

#: What one ``sendmsg`` is given: at most this many buffers, and a buffer more than this many bytes.
GATHER_BUFFERS, GATHER_BYTES = 64, 262_144


class Outbox:
    """A queue of buffers whose first one may have left in part."""

    __slots__ = ("_buffers", "_cut", "size")

    def __init__(self) -> None:
        self._buffers: deque[bytes] = deque()
        #: How many bytes of the first buffer have left already.
        self._cut = 0
        #: Bytes that wait.
        self.size = 0

    def append(self, buffer: bytes, sent: int = 0) -> None:
        """Queue ``buffer``, of which ``sent`` bytes have left (only ever of the first one)."""
        self._buffers.append(buffer)
        self._cut += sent
        self.size += len(buffer) - sent

    def gather(self) -> list[memoryview | bytes]:
        """The buffers to hand to one ``sendmsg``."""
        found: list[memoryview | bytes] = []
        size = 0
        for buffer in self._buffers:
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
        sent += self._cut
        buffers = self._buffers
        while buffers and sent >= len(buffers[0]):
            sent -= len(buffers.popleft())
        self._cut = sent

    def keep_started(self) -> None:
        """Drop all but a frame that has left in part: the peer could not read on without it."""
        first = self._buffers[0] if self._cut else None
        self._buffers.clear()
        self.size = 0
        if first is not None:
            self._buffers.append(first)
            self.size = len(first) - self._cut
