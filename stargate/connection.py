"""One open connection: bytes in and out of a non-blocking socket, frames, and how it ends.

No greenlet waits here and no view is known: ``websocket.py`` adds what a handler holds. Everything
belongs to the engine's own OS thread.
"""

from __future__ import annotations

import enum
import logging
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from websockets.protocol import OPEN as PROTOCOL_OPEN

from stargate.incoming import Incoming
from stargate.outbox import Outbox

if TYPE_CHECKING:
    from websockets.extensions import Extension

    from stargate.engine.hub import Engine
    from stargate.pubsub import Topic
    from stargate.settings import Limits
    from stargate.walk import Walks

log = logging.getLogger(__name__)

#: What epoll calls EPOLLIN, EPOLLOUT and EPOLLERR; and none of its bits, for not being watched.
READ, WRITE, ERROR, UNWATCHED = 0x001, 0x004, 0x008, 0x10000

#: Unsent bytes that the kernel keeps for a peer that does not read; the rest waits in the outbox,
#: where it is counted. Without this it is the send buffer's 4 MB.
NOTSENT_LOWAT = 65_536

#: Bytes read from a socket at once.
READ_SIZE = 65_536

#: ``sendmsg`` calls for one socket in one turn of the hub.
SENDS_A_TURN = 16

#: The first byte of every pong: final, and its opcode.
PONG_FRAME = 0x8A

NORMAL, GOING_AWAY, NO_CODE, LOST = 1000, 1001, 1005, 1006
TRY_LATER = 1013


class State(enum.Enum):
    """Where a connection is in its life.

    ========  =======================================  ==================================
    state     what it means                            what leads out of it
    ========  =======================================  ==================================
    OPEN      messages go both ways                    a close frame either way, or a loss
    CLOSING   over for the application; the close      the peer's end, a loss, or
              handshake and queued bytes remain        ``close_timeout``
    CLOSED    the descriptor is closed                 nothing
    ========  =======================================  ==================================
    """

    OPEN = 1
    CLOSING = 2
    CLOSED = 3


class Connection:
    """A socket that speaks WebSocket, from the end of its handshake on."""

    __slots__ = (
        "__weakref__",
        "_deadline",
        "_disposed",
        "_engine",
        "_eof_due",
        "_events",
        "_fd",
        "_extensions",
        "_incoming",
        "_limits",
        "_outbox",
        "_pong",
        "_served",
        "_sock",
        "_topics",
        "_walks",
        "_window_bits",
        "_write",
        "close_code",
        "close_reason",
        "state",
    )

    def __init__(
        self,
        sock: socket.socket,
        *,
        engine: Engine,
        walks: Walks,
        limits: Limits,
        extensions: list[Extension],
    ) -> None:
        self._sock, self._fd = sock, sock.fileno()
        self._engine, self._walks, self._limits = engine, walks, limits
        self._extensions = extensions
        #: Made when the first bytes come, or the first frame of the protocol's is to be sent.
        self._incoming: Incoming | None = None
        #: The window of a peer that takes compressed frames; ``None`` for plain ones.
        self._window_bits: int | None = (
            extensions[0].local_max_window_bits if extensions else None  # type: ignore[attr-defined]
        )
        self._outbox: Outbox | None = None
        #: The answer to the last ping, while the outbox is in the way.
        self._pong = b""
        #: Takes a buffer, answers how many bytes of it are taken care of: the socket's own ``send``
        #: while nothing waits, ``_queue`` while something does, ``len`` when all is over.
        self._write: Callable[[bytes], int] = sock.send
        self._events = 0
        self._eof_due = False
        self._deadline: Any = None
        self._disposed: tuple[Callable[..., object], tuple[Any, ...]] | None = None
        #: The number of the last walk that this connection was part of, or was settled for.
        self._served = 0
        self._topics: tuple[Topic, ...] = ()
        self.state = State.OPEN
        #: What ended the connection (RFC 6455, section 7.1.5): the code of the first close frame,
        #: the peer's or ours, 1005 for one with no code, 1006 without any; ``None`` before.
        self.close_code: int | None = None
        #: The reason in that frame, or ``""``; ``None`` before the end.
        self.close_reason: str | None = None

    # What those above add.

    def _on_message(self, message: str | bytes) -> None:
        """A whole message has come in."""

    def _on_input(self) -> None:
        """All that came in at once has been handed to ``_on_message``; on the hub."""

    def _on_end(self) -> None:
        """It is over for the application: called once, wherever the end was noticed."""

    def _on_drained(self) -> None:
        """Bytes have left the outbox, or it is gone."""

    # Opening.

    def _open(self, response: bytes, early: bytes) -> None:
        """Send the handshake's answer, then read; ``early`` came in with the handshake.

        What it raises has ended the connection.
        """
        sock = self._sock
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)
        try:
            self._engine.connections.add(self)
            self._events = READ
            self._engine.watch(self._fd, READ, self._on_ready)
            self._put(response)
            if early:
                self._engine.call_soon(self._receive_early, early)
        except BaseException:  # There is no room for it.
            self._lose()
            raise

    def _receive_early(self, early: bytes) -> None:
        try:
            self._receive(early)
        except Exception as error:
            self._fail(error)

    # Reading.

    def _on_ready(self, events: int) -> None:
        try:
            if events & WRITE:
                self._drain()
            if not events & ~WRITE or self.state is State.CLOSED:
                return
            if self._events & READ:
                self._read()
            elif events & ERROR:
                self._lose()
            else:
                # The peer has hung up, and what it said before waits behind a full inbox. It would
                # be told at each turn: do not listen until the view has caught up.
                self._engine.unwatch(self._fd)
                self._events = UNWATCHED
        except Exception as error:
            self._fail(error)

    def _read(self) -> None:
        try:
            data = self._sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._receive(data)
        else:
            self._lose()

    def _receive(self, data: bytes) -> None:
        if self.state is State.CLOSED:
            return
        incoming = self._incoming or self._listen()
        messages = incoming.receive(data)
        if self.state is State.OPEN:
            for message in messages:
                self._on_message(message)
        writes = incoming.protocol.writes and incoming.protocol.data_to_send()
        if writes:
            self._answer(writes)
        self._on_input()

    def _listen(self) -> Incoming:
        """What understands the peer; made when it is first needed."""
        if self._incoming is None:
            self._incoming = Incoming(self._limits, self._extensions)
        return self._incoming

    def _set_reading(self, reading: bool) -> None:
        self._set_events(self._events | READ if reading else self._events & ~READ)

    def _set_events(self, events: int) -> None:
        if events == self._events or self.state is State.CLOSED:
            return
        if self._events & UNWATCHED:
            events &= ~UNWATCHED
            self._engine.watch(self._fd, events, self._on_ready)
        else:
            self._engine.rewatch(self._fd, events)
        self._events = events

    # Writing.

    def _put(self, buffer: bytes) -> None:
        """Send ``buffer``, or queue what the socket does not take; a broken socket ends it."""
        if self._outbox is not None:
            self._outbox.append(buffer)
            return
        try:
            sent = self._sock.send(buffer)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose()
            return
        if sent != len(buffer):
            self._hold(buffer, sent)

    def _hold(self, buffer: bytes, sent: int) -> None:
        """The socket took only ``sent`` bytes of ``buffer``: from here on an outbox has it."""
        self._outbox = Outbox()
        self._outbox.append(buffer, sent)
        if self.state is State.OPEN:
            self._write = self._queue
        self._set_events(self._events | WRITE)

    def _queue(self, buffer: bytes) -> int:
        """Queue ``buffer`` behind what waits already, or give up a peer that lets it pile up."""
        outbox, bound = self._outbox, self._limits.outbox_size
        if outbox is not None and outbox.size >= bound:
            self._drain()  # Once more, before it is called slow.
            outbox = self._outbox
        if self.state is not State.OPEN:
            pass
        elif outbox is None:
            self._put(buffer)
        elif outbox.size < bound:
            outbox.append(buffer)
        else:
            self._give_up(outbox)
        return len(buffer)

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
            self._outbox = None
            pong, self._pong = self._pong, b""
            if self.state is State.OPEN:
                self._write = self._sock.send
            self._set_events(self._events & ~WRITE)
            if pong and self.state is State.OPEN:
                self._put(pong)
            self._finish_sending()
        self._on_drained()

    def _give_up(self, outbox: Outbox) -> None:
        """The peer does not read: drop what waits, say 1013 behind the frame it is in."""
        dropped = outbox.size
        outbox.keep_started()
        self._engine.spawn(
            log.warning,
            "closing a slow WebSocket: %d bytes waited, and stargate.outbox_size is %d (%r)",
            dropped,
            self._limits.outbox_size,
            self,
        )
        self._start_closing(TRY_LATER, "too slow")

    # Ending.

    def _start_closing(self, code: int, reason: str) -> None:
        """Send a close frame of ours; the peer has ``close_timeout`` to answer."""
        protocol = self._listen().protocol
        protocol.send_close(code, reason)
        self._answer(protocol.data_to_send())

    def _answer(self, writes: list[bytes]) -> None:
        """Send what the protocol wants sent; a close frame among it is the end of the rest."""
        protocol = self._listen().protocol
        if self.state is State.OPEN and protocol.state is not PROTOCOL_OPEN:
            # First, so that a peer that has said good-bye and gone is not taken for a lost one.
            close = protocol.close_sent  # An echo, if the peer was first.
            assert close is not None
            self._end(int(close.code), close.reason)
        for data in writes:
            if self.state is State.CLOSED:
                return
            if not data:
                self._eof_due = True
            elif self._outbox is not None and data[0] == PONG_FRAME:
                # The answer to the last ping will do (RFC 6455, section 5.5.3), whatever a peer
                # that does not read goes on asking.
                self._pong = data
            else:
                self._put(data)
        self._finish_sending()

    def _end(self, code: int, reason: str) -> None:
        """It is over for the application: no message comes or goes from here on."""
        if self.state is not State.OPEN:
            return
        self.state = State.CLOSING
        self.close_code, self.close_reason = code, reason
        self._write = len
        for topic in self._topics:
            topic.discard(self)
        self._topics = ()
        self._deadline = self._engine.call_later(self._limits.close_timeout, self._abort)
        self._set_reading(True)  # Until the peer's end: a close with bytes unread is a reset.
        self._on_end()

    def _finish_sending(self) -> None:
        """Half-close once the last byte has left, so that the peer gets all of it."""
        if self._eof_due and self._outbox is None and self.state is State.CLOSING:
            self._eof_due = False
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                self._dispose()

    def _fail(self, error: Exception) -> None:
        """There was no memory, or an error of ours: it ends this connection, and no other.

        What had been read is lost, and what comes behind it would make no sense.
        """
        self._lose()
        self._engine.spawn(partial(log.error, "%r failed", self, exc_info=error))

    def _lose(self) -> None:
        """The peer has gone, or the socket is broken."""
        self._end(LOST, "")
        self._dispose()

    def _abort(self) -> None:
        """The deadline of the close handshake has passed."""
        if self._outbox is not None:
            # A peer that takes nothing: do not leave the kernel to go on trying for minutes.
            linger = struct.pack("ii", 1, 0)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._dispose()

    def when_disposed(self, function: Callable[..., object], *args: Any) -> bool:
        """Call ``function`` once the descriptor is closed; false when that has happened already."""
        self._disposed = function, args
        return self.state is not State.CLOSED

    def _dispose(self) -> None:
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._engine.unwatch(self._fd)
        self._engine.connections.discard(self)
        self._sock.close()
        self._outbox = None
        self._on_drained()
        if self._disposed is not None:
            function, args = self._disposed
            function(*args)
