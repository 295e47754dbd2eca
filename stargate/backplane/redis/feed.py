"""One address whose messages are kept: where this process stands in it, and what it lacks; no I/O.

Everything belongs to the engine's own OS thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stargate.history import NO_TAG, MessageId
from stargate.wire import Packet

if TYPE_CHECKING:
    from stargate.backplane.redis.publisher import Page

#: Bytes of messages that are held back while those before them are read; past it they are let go
#: of, and read as well.
HELD_BYTES = 4_194_304

#: What a message that is held costs besides its payload.
HELD_COST = 512


class Feed:
    """What comes over Pub/Sub may have a gap: behind one, messages are held until it is filled."""

    __slots__ = ("_held", "_held_bytes", "_overflowed", "position", "ticket")

    def __init__(self) -> None:
        #: The last message that was given out; ``None`` before the beginning is known.
        self.position: MessageId | None = None
        #: Another number each time that holding back begins or ends.
        self.ticket = 1
        self._held: list[Packet] | None = []
        self._held_bytes = 0
        self._overflowed = False

    @property
    def flows(self) -> bool:
        """Whether messages are given out as they come."""
        return self._held is None

    def hold(self) -> None:
        """Something may have been missed: give nothing out until :meth:`fill`."""
        if self._held is None:
            self._held, self._held_bytes, self._overflowed = [], 0, False
            self.ticket += 1

    def begin(self, position: MessageId) -> Iterator[Packet]:
        """Begin behind ``position``, unless it has begun already; yields what can go out."""
        if self.position is None:
            self.position = position
            yield from self._let_go()

    def take(self, packet: Packet) -> Iterator[Packet]:
        """Something has come; yields what can go out. Afterwards it may not flow any more."""
        id = MessageId.parse(packet.id)
        if self._held is not None:
            self._keep(packet)
        elif id is None:
            yield packet  # Sent while nothing was kept.
        elif follows(self._position(id), id):
            self.position = id
            yield packet
        elif not repeats(self._position(id), id):
            self.hold()
            self._keep(packet)

    def _position(self, id: MessageId) -> MessageId:
        """Where it stands; where nothing was kept, the messages of ``id`` are the first ones."""
        if self.position is None:
            self.position = MessageId(id.epoch, 0, NO_TAG)
        return self.position

    def _keep(self, packet: Packet) -> None:
        assert self._held is not None
        self._held_bytes += len(packet.payload) + HELD_COST
        if self._held_bytes > HELD_BYTES:
            self._held, self._held_bytes, self._overflowed = [], 0, True
        else:
            self._held.append(packet)

    def fill(self, page: Page) -> tuple[bool, Iterator[Packet]]:
        """What stood behind the position has been read; what can go out, and if that is all of it.

        Where it is not, it goes on with the first message that has come since, or from where the
        address stands now.
        """
        if page.holds and self.position is not None:
            return True, self._filled(page.packets)
        self.position = self._restart(page.position)
        return False, self._let_go()

    def _filled(self, packets: list[Packet]) -> Iterator[Packet]:
        for packet in packets:
            id = MessageId.parse(packet.id)
            if id is not None and self.position is not None and follows(self.position, id):
                self.position = id
                yield packet
        yield from self._let_go()

    def _restart(self, position: MessageId | None) -> MessageId | None:
        for packet in self._held or ():
            id = MessageId.parse(packet.id)
            if id is not None and position is not None and id.epoch == position.epoch:
                return MessageId(id.epoch, id.offset - 1, "")
        return position

    def _let_go(self) -> Iterator[Packet]:
        held, self._held = self._held or [], None
        overflowed, self._overflowed = self._overflowed, False
        self.ticket += 1
        for packet in held:
            yield from self.take(packet)
        if overflowed:
            self.hold()


def follows(position: MessageId, id: MessageId) -> bool:
    """Whether ``id`` is the very next behind ``position``."""
    return id.epoch == position.epoch and id.offset == position.offset + 1


def repeats(position: MessageId, id: MessageId) -> bool:
    """Whether ``id`` is not behind ``position``."""
    return id.epoch == position.epoch and id.offset <= position.offset
