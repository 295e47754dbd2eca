"""The body of a request as the application reads it: of a length, or in chunks until the last one.

A body that is not what was announced is an error to whoever reads it, each time; never a short one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

from stargate.engine.head import Malformed, check_field

#: Bytes of a line in a body that comes in chunks: what is longer is no chunk's head.
MOST_OF_LINE = 4096

#: Lines behind the last chunk; the application does not see them.
MOST_TRAILERS = 100

#: Bytes that are read at once of a body which nobody wants.
DISCARDED_AT_ONCE = 65_536

#: What a chunk counts for, beside its bytes, until all others have a turn.
COST_OF_CHUNK = 64

#: The head of a chunk: its size, and extensions, which count for nothing (RFC 9112, section 7.1).
#: A line feed alone ends no line here, as it may in a head: for a proxy it may be within one.
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?\r\n").fullmatch


class BadBody(OSError):
    """The body of a request ends too soon, or is none: its client's doing."""


class Body(io.BufferedReader):
    """``wsgi.input``: ends where the body does, whatever comes behind it on the connection."""

    def __init__(
        self, file: Any, sock: Any, length: int | None, go_on: Callable[[], None] | None = None
    ) -> None:
        """Of ``length`` bytes, or in chunks (``None``); ``go_on`` asks the client for it, once."""
        self._sock = sock
        self.framed = _Framed(file, length, go_on)
        super().__init__(self.framed, io.DEFAULT_BUFFER_SIZE if length != 0 else 1)

    def get_socket(self) -> Any:
        """As eventlet's has it."""
        return self._sock

    def discard(self) -> None:
        """Read what is left of it; raises ``OSError`` where that does not come."""
        while self.framed.more and self.read(DISCARDED_AT_ONCE):
            pass


class _Framed(io.RawIOBase):
    """The bytes of one body; ``more`` is true until the last of them has been read."""

    #: What was wrong with the body.
    failure: Exception | None = None

    def __init__(self, file: Any, length: int | None, go_on: Callable[[], None] | None) -> None:
        self._file, self._chunked = file, length is None
        #: Bytes left of the body, or of the chunk.
        self._left = length or 0
        self._in_chunk = False
        self.more = length != 0
        self.go_on = go_on if self.more else None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.failure is not None:
            raise BadBody(str(self.failure)) from self.failure
        if not self.more:
            return 0
        try:
            self._ask()
            if self._chunked and not self._left and not self._next_chunk():
                return 0
            return self._take(buffer)
        except (OSError, Malformed) as error:
            self.failure = error
            if isinstance(error, Malformed):
                raise BadBody(error.reason) from error
            raise

    def _ask(self) -> None:
        go_on, self.go_on = self.go_on, None
        if go_on is not None:
            go_on()

    def _take(self, buffer: Any) -> int:
        size = int(self._file.readinto1(memoryview(buffer)[: self._left]))
        if not size:
            raise Malformed(400, "the body of the request ends too soon")
        self._left -= size
        self.more = self._chunked or self._left > 0
        return size

    def _next_chunk(self) -> bool:
        """Go to the next chunk; false where there is none."""
        self._file.raw.taken += COST_OF_CHUNK
        if self._in_chunk and self._file.readline(MOST_OF_LINE) != b"\r\n":
            raise Malformed(400, "a chunk is longer than it says, or the body ends too soon")
        found = _CHUNK(self._file.readline(MOST_OF_LINE))
        if found is None:
            raise Malformed(400, "a chunk has no size, or the body ends too soon")
        self._in_chunk, self._left = True, int(found[1], 16)
        if not self._left:
            self._skip_trailers()
            self.more = False
        return self.more

    def _skip_trailers(self) -> None:
        for _ in range(MOST_TRAILERS):
            line = self._file.readline(MOST_OF_LINE)
            if line == b"\r\n":
                return
            if not line.endswith(b"\r\n"):
                break
            check_field(line)
        raise Malformed(400, "the trailers of a chunked body do not end")
