"""Pyramid events that stargate sends to the application's subscribers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stargate.view import WebSocketView
    from stargate.websocket.websocket import WebSocket


@dataclass(frozen=True)
class ViewFailed:
    """A method of a WebSocketView raised ``error``, after the request: no tween has seen it.

    It has been logged with its traceback, and the WebSocket closes with 1011. A ``BackplaneError``
    is logged in one line, and the WebSocket closes with 1013. An error reporter subscribes to this
    as it wraps requests with a tween.
    """

    view: WebSocketView
    websocket: WebSocket
    error: BaseException


@dataclass(frozen=True)
class MessagesMissed:
    """Messages for the listeners at ``address`` in this process may be lost.

    The backplane was out of reach for a while, and nothing is kept of this address, or not enough.
    The WebSockets are open still: a subscriber may send them what there is now.
    """

    address: str


@dataclass(frozen=True)
class ListenerJoined:
    """``who`` has come to ``address``: the first WebSocket of theirs there, in any process.

    Sent at least once, in one of the processes; a repeat has the same ``id``.
    """

    address: str
    who: str | int
    id: str


@dataclass(frozen=True)
class ListenerLeft:
    """``who`` has left ``address``: the last WebSocket of theirs there has gone, in any process.

    Sent at least once, in one of the processes; a repeat has the same ``id``.
    """

    address: str
    who: str | int
    id: str
