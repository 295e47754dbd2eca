"""The good-byes of a server that ends, to every WebSocket, all at once or spread over a time.

Until its good-bye a WebSocket is served as ever. How long all of it may take is the server's.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stargate.engine.hub import Engine
    from stargate.settings.application import Limits

log = logging.getLogger("stargate.server")

#: The server ends; it ends, and another one has taken its place already.
GOING_AWAY, SERVICE_RESTART = 1001, 1012

#: Good-byes in one turn of the hub: 2 ms.
SLICE = 64

#: Seconds between two turns of a good-bye that is spread.
TICK = 0.02


class Drain:
    """Closes the WebSockets that are open on ``engine`` when it starts.

    Those of an application have its ``stargate.drain_period`` for it, but at most
    :func:`longest_period`.
    """

    def __init__(self, engine: Engine, graceful_timeout: float, *, restarts: bool = False) -> None:
        self._engine, self._graceful_timeout = engine, graceful_timeout
        self._good_bye = (
            (SERVICE_RESTART, "the server is restarting")
            if restarts
            else (GOING_AWAY, "the server is stopping")
        )
        self._parties: list[_Party] = []
        self._next: Any = None

    def start(self) -> None:
        """Begin with the good-byes; the log may be waited for."""
        found: dict[Limits, list[Any]] = {}
        for websocket in self._engine.connections:
            found.setdefault(websocket._limits, []).append(websocket)
        for limits, websockets in found.items():
            period = min(limits.drain_period, self._longest_period(limits))
            self._parties.append(_Party(websockets, period))
        self._tick()

    def cancel(self) -> None:
        """Say no more."""
        if self._next is not None:
            self._next.cancel()

    def _longest_period(self, limits: Limits) -> float:
        longest = longest_period(self._graceful_timeout, limits.close_timeout)
        if limits.drain_period > longest:
            log.warning(
                "stargate.drain_period = %s is cut to %s s: graceful_timeout = %s s is for the "
                "close handshakes as well",
                limits.drain_period,
                longest,
                self._graceful_timeout,
            )
        return longest

    def _tick(self) -> None:
        left, now = SLICE, monotonic()
        for party in self._parties:
            for _ in range(min(left, party.due(now))):
                party.websockets.pop()._close(*self._good_bye)
                left -= 1
        if any(party.websockets for party in self._parties):
            self._next = self._engine.call_later(TICK if left else 0, self._tick)


def longest_period(graceful_timeout: float, close_timeout: float) -> float:
    """The longest time that good-byes may be spread over, in seconds.

    The last peer is left its ``close_timeout``; or half of ``graceful_timeout``, if that is less.
    """
    return graceful_timeout - min(close_timeout, graceful_timeout / 2)


class _Party:
    """The WebSockets of one application, and the time that their good-byes have."""

    def __init__(self, websockets: list[Any], period: float) -> None:
        self.websockets = websockets
        self._count, self._period = len(websockets), period
        self._began = monotonic()

    def due(self, now: float) -> int:
        """How many of those that are left should have been told by ``now``."""
        passed = (now - self._began) / self._period if self._period else 1.0
        told = self._count - len(self.websockets)
        return min(int(self._count * passed) + 1, self._count) - told
