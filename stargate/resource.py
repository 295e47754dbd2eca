"""WebSocketAwareContext: the mixin that makes a resource of the tree a live address."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zope.interface import implementer

from stargate.application import current_gate, location
from stargate.interfaces import IWebSocketAwareContext
from stargate.pubsub import Listeners
from stargate.websocket import WebSocket


@implementer(IWebSocketAwareContext)
class WebSocketAwareContext:
    """A resource that browsers listen to and any code sends to.

    A mixin: no ``__init__``, no metaclass, and nothing is stored on the instance, so that it goes
    with ``dict``, ``PersistentMapping``, a mapped class of SQLAlchemy and ``__slots__``. Two
    objects with the same address share their listeners; the address is the path in the tree.
    """

    __slots__ = ()

    @property
    def path(self) -> str:
        """The address of this resource."""
        return str(self.stargate_address())

    @property
    def listeners(self) -> Listeners:
        """The WebSockets of this process that listen now: a snapshot, cheap to take and count."""
        return current_gate().listeners(self)

    def stargate_address(self) -> str:
        """The address: a string, the same for every object that means this resource.

        By default Pyramid's ``resource_path``; :class:`~stargate.exceptions.NoAddress` is raised
        for a resource with no ``__name__`` or no ``__parent__``. Override it where the tree alone
        does not tell resources apart: a root that depends on the request, a route's factory.
        """
        return location(self)

    def add_listener(self, websocket: WebSocket, *, when_slow: str | None = None) -> None:
        """From here on ``websocket`` gets every message sent to this resource; twice is once.

        It leaves by itself when its connection ends. Raises
        :class:`~stargate.exceptions.ConnectionClosed` when that has happened already.

        ``when_slow`` says what becomes of it while it does not read as fast as others send:
        ``"close"`` closes it with 1013, ``"drop_oldest"`` drops the oldest messages of this
        resource that wait for it, ``"latest"`` all but the newest one. By default it is what the
        attribute ``stargate_when_slow`` of the resource says, or else ``"close"``.
        """
        current_gate().add_listener(self, websocket, when_slow=when_slow)

    def remove_listener(self, websocket: WebSocket) -> None:
        """Undo :meth:`add_listener`; without one it does nothing."""
        current_gate().remove_listener(self, websocket)

    def send(
        self, message: str | bytes, *, exclude: WebSocket | Iterable[WebSocket] | None = None
    ) -> None:
        """Send one message to every listener: ``str`` as text, ``bytes`` as binary.

        From any code: a view, a handler, a greenlet, an OS thread. Never waits for a listener,
        and never waits for the transaction either. Anything but ``str`` and ``bytes`` raises
        ``TypeError`` before anything is sent, and so does a message longer than
        ``stargate.max_send_size``, :class:`~stargate.exceptions.MessageTooBig`. ``exclude`` is one
        WebSocket or several.
        """
        current_gate().send(self, message, exclude=exclude)

    def send_json(
        self, value: Any, *, exclude: WebSocket | Iterable[WebSocket] | None = None
    ) -> None:
        """Send ``value`` as text, written once by the application's JSON renderer.

        Its adapters are called with ``request=None``: one message has many readers. An error of
        the renderer comes before anything is sent.
        """
        current_gate().send_json(self, value, exclude=exclude)


#: The name of stargate 0.4.
WebSocketAwareResource = WebSocketAwareContext
