"""A Redis Cluster: what goes to which node, and what is done where that has changed.

Nothing of it carries out a command twice: where a node says that something is elsewhere, it has
done nothing.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, NamedTuple

from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, TryAgainError

from stargate.backplane.redis.address import Address
from stargate.backplane.redis.commands import (
    NOT_SENT,
    PIPELINED,
    Call,
    Commands,
    Deadline,
    Place,
    answer,
    is_out_of_reach,
    opened,
    pipeline,
    portions,
)
from stargate.backplane.redis.errors import reason
from stargate.backplane.redis.scripts import Script
from stargate.exceptions import BackplaneError

#: Seconds after which the map is read again though nobody has said that it is wrong: a node that is
#: cut off from the others does not say so to those who listen there.
BELIEVED = 5.0

#: Seconds until a node that is out of reach, or a slot that is being moved, is tried again.
PAUSE = 0.05

#: Seconds between two readings of the map, however wrong it is.
AT_MOST_EVERY = 0.02

#: Seconds that a node's own word on a slot counts more than a map: others may not have heard yet.
NEWER = 1.0


class SlotMap(NamedTuple):
    """Which node has which slots."""

    #: The first slot of each range, ascending; the last one; and the node.
    firsts: list[int]
    lasts: list[int]
    owners: list[Place]
    #: All nodes, replicas among them.
    nodes: list[Place]

    def owner(self, slot: int) -> Place | None:
        """The node that has ``slot``; ``None`` where none has."""
        at = bisect_right(self.firsts, slot) - 1
        return self.owners[at] if at >= 0 and slot <= self.lasts[at] else None


def slot_map(reply: Iterable[Sequence[Any]], asked: Place) -> SlotMap:
    """What ``CLUSTER SLOTS`` answers; a node that does not know its own name is the ``asked``."""
    found = SlotMap([], [], [], [])
    for first, last, *nodes in sorted(reply, key=lambda row: int(row[0])):
        places = [(_host(node[0], asked), int(node[1])) for node in nodes]
        found.firsts.append(first)
        found.lasts.append(last)
        found.owners.append(places[0])
        found.nodes.extend(place for place in places if place not in found.nodes)
    return found


def _host(host: bytes | None, asked: Place) -> str:
    return host.decode() if host and host != b"?" else str(asked[0])


class ClusterCommands(Commands):
    """All nodes of a Cluster, each asked for what it has."""

    publish, subscribe, unsubscribe = "SPUBLISH", "SSUBSCRIBE", "SUNSUBSCRIBE"
    moves = True

    def __init__(self, address: Address, timeout: float) -> None:
        super().__init__(address, timeout)
        self._map = SlotMap([], [], [], [])
        #: What nodes have said of single slots since the map was read.
        self._told: dict[int, tuple[Place, float]] = {}
        self._read_at = 0.0
        self._stale = True

    def where(self, channel: str) -> Place:
        """The node that has the slot of ``channel``."""
        slot = key_slot(channel.encode())
        if self._stale:
            self._refresh(Deadline(self.timeout))
        found = self._here(slot)
        if found is None:
            self._stale = True
            raise BackplaneError(NOT_SENT, f"{self.address}: no node has slot {slot}")
        return found

    def slot(self, channel: bytes) -> int:
        """The slot of ``channel``."""
        return key_slot(channel)

    def look_again(self, *, now: bool = False) -> None:
        """Read the map again, where it is old or wrong."""
        if now or self._stale or monotonic() - self._read_at > BELIEVED:
            self._stale = True
            self._refresh(Deadline(self.timeout))

    def learn(self, slot: int, where: Place) -> None:
        """A node has said that ``slot`` is at ``where``: more may have moved than that."""
        self._stale = True
        if self._here(slot) != where:
            self.version += 1
        self._told[slot] = where, monotonic() + NEWER

    def scripts(
        self, script: Script, calls: Iterable[tuple[Sequence[str], Sequence[Any]]]
    ) -> list[Any]:
        """As ``Commands.scripts``: for those of a node that is out of reach that is the error."""
        calls = list(calls)
        replies: list[Any] = [None] * len(calls)
        left = list(range(len(calls)))
        for _ in range(2):  # Once more for those that were elsewhere.
            by_node = defaultdict(list)
            for number in left:
                slot, told = key_slot(calls[number][0][0].encode()), replies[number]
                if told is not None:
                    self.learn(slot, (told.host, told.port))
                by_node[self._owner(slot, Deadline(self.timeout))].append(number)
            for where, numbers in by_node.items():
                found = self._all_at(where, script, [calls[number] for number in numbers])
                for number, reply in zip(numbers, found, strict=True):
                    replies[number] = reply
            left = [number for number in left if isinstance(replies[number], MovedError)]
        return replies

    def _all_at(self, where: Place, script: Script, calls: list[Any]) -> list[Any]:
        replies: list[Any] = []
        for some in portions(calls, PIPELINED):
            try:
                replies += self._at(where, Deadline(self.timeout), pipeline(script, some))
            except BackplaneError as error:
                self._stale = True
                return replies + [error] * (len(calls) - len(replies))
        return replies

    def _carry_out(self, place: str, act: Callable[[Call], Any], key: str | None = None) -> Any:
        deadline, slot = Deadline(self.timeout), key_slot(place.encode())
        asked: Place | None = None
        tries = 0
        while True:
            where = asked or self._owner(slot, deadline, key)
            try:
                return self._at(where, deadline, _asking(act) if asked else act, key)
            except BackplaneError as error:
                asked = self._elsewhere(error, slot, where)
                tries += 1
                # The first that is told where to go goes there at once.
                at_once = tries == 1 and isinstance(error.__cause__, AskError)
                if not at_once and not deadline.pause(PAUSE):
                    raise

    def _elsewhere(self, error: BackplaneError, slot: int, where: Place) -> Place | None:
        """Whom to ask next, ``None``: whom the map names; raises ``error`` where there is none."""
        cause = error.__cause__
        if is_out_of_reach(error) or isinstance(cause, ClusterDownError):
            self._stale = True
            self._told.pop(slot, None)
            self.version += 1
        elif not isinstance(cause, AskError | TryAgainError):
            raise error
        if error.outcome != NOT_SENT:
            raise error
        if isinstance(cause, AskError):
            there = (cause.host or where[0], cause.port)
            if not isinstance(cause, MovedError):
                return there
            self.learn(slot, there)
        return None

    # The map.

    def _owner(self, slot: int, deadline: Deadline, key: str | None = None) -> Place:
        while True:
            if self._stale:
                self._refresh(deadline, key)
            found = self._here(slot)
            if found is not None:
                return found
            self._stale = True
            if not deadline.pause(PAUSE):
                raise BackplaneError(NOT_SENT, f"{self.address}: no node has slot {slot}", key)

    def _here(self, slot: int) -> Place | None:
        told = self._told.get(slot)
        return told[0] if told is not None else self._map.owner(slot)

    def _refresh(self, deadline: Deadline, key: str | None = None) -> None:
        now = monotonic()
        if self._map.nodes and now - self._read_at < AT_MOST_EVERY:
            return
        self._read_at = now
        try:
            found = self._read(deadline)
        except OSError as error:
            if self._map.nodes:
                return  # What is known may be right.
            raise BackplaneError(NOT_SENT, f"{self.address}: {error}", key) from error
        self._stale = False
        told = {slot: told for slot, told in self._told.items() if told[1] > now}
        if found != self._map or told != self._told:
            self._change(found, told)

    def _change(self, found: SlotMap, told: dict[int, tuple[Place, float]]) -> None:
        gone = set(self._map.nodes) - set(found.nodes)
        self._map, self._told = found, told
        self.version += 1
        for where in gone:
            self._forget(where)

    def _read(self, deadline: Deadline) -> SlotMap:
        why = []
        nodes = [*self._map.nodes]
        random.shuffle(nodes)  # One that is cut off from the others would say the same for ever.
        nodes += [host for host in self.address.hosts if host not in nodes]
        for number, node in enumerate(nodes):
            try:
                found = self._slots(node, deadline.left() / (len(nodes) - number))
            except (RedisError, OSError) as error:
                why.append("{}:{}: {}".format(*node, reason(error)))
            else:
                return found
        raise ConnectionError("; ".join(why))

    def _slots(self, node: Place, timeout: float) -> SlotMap:
        connection = opened(self.address.connection(timeout, *node))
        try:
            return slot_map(answer(connection, Deadline(timeout), "CLUSTER", "SLOTS"), node)
        finally:
            connection.disconnect()


def _asking(act: Callable[[Call], Any]) -> Callable[[Call], Any]:
    def asking(call: Call) -> Any:
        call.asking = True
        return act(call)

    return asking
