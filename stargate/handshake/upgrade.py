"""The opening handshake: a WSGI environ in, an acceptance or a refusal out; no sockets.

Key, version, tokens, subprotocol and extensions are judged by the ``websockets`` library; what a
WSGI server has already taken apart, and the Origin, are judged here (RFC 6455, section 4.2).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from time import time
from typing import TYPE_CHECKING, Any

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader, InvalidHeaderFormat, InvalidHeaderValue
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import parse_connection, parse_upgrade
from websockets.http11 import Request
from websockets.server import ServerProtocol

from stargate.engine.peerlog import peerlog
from stargate.settings.origins import OriginPolicy, split_origin
from stargate.settings.proxies import is_host

if TYPE_CHECKING:
    from websockets.extensions import Extension

log = logging.getLogger("stargate.handshake")

#: A window of 4 KiB: a message is compressed on its own, so that a longer one would find little.
WINDOW_BITS = 12


#: Headers that are taken apart, token by token.
TOKENS = ("Connection", "Upgrade", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions")

#: What a 426 has to say (RFC 6455, section 4.4).
UPGRADE_HEADERS = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))

#: The headers of a request that a handshake is judged by.
JUDGED = frozenset(
    (
        "host",
        "origin",
        "upgrade",
        "connection",
        "transfer-encoding",
        "sec-websocket-key",
        "sec-websocket-version",
        "sec-websocket-protocol",
        "sec-websocket-extensions",
    )
)

#: The tokens that such a header may have: each costs some us, and a browser sends five.
MOST_TOKENS = 100

#: Characters of a reason, which may repeat what a peer has sent.
MOST_OF_REASON = 300

#: What the 101 says for itself: an application's headers of these names do not go out.
OWN_HEADERS = frozenset(
    ("connection", "upgrade", "content-length", "content-type", "transfer-encoding", "date")
)


@dataclass(frozen=True)
class Accepted:
    """A handshake that stands: what to answer with, and what was agreed on."""

    headers: tuple[tuple[str, str], ...]
    origin: str | None
    subprotocol: str | None
    extensions: list[Extension] = field(default_factory=list)


@dataclass(frozen=True)
class Refused:
    """A handshake that does not: the HTTP status, what to tell the peer, and its headers.

    ``cause`` is what it is counted as: one word, the same for all refusals of a kind.
    """

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...] = ()
    cause: str = "malformed"


def is_websocket(context: object, request: Any) -> bool:
    """Whether ``request`` asks for a WebSocket; to be used as a Pyramid predicate as well.

    True for a GET whose ``Upgrade`` names ``websocket`` and whose ``Connection`` names
    ``upgrade``, in any case and among others (RFC 6455, section 4.2.1).
    """
    return asks_for_websocket(request.environ)


def asks_for_websocket(environ: dict[str, Any]) -> bool:
    """As :func:`is_websocket`, for the environ of a request."""
    upgrade, connection = environ.get("HTTP_UPGRADE"), environ.get("HTTP_CONNECTION", "")
    return (
        upgrade is not None
        and environ["REQUEST_METHOD"] == "GET"
        and (upgrade == "websocket" or _names(parse_upgrade, upgrade, "websocket"))
        and (connection == "Upgrade" or _names(parse_connection, connection, "upgrade"))
    )


class Negotiator:
    """What a view agrees to: the origins, subprotocols and compression of its handshakes."""

    def __init__(
        self,
        *,
        origins: OriginPolicy,
        subprotocols: Sequence[str] = (),
        compression: bool = False,
    ) -> None:
        self._origins = origins
        self._options: dict[str, Any] = {
            "extensions": [_deflate()] if compression else None,
            "subprotocols": list(subprotocols) or None,
            "logger": log,
        }
        #: Judges one handshake after the other, and keeps nothing of any.
        self._protocol = ServerProtocol(**self._options)

    def judge(self, environ: dict[str, Any]) -> Accepted | Refused:
        """Judge the handshake in ``environ``; nothing is written and nothing raised."""
        try:
            headers = _headers(environ)
        except InvalidHeaderValue as error:
            return Refused(400, str(error)[:MOST_OF_REASON])
        refused = _unfit(environ, headers) or _foreign(environ, headers, self._origins)
        if refused is not None:
            return refused
        request, protocol = Request(environ.get("PATH_INFO") or "/", headers), self._protocol
        try:
            key, extensions, subprotocol = protocol.process_request(request)
        except Exception:
            return self._refusal(request)
        answer = [
            ("Date", http_date(int(time()))),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", key),
        ]
        if extensions is not None:
            answer.append(("Sec-WebSocket-Extensions", extensions))
        if subprotocol is not None:
            answer.append(("Sec-WebSocket-Protocol", subprotocol))
        return Accepted(
            tuple(answer), headers.get("Origin"), protocol.subprotocol, protocol.extensions
        )

    def _refusal(self, request: Request) -> Refused:
        """What the library answers to a handshake that it does not accept."""
        protocol = ServerProtocol(**self._options)
        status = protocol.accept(request).status_code
        upgrade = UPGRADE_HEADERS if status == 426 else ()
        cause = "version" if status == 426 else "malformed"
        return Refused(status, str(protocol.handshake_exc)[:MOST_OF_REASON], upgrade, cause)


@lru_cache(maxsize=2)
def http_date(seconds: int) -> str:
    """The value of a Date header: one string for all answers of a second."""
    return formatdate(seconds, usegmt=True)


def _deflate() -> ServerPerMessageDeflateFactory:
    return ServerPerMessageDeflateFactory(
        server_no_context_takeover=True,
        client_no_context_takeover=True,
        server_max_window_bits=WINDOW_BITS,
        client_max_window_bits=WINDOW_BITS,
    )


def _headers(environ: dict[str, Any]) -> Headers:
    """The request's headers one by one where the server kept them, else as WSGI joined them."""
    raw: Iterable[tuple[str, str]] | None = environ.get("headers_raw")
    if raw is None:
        raw = [
            (name[5:].replace("_", "-"), value)
            for name, value in environ.items()
            if name.startswith("HTTP_")
        ]
    found = Headers(
        (name, value)
        for name, value in raw
        if name.lower() in JUDGED or not value.isprintable()  # A line break is refused anywhere.
    )
    upgrades = found.get_all("Upgrade")
    if upgrades != ["websocket"] and _names(parse_upgrade, ", ".join(upgrades), "websocket"):
        # One of several that the peer would take (RFC 9110, section 7.8): the library wants one.
        del found["Upgrade"]
        found["Upgrade"] = "websocket"
    return found


def _unfit(environ: dict[str, Any], headers: Headers) -> Refused | None:
    """What makes it no handshake, before a key or an origin is looked at."""
    if environ.get("SERVER_PROTOCOL") == "HTTP/0.9" or _is_http_10(environ):
        return Refused(426, "a WebSocket needs HTTP/1.1", UPGRADE_HEADERS, "version")
    hosts = headers.get_all("Host")
    if len(hosts) != 1:
        return Refused(400, f"one Host header is needed, not {len(hosts)}")
    if not is_host(hosts[0]):
        return Refused(400, f"no host of ours: {hosts[0]:.80}")
    if environ.get("CONTENT_LENGTH") not in (None, "", "0") or "Transfer-Encoding" in headers:
        return Refused(400, "a handshake has no body")
    for name in TOKENS:
        if sum(map(_tokens, headers.get_all(name))) > MOST_TOKENS:
            return Refused(400, f"{name} has more than {MOST_TOKENS} tokens")
    versions = headers.get_all("Sec-WebSocket-Version")
    if versions and any(version.strip() != "13" for version in versions):
        return Refused(
            426,
            f"version {', '.join(versions):.80} of the protocol is not spoken here, 13 is",
            UPGRADE_HEADERS,
            "version",
        )
    return None


def _is_http_10(environ: dict[str, Any]) -> bool:
    # eventlet.wsgi says HTTP/1.0 whatever came; only our own server class tells the truth.
    return "stargate.take_over" in environ and environ["SERVER_PROTOCOL"] == "HTTP/1.0"


def _foreign(environ: dict[str, Any], headers: Headers, origins: OriginPolicy) -> Refused | None:
    found = headers.get_all("Origin")
    if len(found) > 1:
        return Refused(400, "one Origin header is allowed, not several")
    origin = found[0] if found else None
    host = environ.get("HTTP_HOST", "")
    if origins.allows(origin, host):
        return None
    peerlog.warning(
        log,
        "refused a WebSocket at %.60r from a page of %.200r: this is host %.200r. %s",
        environ.get("PATH_INFO"),
        origin,
        host,
        "No setting allows that origin but stargate.allowed_origins = *"
        if origin is None or split_origin(origin) is None
        else "If that page is yours, add its origin to stargate.allowed_origins",
    )
    return Refused(403, f"a page of {origin:.80} may not open a WebSocket here", cause="origin")


def _names(parse: Any, value: str, token: str) -> bool:
    if _tokens(value) > MOST_TOKENS:
        return False
    try:
        return any(name.lower() == token for name in parse(value))
    except (InvalidHeader, InvalidHeaderFormat):
        return False


def _tokens(value: str) -> int:
    """How many there may be in a header, at most."""
    return value.count(",") + value.count(";") + 1
