"""What one worker has at each address, and what of it the Redis has been told; no I/O."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from stargate.backplane.redis.presence_scripts import ANY

#: A name; ``None`` for a listener without one.
Who = str | int | None

#: Names in one change: Redis serves nobody else meanwhile.
NAMES_AT_ONCE = 1000


class Item(NamedTuple):
    """One name."""

    who: Who
    #: How many WebSockets of it are here.
    sockets: int
    #: Whether the Redis is to believe that this name was told of as being here.
    told: bool


class Batch(NamedTuple):
    """A change of one address: it is repeated as it is until there is an answer to it."""

    #: The serial number of the change before, or ``ANY``: then these are all names.
    before: str
    serial: str
    #: Whether it may be told who has come and gone.
    settled: bool
    items: tuple[Item, ...]

    def arguments(self, worker: str) -> list[Any]:
        """As the script takes them."""
        found: list[Any] = [worker, self.before, self.serial, int(self.settled)]
        for who, sockets, told in self.items:
            found += (encode(who), sockets, int(told))
        return found


class Place:
    """One address."""

    __slots__ = (
        "_announced",
        "_changed",
        "_here",
        "_unsettled",
        "changed_at",
        "doubtful",
        "listed",
        "pending",
        "serial",
        "topic",
    )

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self._here: dict[Who, int] = {}
        #: The names in it that have changed.
        self._changed: dict[Who, None] = {}
        #: The names that were told of as being here, as far as this worker knows.
        self._announced: set[Who] = set()
        #: The names that changed when it could not be told whether they come or go.
        self._unsettled: dict[Who, None] = {}
        self.changed_at = 0.0
        #: The serial number of what the Redis has.
        self.serial = ""
        #: What has been sent, or should have been: whether it was carried out is not known.
        self.pending: Batch | None = None
        #: Whether the Redis may have something else than it was told.
        self.doubtful = False
        #: Whether the address is in the worker's set.
        self.listed = False

    def change(self, who: Who, by: int, now: float) -> None:
        """One WebSocket of ``who`` more, or less."""
        count = self._here.get(who, 0) + by
        if count:
            self._here[who] = count
        else:
            self._here.pop(who, None)
        self._changed[who] = None
        self.changed_at = now

    def next(self, serial: int, settled: bool) -> Batch | None:
        """What the Redis is to be told now, if anything; ``serial`` is for it."""
        if self.pending is None and self.doubtful:
            names = {**self._here, **dict.fromkeys(self._announced), **self._unsettled}
            self._changed.clear()
            items = [Item(who, self._here.get(who, 0), who in self._announced) for who in names]
            self.pending = Batch(ANY, str(serial), settled, tuple(items))
        elif self.pending is None and self._changed:
            names = dict.fromkeys(list(self._changed)[:NAMES_AT_ONCE])
            for who in names:
                del self._changed[who]
            items = [Item(who, self._here.get(who, 0), False) for who in names]
            self.pending = Batch(self.serial, str(serial), settled, tuple(items))
        return self.pending

    def confirm(self) -> None:
        """The Redis has what was pending."""
        batch, self.pending = self.pending, None
        assert batch is not None
        self.serial = batch.serial
        if batch.before == ANY:
            self.doubtful = False
        for who, sockets, _told in batch.items:
            if who is None:
                continue
            if not batch.settled:
                self._unsettled[who] = None
                continue
            self._unsettled.pop(who, None)
            if sockets:
                self._announced.add(who)
            else:
                self._announced.discard(who)

    def lose(self) -> None:
        """The Redis has something else than it was told, and what is pending it did not do."""
        batch, self.pending = self.pending, None
        self.doubtful = True
        if batch is not None:
            self._changed.update((item.who, None) for item in batch.items)

    def doubt(self) -> None:
        """The Redis may have something else than it was told; what is pending it may have done."""
        self.doubtful, self.listed = True, False

    def settle(self) -> bool:
        """Tell again what could not be told of; returns whether there is anything."""
        self._changed.update(self._unsettled)
        return bool(self._unsettled)

    def begin_anew(self) -> None:
        """The Redis knows nothing of this worker, and what it knew was called gone."""
        self.pending, self.serial, self.doubtful, self.listed = None, "", False, False
        self._announced.clear()
        self._unsettled.clear()
        self._changed = dict.fromkeys(self._here)

    @property
    def waits(self) -> bool:
        """Whether there is something to tell the Redis."""
        return self.pending is not None or self.doubtful or bool(self._changed)

    @property
    def empty(self) -> bool:
        """Whether there is nobody, and the Redis knows."""
        return not (self.waits or self._here or self._unsettled or self._announced)


def encode(who: Who) -> str:
    """``who`` as the Redis knows it."""
    return "" if who is None else json.dumps(who)


def decode(field: bytes | str) -> Who:
    """Who is meant."""
    found: Who = json.loads(field) if field else None
    return found
