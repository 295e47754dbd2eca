"""Running out: a descriptor kept back, so that a connection can be refused when there is no other.

Without it a connection would hang in the kernel's queue, and the poller tell of it at each turn.
"""

from __future__ import annotations

import errno
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from stargate.engine.hub import os, socket
from stargate.engine.peerlog import peerlog
from stargate.stats import count_refusal

if TYPE_CHECKING:
    from stargate.engine.hub import Engine

log = logging.getLogger("stargate.server")

#: What ``accept`` fails with when the process or the machine has no more to give.
EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"Retry-After: 10\r\n"
    b"Connection: close\r\n"
    b"Content-Length: 0\r\n"
    b"\r\n"
)


class Spare:
    """One descriptor that is given up to accept a connection which is closed at once."""

    def __init__(self, engine: Engine, answer: bytes = UNAVAILABLE) -> None:
        self._engine, self._answer = engine, answer
        self._fd: int | None = None
        self.take()

    def accept(self, listening: Any) -> tuple[Any, Any]:
        """The connection that waits first at ``listening``, and its address.

        It has the descriptor that was kept back: :meth:`refuse` it, or close another and
        :meth:`take` one again. Raises ``BlockingIOError`` when there is none, and another
        ``OSError`` when not even this can be done.
        """
        self.close()
        try:
            accepted, address = listening.accept()
        except BaseException:
            self.take()
            raise
        return accepted, address

    def refuse(self, accepted: Any, error: OSError) -> None:
        """Close ``accepted``, which is told so where the answer can tell it."""
        try:
            turn_away(accepted, self._answer)
        finally:
            self.take()
        count_refusal(self._engine.refusals, "descriptors")
        self._engine.spawn(peerlog.error, log, "no room for more connections: %s", error)

    def take(self) -> None:
        """Keep a descriptor back."""
        with suppress(OSError):  # Somebody was faster; there may be one next time.
            self._fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Give the descriptor up."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def turn_away(sock: Any, answer: bytes) -> None:
    """Say ``answer`` to a peer that has just been accepted, and close, without waiting."""
    with suppress(OSError):
        sock.setblocking(False)
        if answer:
            sock.send(answer)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(65_536)  # Unread, it would make the close a reset, and the answer might be lost.
    sock.close()
