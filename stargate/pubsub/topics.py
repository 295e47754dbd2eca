"""Topics: which WebSockets of this process listen at which address, and how they join and leave.

How a message travels to them is ``websocket/walk.py``'s; which application an address belongs to is
``application/gates.py``'s. Everything belongs to the engine's own OS thread.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any

from stargate.websocket.outbox import CLOSE

if TYPE_CHECKING:
    from stargate.stats import Counters
    from stargate.websocket.connection import Connection


class Listeners:
    """The listeners of one resource in this process at one moment, in the order they joined.

    ``len()``, ``in`` and iteration; it never changes, whoever joins or leaves afterwards.
    """

    __slots__ = ("__weakref__", "members", "plain", "topic")

    def __init__(
        self, members: dict[Connection, Any], plain: bool = True, topic: Topic | None = None
    ) -> None:
        #: Those that a walk goes to, one after another, while this is kept.
        self.members = members
        #: Whether all of them take plain frames.
        self.plain = plain
        #: Where they listen; ``None`` where nobody does.
        self.topic = topic

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Connection]:
        # A generator: a bare iterator would not keep the snapshot, and so its members, as they are.
        yield from self.members

    def __contains__(self, listener: object) -> bool:
        return listener in self.members

    def __repr__(self) -> str:
        return f"<{len(self)} listener(s)>"


class Topics:
    """The addresses at which somebody listens."""

    __slots__ = ("_topics", "backplane", "counters")

    def __init__(self, counters: Counters) -> None:
        self._topics: dict[Hashable, Topic] = {}
        #: Who is told of those who come and go.
        self.backplane: Any = None
        #: What the messages to all these addresses are counted in.
        self.counters = counters

    def __len__(self) -> int:
        return len(self._topics)

    def listeners(self, address: Hashable) -> Listeners:
        """Who listens at ``address`` now."""
        topic = self._topics.get(address)
        return topic.listeners() if topic is not None else Listeners({})

    def join(
        self,
        listener: Connection,
        address: Hashable,
        policy: str | None = None,
        who: str | int | None = None,
    ) -> None:
        """Make ``listener`` a listener at ``address``; twice is once.

        ``policy`` is what becomes of it when it is slow; without one a first join means to close.
        ``who`` is the name that it has there.
        """
        topic = self._topics.get(address)
        if topic is None:
            topic = self._topics[address] = Topic(address, self)
        if topic not in listener._topics:
            topic.add(listener, who)
            listener._topics += (topic,)
        if policy is not None:
            listener._set_policy(topic, policy)

    def leave(self, listener: Connection, address: Hashable) -> None:
        """Undo a join; without one it does nothing."""
        topic = self._topics.get(address)
        if topic is not None and topic in listener._topics:
            topic.discard(listener)
            listener._topics = tuple(other for other in listener._topics if other is not topic)
            listener._set_policy(topic, CLOSE)


class Topic:
    """One address and its listeners: copied before a change only while a snapshot is in use."""

    __slots__ = ("_address", "_others", "_home", "_members", "_snapshot")

    def __init__(self, address: Hashable, home: Topics) -> None:
        self._address, self._home = address, home
        #: Each with its name.
        self._members: dict[Connection, str | int | None] = {}
        #: How many of them take another form than plain frames.
        self._others = 0
        self._snapshot: weakref.ref[Listeners] | None = None

    @property
    def counters(self) -> Counters:
        """What messages to this address are counted in."""
        return self._home.counters

    def listeners(self) -> Listeners:
        """A snapshot, the same one as long as nobody joins or leaves."""
        snapshot = self._snapshot() if self._snapshot is not None else None
        if snapshot is None:
            snapshot = Listeners(self._members, not self._others, self)
            self._snapshot = weakref.ref(snapshot)
        return snapshot

    def add(self, listener: Connection, who: str | int | None = None) -> None:
        """Add ``listener``; whoever holds a snapshot does not see it."""
        self._own()[listener] = who
        self._others += listener._form is not None
        if self._home.backplane is not None:
            self._home.backplane.enter(self._address, who)

    def discard(self, listener: Connection) -> None:
        """Remove ``listener``; the last one to go takes the topic along."""
        members = self._own()
        if listener in members:
            who = members.pop(listener)
            self._others -= listener._form is not None
            if self._home.backplane is not None:
                self._home.backplane.leave(self._address, who)
        gone = not members and self._home._topics.pop(self._address, None) is not None
        if gone and self._home.backplane is not None:
            self._home.backplane.unsubscribe(self._address)

    def _own(self) -> dict[Connection, Any]:
        if self._snapshot is not None:
            if self._snapshot() is not None:
                self._members = self._members.copy()
            self._snapshot = None
        return self._members
