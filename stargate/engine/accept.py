"""Listening sockets: connections are accepted, wait for their first words, and become requests.

``eventlet.wsgi`` has a loop for this as well. It ends when descriptors run out, and it has a
greenlet for each connection that has not said anything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from stargate.engine import current_engine
from stargate.engine.hub import READ, hubs, socket
from stargate.engine.quiet import eventlet
from stargate.engine.wsgi import HttpProtocol, Log

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

#: Seconds without accepting after the process ran out of descriptors.
ACCEPT_PAUSE = 1.0


class HttpServer:
    """Accepts connections on listening sockets and serves an application on them."""

    def __init__(
        self, application: Callable[..., Any], listening: list[Any], settings: ServerSettings
    ) -> None:
        self.engine = current_engine()
        self._listening = listening
        self._open: set[_Conversation] = set()
        #: Those that have not said a word, and until when they may be silent.
        self._silent: dict[_Conversation, float] = {}
        self._silence = settings.keepalive_timeout
        self._sweeping = False
        self._limit = settings.connection_limit
        self._accepting = False
        self._servers = {}
        for sock in listening:
            server = wsgi.Server(
                sock,
                sock.getsockname(),
                application,
                log=Log(),
                protocol=HttpProtocol,
                keepalive=settings.keepalive_timeout,
                url_length_limit=settings.max_request_line,
                socket_timeout=settings.socket_timeout,
                debug=False,
            )
            server.settings = settings
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

    def stop(self) -> None:
        """Accept no more, close the listening sockets, and idle connections with them."""
        self.pause()
        for sock in self._listening:
            sock.close()
        self._listening = []
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
                # Out of descriptors or memory: leave those that wait to the kernel for a moment.
                self.engine.spawn(log.error, "accept failed, pausing for a second: %s", error)
                self.pause()
                self.engine.call_later(ACCEPT_PAUSE, self.start)
                return
            accepted.setblocking(False)
            conversation = _Conversation(self, accepted, address, self._servers[sock.fileno()])
            self._open.add(conversation)
            self._silent[conversation] = monotonic() + self._silence
            self.engine.watch(accepted.fileno(), READ, conversation.begin)
            if not self._sweeping:
                self._sweeping = True
                self.engine.call_later(SWEEP_SECONDS, self._sweep)

    def spoken(self, conversation: _Conversation) -> None:
        """``conversation`` has begun, or will never: it is not waited for any more."""
        self._silent.pop(conversation, None)

    def _sweep(self) -> None:
        """End the connections that have said nothing for too long; the oldest come first."""
        now = monotonic()
        for conversation, end in list(self._silent.items()):
            if end > now:
                break
            conversation.stop()
        self._sweeping = bool(self._silent)
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
        except OSError:
            data = b""
        self._home.spoken(self)
        self._home.engine.unwatch(self._sock.fileno())
        if not data:
            self._close()
            return
        hubs.notify_opened(self._sock.fileno())
        green = self._state[1] = eventlet.greenio.GreenSocket(self._sock, set_nonblocking=False)
        green.settimeout(self._server.socket_timeout)
        self._home.engine.lend(self._run, green, data)

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

    def _close(self) -> None:
        self._sock.close()
        self._home.ended(self)

    def stop(self) -> None:
        """Serve no request after the one that is being served, if any."""
        if self._state[1] is None:
            self._home.spoken(self)
            self._home.engine.unwatch(self._sock.fileno())
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
