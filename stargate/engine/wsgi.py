"""One HTTP request: eventlet's protocol class, with limits and a way out for its socket.

Of ``eventlet.wsgi`` the parsing of what ``head.py`` leaves alone is used. What the application
answers is in ``answer.py``, what it reads in ``body.py``; who waits for requests is in
``conversation.py``.
"""

from __future__ import annotations

import errno
import io
import logging
import time
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper

from stargate.engine import STOCK_INPUT, TAKE_OVER, TakenOver, current_engine, stopping
from stargate.engine.answer import Answer
from stargate.engine.body import Body
from stargate.engine.head import (
    Head,
    Malformed,
    check_beginning,
    check_body,
    check_field,
    check_host,
    check_line,
    host_and_port,
    keeps,
    read_head,
    split_target,
)
from stargate.engine.hub import socket
from stargate.engine.peerlog import peerlog
from stargate.engine.quiet import eventlet
from stargate.engine.tls import TlsSocket
from stargate.settings.proxies import MalformedProxyHeader
from stargate.stats import count_refusal

if TYPE_CHECKING:
    from stargate.engine.conversation import Conversation

wsgi = eventlet.wsgi

log = logging.getLogger("stargate.server")
access_log = logging.getLogger("stargate.access")

#: Seconds that a refused peer has to take what is left of its answers.
FLUSH_SECONDS = 2.0

#: Bytes of one connection that are read or written before all others have a turn, and as how many
#: the fewest count.
AT_ONCE, AT_LEAST = 65_536, 1024

#: What a request is counted as that was refused before it reached the application; else malformed.
CAUSES = {408: "slow", 414: "too_long", 431: "too_long", 503: "busy", 505: "version"}

_EventletProtocol: Any = wsgi.HttpProtocol


class HttpProtocol(_EventletProtocol):
    """One request, whose head is there: eventlet's, with limits, and able to let go of its socket.

    With a ``refusal`` it is answered with that, unread.
    """

    #: The socket has been handed over.
    released = False

    #: The peer may still be sending what nobody will read: a plain close would reset the
    #: connection, and our answer with it.
    refused = False

    #: The method of the request, once its line has been read.
    command: str | None = None

    #: The request's head, where nothing about it is odd.
    head: Head | None = None

    #: The socket is still open: the peer is to be heard to its end.
    lingers = False

    #: What has come of the next request, where the connection stays open for one.
    ahead: bytes | None = None

    def __init__(
        self,
        conn_state: list[Any],
        server: Any,
        data: bytes,
        refusal: Malformed | None,
        conversation: Conversation,
    ) -> None:
        self._data, self._refusal, self.conversation = data, refusal, conversation
        super().__init__(conn_state, server)

    def setup(self) -> None:
        self.connection = self.request
        data = self.__dict__.pop("_data")
        self._incoming = _Stream(self.connection, data)
        self.rfile: Any = io.BufferedReader(self._incoming)
        self.wfile = io.BufferedWriter(_Stream(self.connection, b""), self.wbufsize)
        settings = self.server.settings
        self.head = read_head(data, settings.max_request_line, settings.max_header_size)

    def handle(self) -> None:
        self.close_connection = True
        if self._refusal is not None:
            self.send_error(self._refusal.status, self._refusal.reason)
            return
        self.handle_one_request()
        try:
            self.wfile.flush()
        except OSError:
            self.close_connection = True  # Of the answer, bytes are left that nobody will read.
        if self.conn_state[2] == wsgi.STATE_CLOSE:
            self.close_connection = True

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
        self.environ = self.get_environ()
        try:
            self.handle_one_response()
        finally:
            self.head = None

    def handle_one_response(self) -> None:
        try:
            self.server.proxies.rewrite(self.environ)
        except MalformedProxyHeader as error:
            self.send_error(400, str(error))
        else:
            Answer(self).run(self.server.app)
        self.environ = {}  # What it holds is not kept until the next request.

    def log_answer(self, code: int, size: int, began: float) -> None:
        """A line for the access log; called by the answer."""
        if self.server.log_output:
            host, port = self.get_client_address()
            found = {
                "client_ip": host,
                "client_port": port,
                "date_time": self.log_date_time_string(),
                "request_line": self.requestline,
                "status_code": code,
                "body_length": size,
                "wall_seconds": time.time() - began,
            }
            access_log.info("%s", self.server.log_format % found)

    def _read_request_line(self) -> bytes:
        try:
            check_beginning(self.rfile.peek(1))
            line = bytes(super()._read_request_line())
            most = self.server.settings.max_request_line
            if len(line) >= most:
                raise Malformed(414, f"the request line is longer than {most} bytes")
            return line
        except Malformed as error:
            self.send_error(error.status, error.reason)
            return b""

    def parse_request(self) -> bool:
        most = self.server.settings.max_header_size
        self.rfile = _Headers(self.rfile.fp, most)
        try:
            check_line(self.raw_requestline)
            if super().parse_request():
                self._check_head(self.headers)
                return True
        except Malformed as error:
            self.send_error(error.status, error.reason)
        return False

    def _check_head(self, headers: Any) -> None:
        hosts = headers.get_all("Host", [])
        check_host(self.request_version, hosts)
        lengths = headers.get_all("Content-Length", [])
        check_body(self.request_version, lengths, headers.get_all("Transfer-Encoding", []))
        connection = ",".join(headers.get_all("Connection", []))
        self.close_connection = not keeps(self.request_version, connection)
        self.path, host = split_target(self.command or "", self.path)
        if host is not None and hosts:
            # It is needed, and counts for nothing then (RFC 9112, sections 3.2 and 3.2.2).
            headers.replace_header("Host", host)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request that never reached the application: say why, count it, and close."""
        status = HTTPStatus(code)
        why = explain or message or status.description
        cause = CAUSES.get(code, "malformed")
        # A reason may repeat what a peer has sent.
        peerlog.info(log, "%s refused: %d %.200s", self.client_address, code, why, cause=cause)
        count_refusal(current_engine().refusals, cause)
        text = f"{code} {status.phrase}\n\n{why}\n".encode()
        head = (
            f"HTTP/1.1 {code} {status.phrase}",
            "Connection: close",
            "Content-Type: text/plain; charset=UTF-8",
            f"Content-Length: {len(text)}",
            *(("Retry-After: 10",) if code == HTTPStatus.SERVICE_UNAVAILABLE else ()),
            "",
            "",
        )
        self.wfile.write("\r\n".join(head).encode())
        if self.command != "HEAD":
            self.wfile.write(text)
        self.close_connection = self.refused = True

    def get_environ(self) -> dict[str, Any]:
        head = self.head
        if head is not None:
            environ = self._environ(head)
        else:
            environ = super().get_environ()
            headers: Any = self.headers
            cookies = headers.get_all("Cookie", [])
            if len(cookies) > 1:
                environ["HTTP_COOKIE"] = "; ".join(cookies)
            self._add_body(environ)
        environ["SERVER_PROTOCOL"] = self.request_version
        environ[TAKE_OVER] = self._take_over
        environ["wsgi.file_wrapper"] = FileWrapper
        if "HTTP_UPGRADE" in environ:
            # Whatever the application answers: after a failed upgrade no peer can be sure what the
            # bytes that follow mean.
            self.close_connection = self.refused = True
        if stopping(environ):
            self.close_connection = True
        return environ

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
        environ["wsgi.input"] = environ[STOCK_INPUT] = Body(self.rfile, self.connection, 0)
        environ["eventlet.posthooks"] = []
        environ["eventlet.set_idle"] = self._set_idle
        return environ

    def _add_body(self, environ: dict[str, Any]) -> None:
        chunked = "HTTP_TRANSFER_ENCODING" in environ
        length = None if chunked else int(environ.get("CONTENT_LENGTH") or 0)
        expects = environ.get("HTTP_EXPECT", "").lower() == "100-continue"
        # HTTP/1.0 knows no such answer (RFC 9110, section 10.1.1).
        go_on = self._go_on if expects and self.request_version >= "HTTP/1.1" else None
        body = Body(self.rfile, self.connection, length, go_on)
        environ["wsgi.input"] = environ[STOCK_INPUT] = body
        if chunked:
            # WebOb reads a body without a length only where it is told that it ends.
            environ["wsgi.input_terminated"] = True

    def _go_on(self) -> None:
        self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.wfile.flush()

    def _set_idle(self) -> None:
        self.conn_state[2] = wsgi.STATE_IDLE

    def _take_over(self) -> TakenOver:
        early = self._read_ahead()
        self.released = True
        self.connection.close = _leave_open  # Or it would close the socket when it is collected.
        return TakenOver(self.connection.fd, early, _leave)

    def _read_ahead(self) -> bytes:
        """What has been read of what comes behind the request."""
        self._incoming.leave_socket()
        early: bytes = self.rfile.read() or b""
        sock = self.connection.fd
        return early + sock.take_ready() if isinstance(sock, TlsSocket) else early

    def finish(self) -> None:
        if self.released:
            return
        if not self.close_connection:
            self.ahead = self._read_ahead()
            return
        try:
            if self.refused:
                self.conversation.answered()
                self.lingers = self._say_end()
            if not self.lingers:
                super().finish()
        finally:
            self.rfile.close()  # Left open where the last write has failed, and the socket with it.

    def _say_end(self) -> bool:
        """End our half of the connection; whether the peer has been told."""
        with eventlet.Timeout(FLUSH_SECONDS, False), suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
            return True
        return False


class _Stream(io.RawIOBase):
    """A connection as a file: first what has been read of it already, then the socket."""

    def __init__(self, sock: Any, ahead: bytes) -> None:
        self._sock, self._ahead = sock, ahead
        #: Bytes read or written since everybody else had a turn: eventlet gives way only when
        #: there is nothing to read, or no room to write.
        self.taken = 0
        #: Whether a write has failed: another would wait as long, for what is still buffered.
        self._broken = False

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
        self._give_way()
        size = int(self._sock.recv_into(buffer))
        self.taken += size
        return size

    def write(self, buffer: Any) -> int:
        if self._broken:
            raise BrokenPipeError(errno.EPIPE, "an earlier write has failed")
        self._give_way()
        try:
            size = int(self._sock.send(buffer[:AT_ONCE]))
        except BaseException:
            self._broken = True
            raise
        self.taken += max(size, AT_LEAST)
        return size

    def _give_way(self) -> None:
        if self.taken >= AT_ONCE:
            self.taken = 0
            eventlet.sleep(0)


class Log:
    """What ``eventlet.wsgi`` logs to; what is left of it there says little."""

    info = error = staticmethod(log.info)
    debug = staticmethod(log.debug)


def _leave_open() -> None:
    pass


def _leave(_connection: object) -> list[bytes]:
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
