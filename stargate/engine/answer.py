"""One answer of the application, put on the wire as HTTP/1.1 has it (RFC 9112); no parsing.

``eventlet.wsgi`` has this as well. It sends bodies where none may be, keeps open what the
application closes, holds small pieces back, and takes the application's errors for the peer's.
"""

from __future__ import annotations

import logging
import re
import socket
import time
import traceback
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Any

from stargate.engine import STOCK_INPUT
from stargate.engine.head import is_length, tokens
from stargate.engine.peerlog import peerlog
from stargate.engine.quiet import eventlet

wsgi = eventlet.wsgi

log = logging.getLogger("stargate.server")

#: Pieces of an answer that are all there and no more bytes than this together leave as one.
JOINED = 65_536

#: How long the rest of a body that nobody reads may take.
DISCARD_SECONDS = 5.0

#: What an application answers with when there is nothing to wait for.
ALL_THERE = (list, tuple)

Headers = list[tuple[str, str]]

#: A status, and a header (RFC 9112, sections 4 and 5): nothing in them ends a line, or is cut.
_STATUS = re.compile(r"[1-9][0-9]{2}( [\t\x20-\x7e\x80-\xff]*)?").fullmatch
_FIELD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [\t\x20-\x7e\x80-\xff]*").fullmatch


class Answer:
    """What a WSGI application answers to one request on ``http``, an ``HttpProtocol``."""

    def __init__(self, http: Any) -> None:
        self._http, self._file, self._environ = http, http.wfile, http.environ
        self._body = http.environ[STOCK_INPUT]
        self._line, self._code, self._headers = "", 200, []  # type: str, int, Headers
        #: The head is on its way.
        self._sent = False
        #: How the body is sent: none, in chunks, or of a length, of which so much is left.
        self._bodiless = self._chunked = False
        self._left: int | None = None
        self._excess = 0
        #: The peer does not take it.
        self._gone: OSError | None = None
        self._size = 0

    def run(self, application: Any) -> None:
        """Call ``application`` and send what it answers; its errors end up in the log."""
        began = time.time()
        try:
            handed_over = self._call(application)
        except BaseException as error:
            handed_over = False
            self._fail(error)
        if not handed_over:
            self._finish_body()
        for hook, args, kwargs in self._environ["eventlet.posthooks"]:
            hook(self._environ, *args, **kwargs)
        self._http.log_answer(self._code, self._size, began)

    def _call(self, application: Any) -> bool:
        """Whether the connection has been taken out of WSGI meanwhile."""
        wsgi.WSGI_LOCAL.already_handled = False
        result = application(self._environ, self.start_response)
        try:
            size, pieces = None, result
            if isinstance(result, ALL_THERE):
                size = sum(map(len, result))
                if size <= JOINED:
                    pieces = [b"".join(result)]
            self._send_pieces(pieces, size)
            if wsgi.WSGI_LOCAL.already_handled:
                self._http.close_connection = True
                return True
            self._end()
        finally:
            if hasattr(result, "close"):
                result.close()
        return False

    def start_response(self, status: str, headers: Headers, exc_info: Any = None) -> Any:
        """As PEP 3333 has it."""
        if exc_info is not None:
            try:
                if self._sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._line:
            raise AssertionError("start_response was called a second time, without exc_info")
        if not _STATUS(status):
            raise ValueError(f"{status!r} is no status of an answer")
        self._line, self._code, self._headers = status, int(status[:3]), list(headers)
        return self.write

    def write(self, data: bytes) -> None:
        """Send ``data``, all of it, before anything else."""
        head = b"" if self._sent else self._head(None)
        self._put(head, data)

    def _send_pieces(self, pieces: Iterable[bytes], size: int | None) -> None:
        for piece in pieces:
            if piece:
                self._put(b"" if self._sent else self._head(size), piece)

    def _end(self) -> None:
        if not self._sent:
            self._put(self._head(0), b"")
        if self._chunked:
            self._put(b"0\r\n\r\n", b"")
        if self._left or self._excess:
            self._http.close_connection = True
            log.error(
                "the application's answer to %r is %d bytes %s than its Content-Length",
                self._http.requestline,
                self._left or self._excess,
                "shorter" if self._left else "longer",
            )

    # The head.

    def _head(self, size: int | None) -> bytes:
        """Status line and headers; the body is of ``size`` bytes, if that is known."""
        if not self._line:
            raise AssertionError("the application has not called start_response")
        http, code = self._http, self._code
        if code < 200:
            raise AssertionError(f"{self._line!r} is no answer: another one follows it")
        self._chunked, self._left = False, None
        self._bodiless = code in (204, 304) or self._environ["REQUEST_METHOD"] == "HEAD"
        if self._body.framed.go_on is not None:
            # The body has not been asked for, and may come or not (RFC 9110, section 10.1.1).
            http.close_connection = True
            self._body.framed.go_on = _ask_no_more
        lines = [f"HTTP/1.1 {self._line}", *self._fields(), *self._framing(size)]
        return "\r\n".join((*lines, "", "")).encode("latin-1")

    def _fields(self) -> list[str]:
        """The application's headers, but for what is the server's to say."""
        lines, dated = [], False
        for name, value in self._headers:
            key, line = name.lower(), f"{name}: {value}"
            if ":" in name or not _FIELD(line):
                raise ValueError(f"the header {name!r} of an answer has what no header may have")
            if key == "content-length":
                if self._code == 204:
                    continue  # RFC 9110, section 8.6.
                if self._left is not None or not is_length(str(value)):
                    raise ValueError(f"the header {name!r} of an answer is no length, or a second")
                self._left = int(value)
            elif key == "transfer-encoding":
                continue  # How the body is sent is the server's to say (PEP 3333).
            elif key == "connection" and "close" in tokens(value):
                self._http.close_connection = True
                continue
            dated = dated or key == "date"
            lines.append(line)
        if not dated:
            lines.append(_date(int(time.time())))
        return lines

    def _framing(self, size: int | None) -> list[str]:
        """How the body ends, and whether the connection stays (RFC 9112, sections 6.3 and 9.3)."""
        http, lines = self._http, []
        old = http.request_version < "HTTP/1.1"
        if self._bodiless:
            self._left = None
        elif self._left is None:
            if size is not None:
                self._left = size
                lines.append(f"Content-Length: {size}")
            elif old:
                http.close_connection = True
            else:
                self._chunked = True
                lines.append("Transfer-Encoding: chunked")
                with suppress(OSError):  # A UNIX socket has no such thing.
                    http.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if http.close_connection:
            lines.append("Connection: close")
        elif "keep-alive" in tokens(self._environ.get("HTTP_CONNECTION", "")):
            lines.append("Connection: keep-alive")
            lines.append(f"Keep-Alive: timeout={max(1, int(http.server.keepalive))}")
        return lines

    # The wire.

    def _put(self, head: bytes, data: bytes) -> None:
        if self._bodiless:
            data = b""
        elif self._left is not None:
            excess = len(data) - self._left
            if excess > 0:
                self._excess += excess
                data = data[: self._left]
            self._left -= len(data)
        parts = [head, data]
        if self._chunked and data:
            parts = [head, b"%x\r\n" % len(data), data, b"\r\n"]
        self._sent = True
        try:
            for part in parts:
                if part:
                    self._file.write(part)
                    self._size += len(part)
            self._file.flush()
        except OSError as error:
            self._gone = error
            raise

    # What goes wrong.

    def _fail(self, error: BaseException) -> None:
        http, failure = self._http, self._body.framed.failure
        http.close_connection = True
        if self._gone is not None:
            peerlog.info(log, "a peer has gone before its answer: %r", self._gone)
        elif failure is None:
            try:
                log.error("the application raised an exception\n%s", traceback.format_exc())
            finally:
                self._say_sorry()  # A handler of the log may raise as well.
        elif self._sent:
            peerlog.info(log, "%s: %s", http.client_address, failure)
        else:
            self._code = getattr(failure, "status", 408)
            self._sent = True
            with suppress(OSError):
                http.send_error(self._code, str(getattr(failure, "reason", failure)))

    def _say_sorry(self) -> None:
        if self._sent or self._http.released:
            return  # What is missing tells the peer; or it is no HTTP any more.
        text = b"500 Internal Server Error\n"
        self._line, self._code = "500 Internal Server Error", 500
        self._headers = [("Content-Type", "text/plain; charset=UTF-8")]
        with suppress(OSError):
            self._put(self._head(len(text)), text)

    def _finish_body(self) -> None:
        """Let the peer send what it has begun to: a plain close would reset the connection."""
        http, framed = self._http, self._body.framed
        if not framed.more:
            return
        if framed.go_on is not None or framed.failure is not None or self._gone is not None:
            http.close_connection = True
            http.refused = self._gone is None
            return
        http.conversation.answered()
        try:
            with eventlet.Timeout(DISCARD_SECONDS, TimeoutError("the body does not end")):
                self._body.discard()
        except OSError as error:
            http.close_connection = http.refused = True
            peerlog.info(log, "%s: %s", http.client_address, error)


def _ask_no_more() -> None:
    """In the midst of an answer nothing else can be said."""


@lru_cache(maxsize=2)
def _date(seconds: int) -> str:
    return f"Date: {wsgi.format_date_time(seconds)}"
