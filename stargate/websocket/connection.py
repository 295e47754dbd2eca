"""One open connection: what comes in from its socket, signs of life, and how it ends.

What goes out is ``sending.py``'s. No greenlet waits here and no view is known: ``websocket.py``
adds what a handler holds. Everything belongs to the engine's own OS thread.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from websockets.protocol import OPEN as PROTOCOL_OPEN

from stargate.engine.peerlog import peerlog
from stargate.message.incoming import UNBOUNDED, Incoming
from stargate.message.message import FIN, PING, frame
from stargate.websocket.sending import NOTSENT_LOWAT, TCP, WRITE, Sending
from stargate.websocket.state import State

if TYPE_CHECKING:
    from websockets.extensions import Extension

    from stargate.engine.hub import Engine
    from stargate.settings.application import Limits
    from stargate.stats import Counters
    from stargate.websocket.heartbeat import Heartbeat
    from stargate.websocket.walk import Walks

log = logging.getLogger(__name__)

#: What epoll calls EPOLLIN and EPOLLERR; and none of its bits, for not being watched.
READ, ERROR, UNWATCHED = 0x001, 0x008, 0x10000

#: Bytes read from a socket at once.
READ_SIZE = 65_536

#: The first byte of every pong: final, and its opcode.
PONG_FRAME = 0x8A

TOO_FAST = "closing a WebSocket that sends too fast: stargate.max_message_rate is %d (%r)"

#: A ping of the heartbeat: whatever comes back is an answer.
PING_FRAME = frame(FIN | PING, b"")

#: ``SO_LINGER``: closing resets, and the kernel does not go on trying for minutes.
RESET = struct.pack("ii", 1, 0)

NORMAL, GOING_AWAY, NO_CODE, LOST = 1000, 1001, 1005, 1006


class Connection(Sending):
    """A socket that speaks WebSocket, from the end of its handshake on."""

    __slots__ = (
        "__weakref__",
        "_asked",
        "_deadline",
        "_disposed",
        "_eof_due",
        "_extensions",
        "_heartbeat",
        "_incoming",
        "close_code",
        "close_reason",
    )

    def __init__(
        self,
        sock: socket.socket,
        *,
        engine: Engine,
        walks: Walks,
        limits: Limits,
        extensions: list[Extension],
        counters: Counters,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        super().__init__(sock, engine, walks, limits, counters)
        self._extensions = extensions
        if extensions:
            self._form = extensions[0].local_max_window_bits  # type: ignore[attr-defined]
        #: Made when the first bytes come, or the first frame of the protocol's is to be sent.
        self._incoming: Incoming | None = None
        self._heartbeat = heartbeat
        #: The beat of the heartbeat in which the peer was asked for a sign of life that has not
        #: come yet, else 0.
        self._asked = 0
        self._eof_due = False
        self._deadline: Any = None
        self._disposed: tuple[tuple[Callable[..., object], tuple[Any, ...]], ...] = ()
        #: What ended the connection (RFC 6455, section 7.1.5): the code of the first close frame,
        #: the peer's or ours, 1005 for one with no code, 1006 without any; ``None`` before.
        self.close_code: int | None = None
        #: The reason in that frame, or ``""``; ``None`` before the end.
        self.close_reason: str | None = None

    # What those above add.

    def _room(self) -> int:
        """How many more messages may come in before somebody has read those that have."""
        return UNBOUNDED

    def _on_message(self, message: str | bytes) -> None:
        """A whole message has come in."""

    def _on_input(self) -> None:
        """All that came in at once has been handed to ``_on_message``; on the hub."""

    def _on_end(self) -> None:
        """It is over for the application: called once, wherever the end was noticed."""

    # Opening.

    def _open(self, response: bytes, early: bytes) -> None:
        """Send the handshake's answer, then read; ``early`` came in with the handshake.

        What it raises has ended the connection.
        """
        sock = self._sock
        sock.setblocking(False)
        if sock.family in TCP:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)
        try:
            self._begin(response, early)
        except BaseException:  # There is no room for it.
            self._lose()
            raise

    def _begin(self, response: bytes, early: bytes) -> None:
        self._engine.connections.add(self)
        self._counters.opened += 1
        self._counters.connections += 1
        # What has come since must wait for what came with the handshake.
        self._events = 0 if early else READ
        self._engine.watch(self._fd, self._events, self._on_ready)
        if self._heartbeat is not None:
            self._heartbeat.add(self)
        self._put(response)
        if early:
            self._engine.call_soon(self._receive_early, early)

    def _receive_early(self, early: bytes) -> None:
        try:
            self._set_reading(True)
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
        self._asked = 0  # Whatever it says, it lives.
        incoming = self._incoming or self._listen()
        messages = incoming.receive(data, self._room())
        counters = self._counters
        counters.bytes_in += len(data)
        counters.messages_in += len(messages)
        if self.state is State.OPEN:
            for message in messages:
                self._on_message(message)
        writes = incoming.protocol.writes and incoming.protocol.data_to_send()
        if writes:
            if incoming.too_fast:
                counters.rate_closes += 1
                most = self._limits.max_message_rate
                self._engine.spawn(peerlog.warning, log, TOO_FAST, most, self)
            if self.state is State.OPEN and incoming.protocol.state is not PROTOCOL_OPEN:
                self._walks.settle(self)  # Sent before the good-bye came in, and so for it as well.
            self._answer(writes)
        if incoming.rest:
            self._set_reading(False)
            if self._room() > 0:
                self._read_on()
        self._on_input()

    def _read_on(self) -> None:
        """Go on with what is left of the last read, at a turn of its own; else with reading."""
        incoming = self._incoming
        if incoming is None or not incoming.rest:
            self._set_reading(True)
        elif not incoming.due:
            incoming.due = True
            self._engine.call_soon(self._take_rest, incoming)

    def _take_rest(self, incoming: Incoming) -> None:
        incoming.due = False
        try:
            self._receive(b"")
            if not incoming.rest and self._room() > 0:
                self._set_reading(True)
        except Exception as error:
            self._fail(error)

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

    # The heartbeat.

    def _listens(self) -> bool:
        """Whether the peer can be asked for a sign of life, and would be heard."""
        # One that does not read is the outbox's business: a ping would wait behind the rest.
        return self.state is State.OPEN and bool(self._events & READ) and self._outbox is None

    def _send_ping(self) -> None:
        self._put(PING_FRAME)

    def _silent(self) -> None:
        """The peer has not answered: it has vanished, and a close frame would reach nobody."""
        self._counters.pings_missed += 1
        self._engine.spawn(
            peerlog.info,
            log,
            "a peer has vanished: nothing was heard for %g s after a ping (%r)",
            self._limits.ping_timeout,
            self,
        )
        self._end(LOST, "")
        self._reset()

    # Ending.

    def _start_closing(self, code: int, reason: str) -> None:
        """Send a close frame of ours; the peer has ``close_timeout`` to answer."""
        protocol = self._listen().protocol
        if protocol.state is PROTOCOL_OPEN:  # Else the peer's own good-bye is being answered.
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
        self._topics, self._policies = (), None
        if self._incoming is not None:
            # Its traceback holds what was inflated so far, for as long as the peer stays.
            self._incoming.protocol.parser_exc = None
        self._deadline = self._engine.call_later(self._limits.close_timeout, self._abort)
        self._read_on()  # Until the peer's end: a close with bytes unread is a reset.
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
        self._engine.spawn(partial(peerlog.error, log, "%r failed", self, exc_info=error))

    def _lose(self) -> None:
        """The peer has gone, or the socket is broken."""
        self._end(LOST, "")
        self._dispose()

    def _abort(self) -> None:
        """The deadline of the close handshake has passed."""
        if self._outbox is not None:
            self._reset()  # A peer that takes nothing.
        else:
            self._dispose()

    def _reset(self) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._dispose()

    def disown(self) -> int:
        """In a forked child: it is the parent's, and over for whoever has it; returns its number.

        Nothing is sent, and nobody is told.
        """
        self.state, self._write, self._outbox = State.CLOSED, len, None
        self.close_code, self.close_reason = LOST, ""
        return self._fd

    def when_disposed(self, function: Callable[..., object], *args: Any) -> bool:
        """Call ``function`` once the descriptor is closed; false when that has happened already."""
        if self.state is State.CLOSED:
            return False
        self._disposed += ((function, args),)
        return True

    def _dispose(self) -> None:
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._engine.unwatch(self._fd)
        if self in self._engine.connections:
            self._engine.connections.discard(self)
            self._counters.connections -= 1
        if self._heartbeat is not None:
            self._heartbeat.discard(self)
        if self._outbox is not None:
            self._walks.backlog.end(self, self._outbox)
            self._outbox = None
        self._sock.close()
        self._on_drained()
        disposed, self._disposed = self._disposed, ()
        for function, args in disposed:
            function(*args)
