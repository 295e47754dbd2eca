"""What a listener that comes back is sent: all that it has missed, or that this can't be told.

Which messages these are is the backplane's to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from stargate.message.envelope import recovered
from stargate.message.message import ENVELOPE, Message, frame_for
from stargate.websocket.state import State
from stargate.websocket.walk import write

if TYPE_CHECKING:
    from stargate.history import History
    from stargate.websocket.websocket import WebSocket

#: Bytes from which on the next recovered message begins another buffer.
PART = 65_536


def recover(websocket: WebSocket, history: History, limit: int) -> bool:
    """Send what ``websocket`` has missed, at its own pace; returns whether that was everything.

    Past ``limit`` bytes, as they would be sent, it is sent none of it.
    """
    parts = _parts(websocket, history, limit) if history.complete else None
    counters = websocket._counters
    if parts is None:
        counters.unrecovered += 1
    else:
        counters.recovered += 1
        websocket._walks.settle(websocket)
        for buffer, count in parts:
            if websocket.state is State.OPEN:
                counters.messages_out += count
                counters.bytes_out += len(buffer)
                websocket._put(buffer, messages=count, streamed=True)
    tell_recovered(websocket, parts is not None, history.position)
    return parts is not None


def tell_recovered(websocket: WebSocket, complete: bool, position: str | None) -> None:
    """Tell a peer that speaks ``stargate.v1`` whether it has got everything."""
    form = websocket._form
    if form is not None and form >= ENVELOPE and websocket.state is State.OPEN:
        websocket._walks.settle(websocket)
        write(websocket, frame_for(recovered(complete, position), form - ENVELOPE or None))


def _parts(websocket: WebSocket, history: History, limit: int) -> list[tuple[bytes, int]] | None:
    messages = (Message(kept.message, json=kept.json, id=kept.id) for kept in history)
    return joined((message.frame_as(websocket._form) for message in messages), limit)


def joined(frames: Iterable[bytes], limit: int) -> list[tuple[bytes, int]] | None:
    """``frames`` in a few large buffers, each with how many it has; ``None`` past ``limit`` bytes.

    One by one, many short ones would cost an outbox more than their bytes, and that is bounded.
    """
    parts: list[tuple[bytes, int]] = []
    waiting: list[bytes] = []
    size = total = 0
    for each in frames:
        waiting.append(each)
        size, total = size + len(each), total + len(each)
        if total > limit:
            return None
        if size >= PART:
            parts.append((b"".join(waiting), len(waiting)))
            waiting, size = [], 0
    if waiting:
        parts.append((b"".join(waiting), len(waiting)))
    return parts
