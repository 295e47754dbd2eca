"""The head of a request taken apart in one go, where nothing about it is odd; no I/O.

Odd is a head that is not all there, too long, folded, with a body or an unusual byte in it: what is
left to eventlet and the standard library, line by line. They take what means one thing to them and
another to a proxy in front; what that may not be is judged here as well (RFC 9112).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote

from stargate.settings.proxies import is_host

#: A header's name (RFC 9110, section 5.6.2), but for the underscore: in an environ it would be
#: taken for a hyphen, and so one header for another.
_NAME = re.compile(r"[!#$%&'*+\-.^`|~0-9A-Za-z]+").fullmatch

#: More are refused with 431, by the standard library.
MOST_HEADERS = 99

#: What comes with one of these is a body, or asks for an answer before one.
_BODY = frozenset(("HTTP_CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING", "HTTP_EXPECT"))

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"

#: What a request can begin with; an empty line before it is passed over (section 2.2).
_BEGINNING = re.compile(_TOKEN + rb"|[\r\n]").match

#: Method, target and version, with one space between (section 3).
_LINE = re.compile(_TOKEN + rb"+ [^\x00-\x20\x7f]+ HTTP/[0-9]\.[0-9]\r?\n").fullmatch

#: A header's name, with no space behind it, and its value (section 5).
_FIELD = re.compile(_TOKEN + rb"+:[^\x00-\x08\x0a-\x1f\x7f]*\r?\n").fullmatch

#: What a proxy is asked for (section 3.2.2).
_ABSOLUTE = re.compile(r"https?://([^/?#@]+)([/?#].*)?", re.IGNORECASE).fullmatch

#: No body is longer than this many digits say.
is_length = re.compile(r"[0-9]{1,18}").fullmatch

#: Where a head ends, whichever way its lines do.
_END = re.compile(rb"\n\r?\n").search

#: Header lines that end a head.
END_OF_HEAD = (b"\r\n", b"\n")


class Malformed(Exception):
    """A request that cannot be served, the status to refuse it with, and why."""

    def __init__(self, status: int, reason: str) -> None:
        self.status, self.reason = status, reason
        super().__init__(f"{status} {reason}")


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
    plain = target.startswith("/") and not target.startswith("//") and len(lines) <= MOST_HEADERS
    if method not in ("GET", "HEAD") or version != "HTTP/1.1" or not plain:
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
            # No comma may part cookies (RFC 6265, section 5.4).
            environ[key] += ("; " if key == "HTTP_COOKIE" else ",") + value
        else:
            environ[key] = value
    host = environ.get("HTTP_HOST", "")
    if "," in host or not is_host(host):  # With a comma it may be two.
        return None
    environ.setdefault("CONTENT_TYPE", "text/plain")  # So says eventlet where there is none.
    path, mark, query = target.partition("?")
    environ["RAW_PATH_INFO"] = path
    environ["PATH_INFO"] = unquote(path, "latin-1") if "%" in path else path
    if mark:
        environ["QUERY_STRING"] = query
    closes = "HTTP_CONNECTION" in environ and not keeps(version, environ["HTTP_CONNECTION"])
    return Head(line, method, target, version, tuple(headers), environ, end + 4, closes)


def is_whole(data: bytes | bytearray, seen: int, max_line: int, max_headers: int) -> bool:
    """Whether the head that ``data`` begins with is all there, or shows that it never will be.

    Of ``data`` the first ``seen`` bytes have been looked at before.
    """
    if _END(data, max(0, seen - 2)):
        return True
    line = data.find(b"\n") + 1
    if not line:
        return len(data) >= max_line or bool(data and not _BEGINNING(data))
    if seen < line and not _LINE(data[:line]):
        return True
    return line >= max_line or len(data) - line > max_headers


@lru_cache(maxsize=1024)
def environ_key(name: str) -> str | None:
    """The key of a header in the environ; ``None`` for what is no name, or has an underscore.

    The same string for all requests: an open WebSocket may keep its environ for days.
    """
    return "HTTP_" + name.replace("-", "_").upper() if _NAME(name) else None


def host_and_port(address: Any) -> tuple[str, str]:
    """The first two parts of a socket's address; a UNIX socket is said to be ``unix``."""
    return (address[0], str(address[1])) if isinstance(address, tuple) else ("unix", "")


def tokens(value: str) -> list[str]:
    """The words of a header that is a list, in lower case."""
    return [word.strip(" \t") for word in value.lower().split(",")]


def keeps(version: str, connection: str) -> bool:
    """Whether a connection stays, by the request's ``Connection`` (RFC 9112, section 9.3)."""
    options = tokens(connection)
    return "close" not in options and (version >= "HTTP/1.1" or "keep-alive" in options)


def check_beginning(data: bytes) -> None:
    """Raise ``Malformed`` where no request begins like ``data``: its line may never end."""
    if not _BEGINNING(data):
        tls = data.startswith(b"\x16")
        raise Malformed(400, "HTTP is spoken here, not TLS" if tls else "this is not HTTP")


def check_line(line: bytes) -> None:
    """Raise ``Malformed`` for what is no method, target and version."""
    if not _LINE(line):
        raise Malformed(400, "the request line is no method, target and version of HTTP")


def check_field(line: bytes) -> None:
    """Raise ``Malformed`` for a line that is no header: those behind it would not be seen."""
    if not line.endswith(b"\n"):
        raise Malformed(400, "the headers do not end")
    if not _FIELD(line) and line not in END_OF_HEAD:
        what = "a header in two lines" if line[:1] in b" \t" else "no header"
        raise Malformed(400, f"{what}: {line[:80]!r}")


def check_host(version: str, hosts: list[str]) -> None:
    """Raise ``Malformed`` where it is not plain whose page is asked for (section 3.2)."""
    if len(hosts) > 1 or (not hosts and version >= "HTTP/1.1"):
        raise Malformed(400, f"one Host header is needed, not {len(hosts)}")
    for each in hosts:
        host = each.strip(" \t")
        if host and not is_host(host):
            raise Malformed(400, f"no host of ours: {host:.80}")


def check_body(version: str, lengths: list[str], codings: list[str]) -> None:
    """Raise ``Malformed`` where it is not plain how long a body is (section 6.3)."""
    if codings and (lengths or version < "HTTP/1.1"):
        raise Malformed(400, "Transfer-Encoding goes with HTTP/1.1 and without Content-Length")
    if codings and [each.strip(" \t").lower() for each in codings] != ["chunked"]:
        raise Malformed(501, "chunked is the only Transfer-Encoding that is understood here")
    if len(lengths) > 1 or not all(is_length(each.strip(" \t")) for each in lengths):
        raise Malformed(400, "one Content-Length is allowed, of digits alone")


def split_target(method: str, target: str) -> tuple[str, str | None]:
    """Path and query of ``target``, and the host where it names one; raises ``Malformed``."""
    connects = method == "CONNECT"  # For a proxy, a tunnel would begin behind the answer.
    if not connects and (target.startswith("/") or (target == "*" and method == "OPTIONS")):
        return target, None
    found = None if connects else _ABSOLUTE(target)
    if found is None:
        raise Malformed(400, f"{target[:80]!r} is no path")
    host, rest = found.groups("")
    # One slash alone, as the standard library has it of a path: what redirects to it stays here.
    return "/" + rest.lstrip("/"), host
