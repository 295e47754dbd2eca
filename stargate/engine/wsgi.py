"""HTTP on eventlet's WSGI server: its protocol class with a hand-off and limits, and our own loop.

Of ``eventlet.wsgi`` the parsing and the calling of the application are used. Its accept loop is
not: it ends when descriptors run out, and it cannot let go of a socket.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from stargate.engine import TAKE_OVER, TakenOver, current_engine
from stargate.engine.hub import READ, hubs, socket
from stargate.engine.quiet import eventlet
from stargate.engine.stock import read_ahead

if TYPE_CHECKING:
    from stargate.connection import Connection
    from stargate.server import ServerSettings

wsgi = eventlet.wsgi

log = logging.getLogger("stargate.server")
access_log = logging.getLogger("stargate.access")

#: Connections accepted in one turn of the hub.
ACCEPTED_AT_ONCE = 64

#: How long, and for how many reads, a refused peer is listened to before its connection is closed.
LINGER_SECONDS, LINGER_READS = 2.0, 64

#: What a write to somebody who has left ends in.
GONE = ("BrokenPipeError", "ConnectionResetError", "ConnectionAbortedError")

#: Seconds without accepting after the process ran out of descriptors.
ACCEPT_PAUSE = 1.0


_EventletProtocol: Any = wsgi.HttpProtocol


class HttpProtocol(_EventletProtocol):
    """One HTTP connection: eventlet's, with limits, and able to let go of its socket."""

    #: The socket has been handed over.
    released = False

    #: The peer may still be sending what nobody will read: a plain close would reset the
    #: connection, and our answer with it.
    refused = False

    #: Runs from the first byte of a request to the end of its headers.
    deadline: Any = None

    def _read_request_line(self) -> bytes:
        settings = self.server.settings
        line = b""
        try:
            self.connection.settimeout(settings.keepalive_timeout)
            if self.rfile.peek(1):
                # From the first byte on, line and headers as a whole have a deadline: a byte now
                # and then must not hold a place for ever.
                self.deadline = eventlet.Timeout(settings.header_timeout)
                line = bytes(super()._read_request_line())
        except OSError:
            pass  # Silent for too long, or gone.
        except eventlet.Timeout:
            self.send_error(HTTPStatus.REQUEST_TIMEOUT)
        if not line:
            self._lift_deadline()
            self.close_connection = True
        return line

    def parse_request(self) -> bool:
        self.rfile: Any = _Headers(self.rfile.fp, self.server.settings.max_header_size)
        try:
            return bool(super().parse_request())
        except (eventlet.Timeout, TimeoutError):
            self.send_error(HTTPStatus.REQUEST_TIMEOUT)
        except _HeadersTooLarge:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        finally:
            self._lift_deadline()
        return False

    def _lift_deadline(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request that never reached the application: the status alone, and close."""
        status = HTTPStatus(code)
        log.info("%s refused: %d %s", self.client_address, code, message or status.phrase)
        head = f"HTTP/1.1 {code} {status.phrase}", "Connection: close", "Content-Length: 0", "", ""
        self.wfile.write("\r\n".join(head).encode())
        self.close_connection = self.refused = True

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        environ["SERVER_PROTOCOL"] = self.request_version
        environ[TAKE_OVER] = self._take_over
        if "HTTP_UPGRADE" in environ:
            # Whatever the application answers: after a failed upgrade no peer can be sure what the
            # bytes that follow mean.
            self.close_connection = self.refused = True
        return environ

    def _take_over(self) -> TakenOver:
        early = read_ahead(self.rfile, self.connection)
        self.rfile.close()
        self.wfile.close()
        green, self.released = self.connection, True
        family, kind, protocol = green.family, green.type, green.proto
        taken = socket.socket(family, kind, protocol, fileno=green.fd.detach())
        return TakenOver(taken, early, _leave)

    def finish(self) -> None:
        self._lift_deadline()
        if self.released:
            return
        if self.refused:
            with eventlet.Timeout(LINGER_SECONDS, False), suppress(OSError):
                self._linger()
        try:
            super().finish()
        finally:
            self.rfile.close()  # Left open where the last write has failed, and the socket with it.

    def _linger(self) -> None:
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_WR)
        for _ in range(LINGER_READS):
            if not self.connection.recv(4096):
                break


class _Log:
    """What ``eventlet.wsgi`` logs to: it says "info" for access lines and for tracebacks alike."""

    def info(self, text: str, *args: object) -> None:
        if text.startswith("Traceback"):
            last = text.rstrip().rpartition("\n")[2]
            if last.startswith(GONE):
                log.info("a peer has gone before its answer: %s", last)
                return
            log.error("the application raised an exception\n%s", text)
        else:
            access_log.info(text, *args)

    error = staticmethod(log.error)
    debug = staticmethod(log.debug)


def _leave(_connection: Connection) -> list[bytes]:
    wsgi.WSGI_LOCAL.already_handled = True
    return []


class _HeadersTooLarge(Exception):
    pass


class _Headers:
    """A request's headers as a file that ends with an error past ``limit`` bytes."""

    def __init__(self, file: Any, limit: int) -> None:
        self._file, self._left = file, limit

    def readline(self, _size: int = -1) -> bytes:
        line: bytes = self._file.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise _HeadersTooLarge
        return line


class HttpServer:
    """Accepts connections on listening sockets and serves an application on them."""

    def __init__(
        self, application: Callable[..., Any], listening: list[Any], settings: ServerSettings
    ) -> None:
        self.engine = current_engine()
        self._listening = listening
        self._open: set[_Conversation] = set()
        self._limit = settings.connection_limit
        self._accepting = False
        self._servers = {}
        for sock in listening:
            server = wsgi.Server(
                sock,
                sock.getsockname(),
                application,
                log=_Log(),
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
            hubs.notify_opened(accepted.fileno())
            accepted.setblocking(False)
            green = eventlet.greenio.GreenSocket(accepted, set_nonblocking=False)
            green.settimeout(self._servers[sock.fileno()].socket_timeout)
            conversation = _Conversation(self, green, address)
            self._open.add(conversation)
            self.engine.lend(conversation.run, self._servers[sock.fileno()])

    def ended(self, conversation: _Conversation) -> None:
        """``conversation`` speaks HTTP no more: it is closed, or a WebSocket now."""
        self._open.discard(conversation)
        if len(self._open) < self._limit:
            self.start()


class _Conversation:
    """One accepted connection for as long as it speaks HTTP."""

    __slots__ = ("_home", "_state")

    def __init__(self, home: HttpServer, green: Any, address: Any) -> None:
        self._home = home
        # What eventlet.wsgi wants to be given: it keeps the third up to date.
        self._state = [address, green, wsgi.STATE_IDLE]

    def run(self, server: Any) -> None:
        try:
            server.process_request(self._state)
        except (KeyboardInterrupt, SystemExit):  # pragma: no cover - ends the process
            raise
        except BaseException:  # eventlet's Timeout is no Exception.
            log.exception("serving %s failed", self._state[0])
        finally:
            self._state[1].close()
            self._home.ended(self)

    def stop(self) -> None:
        """Serve no request after the one that is being served, if any."""
        idle = self._state[2] == wsgi.STATE_IDLE
        self._state[2] = wsgi.STATE_CLOSE
        if idle:
            self.cut()

    def cut(self) -> None:
        """Shut the connection, whatever it is doing."""
        with suppress(OSError):  # Gone already, or handed over.
            self._state[1].shutdown(socket.SHUT_RDWR)
