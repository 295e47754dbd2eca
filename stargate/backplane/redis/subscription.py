"""What a process knows of one address that it is subscribed to; no I/O.

All but ``lacking`` and ``looked`` belongs to the engine's own OS thread.
"""

from __future__ import annotations

from collections import deque

from stargate.backplane.packet import Packet
from stargate.backplane.redis.feed import HELD_BYTES, HELD_COST, Feed
from stargate.history import Keep, MessageId


class Subscription:
    """What is known of one address that is subscribed to."""

    __slots__ = (
        "_recent_bytes",
        "behind",
        "channel",
        "feed",
        "idle",
        "joining",
        "keep",
        "lacking",
        "looked",
        "recent",
        "topic",
    )

    def __init__(self, topic: str, channel: bytes) -> None:
        self.topic, self.channel = topic, channel
        #: Where it stands.
        self.feed = Feed()
        self.keep: Keep | None = None
        #: Whether what it lacks is about to be read.
        self.lacking = False
        #: How many are joining, and what was given out since the first of them began.
        self.joining = 0
        self.recent: deque[Packet] = deque()
        self._recent_bytes = 0
        #: Since when nobody listens; ``None`` while somebody does.
        self.idle: float | None = None
        #: When it was last compared with where the address stands, and a place that was behind.
        self.looked = 0.0
        self.behind: MessageId | None = None

    def remember(self, packet: Packet) -> None:
        """It is given out while somebody joins; too long ago, and they have to read it again."""
        self.recent.append(packet)
        self._recent_bytes += len(packet.payload) + HELD_COST
        while self._recent_bytes > HELD_BYTES:
            self._recent_bytes -= len(self.recent.popleft().payload) + HELD_COST

    def forget(self) -> None:
        """Nobody is joining any more."""
        self.recent.clear()
        self._recent_bytes = 0


def offset_of(packet: Packet) -> int:
    """The offset of a message that is kept; 0 for another."""
    id = MessageId.parse(packet.id)
    return id.offset if id is not None else 0
