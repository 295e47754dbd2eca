"""Stargate: every resource of a Pyramid application is a live address for browsers.

The front door. Names are imported when they are first used: a server has to patch the standard
library before anything imports Pyramid, and ``import stargate`` must not be what comes too early.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyramid.config import Configurator

    from stargate.application.gates import gate as gate
    from stargate.config import websocket_view_config as websocket_view_config
    from stargate.engine.in_thread import run_in_thread as run_in_thread
    from stargate.engine.patching import patch as patch
    from stargate.exceptions import AmbiguousApplication as AmbiguousApplication
    from stargate.exceptions import BackplaneError as BackplaneError
    from stargate.exceptions import BadAddress as BadAddress
    from stargate.exceptions import ConnectionClosed as ConnectionClosed
    from stargate.exceptions import MessageTooBig as MessageTooBig
    from stargate.exceptions import NoAddress as NoAddress
    from stargate.exceptions import StargateError as StargateError
    from stargate.handshake.upgrade import is_websocket as is_websocket
    from stargate.publisher import connect as connect
    from stargate.resource import WebSocketAwareContext as WebSocketAwareContext
    from stargate.resource import WebSocketAwareResource as WebSocketAwareResource
    from stargate.view import WebSocketView as WebSocketView
    from stargate.websocket.websocket import WebSocket as WebSocket

_HOMES = {
    "AmbiguousApplication": "exceptions",
    "BackplaneError": "exceptions",
    "BadAddress": "exceptions",
    "ConnectionClosed": "exceptions",
    "MessageTooBig": "exceptions",
    "NoAddress": "exceptions",
    "StargateError": "exceptions",
    "WebSocket": "websocket",
    "WebSocketAwareContext": "resource",
    "WebSocketAwareResource": "resource",
    "WebSocketView": "view",
    "connect": "publisher",
    "gate": "application",
    "is_websocket": "handshake",
    "patch": "engine.patching",
    "run_in_thread": "engine.in_thread",
    "websocket_view_config": "config",
}

__all__ = [*_HOMES, "includeme"]  # noqa: PLE0604


def includeme(config: Configurator) -> None:
    """Called by ``config.include("stargate")``."""
    config.include("stargate.config")


def __getattr__(name: str) -> Any:
    if name == "server":
        return import_module(f"{__name__}.server")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
