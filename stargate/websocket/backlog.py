"""All that waits in the outboxes of one engine: its sum, and who takes too little of it.

What one socket's outbox holds is ``outbox.py``'s; what becomes of a slow listener is decided in
``sending.py``. Everything belongs to the engine's own OS thread.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING

from stargate.websocket.outbox import Outbox, Total

if TYPE_CHECKING:
    from stargate.engine.hub import Engine
    from stargate.websocket.sending import Sending

#: Seconds between two looks at who makes progress: at most, and at least.
LONGEST_LOOK, SHORTEST_LOOK = 1.0, 0.05

#: Looks in the time that a listener has to make progress.
LOOKS = 5

#: The share of the bound that is freed where it has been passed: or each message would have to look
#: for the largest outbox again.
FREED = 64

#: In a turn of the hub that does not end: how long a listener may take to make room, how long it
#: may stand still meanwhile, and how long all may keep the sender waiting in vain, in seconds. A
#: peer that reads seems to stand still while it empties a buffer of some MB in its own kernel.
ROOM_SECONDS, STILL_SECONDS, VAIN_SECONDS = 2.0, 0.5, 2.0


class Backlog:
    """The connections of an engine that have an outbox."""

    __slots__ = ("_engine", "_looking", "_marks", "_turn", "_vain", "total", "turns")

    def __init__(self, engine: Engine | None) -> None:
        self._engine = engine
        self.total = Total()
        #: When each was last seen to make progress, and how much its peer had confirmed then.
        self._marks: dict[Sending, tuple[float, int] | None] = {}
        self._looking = False
        #: Turns of the hub in which messages have left, as far as the walks know.
        self.turns = 0
        #: How long a sender has waited in vain, and in which turn.
        self._vain, self._turn = 0.0, 0

    def __len__(self) -> int:
        return len(self._marks)

    def __iter__(self) -> Iterator[Sending]:
        return iter(list(self._marks))

    def begin(self, connection: Sending) -> Outbox:
        """An outbox for ``connection``, whose socket does not take everything."""
        self._marks[connection] = None
        if not self._looking and self._engine is not None:
            self._looking = True
            self._engine.call_later(SHORTEST_LOOK, self._look, self._engine)
        return Outbox(self.total, self.turn())

    def end(self, connection: Sending, outbox: Outbox) -> None:
        """``outbox`` is empty, or ``connection`` has ended."""
        outbox.clear()
        self._marks.pop(connection, None)

    def turn(self) -> int:
        """A number that stays the same while a caller does not let the hub have its turn."""
        return self.turns + (self._engine.turns if self._engine is not None else 0)

    # The bound on all outboxes together.

    def relieve(self, bound: int) -> None:
        """Where more than ``bound`` waits in all, the largest outboxes go first."""
        if self.total.cost <= bound:
            return
        self.let_drain()
        target = bound - bound // FREED
        for connection in sorted(self._marks, key=_cost, reverse=True):
            if self.total.cost <= target:
                break
            connection._relieve()

    # A caller that never yields.

    def let_drain(self) -> None:
        """Let the sockets take what they can, as they would at the next turn of the hub."""
        for connection in self:
            connection._drain()

    def wait_for_room(self, connection: Sending, outbox: Outbox, bound: int) -> None:
        """Wait for a peer whose outbox was filled in this one turn of the hub: it had no chance.

        Only where nobody else could do anything anyhow, since the caller has sent all this without
        yielding; as long as the peer goes on reading; and not for long in all.
        """
        turn = self.turn()
        if self._engine is None or not outbox.filled_at_once(turn, bound):
            return
        if self._turn != turn:
            self._turn, self._vain = turn, 0.0
        if self._vain > VAIN_SECONDS:
            return
        began = now = monotonic()
        while now - began < ROOM_SECONDS and outbox.cost * 2 >= bound:
            still = outbox.moved + STILL_SECONDS - now
            if still <= 0 or not self._engine.wait_writable(connection._fd, still):
                break
            connection._drain()
            if connection._outbox is not outbox:
                return
            now = monotonic()
        if outbox.cost >= bound:
            self._vain += monotonic() - began

    # Progress.

    def _look(self, engine: Engine) -> None:
        now = monotonic()
        shortest = LONGEST_LOOK * LOOKS
        for connection, mark in list(self._marks.items()):
            allowed = connection._limits.outbox_progress_timeout
            outbox = connection._outbox
            if not allowed or outbox is None:
                continue
            shortest = min(shortest, allowed)
            if mark is None:
                self._marks[connection] = now, _confirmed(connection, outbox)
            elif now - mark[0] >= allowed:
                self._judge(connection, outbox, mark[1], now)
        self._looking = bool(self._marks)
        if self._looking:
            engine.call_later(max(SHORTEST_LOOK, shortest / LOOKS), self._look, engine)

    def _judge(self, connection: Sending, outbox: Outbox, before: int, now: float) -> None:
        confirmed = _confirmed(connection, outbox)
        if confirmed - before < connection._limits.outbox_progress:
            connection._stall()
        else:
            self._marks[connection] = now, confirmed


def unconfirmed(connection: Sending) -> int:
    """Bytes that the kernel has for the peer and the peer's kernel has not confirmed."""
    answer = fcntl.ioctl(connection._fd, termios.TIOCOUTQ, b"\0\0\0\0")
    return int(struct.unpack("i", answer)[0])


def _confirmed(connection: Sending, outbox: Outbox) -> int:
    """How much has come to the peer, from an arbitrary beginning on."""
    return outbox.taken - unconfirmed(connection)


def _cost(connection: Sending) -> int:
    outbox = connection._outbox
    return outbox.cost + outbox.streamed if outbox is not None else 0
