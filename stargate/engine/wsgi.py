"""One HTTP connection: eventlet's protocol class, with limits and a way out for its socket.

Of ``eventlet.wsgi`` the calling of the application is used, and the parsing of what ``head.py``
leaves alone. Who listens and accepts is in ``accept.py``.
"""

from __future__ import annotations

import io
import logging
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from stargate.engine import STOCK_INPUT, TAKE_OVER, TakenOver, current_engine, stopping
from stargate.engine.head import (
    END_OF_HEAD,
    Head,
    Malformed,
    check_beginning,
    check_body,
    check_field,
    check_line,
    host_and_port,
    read_head,
    split_target,
)
from stargate.engine.hub import socket
from stargate.engine.quiet import eventlet
from stargate.engine.tls import TlsSocket
from stargate.proxies import MalformedProxyHeader
from stargate.stats import count_refusal

if TYPE_CHECKING:
    from stargate.connection import Connection

wsgi = eventlet.wsgi

log = logging.getLogger("stargate.server")
access_log = logging.getLogger("stargate.access")

#: How long, and for how many reads, a refused peer is listened to before its connection is closed.
LINGER_SECONDS, LINGER_READS = 2.0, 64

#: Bytes of a line in a body that comes in chunks: what is longer is no chunk's head.
MOST_OF_LINE = 4096

#: Bytes of requests and bodies that one peer may have read before all others have a turn.
READ_AT_ONCE = 65_536

#: What a request is counted as that was refused before it reached the application; else malformed.
CAUSES = {408: "slow", 414: "too_long", 431: "too_long", 505: "version"}

#: What reading from and writing to somebody who has left ends in.
GONE = (
    "BrokenPipeError",
    "ConnectionResetError",
    "ConnectionAbortedError",
    "webob.request.DisconnectionError",
)

_EventletProtocol: Any = wsgi.HttpProtocol


class HttpProtocol(_EventletProtocol):
    """One HTTP connection: eventlet's, with limits, and able to let go of its socket."""

    #: The socket has been handed over.
    released = False

    #: The peer may still be sending what nobody will read: a plain close would reset the
    #: connection, and our answer with it.
    refused = False

    #: The method of the request, once its line has been read.
    command: str | None = None

    #: Runs from the first byte of a request to the end of its headers.
    deadline: Any = None

    #: The first request's head, where it was all there at once and nothing about it was odd.
    head: Head | None = None

    def __init__(self, conn_state: list[Any], server: Any, data: bytes) -> None:
        self._data = data
        super().__init__(conn_state, server)

    def setup(self) -> None:
        self.connection = self.request
        data = self.__dict__.pop("_data")
        self._incoming = _Stream(self.connection, data)
        self.rfile: Any = _Reader(self._incoming)
        self.wfile = io.BufferedWriter(_Stream(self.connection, b""), self.wbufsize)
        settings = self.server.settings
        self.head = read_head(data, settings.max_request_line, settings.max_header_size)

    def handle_one_request(self) -> None:
        head = self.head
        if head is None:
            super().handle_one_request()
            return
        self.rfile.read(head.size)
        self.conn_state[2] = wsgi.STATE_REQUEST
        self.requestline, self.command, self.path = head.line, head.method, head.target
        self.request_version, self.headers = head.version, head
        self.close_connection = head.closes
        self.environ, self.application = self.get_environ(), self.server.app
        try:
            self.handle_one_response()
        except OSError as error:
            if error.errno not in wsgi.BROKEN_SOCK:
                raise
        finally:
            self.head = None

    def _read_request_line(self) -> bytes:
        settings = self.server.settings
        if self.command is not None:
            self.command = None
            eventlet.sleep(0)  # The next request may be here already: everybody else first.
        line = b""
        try:
            self.connection.settimeout(settings.keepalive_timeout)
            data = self.rfile.peek(1)
            if data:
                self.conn_state[2] = wsgi.STATE_REQUEST
                # From the first byte on, line and headers as a whole have a deadline: a byte now
                # and then must not hold a place for ever.
                self.deadline = eventlet.Timeout(settings.header_timeout)
                line = self._whole_line(data)
        except OSError:
            pass  # Silent for too long, or gone.
        except eventlet.Timeout:
            self._refuse_slow()
        except Malformed as error:
            self.send_error(error.status, error.reason)
        if not line:
            self._lift_deadline()
            self.close_connection = True
        return line

    def _whole_line(self, data: bytes) -> bytes:
        check_beginning(data)
        line = bytes(super()._read_request_line())
        if line in END_OF_HEAD:
            # Some say one more than their last body has (RFC 9112, section 2.2).
            line = bytes(super()._read_request_line())
        most = self.server.settings.max_request_line
        if len(line) >= most:
            raise Malformed(414, f"the request line is longer than {most} bytes")
        return line

    def parse_request(self) -> bool:
        most = self.server.settings.max_header_size
        self.rfile = _Headers(self.rfile.fp, most)
        try:
            check_line(self.raw_requestline)
            if super().parse_request():
                self._check_head(self.headers)
                return True
        except (eventlet.Timeout, TimeoutError):
            self._refuse_slow()
        except OSError as error:
            log.info("%s has gone in the middle of a request: %s", self.client_address, error)
            self.close_connection = True
        except Malformed as error:
            self.send_error(error.status, error.reason)
        finally:
            self._lift_deadline()
        return False

    def _check_head(self, headers: Any) -> None:
        lengths = headers.get_all("Content-Length", [])
        check_body(self.request_version, lengths, headers.get_all("Transfer-Encoding", []))
        self.path, host = split_target(self.command or "", self.path)
        if host is not None and len(headers.get_all("Host", [])) == 1:
            # It is needed, and counts for nothing then (RFC 9112, sections 3.2 and 3.2.2).
            headers.replace_header("Host", host)

    def _refuse_slow(self) -> None:
        seconds = self.server.settings.header_timeout
        self.send_error(408, f"the request line and headers took longer than {seconds:g} s")

    def _lift_deadline(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request that never reached the application: say why, count it, and close."""
        status = HTTPStatus(code)
        why = explain or message or status.description
        log.info("%s refused: %d %s", self.client_address, code, why)
        count_refusal(current_engine().refusals, CAUSES.get(code, "malformed"))
        text = f"{code} {status.phrase}\n\n{why}\n".encode()
        head = (
            f"HTTP/1.1 {code} {status.phrase}",
            "Connection: close",
            "Content-Type: text/plain; charset=UTF-8",
            f"Content-Length: {len(text)}",
            "",
            "",
        )
        self.wfile.write("\r\n".join(head).encode())
        if self.command != "HEAD":
            self.wfile.write(text)
        self.close_connection = self.refused = True

    def get_environ(self) -> dict[str, Any]:
        head = self.head
        environ: dict[str, Any] = super().get_environ() if head is None else self._environ(head)
        environ["SERVER_PROTOCOL"] = self.request_version
        environ[TAKE_OVER] = self._take_over
        if "HTTP_UPGRADE" in environ:
            # Whatever the application answers: after a failed upgrade no peer can be sure what the
            # bytes that follow mean.
            self.close_connection = self.refused = True
        if stopping(environ):
            self.close_connection = True
        return environ

    def handle_one_response(self) -> None:
        try:
            self.server.proxies.rewrite(self.environ)
        except MalformedProxyHeader as error:
            self.send_error(400, str(error))
        else:
            super().handle_one_response()

    def get_client_address(self) -> tuple[str, str]:
        """Who is logged: eventlet would write down whatever X-Forwarded-For anybody sends."""
        return self.environ["REMOTE_ADDR"], self.environ.get("REMOTE_PORT", "")

    def _environ(self, head: Head) -> dict[str, Any]:
        """As eventlet makes it, from a head that has no body behind it."""
        environ: dict[str, Any] = self.server.get_environ()
        environ.update(head.environ)
        server, port = host_and_port(self.connection.getsockname())
        environ["SERVER_NAME"], environ["SERVER_PORT"] = server, port
        peer, port = host_and_port(self.client_address)
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = peer, port
        environ["headers_raw"] = head.headers
        environ["wsgi.input"] = environ[STOCK_INPUT] = wsgi.Input(self.rfile, "0", self.connection)
        environ["eventlet.posthooks"] = []
        environ["eventlet.set_idle"] = self._set_idle
        return environ

    def _set_idle(self) -> None:
        self.conn_state[2] = wsgi.STATE_IDLE

    def _take_over(self) -> TakenOver:
        self._incoming.leave_socket()
        early, sock = self.rfile.read() or b"", self.connection.fd
        if isinstance(sock, TlsSocket):
            early += sock.take_ready()
        self.released = True
        self.connection.close = _leave_open  # Or it would close the socket when it is collected.
        return TakenOver(sock, early, _leave)

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


class _Stream(io.RawIOBase):
    """A connection as a file: first what has been read of it already, then the socket."""

    def __init__(self, sock: Any, ahead: bytes) -> None:
        self._sock, self._ahead = sock, ahead
        #: Bytes read since everybody else had a turn: eventlet gives way when nothing is there.
        self._taken = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def leave_socket(self) -> None:
        """From here on there is only what has been read already."""
        self._sock = None

    def readinto(self, buffer: Any) -> int | None:
        ahead = self._ahead
        if not ahead:
            return None if self._sock is None else self._read(buffer)
        size = min(len(ahead), len(buffer))
        buffer[:size], self._ahead = ahead[:size], ahead[size:]
        return size

    def _read(self, buffer: Any) -> int:
        if self._taken >= READ_AT_ONCE:
            self._taken = 0
            eventlet.sleep(0)
        size = int(self._sock.recv_into(buffer))
        self._taken += size
        return size

    def write(self, buffer: Any) -> int:
        return int(self._sock.send(buffer))


class _Reader(io.BufferedReader):
    """A reader whose lines end: of a chunk's head, eventlet asks for all that comes."""

    def readline(self, size: int | None = -1) -> bytes:
        return super().readline(MOST_OF_LINE if size is None or size < 0 else size)


class Log:
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

    error = staticmethod(log.info)  # Of bodies that are wrong or end too soon: the peer's doing.
    debug = staticmethod(log.debug)


def _leave_open() -> None:
    pass


def _leave(_connection: Connection | None) -> list[bytes]:
    wsgi.WSGI_LOCAL.already_handled = True
    return []


class _Headers:
    """A request's headers as a file; ``Malformed`` for what is none, or past ``limit`` bytes."""

    def __init__(self, file: Any, limit: int) -> None:
        self._file, self._left, self._limit = file, limit, limit

    def readline(self, _size: int = -1) -> bytes:
        line: bytes = self._file.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise Malformed(431, f"the headers are longer than {self._limit} bytes")
        check_field(line)
        return line
