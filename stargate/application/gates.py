"""The gate of an application: its way in to its listeners, and which application is meant.

A resource asks for its application's gate and sends through it; so does code with a path only.
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any

from pyramid.threadlocal import manager
from zope.interface import implementer

from stargate import events
from stargate.application.rendering import Writer
from stargate.application.tree import (
    CAPTURED,
    Identity,
    address_of,
    keep_of,
    known_policy,
    policy_of,
)
from stargate.backplane import make_backplane
from stargate.backplane.packet import checked_id, checked_key
from stargate.exceptions import AmbiguousApplication, MessageTooBig
from stargate.handshake.admission import Admission
from stargate.history import History, Keep
from stargate.interfaces import IGate
from stargate.message.address import check_address
from stargate.message.message import Message
from stargate.pubsub.delivery import Delivery
from stargate.pubsub.recovery import recover
from stargate.pubsub.topics import Listeners
from stargate.settings.application import Limits, limits
from stargate.stats import Counters, Stats
from stargate.websocket.websocket import WebSocket

if TYPE_CHECKING:
    from pyramid.registry import Registry

    from stargate.engine.hub import Engine
    from stargate.websocket.heartbeat import Heartbeat
    from stargate.websocket.walk import Walks

log = logging.getLogger(__name__)

_gates: weakref.WeakSet[Gate] = weakref.WeakSet()

#: Who is left out: WebSockets, or their ids, which may be those of another process.
Excluded = WebSocket | str | Iterable["WebSocket | str"] | None


@implementer(IGate)
class Gate:
    """The way in to one application's listeners; ``stargate.gate(registry)`` finds it."""

    def __init__(self, registry: Registry | None, settings: Mapping[str, Any] | None = None):
        self.settings = settings
        self.limits = limits(settings) if settings is not None else Limits()
        self._registry = weakref.ref(registry) if registry is not None else None
        self._writer = Writer()
        #: What has happened so far; :meth:`stats` is for reading it.
        self.counters = Counters()
        #: Who may open a WebSocket.
        self.admission = Admission(
            self.limits.max_connections, self.limits.max_connections_per_address
        )
        self._begin()

    def _begin(self) -> object:
        """Have no listeners; in a forked child anew. Returns what there was before."""
        before = vars(self).get("_delivery"), vars(self).get("_backplane")
        self._delivery = Delivery(self.counters, self._notify)
        self._topics = self._delivery.topics
        self._backplane: Any = make_backplane(self.settings, self._delivery)
        self._topics.backplane = self._backplane
        return before

    # For everybody, from any greenlet and any OS thread.

    def send(
        self,
        target: object,
        message: str | bytes,
        *,
        exclude: Excluded = None,
        key: str | None = None,
    ) -> str | None:
        """Send ``message`` to every listener of ``target``, a resource or an address.

        ``str`` goes as text, ``bytes`` as binary, anything else is a ``TypeError``. The listeners
        in ``exclude``, WebSockets or their ids, are left out. Never waits for a listener; with a
        Redis it waits until that has the message, at most ``stargate.backplane_timeout``, and
        raises :class:`~stargate.exceptions.BackplaneError`. ``key`` is any short word of yours: a
        second send to the same address with the same ``key``, within a minute, sends nothing.

        Returns the id of the message where ``target`` has a history, else ``None``. Raises
        :class:`~stargate.exceptions.NoAddress` for a resource without an address,
        :class:`~stargate.exceptions.BadAddress` for a string that no resource has as its address,
        and :class:`~stargate.exceptions.MessageTooBig` past ``stargate.max_send_size``.
        """
        return self._publish(target, Message(message), exclude, key)

    def send_json(
        self,
        target: object,
        value: Any,
        *,
        exclude: Excluded = None,
        key: str | None = None,
    ) -> str | None:
        """Send ``value`` as text, written once by the application's JSON renderer.

        Adapters of the renderer are called with ``request=None``: one message has many readers.
        NaN and the infinities, which are no JSON and which no browser reads, are a ``ValueError``
        before anything is sent, whatever the renderer. All else is as in :meth:`send`.
        """
        return self._publish(target, Message(self.to_json(value), json=True), exclude, key)

    def listeners(self, target: object) -> Listeners:
        """The listeners of ``target`` in this process at this moment."""
        found: Listeners = self._delivery.ask(self._topics.listeners, self.address(target))
        return found

    def add_listener(
        self,
        target: object,
        websocket: WebSocket,
        *,
        when_slow: str | None = None,
        since: str | None = None,
        who: str | int | None = None,
    ) -> bool | None:
        """Make ``websocket`` a listener of ``target``; twice is once.

        When it returns, every message that is sent from then on, anywhere, reaches it. With
        ``since``, the id of the last message that its peer has seen, or ``"last"``, it is sent what
        came after that first, with no gap and no repeat; then ``True`` is returned if that was
        everything, and ``False`` if not, in which case it is sent nothing old at all. Without
        ``since`` it returns ``None``. ``who`` is the name it is listed under in :meth:`presence`,
        by default ``websocket.userid``; ``""`` lists it under none.

        ``when_slow`` is what becomes of it when it does not read as fast as others send:
        ``"close"``, ``"drop_oldest"`` or ``"latest"``; by default what ``target`` has as its
        ``stargate_when_slow``, or else ``"close"``. Raises ``ValueError`` for another word,
        :class:`~stargate.exceptions.ConnectionClosed` when the WebSocket has ended, and
        :class:`~stargate.exceptions.BackplaneError` when it can't be reached there: in all cases
        it is no listener.
        """
        policy = policy_of(target) if when_slow is None else known_policy("when_slow", when_slow)
        address, keep = self.address(target), keep_of(target)
        name = websocket.userid if who is None else who
        if name is not None and not isinstance(name, str | int):
            if who is not None:
                raise TypeError(f"who is a str or an int, not {who!r}")
            name = str(name)
        found: bool | None = self._delivery.ask(
            self._join, websocket, address, policy, keep, since, name if name != "" else None
        )
        return found

    def _join(
        self,
        websocket: WebSocket,
        address: Hashable,
        policy: str | None,
        keep: Keep | None,
        since: str | None,
        who: str | int | None,
    ) -> bool | None:
        if websocket.closed:
            raise websocket._closed_error()
        if since is None:
            since = websocket._since_of(address)
        if websocket in self._topics.listeners(address):
            if since is None:
                self._topics.join(websocket, address, policy, who)
                return None
            self._topics.leave(websocket, address)  # What comes is a new attachment.
        history = self._backplane.subscribe(address, keep, since)
        if websocket.closed:
            if not self._topics.listeners(address):
                self._backplane.unsubscribe(address)
            raise websocket._closed_error()
        self._topics.join(websocket, address, policy, who)
        websocket._attached(address)
        if since is None:
            return None
        return recover(websocket, history, self.limits.recover_limit)

    def remove_listener(self, target: object, websocket: WebSocket) -> None:
        """Undo :meth:`add_listener`; without one it does nothing."""
        self._delivery.ask(self._topics.leave, websocket, self.address(target))

    def history(self, target: object, since: str | None = None, limit: int = 100) -> History:
        """The messages that are kept of ``target``, oldest first: a list.

        With ``since``, an id, the first ``limit`` that came after it, else the newest ``limit``.
        ``complete`` of the list is false where something that came after ``since`` is gone: then
        the list is empty. Raises :class:`~stargate.exceptions.BackplaneError`, and ``ValueError``
        for a ``limit`` below 1.
        """
        if limit < 1:
            raise ValueError(f"limit = {limit!r}: it must be at least 1")
        found: History = self._call("history", self.address(target), since, limit)
        return found

    def presence(self, target: object) -> dict[str | int, int]:
        """Who listens to ``target`` in all processes: names, and how many WebSockets each has.

        Raises :class:`~stargate.exceptions.BackplaneError`.
        """
        found: dict[str | int, int] = self._call("presence", self.address(target))
        return found

    def listener_count(self, target: object) -> int:
        """How many WebSockets listen to ``target`` in all processes, those with no name included.

        Raises :class:`~stargate.exceptions.BackplaneError`.
        """
        found: int = self._call("listener_count", self.address(target))
        return found

    def address(self, target: object) -> Hashable:
        """The address of a resource; a string is one already, and is checked.

        The context of a WebSocketView may be the object of a database session that went with its
        request: where it cannot say its address any more, what it said then holds.
        """
        if isinstance(target, str):
            return check_address(target)
        try:
            return address_of(target)
        except Exception:
            request = manager.get()["request"]
            context, address = getattr(request, CAPTURED, (None, None))
            if context is target and address is not None:
                return str(address)
            raise

    def to_json(self, value: Any) -> str:
        """``value`` as the application's JSON renderer writes it, with no request.

        A ``ValueError`` for NaN and the infinities, which are no JSON and which no browser reads.
        """
        registry = self._registry() if self._registry is not None else None
        return self._writer.write(registry, value)

    def stats(self) -> Stats:
        """What this application's WebSockets have seen in this process, from any thread."""
        found: Stats = self._delivery.ask(self._stats)
        return found

    def _stats(self) -> Stats:
        counters = self.counters
        refusals = dict(counters.refusals)
        engine = self._delivery.engine
        if engine is not None:
            for cause, count in engine.refusals.items():
                refusals[cause] = refusals.get(cause, 0) + count
        counts = {name: getattr(counters, name) for name in Counters.__slots__}
        backlog = self._delivery.walks.backlog
        outboxes = (each._outbox for each in backlog if each._counters is counters)
        queued = sum(outbox.size for outbox in outboxes if outbox is not None)
        return Stats(**{**counts, "refusals": refusals, "queued_bytes": queued})

    # For the view that opens a connection.

    def bind(self, engine: Engine) -> Walks:
        """Deliver on ``engine`` from here on; returns the walks that all its gates share."""
        if self._delivery.engine is not engine:
            walks = self._delivery.bind(engine, self.limits)
            # Weakly: an engine outlives applications, and one that is gone is meant by nobody.
            engine.when_ending(partial(_close, weakref.ref(self._backplane)))
            engine.when_forked(self._begin)
            return walks
        return self._delivery.walks

    @property
    def by_id(self) -> MutableMapping[str, WebSocket]:
        """The WebSockets of this process whose id somebody has asked for."""
        return self._delivery.by_id

    @property
    def heartbeat(self) -> Heartbeat | None:
        """What pings the WebSockets; ``None`` where nothing does."""
        return self._delivery.heartbeat

    # On the way of a message.

    def _publish(
        self, target: object, message: Message, exclude: Excluded, key: str | None
    ) -> str | None:
        address = self.address(target)
        excluded = frozenset(ids_of(exclude)) if exclude else NO_IDS
        if key is not None:
            checked_key(key)
        if len(message.payload) > self.limits.max_send_size:
            raise MessageTooBig(address, len(message.payload), self.limits.max_send_size)
        id: str | None = self._call("publish", address, message, excluded, keep_of(target), key)
        return id

    def _call(self, method: str, *args: Any) -> Any:
        """What the backplane answers, called where it may wait."""
        backplane = self._backplane
        function = getattr(backplane, method)
        return self._delivery.wait(function, *args) if backplane.networked else function(*args)

    def _notify(self, event: str, facts: tuple[Any, ...]) -> None:
        """Tell subscribers, soon and in a greenlet: they may wait."""
        registry = self._registry() if self._registry is not None else None
        engine = self._delivery.engine
        if registry is None or engine is None:
            return
        engine.spawn(_tell_subscribers, registry, getattr(events, event)(*facts))


def _close(backplane: Callable[[], Any]) -> None:
    found = backplane()
    if found is not None:
        found.close()


NO_IDS: frozenset[str] = frozenset()


def ids_of(exclude: Excluded) -> Iterator[str]:
    """The ids of those who are left out.

    A ``TypeError`` for anything that is no WebSocket, a ``ValueError`` for what is no id of one.
    """
    several = (exclude,) if isinstance(exclude, WebSocket | str) else exclude or ()
    for each in several:
        if isinstance(each, WebSocket):
            yield each.id
        elif isinstance(each, str):
            yield checked_id(each)
        else:
            raise TypeError(f"exclude is a WebSocket, its id, or several of them, not {each!r}")


def _tell_subscribers(registry: Registry, event: object) -> None:
    try:
        registry.notify(event)
    except BaseException:
        log.exception("a subscriber to %s failed", type(event).__name__)


class _Unattached(Gate):
    """For a process with no application: each object is its own address, by identity."""

    def __init__(self) -> None:
        super().__init__(None)
        self._delivery._told = True  # Nobody expects to reach anybody from here.

    def address(self, target: object) -> Hashable:
        return check_address(target) if isinstance(target, str) else Identity(target)


_unattached = _Unattached()


def register(gate: Gate, registry: Registry) -> None:
    """Make ``gate`` the gate of ``registry``."""
    registry.registerUtility(gate, IGate)
    _gates.add(gate)


def gate(registry: Registry) -> Gate:
    """The gate of the application with this ``registry``; ``LookupError`` without stargate."""
    found: Gate | None = registry.queryUtility(IGate)
    if found is None:
        raise LookupError(
            f"the application with the registry {registry.__name__!r} has no gate: "
            "config.include('stargate') is missing, or not committed yet"
        )
    return found


def gates() -> list[Gate]:
    """The gates of all applications of this process that have included stargate."""
    return list(_gates)


def current_gate() -> Gate:
    """The gate that a resource means: the current request's, or the only one of this process.

    Raises :class:`~stargate.exceptions.AmbiguousApplication` where there are several.
    """
    current = manager.get()
    request = current["request"]
    registry = request.registry if request is not None else current["registry"]
    found: Gate | None = registry.queryUtility(IGate)
    if found is not None:
        return found
    gates = list(_gates)
    if len(gates) > 1:
        del gates
        gc.collect()  # Applications are cycles: one that is gone may still be about.
        gates = list(_gates)
    if not gates:
        return _unattached
    if len(gates) == 1 and request is None:
        return gates[0]
    raise AmbiguousApplication(len(gates), request is not None)
