"""What is sent to a Redis and read from it: one namespace's messages and histories.

A web application's worker and ``stargate.connect()`` share this; nothing here imports Pyramid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from stargate.backplane.packet import BINARY as WIRE_BINARY
from stargate.backplane.packet import JSON, TEXT, Packet, WireError, decode, halves
from stargate.backplane.redis.commands import Commands
from stargate.backplane.redis.scripts import PUBLISH, READ, TOUCH, Keys, keys_of
from stargate.history import LAST, NO_TAG, History, Keep, Kept, MessageId, random_part
from stargate.message.message import BINARY, Message, Sent

#: How long a send may be repeated with the same key, in milliseconds.
REPEAT_MS = 60_000

#: Messages of a history that are read at a time.
PAGE = 256

#: The longest message that is taken from a Redis where no setting says otherwise, in bytes.
MAX_SIZE = 536_870_912


class Page(NamedTuple):
    """A part of a history."""

    #: Where the address stands; ``None`` where nothing is kept.
    position: MessageId | None
    #: Whether the history still has what was asked for as it was.
    holds: bool
    packets: list[Packet]


class Publisher:
    """One namespace of one Redis."""

    def __init__(
        self, commands: Commands, namespace: str, *, replicas: int = 0, max_size: int = MAX_SIZE
    ) -> None:
        self.commands, self.namespace = commands, namespace
        self._replicas, self._max_size = replicas, max_size

    def keys(self, topic: str) -> Keys:
        """The names of ``topic`` in the Redis."""
        return keys_of(self.namespace, topic)

    def publish(
        self,
        topic: str,
        kind: str,
        payload: bytes,
        excluded: Iterable[str] = (),
        keep: Keep | None = None,
        key: str | None = None,
    ) -> str | None:
        """Send one message; returns its id, or ``None`` where nothing is kept of ``topic``."""
        return self.send(topic, kind, payload, excluded, keep, key).id

    def send(
        self,
        topic: str,
        kind: str,
        payload: bytes,
        excluded: Iterable[str] = (),
        keep: Keep | None = None,
        key: str | None = None,
    ) -> Sent:
        """Send one message.

        Returns when the primary has it in memory, and ``replicas`` have it too.
        """
        key = key if key is not None else random_part()
        head, tail = halves(kind, excluded, key, payload)
        keys = self.keys(topic)
        size, ttl = (keep.size, int(keep.ttl * 1000)) if keep is not None else (-1, 0)
        id, repeated, processes = self.commands.script(
            PUBLISH,
            (keys.once(key), keys.history, keys.meta, keys.channel),
            (
                self.commands.publish,
                head,
                tail,
                REPEAT_MS,
                size,
                ttl,
                random_part(),
                random_part(),
            ),
            replicas=self._replicas,
            key=key,
        )
        return Sent(None if id == b"-" else id.decode(), processes, bool(repeated))

    def touch(self, topic: str, keep: Keep) -> MessageId:
        """Say how much is kept of ``topic`` from now on; returns where it stands."""
        keys = self.keys(topic)
        return _position(self.commands.script(TOUCH, (keys.history, keys.meta), touching(keep)))

    def touch_all(self, topics: Sequence[tuple[str, Keep]]) -> list[MessageId | None]:
        """:meth:`touch` for several, fewer round trips; ``None`` where the server gave an error."""
        calls = []
        for topic, keep in topics:
            keys = self.keys(topic)
            calls.append(((keys.history, keys.meta), touching(keep)))
        replies = self.commands.scripts(TOUCH, calls)
        return [None if isinstance(each, Exception) else _position(each) for each in replies]

    def read(self, topic: str, since: MessageId | None, count: int = PAGE) -> Page:
        """At most ``count`` messages behind ``since``, or the newest ``count``."""
        keys = self.keys(topic)
        asked = ("", -1, "", count) if since is None else (*since, count)
        epoch, top, tag, holds, raw = self.commands.script(READ, (keys.history, keys.meta), asked)
        position = _position((epoch, top, tag)) if epoch is not None else None
        try:
            packets = [decode(each, self._max_size) for each in raw]
        except WireError:
            return Page(position, False, [])  # Written by a newer version, or by somebody else.
        return Page(position, bool(holds), packets)

    def behind(self, topic: str, since: MessageId, limit: int, count: int | None = None) -> Page:
        """All messages behind ``since``, or the first ``count``; past ``limit`` bytes it fails.

        They have no gap; ``holds`` is false, and there are none, where they can't be had without.
        """
        packets: list[Packet] = []
        size, at = 0, since
        while True:
            wanted = PAGE if count is None else min(PAGE, count - len(packets))
            page = self.read(topic, at, wanted)
            size += sum(len(each.payload) for each in page.packets)
            packets += page.packets
            end = _end_of(at, page)
            if end is None or size > limit:
                return Page(page.position, False, [])
            if end == page.position or (count is not None and len(packets) >= count):
                return Page(page.position, True, packets)
            if end == at:
                return Page(page.position, False, [])
            at = end

    def history(
        self, topic: str, since: str | None = None, limit: int = 100, size: int = MAX_SIZE
    ) -> History:
        """The first ``limit`` messages after ``since``, or the newest; ``size`` bytes at most."""
        return as_history(self._page(topic, since, limit, size))

    def _page(self, topic: str, since: str | None, limit: int, size: int) -> Page:
        if since is None:
            page = self.read(topic, None, limit)
            return page if page.position is not None else Page(None, True, [])
        if since == LAST:
            return self.read(topic, None, 1)
        found = MessageId.parse(since)
        if found is None:
            return self.read(topic, None, 0)._replace(holds=False)
        return self.behind(topic, found, size, limit)

    def close(self) -> None:
        """Close the connections."""
        self.commands.close()


def kind_of(message: Message) -> str:
    """The word for what ``message`` is, on the wire."""
    return WIRE_BINARY if message.opcode == BINARY else JSON if message.json else TEXT


def touching(keep: Keep) -> tuple[Any, ...]:
    """The arguments with which an address is touched."""
    return keep.size, int(keep.ttl * 1000), random_part()


def as_history(page: Page) -> History:
    """``page`` as an application sees it."""
    return History(
        (Kept(each.id, each.message, each.time / 1000, each.kind == JSON) for each in page.packets),
        complete=page.holds,
        position=str(page.position) if page.position is not None else None,
    )


def _position(reply: Sequence[bytes]) -> MessageId:
    epoch, top, tag = reply
    return MessageId(epoch.decode(), int(top), tag.decode() or NO_TAG)


def _end_of(begin: MessageId, page: Page) -> MessageId | None:
    """The last message of ``page``, read behind ``begin``; ``None`` where any is missing."""
    at = begin
    for each in page.packets:
        id = MessageId.parse(each.id)
        if id is None or id.offset != at.offset + 1:
            return None
        at = id
    return at if page.holds else None
