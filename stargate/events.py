"""Pyramid events that stargate sends to the application's subscribers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stargate.view import WebSocketView
    from stargate.websocket import WebSocket


@dataclass(frozen=True)
class ViewFailed:
    """A method of a WebSocketView raised ``error``, after the request: no tween has seen it.

    It has been logged with its traceback, and the WebSocket closes with 1011. An error reporter
    subscribes to this as it wraps requests with a tween.
    """

    view: WebSocketView
    websocket: WebSocket
    error: BaseException
