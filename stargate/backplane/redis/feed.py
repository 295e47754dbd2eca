"""One address whose messages are kept: where this process stands in it, and what it lacks; no I/O.

Everything belongs to the engine's own OS thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from stargate.backplane.packet import Packet
from stargate.history import NO_TAG, MessageId

if TYPE_CHECKING:
    from stargate.backplane.redis.publisher import Page

#: Bytes of messages that are held back while those before them are read; past it they are let go
#: of, and read as well.
HELD_BYTES = 4_194_304

#: What a message that is held costs besides its payload.
HELD_COST = 512


class Lack(NamedTuple):
    """What is to be read: what there is behind ``position``, or, where that is ``None``, where the
    address stands. With the answer, it goes to :meth:`Feed.fill`.
    """

    position: MessageId | None
    #: When holding back began, and how much had been held by now.
    ticket: int
    taken: int


class Feed:
    """What comes over Pub/Sub may have a gap: behind one, messages are held until it is filled.

    It begins with holding: where the address stands has to be read.
    """

    __slots__ = (
        "_dropped",
        "_held",
        "_held_bytes",
        "_overflowed",
        "_ticket",
        "_unkept",
        "position",
    )

    def __init__(self) -> None:
        #: The last message that was given out; ``None`` where nothing is kept, as far as is known.
        self.position: MessageId | None = None
        #: Another number each time that holding back begins or ends.
        self._ticket = 1
        self._held: list[Packet] | None = []
        self._held_bytes = 0
        #: How many were let go of while the others were held, and whether any can't be read.
        self._dropped = 0
        self._overflowed = self._unkept = False

    @property
    def flows(self) -> bool:
        """Whether messages are given out as they come."""
        return self._held is None

    def hold(self) -> None:
        """Something may have been missed: give nothing out until :meth:`fill`."""
        if self._held is None:
            self._held, self._held_bytes, self._dropped = [], 0, 0
            self._overflowed = self._unkept = False
            self._ticket += 1

    def take(self, packet: Packet) -> Iterator[Packet]:
        """Something has come; yields what can go out. Afterwards it may not flow any more."""
        if self._held is not None:
            self._keep(packet)
            return
        id = MessageId.parse(packet.id)
        if id is None:
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
        self._held.append(packet)
        self._held_bytes += len(packet.payload) + HELD_COST
        if self._held_bytes > HELD_BYTES:
            self._overflowed = True
            self._unkept = self._unkept or any(not each.id for each in self._held)
            self._dropped += len(self._held)
            self._held, self._held_bytes = [], 0

    def lack(self) -> Lack:
        """What has to be read for it to flow."""
        return Lack(self.position, self._ticket, self._dropped + len(self._held or ()))

    def fill(self, lack: Lack, page: Page) -> tuple[bool, Iterator[Packet]] | None:
        """``page`` has been read for ``lack``: whether all is there, and what can go out now.

        Where it is not, it goes on with the first message that has come since, or from where the
        address stands now. ``None`` where somebody else was quicker.
        """
        if lack.ticket != self._ticket:
            return None
        if self.flows and self._is_beyond(lack, page):
            return True, iter(())
        self._forget_stale(lack, page)
        complete = page.holds and not self._unkept
        if not page.holds or lack.position is None:
            self.position = self._first(page.position)
        return complete, self._filled(page.packets)

    def _forget_stale(self, lack: Lack, page: Page) -> None:
        """Drop what was held before the reading, and is of another history than there is now."""
        if self._held and page.position is not None:
            epoch, before = page.position.epoch, lack.taken - self._dropped
            self._held = [
                each
                for place, each in enumerate(self._held)
                if place >= before or not each.id or each.id.startswith(epoch)
            ]

    def _is_beyond(self, lack: Lack, page: Page) -> bool:
        """Whether it has flowed on from there, past all that there was when it was read."""
        if self.position is None or page.position is None:
            return False
        return lack.position is None or (not page.holds and repeats(self.position, page.position))

    def _filled(self, packets: list[Packet]) -> Iterator[Packet]:
        for packet in packets:
            id = MessageId.parse(packet.id)
            if id is not None and self.position is not None and follows(self.position, id):
                self.position = id
                yield packet
        yield from self._let_go()

    def _first(self, position: MessageId | None) -> MessageId | None:
        """Where to go on: at ``position``, or with what is held and leads up to it."""
        for packet in self._held or ():
            id = MessageId.parse(packet.id)
            if id is not None and position is not None and id.epoch == position.epoch:
                if id.offset <= position.offset:
                    return MessageId(id.epoch, id.offset - 1, NO_TAG)
                break
        return position

    def _let_go(self) -> Iterator[Packet]:
        if self._held is None:
            return
        held, self._held = self._held, None
        overflowed, self._unkept = self._overflowed, False
        self._ticket += 1
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
