"""The only room that knows eventlet: descriptors, greenlets, timers, threads, monkey-patching.

Everything else speaks ``stargate.interfaces.IEngine``. eventlet is imported when an engine is first
asked for, not with this module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from stargate.engine.hub import Engine

#: Where our own server class puts what takes a connection out of WSGI, and where eventlet's server
#: as it comes has its request's input.
TAKE_OVER, STOCK_INPUT = "stargate.take_over", "eventlet.input"

#: Where our own server puts what tells whether it is about to end.
STOPPING = "stargate.stopping"


class Disposable(Protocol):
    """What a connection has become that was taken over: it tells when its descriptor is closed."""

    def when_disposed(self, function: Callable[..., object], *args: Any) -> bool:
        """Call ``function`` then; false when that has happened already."""


@dataclass(frozen=True)
class TakenOver:
    """A connection that has left its WSGI server."""

    #: The socket itself, not a green one; ours to close.
    socket: Any
    #: What the server had read beyond the request.
    early: bytes
    #: What the WSGI application returns: called with the connection, where it came to one, when all
    #: else is done.
    leave: Callable[[Disposable | None], list[bytes]]


def has_socket(environ: dict[str, Any]) -> bool:
    """Whether the server that made ``environ`` has a socket to give."""
    return TAKE_OVER in environ or STOCK_INPUT in environ


def take_over(environ: dict[str, Any]) -> TakenOver:
    """Take the connection of ``environ`` out of WSGI; only where it :func:`has_socket`."""
    take: Callable[[], TakenOver] | None = environ.get(TAKE_OVER)
    if take is None:
        from stargate.engine.stock import take_over_stock

        return take_over_stock(environ)
    return take()


def refuse(environ: dict[str, Any]) -> bool:
    """Let the connection of ``environ`` end behind the answer, which has to say so if this is true.

    Our own server sees to both by itself.
    """
    if TAKE_OVER in environ or STOCK_INPUT not in environ:
        return False
    from stargate.engine.stock import refuse_stock

    refuse_stock(environ)
    return True


def stopping(environ: dict[str, Any]) -> bool:
    """Whether the server that made ``environ`` is about to end: nothing new should be opened."""
    asked: Callable[[], bool] | None = environ.get(STOPPING)
    return asked is not None and asked()


def engine_made() -> bool:
    """Whether this process has made an engine, as every one that serves has."""
    hub = sys.modules.get("stargate.engine.hub")
    return hub is not None and bool(hub.made_here())


def engine_here() -> Engine | None:
    """The engine of the calling OS thread, if it has made one."""
    hub = sys.modules.get("stargate.engine.hub")
    return None if hub is None else hub.engine_here()


def engine_of_greenlets() -> Engine | None:
    """The engine of the calling OS thread, if there are greenlets there that can be held up.

    That is where something is served, and where the standard library was patched.
    """
    patching = sys.modules.get("stargate.engine.patching")
    if patching is not None and patching.patched_here():
        return current_engine()
    return engine_here()


def current_engine() -> Engine:
    """The engine of the calling OS thread, made at the first call; a fork gets one of its own."""
    from stargate.engine.hub import current_engine as of_this_thread

    return of_this_thread()
