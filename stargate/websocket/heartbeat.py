"""The heartbeat: one sweep over all connections of an application, spread over the interval.

When a connection is pinged and what becomes of a silent one; the ping itself is sent by
``connection.py``. Everything belongs to the engine's own OS thread.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from stargate.websocket.backlog import unconfirmed

if TYPE_CHECKING:
    from stargate.engine.hub import Engine
    from stargate.websocket.connection import Connection

#: Beats in the interval or the time-out, whichever is shorter: how exactly both are kept, and how
#: many share the pings of one interval.
BEATS = 80

#: No shorter beats than this, in seconds, and no more places than this.
SHORTEST_BEAT, MOST_PLACES = 0.01, 4096


class Heartbeat:
    """Pings the connections of one application on one engine, each once an ``interval``.

    Time is counted in beats, not read from a clock: while the hub is held up no peer can be heard,
    and none grows older. A connection has its place by its descriptor, the smallest numbers that
    there are, so that the pings are spread evenly and nothing is kept for each connection.
    """

    __slots__ = (
        "_beat",
        "_beating",
        "_behind",
        "_engine",
        "_patience",
        "_places",
        "_seconds",
        "_size",
    )

    def __init__(self, engine: Engine, interval: float, timeout: float) -> None:
        self._engine = engine
        self._seconds = max(min(interval, timeout) / BEATS, SHORTEST_BEAT, interval / MOST_PLACES)
        self._places: list[set[Connection]] = [
            set() for _ in range(max(1, round(interval / self._seconds)))
        ]
        #: Beats that a peer has for its answer.
        self._patience = max(1, ceil(timeout / self._seconds))
        self._beat = self._size = 0
        self._beating = False
        #: How many bytes were on their way to those whose ping went out behind others.
        self._behind: dict[Connection, int] = {}

    def __len__(self) -> int:
        return self._size

    def add(self, connection: Connection) -> None:
        """Ping ``connection`` from here on."""
        self._place(connection._fd).add(connection)
        self._size += 1
        if not self._beating:
            self._beating = True
            self._engine.call_later(self._seconds, self._on_beat)

    def discard(self, connection: Connection) -> None:
        """Forget ``connection``."""
        place = self._place(connection._fd)
        if connection in place:
            place.discard(connection)
            self._behind.pop(connection, None)
            self._size -= 1

    def _place(self, number: int) -> set[Connection]:
        return self._places[number % len(self._places)]

    def _on_beat(self) -> None:
        if not self._size:
            self._beating = False
            return
        self._engine.call_later(self._seconds, self._on_beat)
        self._beat += 1
        asked = self._beat - self._patience
        for connection in list(self._place(asked)) if asked > 0 else ():
            if connection._asked == asked:
                self._judge(connection)
        for connection in list(self._place(self._beat)):
            if not connection._asked:
                self._ask(connection)

    def _ask(self, connection: Connection) -> None:
        if not connection._listens():
            return
        before = unconfirmed(connection)
        connection._asked = self._beat
        connection._send_ping()
        if before:
            self._behind[connection] = before
        else:
            self._behind.pop(connection, None)

    def _judge(self, connection: Connection) -> None:
        """Nothing has been heard of ``connection`` since it was asked."""
        connection._asked = 0
        before = self._behind.pop(connection, 0)
        if not connection._listens():
            return  # It is not read: it may have answered.
        if before and unconfirmed(connection) < before:
            return  # Our ping waits behind other bytes, and the peer goes on taking those.
        connection._silent()
