"""Who gets in: how many WebSockets may be open, in this process and from one remote address.

What is refused here is an HTTP answer: the pages of the application are served whatever the number.
"""

from __future__ import annotations

import logging
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from stargate.engine.peerlog import peerlog
from stargate.handshake.upgrade import Refused

if TYPE_CHECKING:
    from stargate.engine.hub import Engine
    from stargate.websocket.websocket import WebSocket

log = logging.getLogger("stargate.handshake")

#: What a client without a browser is told about when to come back, in seconds.
RETRY_AFTER = (("Retry-After", "10"),)

FULL = Refused(
    503, "There are too many WebSockets here already: try again later.", RETRY_AFTER, "full"
)

#: 429 and not 503: it is this client that has too many, and another one would get in.
TOO_MANY = Refused(
    429,
    "There are too many WebSockets from your address already: close one, or try again later.",
    RETRY_AFTER,
    "address",
)

#: How much of an IPv6 address is one client: every host may choose the rest at will.
CLIENT_PREFIX = 64

Client = IPv4Address | int


class Admission:
    """Who gets in to one application. Everything belongs to the engine's own OS thread.

    ``most`` bounds the open WebSockets of the engine, all applications together;
    ``most_from_one`` those of this application from one client. 0 is no bound.
    """

    __slots__ = ("_clients", "_most", "_most_from_one")

    def __init__(self, most: int, most_from_one: int) -> None:
        self._most, self._most_from_one = most, most_from_one
        #: How many are open from each client, where that is bounded.
        self._clients: dict[Client, int] = {}

    def judge(self, engine: Engine, remote_addr: str | None) -> Refused | None:
        """Why one more may not be opened from ``remote_addr``, or ``None``; nothing is counted."""
        if self._most and len(engine.connections) >= self._most:
            _warn(engine, FULL, "stargate.max_connections", self._most, remote_addr)
            return FULL
        if self._most_from_one:
            client = client_of(remote_addr)
            if client is not None and self._clients.get(client, 0) >= self._most_from_one:
                name = "stargate.max_connections_per_address"
                _warn(engine, TOO_MANY, name, self._most_from_one, remote_addr)
                return TOO_MANY
        return None

    def enter(self, websocket: WebSocket) -> None:
        """``websocket`` is open: it counts until it has ended, however it ends."""
        client = client_of(websocket.remote_addr) if self._most_from_one else None
        if client is not None and websocket.when_disposed(self._leave, client):
            self._clients[client] = self._clients.get(client, 0) + 1

    def _leave(self, client: Client) -> None:
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]


def _warn(engine: Engine, refused: Refused, name: str, most: int, remote_addr: str | None) -> None:
    text = "refusing a WebSocket from %s with %d: %s is %d"
    tell = partial(peerlog.warning, cause=refused.cause)
    engine.spawn(tell, log, text, remote_addr, refused.status, name, most)


def client_of(remote_addr: str | None) -> Client | None:
    """What counts as one client: an IPv4 address, or the first 64 bits of an IPv6 address.

    ``None`` where there is no such address, as behind a UNIX socket: that is nobody in particular.
    """
    try:
        address = ip_address((remote_addr or "").partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return address
    mapped = address.ipv4_mapped
    return mapped if mapped is not None else _prefix(address)


def _prefix(address: IPv6Address) -> int:
    return int(address) >> (128 - CLIENT_PREFIX)
