"""The ledger of a trial: every message that was acknowledged, in the order in which it is kept.

It is what the publishers have noted, each of whom repeats a send until it is acknowledged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from stargate.history import NO_TAG, MessageId

#: How many messages are kept where everybody is to get everything: more than are ever sent.
LONG = 100_000

#: The resources of a trial, and how many of its messages each keeps. At the last one, whoever stays
#: away for long can't be given all that it has missed.
RESOURCES = {"one": LONG, "two": LONG, "three": LONG, "brief": 20}

#: One acknowledged send: the resource, the id that it got, and the message.
Entry = Sequence[str]


class Ledger:
    """All that was acknowledged.

    ``durable``: what is acknowledged stays, so that each resource has one epoch. ``newest`` is
    where each stands, as Redis says; by default where the ledger does.
    """

    def __init__(
        self,
        entries: Iterable[Entry],
        *,
        durable: bool = True,
        newest: Mapping[str, str | None] | None = None,
    ) -> None:
        self.durable = durable
        #: How many were sent when Redis had forgotten that they are to be kept.
        self.unkept = 0
        self.wrong: list[str] = []
        #: The message of each id, for each resource.
        self.messages: dict[str, dict[str, str]] = {name: {} for name in RESOURCES}
        #: The offsets of each epoch, the epochs in the order of their acknowledgement.
        self._ids: dict[str, dict[str, dict[int, str]]] = defaultdict(dict)
        self._numbers: dict[tuple[str, str], tuple[int, MessageId]] = {}
        for entry in entries:
            self._enter(*entry)
        for name, epochs in self._ids.items():
            self._look_for_gaps(name, epochs)
        #: Where each resource stands at the end.
        self.newest = dict(newest) if newest is not None else self._newest()

    def __len__(self) -> int:
        return sum(map(len, self.messages.values()))

    def between(self, resource: str, first: MessageId, last: MessageId) -> list[str]:
        """The ids of those after ``first`` up to ``last``, of one epoch."""
        offsets = self._ids[resource].get(first.epoch, {})
        span = range(first.offset + 1, last.offset + 1)
        return [offsets[offset] for offset in span if offset in offsets]

    def knows(self, resource: str, id: MessageId) -> bool:
        """Whether it is the place of a message, or the one before one: that may have no tag."""
        if id.tag == NO_TAG:
            return id.offset == 0 or id.offset + 1 in self._ids[resource].get(id.epoch, {})
        return str(id) in self.messages[resource]

    def _newest(self) -> dict[str, str | None]:
        """The last one of each resource's only epoch."""
        last = {name: list(epochs.values())[-1] for name, epochs in self._ids.items()}
        return {name: offsets[max(offsets)] for name, offsets in last.items()}

    def _enter(self, resource: str, id: str | None, message: str) -> None:
        if id is None and not self.durable:
            self.unkept += 1
            return
        place = MessageId.parse(id)
        if place is None:
            self.wrong.append(f"{message[:20]!r} to {resource} was acknowledged with {id!r}")
            return
        offsets = self._ids[resource].setdefault(place.epoch, {})
        if place.offset in offsets:
            self.wrong.append(f"{message[:20]!r} to {resource} has the place of another, {id}")
        offsets[place.offset] = id
        self.messages[resource][id] = message
        self._check_order(resource, place, message)

    def _check_order(self, resource: str, place: MessageId, message: str) -> None:
        """Each publisher's messages keep their order."""
        publisher, number = identity(message)
        before, there = self._numbers.get((resource, publisher), (0, place))
        late = there.epoch == place.epoch and there.offset > place.offset
        if number <= before or late:
            self.wrong.append(f"{message[:20]!r} to {resource} is behind {before} of {publisher}")
        self._numbers[resource, publisher] = number, place

    def _look_for_gaps(self, resource: str, epochs: dict[str, dict[int, str]]) -> None:
        if not self.durable:
            return
        if len(epochs) > 1:
            self.wrong.append(f"{resource} has {len(epochs)} epochs, and Redis lost nothing")
        for offsets in epochs.values():
            lacking = set(range(1, max(offsets) + 1)) - set(offsets)
            if lacking:
                self.wrong.append(f"{resource} has offsets that nobody sent: {sorted(lacking)[:5]}")


def identity(message: str) -> tuple[str, int]:
    """The publisher and the number that a message begins with."""
    publisher, number, _rest = message.split(" ", 2)
    return publisher, int(number)
