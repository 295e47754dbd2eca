"""WebSocketAwareContext: the mixin that makes a resource of the tree a live address."""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from stargate.application.gates import Excluded, current_gate
from stargate.application.tree import by_location, location
from stargate.history import DEFAULT_TTL, History
from stargate.interfaces import IWebSocketAwareContext
from stargate.pubsub.topics import Listeners
from stargate.websocket.websocket import WebSocket


@implementer(IWebSocketAwareContext)
class WebSocketAwareContext:
    """A resource that browsers listen to and any code sends to.

    A mixin: no ``__init__``, no metaclass, and nothing is stored on the instance, so that it goes
    with ``dict``, ``PersistentMapping``, a mapped class of SQLAlchemy and ``__slots__``. Two
    objects with the same address share their listeners; the address is the path in the tree.
    """

    __slots__ = ()

    #: How many of its messages are kept for those who come back; 0: none.
    history_size: int = 0

    #: How many seconds a message is kept.
    history_ttl: float = DEFAULT_TTL

    @property
    def path(self) -> str:
        """The address of this resource."""
        return str(self.stargate_address())

    @property
    def listeners(self) -> Listeners:
        """The WebSockets of this process that listen now: a snapshot, cheap to take and count."""
        return current_gate().listeners(self)

    @by_location
    def stargate_address(self) -> str:
        """The address: a string, the same for every object that means this resource.

        By default Pyramid's ``resource_path``; :class:`~stargate.exceptions.NoAddress` is raised
        for a resource with no ``__name__`` or no ``__parent__``. Override it where the tree alone
        does not tell resources apart: a root that depends on the request, a route's factory. It
        returns a path as Pyramid writes it, ``/jobs/1``, or one with a scope before it,
        ``acme:/jobs/1``: 1 to 64 of letters, digits and ``._-``. An address has 8,192 bytes at
        most. Anything else is refused with ``NoAddress``.
        """
        return location(self)

    def add_listener(
        self,
        websocket: WebSocket,
        *,
        when_slow: str | None = None,
        since: str | None = None,
        who: str | int | None = None,
    ) -> bool | None:
        """From here on ``websocket`` gets every message sent to this resource; twice is once.

        It leaves by itself when its connection ends. Raises
        :class:`~stargate.exceptions.ConnectionClosed` when that has happened already, and
        :class:`~stargate.exceptions.BackplaneError` where it could not be reached: then it is no
        listener.

        ``since`` is the id of the last message that its peer has seen, or ``"last"`` to begin with
        the newest: first it is sent what came after that, with no gap and no repeat. ``True`` is
        returned if that was everything, ``False`` if something of it is gone: then it is sent
        nothing old. Without ``since`` it is ``None``. Needs a ``history_size``.

        ``who`` is the name under which :meth:`presence` lists it, by default
        ``websocket.userid``; ``""`` lists it under none.

        ``when_slow`` says what becomes of it while it does not read as fast as others send:
        ``"close"`` closes it with 1013, ``"drop_oldest"`` drops the oldest messages of this
        resource that wait for it, ``"latest"`` all but the newest one. By default it is what the
        attribute ``stargate_when_slow`` of the resource says, or else ``"close"``.
        """
        return current_gate().add_listener(
            self, websocket, when_slow=when_slow, since=since, who=who
        )

    def remove_listener(self, websocket: WebSocket) -> None:
        """Undo :meth:`add_listener`; without one it does nothing."""
        current_gate().remove_listener(self, websocket)

    def send(
        self, message: str | bytes, *, exclude: Excluded = None, key: str | None = None
    ) -> str | None:
        """Send one message to every listener: ``str`` as text, ``bytes`` as binary.

        From any code: a view, a handler, a greenlet, an OS thread. Never waits for a listener,
        and never waits for the transaction either. Anything but ``str`` and ``bytes`` raises
        ``TypeError`` before anything is sent, and so does a message longer than
        ``stargate.max_send_size``, :class:`~stargate.exceptions.MessageTooBig`. ``exclude`` is one
        WebSocket or several, or their ids.

        With a Redis it waits until that has the message, and raises
        :class:`~stargate.exceptions.BackplaneError` where it does not answer in time. A second
        send with the same ``key``, within a minute, sends nothing: so one whose outcome is unknown
        may be repeated. Returns the message's id where there is a history, else ``None``.
        """
        return current_gate().send(self, message, exclude=exclude, key=key)

    def send_json(
        self, value: Any, *, exclude: Excluded = None, key: str | None = None
    ) -> str | None:
        """Send ``value`` as text, written once by the application's JSON renderer.

        Its adapters are called with ``request=None``: one message has many readers. An error of
        the renderer comes before anything is sent, and so does the ``ValueError`` for NaN and the
        infinities, which are no JSON and which no browser reads. All else is as in :meth:`send`.
        """
        return current_gate().send_json(self, value, exclude=exclude, key=key)

    def history(self, since: str | None = None, limit: int = 100) -> History:
        """The messages that are kept, oldest first: a list of :class:`~stargate.history.Kept`.

        With ``since``, an id, the first ``limit`` that came after it, else the newest ``limit``.
        ``complete`` of the list is false, and it is empty, where something after ``since`` is gone.
        """
        return current_gate().history(self, since, limit)

    def presence(self) -> dict[str | int, int]:
        """Who listens, in all processes: their names, and how many WebSockets each of them has."""
        return current_gate().presence(self)

    def listener_count(self) -> int:
        """How many WebSockets listen, in all processes, those with no name included."""
        return current_gate().listener_count(self)


#: The name of stargate 0.4.
WebSocketAwareResource = WebSocketAwareContext
