"""What comes to the listeners of one application in this process, and in which thread.

A backplane hands over what it has (``IReceiver``); walks carry it to the sockets. Which address a
resource has is ``application/tree.py``'s.
"""

from __future__ import annotations

import logging
import weakref
from _thread import RLock  # Never a green one: it is for OS threads.
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from stargate.engine import engine_made
from stargate.interfaces import IReceiver
from stargate.pubsub.recovery import tell_recovered
from stargate.pubsub.topics import Topics
from stargate.websocket.heartbeat import Heartbeat
from stargate.websocket.walk import NOBODY, Walks

if TYPE_CHECKING:
    from stargate.engine.hub import Engine
    from stargate.message.message import Message
    from stargate.settings.application import Limits
    from stargate.stats import Counters
    from stargate.websocket.connection import Connection
    from stargate.websocket.websocket import WebSocket

log = logging.getLogger(__name__)


@implementer(IReceiver)
class Delivery:
    """The addresses of an application at which somebody listens, and the engine they are on."""

    def __init__(
        self, counters: Counters, notify: Callable[[str, tuple[Any, ...]], object]
    ) -> None:
        self.counters = counters
        self.topics = Topics(counters)
        self.walks = Walks()
        #: What pings the WebSockets; ``None`` where nothing does.
        self.heartbeat: Heartbeat | None = None
        #: The WebSockets whose ids have been asked for, so that they can be left out.
        self.by_id: weakref.WeakValueDictionary[str, WebSocket] = weakref.WeakValueDictionary()
        self._notify = notify
        self._engine: Engine | None = None
        #: Held by whoever does without an engine: one that comes must not see half of it, such as
        #: a message that is kept and is yet to be delivered.
        self._unbound = RLock()
        self._told = False

    # The engine.

    def bind(self, engine: Engine, limits: Limits) -> Walks:
        """Deliver on ``engine`` from here on; returns the walks that all its gates share."""
        if self._engine is not engine:
            if self.engine is not None and len(self.topics):
                raise RuntimeError("this application is being served by another thread already")
            with self._unbound:
                self._engine = engine
                self.walks = engine.shared.setdefault(Walks, Walks(engine))
                interval, timeout = limits.ping_interval, limits.ping_timeout
                self.heartbeat = Heartbeat(engine, interval, timeout) if interval else None
        return self.walks

    @property
    def engine(self) -> Engine | None:
        """Where the listeners are; ``None`` before there are any, and after it has ended."""
        if self._engine is not None and self._engine.closed:
            self._engine, self.walks, self.heartbeat = None, Walks(), None
        return self._engine

    def ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call ``function`` in the engine's own thread, and wait for what it returns or raises."""
        if self.engine is None:
            with self._unbound:
                if self.engine is None:
                    return function(*args)
        engine = self.engine
        if engine is None or engine.in_own_thread():
            return function(*args)
        return engine.ask_from_thread(function, *args)

    def wait(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call ``function``, which waits for a network, and return what it does.

        Under a patched standard library its sockets and locks are those of the engine's thread,
        and no other may use them.
        """
        engine = self.engine
        if engine is None or not engine.patched or engine.in_own_thread():
            return function(*args)
        return engine.ask_from_thread(function, *args)

    def tell(self, function: Callable[..., object], *args: Any, size: int = 0) -> None:
        """Call ``function`` in the engine's own thread, soon; a caller in it: now."""
        engine = self.engine
        if engine is None or engine.in_own_thread():
            function(*args)
        else:
            engine.call_from_thread(function, *args, size=size)

    # What a backplane has for the listeners.

    def deliver(self, topic: Hashable, message: Message, excluded: Iterable[str] = ()) -> None:
        """Send ``message`` to the listeners at ``topic``, but for those with ids in ``excluded``.

        From any thread; the calls of one thread keep their order.
        """
        if self.engine is None:
            self.tell_alone(topic)
        self.tell(self._walk, topic, message, excluded, size=len(message.frame))

    def _walk(self, topic: Hashable, message: Message, excluded: Iterable[str]) -> None:
        listeners = self.topics.listeners(topic)
        if listeners:
            self.walks.add(listeners, message, self._found(excluded) if excluded else NOBODY)

    def _found(self, ids: Iterable[str]) -> frozenset[Connection]:
        found = (self.by_id.get(each) for each in ids)
        return frozenset(each for each in found if each is not None)

    def interrupted(self, topic: Hashable, complete: bool, position: str | None) -> None:
        """Deliveries at ``topic`` had stopped, and go on from ``position``."""
        if complete:
            return
        for listener in self.topics.listeners(topic):
            told: Any = listener
            tell_recovered(told, False, position)
        self._notify("MessagesMissed", (topic,))

    def came(self, topic: Hashable, who: Any, id: str) -> None:
        """``who`` listens at ``topic`` from now on."""
        self._notify("ListenerJoined", (topic, who, id))

    def went(self, topic: Hashable, who: Any, id: str) -> None:
        """``who`` listens at ``topic`` no more."""
        self._notify("ListenerLeft", (topic, who, id))

    def listener_count(self, topic: Hashable) -> int:
        """How many listen at ``topic`` in this process."""
        return len(self.topics.listeners(topic))

    def tell_alone(self, topic: Hashable) -> None:
        """Say once that a message was sent where nobody can be reached."""
        if not self._told and not engine_made() and not self.topics.listeners(topic):
            self._told = True
            log.warning(
                "a message for %s was sent in a process that serves no WebSockets, and "
                "stargate.backplane = memory carries it to no other: it has reached nobody. Set "
                "stargate.backplane to the URL of a Redis, and stargate.namespace",
                topic,
            )
