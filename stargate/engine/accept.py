"""Listening sockets: connections are accepted, wait for their first words, and become requests.

``eventlet.wsgi`` has a loop for this as well. It ends when descriptors run out, and it has a
greenlet for each connection that has not said anything.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from stargate.engine import STOPPING, current_engine
from stargate.engine.hub import READ, WRITE, hubs, socket
from stargate.engine.quiet import eventlet
from stargate.engine.spare import EXHAUSTED, UNAVAILABLE, Spare
from stargate.engine.tls import TlsSocket
from stargate.engine.wsgi import HttpProtocol, Log
from stargate.proxies import trusted
from stargate.stats import count_refusal

if TYPE_CHECKING:
    from stargate.server import ServerSettings

wsgi = eventlet.wsgi

log = logging.getLogger("stargate.server")

#: Bytes read at once before a request is known: most requests are a single packet.
FIRST_READ = 16_384

#: Seconds between two looks for connections that have said nothing for too long.
SWEEP_SECONDS = 1.0

#: Connections accepted in one turn of the hub.
ACCEPTED_AT_ONCE = 64

#: Errors of ``accept`` that are those of one connection, which has gone.
PASSING = frozenset(
    (
        errno.ECONNABORTED,
        errno.EPERM,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
    )
)

#: Seconds without accepting when a connection can not even be refused.
ACCEPT_PAUSE = 1.0

#: What an environ says of a connection with TLS.
SECURE = {"wsgi.url_scheme": "https", "HTTPS": "on"}


class HttpServer:
    """Accepts connections on listening sockets and serves an application on them.

    With ``tls``, a context, every connection begins with a TLS handshake.
    """

    def __init__(
        self,
        application: Callable[..., Any],
        listening: list[Any],
        settings: ServerSettings,
        tls: Any = None,
    ) -> None:
        self.engine = current_engine()
        self._listening = listening
        self._tls = tls
        self._open: set[_Conversation] = set()
        #: Those that have not said a word, and until when they may be silent; before that, those
        #: in their TLS handshake, and until when that may last. The oldest come first.
        self._silent: dict[_Conversation, float] = {}
        self._shaking: dict[_Conversation, float] = {}
        self._silence, self._patience = settings.keepalive_timeout, settings.header_timeout
        self._sweeping = False
        self._limit = settings.connection_limit
        self._accepting = False
        self._stopping = False
        self._spare = Spare(self.engine, UNAVAILABLE if tls is None else b"")
        self._servers = {}
        for sock in listening:
            server = wsgi.Server(
                sock,
                sock.getsockname(),
                application,
                log=Log(),
                environ={STOPPING: self.is_stopping, **(SECURE if tls is not None else {})},
                protocol=HttpProtocol,
                keepalive=settings.keepalive_timeout,
                url_length_limit=settings.max_request_line,
                socket_timeout=settings.socket_timeout,
                debug=False,
            )
            server.settings = settings
            server.proxies = trusted(settings.trusted_proxy, settings.trusted_proxy_headers)
            server.log_output = settings.access_log
            self._servers[sock.fileno()] = server

    def __len__(self) -> int:
        """How many connections speak HTTP at this moment."""
        return len(self._open)

    def start(self) -> None:
        """Accept from here on."""
        if self._accepting or not self._listening:
            return
        self._accepting = True
        for sock in self._listening:
            self.engine.watch(sock.fileno(), READ, partial(self._accept, sock))

    def pause(self) -> None:
        """Leave new connections in the kernel's queue."""
        if self._accepting:
            self._accepting = False
            for sock in self._listening:
                self.engine.unwatch(sock.fileno())

    def listen_no_more(self) -> None:
        """Close the listening sockets; whoever has been accepted is served."""
        self.pause()
        for sock in self._listening:
            sock.close()
        self._listening = []
        self._spare.close()

    def is_stopping(self) -> bool:
        """Whether it is ending: requests are answered still, but nothing new is to be opened."""
        return self._stopping

    def stop(self) -> None:
        """Accept no more, close the listening sockets, and idle connections with them."""
        self._stopping = True
        self.listen_no_more()
        for conversation in list(self._open):
            conversation.stop()

    def cut(self) -> None:
        """End what is still being served."""
        for conversation in list(self._open):
            conversation.cut()

    def _accept(self, sock: Any, _events: int) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            if len(self._open) >= self._limit:
                self.pause()
                return
            try:
                accepted, address = sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in PASSING and not self._refuse(sock, error):
                    return
                continue
            self._admit(accepted, address, self._servers[sock.fileno()])

    def _refuse(self, sock: Any, error: OSError) -> bool:
        """Refuse a connection for want of descriptors or memory; false to leave it at that."""
        try:
            if error.errno not in EXHAUSTED:
                raise error
            self._spare.refuse(sock, error)
        except BlockingIOError:
            return False
        except OSError:
            self.engine.spawn(log.error, "accept failed, pausing for a second: %s", error)
            self.pause()
            self.engine.call_later(ACCEPT_PAUSE, self.start)
            return False
        return True

    def _admit(self, accepted: Any, address: Any, server: Any) -> None:
        """Wait for the first words of a connection; where there is no room for it, close it."""
        fd = accepted.fileno()
        try:
            accepted.setblocking(False)
            if self._tls is None:
                conversation = _Conversation(self, accepted, address, server)
                waiting, time = self._silent, self._silence
            else:
                secure = TlsSocket(accepted, self._tls)
                conversation = _TlsConversation(self, secure, address, server)
                waiting, time = self._shaking, self._patience
            self.engine.watch(fd, READ, conversation.begin)
        except (OSError, MemoryError) as error:
            accepted.close()
            count_refusal(self.engine.refusals, "memory")
            self.engine.spawn(log.error, "no room for a connection from %s: %r", address, error)
            return
        self._open.add(conversation)
        waiting[conversation] = monotonic() + time
        if not self._sweeping:
            self._sweeping = True
            self.engine.call_later(SWEEP_SECONDS, self._sweep)

    def shaken(self, conversation: _Conversation) -> None:
        """``conversation`` has TLS: from here on it may be silent for as long as any."""
        self._shaking.pop(conversation, None)
        self._silent[conversation] = monotonic() + self._silence

    def unfit(self, address: Any, why: object) -> None:
        """A peer at ``address`` does not speak TLS as it should."""
        count_refusal(self.engine.refusals, "tls")
        self.engine.spawn(log.info, "%s refused: TLS: %s", address, why)

    def spoken(self, conversation: _Conversation) -> None:
        """``conversation`` has begun, or will never: it is not waited for any more."""
        self._silent.pop(conversation, None)
        self._shaking.pop(conversation, None)

    def _sweep(self) -> None:
        """End the connections that have said nothing for too long; the oldest come first."""
        now = monotonic()
        for waiting in (self._silent, self._shaking):
            for conversation, end in list(waiting.items()):
                if end > now:
                    break
                conversation.expire()
        self._sweeping = bool(self._silent or self._shaking)
        if self._sweeping:
            self.engine.call_later(SWEEP_SECONDS, self._sweep)

    def ended(self, conversation: _Conversation) -> None:
        """``conversation`` speaks HTTP no more: it is closed, or a WebSocket now."""
        self._open.discard(conversation)
        if len(self._open) < self._limit:
            self.start()


class _Conversation:
    """One accepted connection for as long as it speaks HTTP; silent, it holds no greenlet."""

    __slots__ = ("_home", "_server", "_sock", "_state")

    def __init__(self, home: HttpServer, sock: Any, address: Any, server: Any) -> None:
        self._home, self._sock, self._server = home, sock, server
        # What eventlet.wsgi wants to be given: it keeps the third up to date.
        self._state = [address, None, wsgi.STATE_IDLE]

    def begin(self, _events: int) -> None:
        """The first bytes have come, or the end."""
        try:
            data = self._sock.recv(FIRST_READ)
        except BlockingIOError:
            return
        except (OSError, MemoryError):
            data = b""
        self._unwatch()
        if not data:
            self._close()
            return
        try:
            hubs.notify_opened(self._sock.fileno())
            green = eventlet.greenio.GreenSocket(self._sock, set_nonblocking=False)
            green.settimeout(self._server.socket_timeout)
            self._state[1:] = green, wsgi.STATE_REQUEST
            self._home.engine.lend(self._run, green, data)
        except MemoryError:
            self._close()
            raise

    def _run(self, green: Any, data: bytes) -> None:
        released = False
        try:
            released = HttpProtocol(self._state, self._server, data).released
        except (KeyboardInterrupt, SystemExit):  # pragma: no cover - ends the process
            raise
        except TimeoutError:
            pass  # It reads or writes nothing for longer than socket_timeout.
        except BaseException:  # eventlet's Timeout is no Exception.
            log.exception("serving %s failed", self._state[0])
        finally:
            if not released:
                green.close()
            self._home.ended(self)

    def _unwatch(self) -> None:
        self._home.spoken(self)
        self._home.engine.unwatch(self._sock.fileno())

    def _close(self) -> None:
        self._unwatch()
        self._sock.close()
        self._home.ended(self)

    def expire(self) -> None:
        """It has said nothing for too long."""
        self._close()

    def stop(self) -> None:
        """Serve no request after the one that is being served, if any."""
        if self._state[1] is None:
            self.begin(0)  # What has come in this very moment is served.
            if self._state[1] is None and self._sock.fileno() >= 0:
                self._close()
            return
        idle = self._state[2] == wsgi.STATE_IDLE
        self._state[2] = wsgi.STATE_CLOSE
        if idle:
            self.cut()

    def cut(self) -> None:
        """Shut the connection, whatever it is doing."""
        with suppress(OSError):  # Gone already, or handed over.
            self._state[1].shutdown(socket.SHUT_RDWR)


class _TlsConversation(_Conversation):
    """One that begins with a handshake, which holds no greenlet either."""

    __slots__ = ("_events", "_shaken")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._events, self._shaken = READ, False

    def begin(self, events: int) -> None:
        """The handshake goes on; behind it, the first bytes of a request have come."""
        if self._shaken or self._shake():
            super().begin(events)

    def _shake(self) -> bool:
        sock = self._sock
        try:
            self._shaken = sock.shake_hands()
        except (OSError, MemoryError) as error:
            if sock.heard:
                self._home.unfit(self._state[0], error)
            self._close()
            return False
        if self._shaken:
            self._home.shaken(self)
        events = READ | WRITE if sock.waits and not self._shaken else READ
        if events != self._events:
            self._home.engine.rewatch(sock.fileno(), events)
            self._events = events
        return self._shaken

    def expire(self) -> None:
        """It has taken too long, for the handshake or behind it."""
        if not self._shaken:
            self._home.unfit(self._state[0], "no handshake in time")
        self._close()
