"""The way out of a connection: its socket, what waits for it, and a peer that reads too slowly.

Nothing is read here, and how a connection ends is ``connection.py``'s. Everything belongs to the
engine's own OS thread.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stargate.engine.peerlog import peerlog
from stargate.message.envelope import missed
from stargate.message.message import ENVELOPE, frame_for
from stargate.websocket.outbox import CLOSE, LATEST, Outbox, Topic
from stargate.websocket.state import State

if TYPE_CHECKING:
    from stargate.engine.hub import Engine
    from stargate.settings.application import Limits
    from stargate.stats import Counters
    from stargate.websocket.walk import Walks, _Walk

log = logging.getLogger(__name__)

#: What epoll calls EPOLLOUT.
WRITE = 0x004

TCP = (socket.AF_INET, socket.AF_INET6)

#: Unsent bytes that the kernel keeps for a peer that does not read; the rest waits in the outbox,
#: where it is counted. Without this it is the send buffer's 4 MB.
NOTSENT_LOWAT = 65_536

#: The same for who wants the latest message only: what the kernel has is old when it is read.
LATEST_LOWAT = 8_192

#: ``sendmsg`` calls for one socket in one turn of the hub.
SENDS_A_TURN = 16

TRY_LATER = 1013


class Sending:
    """A socket that takes what it can, and an outbox for what it can not."""

    __slots__ = (
        "_counters",
        "_engine",
        "_events",
        "_fd",
        "_limits",
        "_outbox",
        "_policies",
        "_pong",
        "_served",
        "_sock",
        "_topics",
        "_walks",
        "_form",
        "_write",
        "missed",
        "state",
    )

    def __init__(
        self, sock: Any, engine: Engine, walks: Walks, limits: Limits, counters: Counters
    ) -> None:
        self._sock, self._fd = sock, sock.fileno()
        self._engine, self._walks = engine, walks
        self._limits, self._counters = limits, counters
        #: The window of a peer that takes compressed frames; ``None`` for plain ones.
        self._form: int | None = None
        self._outbox: Outbox | None = None
        #: The answer to the last ping, while the outbox is in the way.
        self._pong = b""
        #: Takes a buffer, answers how many bytes of it are taken care of: the socket's own ``send``
        #: while nothing waits, ``_queue`` while something does, ``len`` when all is over.
        self._write: Callable[[bytes], int] = sock.send
        self._events = 0
        #: The number of the last walk that this connection was part of, or was settled for.
        self._served = 0
        self._topics: tuple[Topic, ...] = ()
        #: What is done for those of the topics where it is not to close a slow listener.
        self._policies: dict[Topic, str] | None = None
        #: How many messages of its resources this connection did not get, because its peer read
        #: too slowly.
        self.missed = 0
        self.state = State.OPEN

    # What those above add.

    def _set_events(self, events: int) -> None:
        """Watch the socket for these."""

    def _on_drained(self) -> None:
        """Bytes have left the outbox, or it is gone."""

    def _finish_sending(self) -> None:
        """The last byte has left."""

    def _lose(self) -> None:
        """The socket is broken."""

    def _start_closing(self, code: int, reason: str) -> None:
        """Begin the close handshake."""

    # Writing.

    def _put(self, buffer: bytes, messages: int = 0, streamed: bool = False) -> None:
        """Send ``buffer``, or queue what the socket does not take; a broken socket ends it.

        What is queued here is not dropped and closes nobody: frames of the protocol's own, and
        what a view that waits for it has ``streamed``.
        """
        if self._outbox is not None:
            self._outbox.append(buffer, messages=messages, streamed=streamed)
            return
        try:
            sent = self._sock.send(buffer)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose()
            return
        if sent != len(buffer):
            self._begin_outbox().append(buffer, sent, messages=messages, streamed=streamed)

    def _begin_outbox(self) -> Outbox:
        """The socket does not take everything: from here on an outbox has what is sent."""
        backlog = self._walks.backlog
        outbox = self._outbox = backlog.begin(self)
        if self.state is State.OPEN:
            self._write = self._queue
        self._set_events(self._events | WRITE)
        return outbox

    def _hold(self, buffer: bytes, sent: int) -> None:
        """The socket took only ``sent`` bytes of ``buffer``, which a walk or a view has sent."""
        try:
            self._keep(buffer, sent)
        except MemoryError:
            self._lose()  # It alone: the walk goes on to the others.

    def _keep(self, buffer: bytes, sent: int) -> None:
        outbox, walk, policy = self._begin_outbox(), self._walks.serving, self._policy()
        if walk is None or policy is CLOSE:
            outbox.append(buffer, sent, messages=len(walk.messages) if walk is not None else 1)
        else:
            begun, frames, sent = _unsent(walk.frames(self._form), sent)
            if begun:
                outbox.append(begun, sent)
            self._queue_droppable(outbox, walk, policy, frames)
        self._walks.backlog.relieve(self._limits.outbox_total)

    def _queue(self, buffer: bytes) -> int:
        """Queue ``buffer`` behind what waits already, as the policy for a slow listener has it."""
        outbox, bound, backlog = self._outbox, self._limits.outbox_size, self._walks.backlog
        assert outbox is not None
        outbox.look(backlog.turn())
        if outbox.cost >= bound:
            self._make_room(outbox, bound)
        if self._outbox is not outbox:
            if self.state is State.OPEN:
                self._write_again(buffer)
            return len(buffer)
        walk, policy = self._walks.serving, self._policy()
        messages = len(walk.messages) if walk is not None else 1
        if walk is not None and policy is not CLOSE:
            self._queue_droppable(outbox, walk, policy, walk.frames(self._form))
        elif outbox.cost < bound:
            outbox.append(buffer, messages=messages)
        else:
            self._give_up(outbox, messages)
        backlog.relieve(self._limits.outbox_total)
        return len(buffer)

    def _full(self) -> bool:
        return self._outbox is not None and self._outbox.cost >= self._limits.outbox_size

    def _write_again(self, buffer: bytes) -> None:
        """The outbox is gone: the socket may take ``buffer`` by itself."""
        try:
            sent = self._write(buffer)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose()
            return
        if sent != len(buffer):
            self._hold(buffer, sent)

    def _policy(self) -> str:
        """What to do for this listener of the walk that is being made, while it is slow."""
        walk = self._walks.serving
        if walk is None or self._policies is None or walk.listeners.topic is None:
            return CLOSE
        return self._policies.get(walk.listeners.topic, CLOSE)

    def _queue_droppable(
        self, outbox: Outbox, walk: _Walk, policy: str, frames: list[bytes]
    ) -> None:
        """Queue what may be dropped, one message a frame, and drop what has to be."""
        topic, bound, lost = walk.listeners.topic, self._limits.outbox_size, 0
        assert topic is not None
        if policy is LATEST and frames:
            lost = outbox.drop(topic) + len(frames) - 1
            frames = frames[-1:]
        for frame in frames:
            lost += outbox.drop(topic, bound)
            if outbox.cost < bound:
                outbox.append_droppable(topic, frame)
            elif policy is LATEST:
                self._give_up(outbox, 1)  # Full of what may not be dropped.
            else:
                lost += 1
        self._miss(lost)

    def _make_room(self, outbox: Outbox, bound: int) -> None:
        """Try the socket once more before it is called slow."""
        self._drain()
        if self._outbox is outbox and outbox.cost >= bound:
            self._walks.backlog.wait_for_room(self, outbox, bound)

    def _drain(self) -> None:
        outbox = self._outbox
        if outbox is None:
            return
        try:
            for _ in range(SENDS_A_TURN):
                outbox.advance(self._sock.sendmsg(outbox.gather()))
                if not outbox.size:
                    break
        except BlockingIOError:
            pass
        except OSError:
            self._lose()
            return
        if not outbox.size:
            self._end_outbox(outbox)
        self._on_drained()

    def _end_outbox(self, outbox: Outbox) -> None:
        self._outbox = None
        self._walks.backlog.end(self, outbox)
        pong, self._pong = self._pong, b""
        if self.state is State.OPEN:
            self._write = self._sock.send
        self._set_events(self._events & ~WRITE)
        if pong and self.state is State.OPEN:
            self._put(pong)
        if outbox.missed:
            self._tell_missed(outbox.missed)
        self._finish_sending()

    # Slow listeners.

    def _set_policy(self, topic: Topic, policy: str) -> None:
        """What to do about messages of ``topic`` while this connection is slow."""
        policies = self._policies or {}
        if policy is CLOSE:
            policies.pop(topic, None)
        else:
            policies[topic] = policy
            if policy is LATEST and self._sock.family in TCP:
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, LATEST_LOWAT)
        self._policies = policies or None

    def _miss(self, count: int) -> None:
        """Messages are not sent: count them, and say so once."""
        if not count:
            return
        if not self.missed:
            self._engine.spawn(
                peerlog.warning,
                log,
                "a WebSocket reads too slowly and misses messages, %d so far; there is no more "
                "of this in the log, websocket.missed counts them (%r)",
                count,
                self,
            )
        self.missed += count
        self._counters.drops += count
        if self._outbox is not None:
            self._outbox.missed += count

    def _tell_missed(self, count: int) -> None:
        """Tell a peer that speaks ``stargate.v1`` what it did not get."""
        if self._form is not None and self._form >= ENVELOPE and self.state is State.OPEN:
            self._put(frame_for(missed(count), None))

    def _give_up(self, outbox: Outbox, more: int = 0, why: str = "") -> None:
        """The peer does not read: drop what waits, say 1013 behind the frame it is in.

        ``more`` messages could not even be queued.
        """
        waited = outbox.size
        lost = outbox.keep_started() + more + self._walks.waiting(self)
        self.missed += lost
        self._counters.drops += lost
        self._counters.slow_closes += 1
        self._engine.spawn(
            peerlog.warning,
            log,
            "closing a slow WebSocket with 1013: %s; %d bytes waited, %d message(s) are lost (%r)",
            why or f"stargate.outbox_size is {self._limits.outbox_size}",
            waited,
            lost,
            self,
        )
        self._start_closing(TRY_LATER, "too slow")

    def _relieve(self) -> None:
        """This is the largest outbox, and all together are too large."""
        outbox = self._outbox
        if outbox is None or self.state is not State.OPEN:
            return
        before = outbox.cost
        self._walks.backlog.wait_for_room(self, outbox, before)
        if self._outbox is not outbox or outbox.cost < before:
            return
        lost = outbox.drop_all()
        self._miss(lost)
        if not lost:
            self._give_up(
                outbox,
                why=f"it is the largest outbox, and stargate.outbox_total is "
                f"{self._limits.outbox_total}",
            )

    def _stall(self) -> None:
        """Something waits, and the peer takes less of it than it has to."""
        outbox, limits = self._outbox, self._limits
        if outbox is not None and self.state is State.OPEN:
            self._give_up(
                outbox,
                why=f"it took less than {limits.outbox_progress} bytes "
                f"(stargate.outbox_progress) in {limits.outbox_progress_timeout:g} s",
            )


def _unsent(frames: list[bytes], sent: int) -> tuple[bytes, list[bytes], int]:
    """The frame that has begun, those behind it, and how many bytes of the first have left."""
    gone = 0
    while sent >= len(frames[gone]):
        sent -= len(frames[gone])
        gone += 1
    return (frames[gone], frames[gone + 1 :], sent) if sent else (b"", frames[gone:], 0)
