"""One accepted connection for as long as it speaks HTTP: it waits, parked, for whole heads.

A connection that waits holds no greenlet and no place: the poller collects what comes. Only a
request whose head is there becomes work. Who waits, and for how long, is in ``waiting.py``.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from stargate.engine.head import Malformed, is_whole
from stargate.engine.hub import READ, WRITE, Engine, hubs, socket
from stargate.engine.peerlog import peerlog
from stargate.engine.quiet import eventlet
from stargate.engine.tls import TlsSocket
from stargate.engine.wsgi import HttpProtocol

if TYPE_CHECKING:
    from stargate.settings.server import ServerSettings

wsgi = eventlet.wsgi

log = logging.getLogger("stargate.server")

#: Bytes that are read at once of what a refused peer still sends, and how often.
LINGER_READ, LINGER_READS = 4096, 64

#: Bytes read at once before a request is known: most requests are a single packet.
FIRST_READ = 16_384


class Home(Protocol):
    """What a conversation is told by, and tells: the server that accepted it."""

    engine: Engine
    settings: ServerSettings

    def hears(self, conversation: Conversation, size: int) -> None:
        """The first bytes of a head have come, or more: ``size`` of them by now."""

    def asks(self, conversation: Conversation) -> None:
        """A whole head is there: a request to be served when there is a place."""

    def rests(self, conversation: Conversation) -> None:
        """A request has been answered, and the connection stays."""

    def answered(self, conversation: Conversation) -> None:
        """A request needs its place no more, though its peer may be sending still."""

    def lingers(self, conversation: Conversation) -> None:
        """It has been refused: the peer is heard to its end, or not for long."""

    def shaken(self, conversation: Conversation) -> None:
        """The TLS handshake is over."""

    def unfit(self, address: Any, why: object) -> None:
        """A peer at ``address`` does not speak TLS as it should."""

    def forget(self, conversation: Conversation) -> None:
        """It waits for nothing any more."""

    def ended(self, conversation: Conversation) -> None:
        """The connection is closed, or a WebSocket now."""

    def is_stopping(self) -> bool:
        """Whether nothing new is to be waited for."""


class Conversation:
    """One accepted connection; between requests it holds no greenlet."""

    __slots__ = ("_data", "_home", "_parked", "_reads", "_server", "_sock", "_state")

    def __init__(self, home: Home, sock: Any, address: Any, server: Any) -> None:
        self._home, self._sock, self._server = home, sock, server
        # What eventlet.wsgi wants to be given: it keeps the third up to date.
        self._state = [address, None, wsgi.STATE_IDLE]
        #: What has come of a head.
        self._data: bytes | bytearray = b""
        self._parked = False
        #: How often a refused peer is read from still; none before it is refused.
        self._reads = 0

    def fileno(self) -> int:
        """The descriptor of its socket; -1 where that is closed."""
        return int(self._sock.fileno())

    def park(self) -> None:
        """Wait for bytes; raises ``OSError`` or ``MemoryError`` where there is no room for it."""
        self._home.engine.watch(self._sock.fileno(), READ, self.begin)
        self._parked = True

    def begin(self, _events: int) -> None:
        """Bytes of a head have come, or the end."""
        if self._reads:
            self._hear_out()
            return
        try:
            data = self._sock.recv(FIRST_READ)
        except BlockingIOError:
            return
        except (OSError, MemoryError) as error:
            if self._data:
                why = "%s has gone in the middle of a request: %s"
                self._home.engine.spawn(peerlog.info, log, why, self._state[0], error)
            self.close()
            return
        if data:
            self._take(data)
        elif self._data:
            self.refuse(Malformed(400, "the request has no end"))  # The peer may listen still.
        else:
            self.close()

    def _take(self, data: bytes) -> None:
        """Add ``data`` to the head; the request is told of when that is whole, or never will be."""
        seen = len(self._data)
        if not seen:
            # An empty line before a request is passed over (RFC 9112, section 2.2).
            self._data = data.lstrip(b"\r\n")
        else:
            if isinstance(self._data, bytes):
                self._data = bytearray(self._data)  # It grows at its end, and is not copied.
            self._data += data
        settings = self._home.settings
        if is_whole(self._data, seen, settings.max_request_line, settings.max_header_size):
            self._unpark()
            self._state[2] = wsgi.STATE_REQUEST
            self._home.asks(self)
        elif self._data:
            self._home.hears(self, len(self._data))

    def refuse(self, refusal: Malformed) -> None:
        """Answer with ``refusal``; that takes no place of those who are served."""
        self._unpark()
        self._home.forget(self)
        self.serve(refusal)

    def serve(self, refusal: Malformed | None = None) -> None:
        """Answer the request that has come; in a greenlet that is lent for it."""
        data, self._data = bytes(self._data) if refusal is None else b"", b""
        try:
            if self._state[1] is None:
                hubs.notify_opened(self._sock.fileno())
                self._state[1] = eventlet.greenio.GreenSocket(self._sock, set_nonblocking=False)
            self._state[1].settimeout(self._server.socket_timeout)
            self._home.engine.lend(self._run, data, refusal)
        except MemoryError:
            self.close()
            raise

    def _run(self, data: bytes, refusal: Malformed | None) -> None:
        ahead, released, lingers = None, False, False
        try:
            protocol = HttpProtocol(self._state, self._server, data, refusal, self)
            ahead, released, lingers = protocol.ahead, protocol.released, protocol.lingers
        except TimeoutError:
            pass  # It reads or writes nothing for longer than socket_timeout.
        except BaseException as error:
            peerlog.error(log, "serving %s failed", self._state[0], exc_info=error)
        finally:
            if ahead:
                # It may be a whole request: everybody else first.
                self._home.engine.call_soon(self._rest, ahead)
            elif ahead is not None:
                self._rest(ahead)
            elif lingers:
                self._linger()
            else:
                if not released:
                    self._state[1].close()
                self._home.ended(self)

    def _rest(self, ahead: bytes) -> None:
        """Wait for the next request, of which ``ahead`` has come already."""
        self._state[2] = wsgi.STATE_IDLE
        if self._home.is_stopping():
            self.close()
        elif self._park_or_close():
            self._home.rests(self)
            if ahead:
                self._take(ahead)

    def _park_or_close(self) -> bool:
        try:
            self.park()
        except (OSError, MemoryError):
            self.close()
        return self._parked

    def answered(self) -> None:
        """Give up the place: what is left is between the peer and us."""
        self._home.answered(self)

    def _linger(self) -> None:
        """Hear a refused peer out, parked: closed before, our answer might be lost in a reset."""
        self._reads = LINGER_READS
        if self._park_or_close():
            self._home.lingers(self)

    def _hear_out(self) -> None:
        try:
            data = self._sock.recv(LINGER_READ)
        except BlockingIOError:
            return
        except (OSError, MemoryError):
            data = b""
        self._reads -= 1
        if not data or not self._reads:
            self.close()

    def _unpark(self) -> None:
        if self._parked:
            self._parked = False
            self._home.engine.unwatch(self._sock.fileno())

    def close(self) -> None:
        """Close the connection, which serves nothing, and say so to the peer."""
        self._unpark()
        if self._state[1] is not None:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)  # With TLS it is said there as well.
            self._state[1].close()
        else:
            self._sock.close()
        self._home.ended(self)

    def expire(self) -> None:
        """Nothing has come for too long, or too little of a head."""
        if self._data:
            seconds = self._home.settings.header_timeout
            why = f"the request line and headers took longer than {seconds:g} s"
            self.refuse(Malformed(408, why))
        else:
            self.close()

    def make_room(self) -> None:
        """Close, unless a request has come this very moment."""
        self.begin(0)
        if self._parked:
            self.close()

    def stop(self) -> None:
        """Serve no request after the one that has begun, if any."""
        if self._parked:
            if not self._data and not self._reads:
                self.make_room()
        elif self._state[1] is not None:
            idle = self._state[2] == wsgi.STATE_IDLE
            self._state[2] = wsgi.STATE_CLOSE
            if idle:
                self.cut()

    def cut(self) -> None:
        """End the connection, whatever it is doing."""
        if self._parked or self._state[1] is None:
            self.close()
            return
        with suppress(OSError):  # Gone already, or handed over.
            self._state[1].shutdown(socket.SHUT_RDWR)


class TlsConversation(Conversation):
    """One that begins with a TLS handshake, which holds no greenlet either."""

    __slots__ = ("_context", "_events", "_shaken")

    def __init__(self, *args: Any, context: Any) -> None:
        super().__init__(*args)
        self._context, self._events, self._shaken = context, READ, False

    def begin(self, events: int) -> None:
        """The handshake goes on; behind it, bytes of a request have come."""
        if self._shaken or self._shake():
            super().begin(events)

    def _shake(self) -> bool:
        try:
            if self._context is not None:
                # Not before: OpenSSL's part of a connection that says nothing has 20 KiB.
                self._sock, self._context = TlsSocket(self._sock, self._context), None
            self._shaken = self._sock.shake_hands()
        except (OSError, MemoryError) as error:
            if getattr(self._sock, "heard", False):
                self._home.unfit(self._state[0], error)
            self.close()
            return False
        if self._shaken:
            self._home.shaken(self)
        events = READ | WRITE if self._sock.waits and not self._shaken else READ
        if events != self._events:
            self._home.engine.rewatch(self._sock.fileno(), events)
            self._events = events
        return self._shaken

    def expire(self) -> None:
        """It has taken too long, for the handshake or behind it."""
        if not self._shaken:
            self._home.unfit(self._state[0], "no handshake in time")
        super().expire()
