"""The backplane of a single process: what is published is delivered, at once and here."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Mapping
from itertools import count, islice
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from stargate.history import LAST, NO_TAG, History, Keep, Kept, MessageId, random_part
from stargate.interfaces import IBackplane
from stargate.message.message import BINARY

if TYPE_CHECKING:
    from stargate.message.message import Message


#: How long a send may be repeated with the same key, in seconds.
REPEAT_SECONDS = 60.0

#: How much longer than its messages an address's position is remembered, in seconds.
POSITION_SECONDS = 3600.0


@implementer(IBackplane)
class MemoryBackplane:
    """Carries messages no further than this process, and keeps them no longer than it lives."""

    networked = False

    def __init__(self, receiver: Any) -> None:
        self._receiver = receiver
        #: What is kept; the address that is looked at next comes first.
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._sent: OrderedDict[tuple[Hashable, str], tuple[float, str | None]] = OrderedDict()
        self._here: dict[Hashable, dict[str | int, int]] = {}
        self._changes = count(1)
        self._epoch = random_part()

    def publish(
        self,
        topic: Hashable,
        message: Message,
        excluded: frozenset[str],
        keep: Keep | None = None,
        key: str | None = None,
    ) -> str | None:
        """Deliver ``message`` to the listeners of ``topic``, in the order of the calls."""
        if key is None and topic not in self._kept and (keep is None or not keep.size):
            self._receiver.deliver(topic, message, excluded)
            return None
        found: str | None = self._receiver.ask(self._publish, topic, message, excluded, keep, key)
        return found

    def _publish(
        self,
        topic: Hashable,
        message: Message,
        excluded: frozenset[str],
        keep: Keep | None,
        key: str | None,
    ) -> str | None:
        if key is not None and (topic, key) in self._recent():
            return self._sent[topic, key][1]
        kept = self._history(topic, keep)
        if kept is not None:
            message.id = kept.add(message)
        if key is not None:
            self._sent[topic, key] = monotonic(), message.id
        self._receiver.deliver(topic, message, excluded)
        return message.id

    def _recent(self) -> OrderedDict[tuple[Hashable, str], tuple[float, str | None]]:
        """The sends that had a key and may be repeated."""
        long_ago = monotonic() - REPEAT_SECONDS
        while self._sent and next(iter(self._sent.values()))[0] < long_ago:
            self._sent.popitem(last=False)
        return self._sent

    def keeps(self, topic: Hashable) -> bool:
        """Whether anything is kept of ``topic`` at this moment."""
        return topic in self._kept

    def subscribe(
        self, topic: Hashable, keep: Keep | None = None, since: str | None = None
    ) -> History:
        """Nothing has to be done to be reached: returns what came after ``since``."""
        kept = self._history(topic, keep)
        if kept is None:
            return History(complete=since is None)
        if since is None:
            return History(position=str(kept.position))
        return kept.after(since)

    def history(self, topic: Hashable, since: str | None = None, limit: int = 100) -> History:
        """The first ``limit`` messages after ``since``, or the newest ``limit``."""
        found: History = self._receiver.ask(self._read, topic, since, limit)
        return found

    def _read(self, topic: Hashable, since: str | None, limit: int) -> History:
        kept = self._history(topic, None)
        if kept is None:
            return History(complete=since is None)
        return kept.newest(limit) if since is None else kept.after(since, limit)

    def _history(self, topic: Hashable, keep: Keep | None) -> _Kept | None:
        now = monotonic()
        self._forget_some(now)
        found = self._kept.get(topic)
        if keep is not None and not keep.size:
            self._kept.pop(topic, None)
            return None
        if found is None and keep is not None:
            found = self._kept[topic] = _Kept(random_part(), keep)
        if found is not None:
            if keep is not None:
                found.keep = keep
            found.touch(now)
        return found

    def _forget_some(self, now: float) -> None:
        """Look at two addresses, by turns: each has a time of its own, and not the oldest first."""
        for _ in range(min(2, len(self._kept))):
            topic, kept = next(iter(self._kept.items()))
            if now > kept.forgotten:
                del self._kept[topic]
            else:
                kept.trim()
                self._kept.move_to_end(topic)

    # Who is here.

    def enter(self, topic: Hashable, who: str | int | None) -> None:
        """A listener has come to ``topic``."""
        if who is not None:
            here = self._here.setdefault(topic, {})
            here[who] = here.get(who, 0) + 1
            if here[who] == 1:
                self._receiver.came(topic, who, self._change())

    def leave(self, topic: Hashable, who: str | int | None) -> None:
        """A listener of ``topic`` has gone."""
        if who is not None:
            here = self._here[topic]
            here[who] -= 1
            if not here[who]:
                del here[who]
                if not here:
                    del self._here[topic]
                self._receiver.went(topic, who, self._change())

    def _change(self) -> str:
        return f"{self._epoch}-{next(self._changes)}"

    def presence(self, topic: Hashable) -> dict[str | int, int]:
        """Who listens to ``topic``, and with how many WebSockets each."""
        found: dict[str | int, int] = self._receiver.ask(lambda: dict(self._here.get(topic, {})))
        return found

    def listener_count(self, topic: Hashable) -> int:
        """How many WebSockets listen to ``topic``."""
        found: int = self._receiver.ask(self._receiver.listener_count, topic)
        return found

    def unsubscribe(self, topic: Hashable) -> None:
        """Nothing has to be let go of."""

    def close(self) -> None:
        """Nothing has to be let go of."""


class _Kept:
    """The messages of one address, oldest first, and where they stand."""

    def __init__(self, epoch: str, keep: Keep) -> None:
        self.keep = keep
        self.position = MessageId(epoch, 0, NO_TAG)
        #: When even the position is forgotten, on the monotonic clock.
        self.forgotten = 0.0
        self._entries: deque[Kept] = deque()

    def touch(self, now: float) -> None:
        """Somebody is interested: the position is remembered for an hour longer than messages."""
        self.forgotten = now + self.keep.ttl + POSITION_SECONDS

    def add(self, message: Message) -> str:
        """Keep ``message``; returns its id."""
        epoch, offset, _ = self.position
        self.position = MessageId(epoch, offset + 1, random_part())
        id = str(self.position)
        payload = message.payload
        value = payload if message.opcode == BINARY else payload.decode()
        self._entries.append(Kept(id, value, time(), message.json))
        self.trim()
        return id

    def trim(self) -> None:
        """Let go of what is too much and too old."""
        # One more than is asked for: it tells somebody who has seen it that nothing is missing.
        while len(self._entries) > self.keep.size + 1:
            self._entries.popleft()
        oldest = time() - self.keep.ttl
        while self._entries and self._entries[0].time < oldest:
            self._entries.popleft()

    def newest(self, limit: int) -> History:
        """The newest ``limit`` messages."""
        self.trim()
        limit = min(limit, self.keep.size)
        kept = islice(self._entries, max(0, len(self._entries) - limit), None)
        return History(kept, position=str(self.position))

    def after(self, since: str, limit: int | None = None) -> History:
        """What came after ``since``; not ``complete`` where that can't be told for certain."""
        if since == LAST:
            return self.newest(1)
        self.trim()
        position, seen = self.position, MessageId.parse(since)
        if seen is None or seen != self._id_at(seen.offset):
            return History(complete=False, position=str(position))
        newer = islice(self._entries, len(self._entries) - (position.offset - seen.offset), None)
        return History(islice(newer, limit), position=str(position))

    def _id_at(self, offset: int) -> MessageId | None:
        """The id that is known to stand at ``offset``, with all behind it being kept."""
        newer = self.position.offset - offset
        if newer == 0:
            return self.position
        if not 0 < newer <= min(len(self._entries), self.keep.size):
            return None
        if offset == 0:
            return MessageId(self.position.epoch, 0, NO_TAG)
        index = len(self._entries) - newer - 1
        return MessageId.parse(self._entries[index].id) if index >= 0 else None


def make_backplane(_settings: Mapping[str, Any], receiver: Any) -> MemoryBackplane:
    """What the entry point ``memory`` means."""
    return MemoryBackplane(receiver)
