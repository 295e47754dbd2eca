"""Every error that stargate raises, under one root; nothing here imports anything of ours.

Bad configuration is not here: it is Pyramid's own ``ConfigurationError``.
"""

from __future__ import annotations

from typing import Any


class StargateError(Exception):
    """The root of every error of stargate: catch it to catch them all."""


def shortened(address: object, most: int = 100) -> str:
    """``address`` as text, or its beginning: for a line that somebody reads."""
    text = str(address)
    return text if len(text) <= most else text[:most] + "..."


class ConnectionClosed(StargateError, ConnectionError):
    """A WebSocket has ended, so there is nothing to wait for and nowhere to send.

    ``websocket`` is the one that ended; ``code`` and ``reason`` are the close code and the close
    reason (RFC 6455, section 7.1.5 and 7.1.6) that ended it, 1006 where no close frame was seen.

    If you see this in a log, a handler used *another* connection's WebSocket after that one had
    ended: the WebSocket of its own ends a view quietly.
    """

    def __init__(self, websocket: Any, code: int, reason: str = "") -> None:
        self.websocket, self.code, self.reason = websocket, code, reason
        super().__init__(
            f"the WebSocket {websocket.id} has ended: {code}" + (f" ({reason})" if reason else "")
        )


class MessageTooBig(StargateError, ValueError):
    """A message for all listeners of a resource is longer than ``stargate.max_send_size``.

    Nothing has been sent. ``size`` and ``limit`` are in bytes. A message that fills an outbox at
    once would make healthy listeners look slow, and close them.

    If you see this, send less: the address of what has changed rather than the thing itself, or
    parts of it. ``websocket.send()`` to one WebSocket, which waits for it, has no such limit.
    """

    def __init__(self, address: object, size: int, limit: int) -> None:
        self.address, self.size, self.limit = address, size, limit
        super().__init__(
            f"a message of {size} bytes for {shortened(address)} is longer than "
            f"stargate.max_send_size, {limit} bytes; nothing has been sent"
        )


class BadAddress(StargateError, ValueError):
    """A string is given where an address is meant, and no resource can have it.

    If you see this, write the path as ``pyramid.traversal.resource_path`` does: quoted as in a URL,
    beginning with a slash and not ending with one. It may have a scope before it, as in
    ``acme:/jobs/1``.
    """

    def __init__(self, address: str, right: str) -> None:
        self.address = address
        super().__init__(f"{shortened(address)!r} is the address of no resource: {right}")


class BackplaneError(StargateError, OSError):
    """What carries messages between processes has failed, or has not answered in time.

    ``outcome`` is ``"not sent"`` where nobody has got the message or ever will, and ``"unknown"``
    where the request had left and no answer has come. ``key`` is the key of the send: repeating
    it with ``key=error.key`` within a minute sends nothing twice. ``None`` where nothing was sent.

    Where nobody catches it, a WebSocket closes with 1013 and a page answers 503 with
    ``Retry-After``: "try again later". An exception view for this class takes the page's place.

    If you see this, look at the server that ``stargate.backplane`` names: the text has its answer.
    ``stargate.backplane_timeout`` is how long it is waited for.
    """

    def __init__(self, outcome: str, why: str, key: str | None = None) -> None:
        self.outcome, self.key = outcome, key
        super().__init__(f"{outcome}: {why}")


class AmbiguousApplication(StargateError, LookupError):
    """It cannot be told which application of this process a message is meant for.

    If you see this, say which: ``stargate.gate(registry).send(resource, message)``.
    """

    def __init__(self, count: int, request: bool) -> None:
        if request:
            why = "the application of the current request did not include stargate, and"
        else:
            why = "there is no current request, and"
        super().__init__(
            f"{why} {count} application(s) of this process did: say which one is meant with "
            "stargate.gate(registry).send(resource, message)"
        )


class NoAddress(StargateError, LookupError):
    """A resource has no place of its own in the resource tree, so it has no address.

    Or its ``stargate_address()`` has returned what is none.

    If you see this, give the resource a ``__name__`` and a ``__parent__`` (the root: the
    ``__name__`` ``""``), or let its class define ``stargate_address()``, which returns a path, as
    in ``/jobs/1``, or one with a scope before it, as in ``acme:/jobs/1``: the same for every object
    that means the same resource and for no other.
    """

    def __init__(self, resource: object, lack: str) -> None:
        self.resource = resource
        super().__init__(
            f"{type(resource).__module__}.{type(resource).__qualname__} has no address: {lack}. "
            "Give it a __name__ and a __parent__ (the root of the tree: __name__ = ''), or define "
            "stargate_address() on it, which returns a path as in '/jobs/1' or 'acme:/jobs/1'"
        )
