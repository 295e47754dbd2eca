"""The head of a request taken apart in one go, where nothing about it is odd; no I/O.

Odd is a head that is not all there, too long, folded, with a body or an unusual byte in it: what is
left to eventlet and the standard library, which know every case and take their time.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote

#: A header's name (RFC 9110, section 5.6.2), but for the underscore: in an environ it would be
#: taken for a hyphen, and so one header for another.
_NAME = re.compile(r"[!#$%&'*+\-.^`|~0-9A-Za-z]+").fullmatch

#: More are refused with 431, by the standard library.
MOST_HEADERS = 99

#: What comes with one of these is a body, or asks for an answer before one.
_BODY = frozenset(("HTTP_CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING", "HTTP_EXPECT"))


class Head(NamedTuple):
    """One request's line and headers, and its part of the environ."""

    line: str
    method: str
    target: str
    version: str
    headers: tuple[tuple[str, str], ...]
    environ: dict[str, Any]
    #: Bytes of it, the empty line at the end included.
    size: int
    #: Whether the connection ends behind the answer.
    closes: bool

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first header called ``name``, in any case: what eventlet asks of headers."""
        name = name.lower()
        return next((value for key, value in self.headers if key.lower() == name), default)


def read_head(data: bytes, max_line: int, max_headers: int) -> Head | None:
    """The head that ``data`` begins with, or ``None`` for one to be read with more care."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    line, *lines = data[:end].decode("latin-1").split("\r\n")
    if len(line) + 2 >= max_line or end + 4 - len(line) - 2 > max_headers or not line.isprintable():
        return None
    method, _, rest = line.partition(" ")
    target, _, version = rest.partition(" ")
    plain = target.startswith("/") and not target.startswith("//")
    if method not in ("GET", "HEAD") or version != "HTTP/1.1" or not plain:
        return None
    if len(lines) > MOST_HEADERS:
        return None
    headers = []
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "GATEWAY_INTERFACE": "CGI/1.1",
    }
    for each in lines:
        name, colon, value = each.partition(":")
        key = environ_key(name)
        if not colon or key is None or key in _BODY or not each.isprintable():
            return None
        value = value.strip(" ")
        headers.append((name, value))
        if key == "HTTP_CONTENT_TYPE":
            environ.setdefault("CONTENT_TYPE", value)  # The first one counts, as line by line.
        elif key in environ:
            environ[key] += "," + value
        else:
            environ[key] = value
    environ.setdefault("CONTENT_TYPE", "text/plain")  # So says eventlet where there is none.
    path, mark, query = target.partition("?")
    environ["RAW_PATH_INFO"] = path
    environ["PATH_INFO"] = unquote(path, "latin-1") if "%" in path else path
    if mark:
        environ["QUERY_STRING"] = query
    closes = environ.get("HTTP_CONNECTION", "").lower() == "close"
    return Head(line, method, target, version, tuple(headers), environ, end + 4, closes)


@lru_cache(maxsize=1024)
def environ_key(name: str) -> str | None:
    """The key of a header in the environ; ``None`` for what is no name, or has an underscore.

    The same string for all requests: an open WebSocket may keep its environ for days.
    """
    return "HTTP_" + name.replace("-", "_").upper() if _NAME(name) else None


def host_and_port(address: Any) -> tuple[str, str]:
    """The first two parts of a socket's address; a UNIX socket is said to be ``unix``."""
    return (address[0], str(address[1])) if isinstance(address, tuple) else ("unix", "")
