"""The gate of an application: its addresses, its listeners, and which application is meant.

A resource asks for its application's gate and sends through it; so does code with a path only.
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pyramid.interfaces import IRendererFactory
from pyramid.renderers import JSON, RendererHelper
from pyramid.threadlocal import manager
from pyramid.traversal import quote_path_segment
from zope.interface import implementer

from stargate.admission import Admission
from stargate.backplane.memory import MemoryBackplane
from stargate.engine import engine_made
from stargate.exceptions import AmbiguousApplication, MessageTooBig, NoAddress
from stargate.heartbeat import Heartbeat
from stargate.interfaces import IGate
from stargate.message import Message
from stargate.outbox import POLICIES
from stargate.pubsub import Listeners, Topics
from stargate.settings import Limits, limits
from stargate.stats import Counters, Stats
from stargate.walk import NOBODY, Walks
from stargate.websocket import WebSocket

if TYPE_CHECKING:
    from pyramid.registry import Registry

    from stargate.connection import Connection
    from stargate.engine.hub import Engine

log = logging.getLogger(__name__)

#: The attribute of a request with its context and the address that this had during the request.
CAPTURED = "_stargate_address"

_gates: weakref.WeakSet[Gate] = weakref.WeakSet()


@implementer(IGate)
class Gate:
    """The way in to one application's listeners; ``stargate.gate(registry)`` finds it."""

    def __init__(self, registry: Registry | None, settings: Mapping[str, Any] | None = None):
        self.settings = settings
        self.limits = limits(settings) if settings is not None else Limits()
        self._registry = weakref.ref(registry) if registry is not None else None
        #: What has happened so far; :meth:`stats` is for reading it.
        self.counters = Counters()
        #: Who may open a WebSocket.
        self.admission = Admission(
            self.limits.max_connections, self.limits.max_connections_per_address
        )
        #: What pings the WebSockets; ``None`` where nothing does.
        self.heartbeat: Heartbeat | None = None
        self._topics = Topics(self.counters)
        self._engine: Engine | None = None
        self._walks = Walks()
        self._backplane = MemoryBackplane(self._deliver)
        self._told = False

    # For everybody, from any greenlet and any OS thread.

    def send(
        self,
        target: object,
        message: str | bytes,
        *,
        exclude: WebSocket | Iterable[WebSocket] | None = None,
    ) -> None:
        """Send ``message`` to every listener of ``target``, a resource or an address.

        ``str`` goes as text, ``bytes`` as binary, anything else is a ``TypeError``. The listeners
        in ``exclude`` are left out. Never waits for a listener. Raises
        :class:`~stargate.exceptions.NoAddress` for a resource without a place in the tree, and
        :class:`~stargate.exceptions.MessageTooBig` past ``stargate.max_send_size``.
        """
        self._publish(self.address(target), Message(message), exclude)

    def send_json(
        self,
        target: object,
        value: Any,
        *,
        exclude: WebSocket | Iterable[WebSocket] | None = None,
    ) -> None:
        """Send ``value`` as text, written once by the application's JSON renderer.

        Adapters of the renderer are called with ``request=None``: one message has many readers.
        """
        self._publish(self.address(target), Message(self.to_json(value)), exclude)

    def listeners(self, target: object) -> Listeners:
        """The listeners of ``target`` in this process at this moment."""
        found: Listeners = self._in_engine(self._topics.listeners, self.address(target))
        return found

    def add_listener(
        self, target: object, websocket: WebSocket, *, when_slow: str | None = None
    ) -> None:
        """Make ``websocket`` a listener of ``target``; twice is once.

        ``when_slow`` is what becomes of it when it does not read as fast as others send:
        ``"close"``, ``"drop_oldest"`` or ``"latest"``; by default what ``target`` has as its
        ``stargate_when_slow``, or else ``"close"``. Raises ``ValueError`` for another word, and
        :class:`~stargate.exceptions.ConnectionClosed` when the WebSocket has ended.
        """
        policy = policy_of(target) if when_slow is None else known_policy("when_slow", when_slow)
        self._in_engine(self._join, websocket, self.address(target), policy)

    def _join(self, websocket: WebSocket, address: Hashable, policy: str | None) -> None:
        if websocket.closed:
            raise websocket._closed_error()
        self._topics.join(websocket, address, policy)

    def remove_listener(self, target: object, websocket: WebSocket) -> None:
        """Undo :meth:`add_listener`; without one it does nothing."""
        self._in_engine(self._topics.leave, websocket, self.address(target))

    def address(self, target: object) -> Hashable:
        """The address of a resource; a string is one already.

        The context of a WebSocketView may be the object of a database session that went with its
        request: where it cannot say its address any more, what it said then holds.
        """
        if isinstance(target, str):
            return target
        try:
            return address_of(target)
        except Exception:
            request = manager.get()["request"]
            context, address = getattr(request, CAPTURED, (None, None))
            if context is target and address is not None:
                return str(address)
            raise

    def to_json(self, value: Any) -> str:
        """``value`` as the application's JSON renderer writes it, with no request."""
        registry = self._registry() if self._registry is not None else None
        factory = registry and registry.queryUtility(IRendererFactory, name="json") or JSON()
        render = factory(RendererHelper(name="json", registry=registry))
        text = render(value, {"request": None})
        return text.decode() if isinstance(text, bytes) else text

    def stats(self) -> Stats:
        """What this application's WebSockets have seen in this process, from any thread."""
        found: Stats = self._in_engine(self._stats)
        return found

    def _stats(self) -> Stats:
        counters = self.counters
        refusals = dict(counters.refusals)
        if self._engine is not None:
            for cause, count in self._engine.refusals.items():
                refusals[cause] = refusals.get(cause, 0) + count
        counts = {name: getattr(counters, name) for name in Counters.__slots__}
        outboxes = (each._outbox for each in self._walks.backlog if each._counters is counters)
        queued = sum(outbox.size for outbox in outboxes if outbox is not None)
        return Stats(**{**counts, "refusals": refusals, "queued_bytes": queued})

    # For the view that opens a connection.

    def bind(self, engine: Engine) -> Walks:
        """Deliver on ``engine`` from here on; returns the walks that all its gates share."""
        if self._engine is not engine:
            if self._bound() is not None and len(self._topics):
                raise RuntimeError("this application is being served by another thread already")
            self._engine = engine
            self._walks = engine.shared.setdefault(Walks, Walks(engine))
            interval, timeout = self.limits.ping_interval, self.limits.ping_timeout
            self.heartbeat = Heartbeat(engine, interval, timeout) if interval else None
        return self._walks

    def _bound(self) -> Engine | None:
        if self._engine is not None and self._engine.closed:
            self._engine, self._walks, self.heartbeat = None, Walks(), None
        return self._engine

    def _in_engine(self, function: Any, *args: Any) -> Any:
        engine = self._bound()
        if engine is None or engine.in_own_thread():
            return function(*args)
        return engine.ask_from_thread(function, *args)

    # On the way of a message.

    def _publish(
        self,
        address: Hashable,
        message: Message,
        exclude: WebSocket | Iterable[WebSocket] | None,
    ) -> None:
        if isinstance(exclude, WebSocket):
            excluded: frozenset[Connection] = frozenset((exclude,))
        else:
            excluded = frozenset(exclude) if exclude else NOBODY
            for each in excluded:
                if not isinstance(each, WebSocket):
                    raise TypeError(f"exclude is a WebSocket or several, not {each!r}")
        if len(message.payload) > self.limits.max_send_size:
            raise MessageTooBig(address, len(message.payload), self.limits.max_send_size)
        self._backplane.publish(address, message, excluded)

    def _deliver(self, address: Hashable, message: Message, exclude: frozenset[Connection]) -> None:
        engine = self._bound()
        if engine is None:
            self._tell_alone(address)
        elif not engine.in_own_thread():
            size = len(message.frame)
            engine.call_from_thread(self._walk, address, message, exclude, size=size)
            return
        self._walk(address, message, exclude)

    def _walk(self, address: Hashable, message: Message, exclude: frozenset[Connection]) -> None:
        listeners = self._topics.listeners(address)
        if listeners:
            self._walks.add(listeners, message, exclude)

    def _tell_alone(self, address: Hashable) -> None:
        if not self._told and not engine_made() and not self._topics.listeners(address):
            self._told = True
            log.warning(
                "a message for %s was sent in a process that serves no WebSockets, and "
                "stargate.backplane = memory carries it to no other: it has reached nobody",
                address,
            )


class _Unattached(Gate):
    """For a process with no application: each object is its own address, by identity."""

    def address(self, target: object) -> Hashable:
        return target if isinstance(target, str) else _Identity(target)

    def _tell_alone(self, address: Hashable) -> None:
        """Nobody expects to reach anybody from here."""


class _Identity:
    """An object as a key, which keeps it alive: no other object can come by its ``id()``."""

    __slots__ = ("_target",)

    def __init__(self, target: object) -> None:
        self._target = target

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other._target is self._target

    def __hash__(self) -> int:
        return id(self._target)


_unattached = _Unattached(None)


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


def address_of(resource: object) -> str:
    """The address of ``resource``: its ``stargate_address()``, or else its path in the tree."""
    own = getattr(resource, "stargate_address", None)
    if own is None:
        return location(resource)
    address = own()
    if not isinstance(address, str) or not address:
        raise NoAddress(resource, f"its stargate_address() returned {address!r}, not a string")
    return address


def policy_of(target: object) -> str | None:
    """What ``target`` says of its slow listeners; ``None`` where it says nothing."""
    found = getattr(target, "stargate_when_slow", None)
    return known_policy("stargate_when_slow", found) if found is not None else None


def known_policy(name: str, policy: str) -> str:
    """The policy for slow listeners that ``policy`` names; ``ValueError`` where there is none."""
    if policy not in POLICIES:
        raise ValueError(f"{name} = {policy!r}: it must be one of {', '.join(POLICIES)}")
    return POLICIES[POLICIES.index(policy)]  # The very object: it is compared by identity.


def location(resource: Any) -> str:
    """The path of ``resource`` in its tree, as ``pyramid.traversal.resource_path`` writes it.

    Only for a resource that has a place of its own: it and all above it have a ``__name__`` and a
    ``__parent__``, up to a root with the name ``""``. A node without a name would lend its children
    to every other such node: they would have one path, and hear each other.
    """
    names = []
    node = resource
    while True:
        name, parent = getattr(node, "__name__", None), getattr(node, "__parent__", None)
        if name is None or (name != "" if parent is None else not name):
            raise NoAddress(resource, _lacking(resource, node, name, parent))
        if parent is None:
            break
        names.append(quote_path_segment(name))
        node = parent
    names.append("")
    return "/".join(reversed(names)) or "/"


def _lacking(resource: Any, node: Any, name: Any, parent: Any) -> str:
    whose = "it" if node is resource else f"{type(node).__qualname__}, above it,"
    if name is None:
        return f"{whose} has no __name__"
    if parent is None:
        return f"{whose} has the __name__ {name!r} but no __parent__"
    return f"{whose} has the __name__ {name!r}, which is the root's"
