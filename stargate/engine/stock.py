"""The hand-off on ``eventlet.wsgi.server`` as it comes: the WSGI call stays until the end."""

from __future__ import annotations

import socket
from typing import Any

from stargate.engine import STOCK_INPUT, Disposable, TakenOver, current_engine
from stargate.engine.quiet import eventlet

wsgi = eventlet.wsgi


def take_over_stock(environ: dict[str, Any]) -> TakenOver:
    """A duplicate of the request's socket; the server's own is closed after the WebSocket's end."""
    stream = environ[STOCK_INPUT]
    green = stream.get_socket()
    early = read_ahead(stream.rfile, green)
    return TakenOver(green.fd.dup(), early, _stay)


def refuse_stock(environ: dict[str, Any]) -> None:
    """See to it that the connection of ``environ`` is closed behind the answer.

    eventlet pays no attention to the application's ``Connection: close``.
    """
    stream = environ[STOCK_INPUT]

    def shut(_environ: dict[str, Any]) -> None:
        green = stream.get_socket()
        read_ahead(stream.rfile, green)
        green.shutdown(socket.SHUT_RDWR)

    environ["eventlet.posthooks"].append((shut, (), {}))


def read_ahead(rfile: Any, green: Any) -> bytes:
    """What ``rfile`` has buffered and the socket has ready, without waiting."""
    timeout = green.gettimeout()
    green.settimeout(0)
    try:
        return bytes(rfile.read1(len(rfile.peek())))
    except OSError:
        return b""  # Nothing is ready; or the peer has gone, and reading on will tell.
    finally:
        green.settimeout(timeout)


def _stay(connection: Disposable | None) -> list[bytes]:
    """Keep the WSGI call, and so the server's socket, until the WebSocket is closed."""
    engine = current_engine()
    if connection is not None and connection.when_disposed(
        engine.call_soon, engine.resume, engine.greenlet
    ):
        engine.park()
    wsgi.WSGI_LOCAL.already_handled = True
    return []
