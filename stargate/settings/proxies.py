"""Whose word counts: what trusted proxies say of a request, and of the client behind them.

A header can be sent by anybody. It is believed as far as trusted proxies have written it, and is
taken out of everybody else's requests. The names, and what is refused, are waitress's, which knows
one proxy, no networks, no UNIX socket and no prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import unquote

from stargate.settings.parsers import words

#: What ``host_and_port`` calls a peer on a UNIX socket, and ``trusted_proxy`` does.
UNIX = "unix"

FORWARDED = "forwarded"

#: What may be believed.
HEADERS = (
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-prefix",
    FORWARDED,
)

#: What is believed of a trusted proxy where nothing else is said.
DEFAULT = ("x-forwarded-for",)

#: All that no application sees unless it is believed.
CLEARED = {"HTTP_" + name.upper().replace("-", "_"): name for name in (*HEADERS, "x-forwarded-by")}

#: A name or an address, and a port (RFC 9110, section 7.2; RFC 3986, section 3.2.2).
is_host = re.compile(r"(?:[\w.~!$&'()*+,;=%-]+|\[[\w.~:%-]+\])(?::[0-9]{0,5})?", re.ASCII).fullmatch

#: Traefik says ``wss`` of a handshake.
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

_DEFAULT_PORTS = {"http": "80", "https": "443"}

_is_port = re.compile(r"[0-9]{1,5}").fullmatch

#: Segments with something in them, and none that is a slash for somebody: ``//host`` is a URL.
_is_prefix = re.compile(
    r"(?:/(?:[\w.~!$&'()*+,;=:@-]|%(?!2f|5c|[01]|7f)[0-9a-f]{2})+)*/?", re.ASCII | re.IGNORECASE
).fullmatch

#: ``192.0.2.1:4711``, ``[2001:db8::1]`` and ``[2001:db8::1]:4711``, as some proxies write it.
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d+)?|([^:]*)(?::\d+)?").fullmatch

#: One element of ``Forwarded`` up to its comma, and a pair in it (RFC 7239, section 4).
_ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
_PAIR = re.compile(r'\s*([!#$%&\'*+.^`|~\w-]+)=("(?:[^"\\]|\\.)*"|[^;\s",]*)\s*(?:;|$)', re.ASCII)


class MalformedProxyHeader(ValueError):
    """A trusted proxy has sent what makes no sense: the request is refused with 400."""

    def __init__(self, header: str, value: str) -> None:
        super().__init__(f"the header {header} is malformed: {value:.80}")


@dataclass(frozen=True)
class Proxies:
    """The proxies that are trusted, and the headers that are believed of them."""

    networks: tuple[IPv4Network | IPv6Network, ...]
    unix: bool
    headers: frozenset[str]

    def __bool__(self) -> bool:
        return self.unix or bool(self.networks)

    def rewrite(self, environ: dict[str, Any]) -> None:
        """Let ``environ`` say what the client asked for, and who that is.

        What is not believed is taken out. Raises :class:`MalformedProxyHeader`.
        """
        believed: frozenset[str] = frozenset()
        if self and self.trusts(environ["REMOTE_ADDR"]):
            believed = self.headers
        gone = [key for key, name in CLEARED.items() if key in environ and name not in believed]
        if gone:
            for key in gone:
                del environ[key]
            names = {CLEARED[key] for key in gone}
            environ["headers_raw"] = tuple(
                each for each in environ["headers_raw"] if each[0].lower() not in names
            )
        if believed:
            self._believe(environ)

    def trusts(self, peer: str) -> bool:
        """Whether the word of ``peer`` counts, an address or ``unix``."""
        return self.unix if peer == UNIX else _is_in(peer, self.networks)

    def _believe(self, environ: dict[str, Any]) -> None:
        if FORWARDED in self.headers:
            peer, said = self._forwarded(environ)
        else:
            peer = self._forwarded_for(environ)
            said = {
                name.removeprefix("x-forwarded-"): environ.get(key, "").strip()
                for key, name in CLEARED.items()
                if name in self.headers
            }
        if peer != environ["REMOTE_ADDR"]:
            environ["REMOTE_ADDR"] = peer
            environ.pop("REMOTE_PORT", None)  # The proxy's own.
        _rewrite_url(environ, said)

    def _forwarded_for(self, environ: dict[str, Any]) -> str:
        """The client's address; the header is left with what was vouched for.

        It is read from its end, where the nearest proxy has written: each trusted one vouches for
        the entry before its own. What is no address ends it there.
        """
        peer: str = environ["REMOTE_ADDR"]
        entries = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
        for number, entry in enumerate(reversed(entries), 1):
            address = _address(entry.strip())
            if address is None:
                break
            peer = address
            environ["HTTP_X_FORWARDED_FOR"] = ",".join(entries[-number:]).strip()
            if not self.trusts(peer):
                break
        return peer

    def _forwarded(self, environ: dict[str, Any]) -> tuple[str, dict[str, str]]:
        """The same of ``Forwarded``, and what the outermost trusted proxy says besides."""
        peer: str = environ["REMOTE_ADDR"]
        value = environ.get("HTTP_FORWARDED", "")
        elements = _ELEMENT.findall(value)
        if set(_ELEMENT.sub("", value)) - {","}:
            raise MalformedProxyHeader("Forwarded", value)
        said: dict[str, str] = {}
        for number, element in enumerate(reversed(elements), 1):
            pairs = _pairs(element)
            said |= {name: pairs[name] for name in ("host", "proto") if name in pairs}
            environ["HTTP_FORWARDED"] = ",".join(elements[-number:]).strip()
            address = _address(pairs.get("for", ""))
            if address is None:
                break
            peer = address
            if not self.trusts(peer):
                break
        return peer, said


def proxy_names(value: Any) -> tuple[str, ...]:
    """A parser for addresses, networks and ``unix``, with white space or commas between."""
    names = words(value)
    for name in names:
        try:
            trusted((name,))
        except ValueError as error:
            raise ValueError(
                f"{error}; it must be addresses, networks or {UNIX!r}, as in 127.0.0.1 10.0.0.0/8: "
                "no names, ports or schemes"
            ) from None
        if name.lower().startswith("::ffff:"):
            raise ValueError(f"{name!r} is an IPv4 address: it must be written as one")
    return names


def header_names(value: Any) -> tuple[str, ...]:
    """A parser for the headers that are believed: ``forwarded``, or some of the others."""
    names = tuple(name.lower() for name in words(value))
    unknown = [name for name in names if name not in HEADERS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(HEADERS)}")
    if FORWARDED in names and set(names) != {FORWARDED}:
        raise ValueError(f"{FORWARDED!r} says what the others say: believe it or them, not both")
    return names or DEFAULT


def trusted(names: Iterable[str], headers: Iterable[str] = DEFAULT) -> Proxies:
    """The proxies of ``trusted_proxy``, and the headers that are believed of them."""
    names = tuple(names)
    networks = tuple(ip_network(name) for name in names if name != UNIX)
    return Proxies(networks, UNIX in names, frozenset(headers))


@lru_cache(maxsize=1024)
def _is_in(peer: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    address = ip_address(peer.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)


def _rewrite_url(environ: dict[str, Any], said: dict[str, str]) -> None:
    """Have ``environ`` begin its URLs with the scheme, host, port and prefix that were ``said``."""
    if said.get("proto"):
        scheme = _SCHEMES.get(said["proto"].lower())
        if scheme is None:
            raise MalformedProxyHeader("X-Forwarded-Proto", said["proto"])
        environ["wsgi.url_scheme"], environ["SERVER_PORT"] = scheme, _DEFAULT_PORTS[scheme]
        environ.pop("HTTPS", None)
        if scheme == "https":
            environ["HTTPS"] = "on"
    host = _host(environ, said)
    if host != environ.get("HTTP_HOST", ""):
        environ["HTTP_HOST"] = host
        environ["headers_raw"] = tuple(
            (name, host if name.lower() == "host" else value)
            for name, value in environ["headers_raw"]
        )
    prefix = said.get("prefix")
    if prefix:
        if not _is_prefix(prefix):
            raise MalformedProxyHeader("X-Forwarded-Prefix", prefix)
        environ["SCRIPT_NAME"] = unquote(prefix.rstrip("/"), "latin-1")


def _host(environ: dict[str, Any], said: dict[str, str]) -> str:
    """The host that was ``said``, or ``Host``; a port that was said is for one that has none."""
    host, port = said.get("host") or environ.get("HTTP_HOST", ""), said.get("port")
    if said.get("host") and ("," in host or not is_host(host)):
        raise MalformedProxyHeader("X-Forwarded-Host", host)
    if port:
        if not _is_port(port) or not 0 < int(port) < 65536:
            raise MalformedProxyHeader("X-Forwarded-Port", port)
        environ["SERVER_PORT"] = port
        bare = host and ":" not in host.rpartition("]")[2]
        if bare and port != _DEFAULT_PORTS[environ["wsgi.url_scheme"]]:
            host += f":{port}"
    return host


def _pairs(element: str) -> dict[str, str]:
    """The parameters of one element of ``Forwarded``, each of which may be there once."""
    found = [
        (name.lower(), re.sub(r"\\(.)", r"\1", value[1:-1]) if value[:1] == '"' else value)
        for name, value in _PAIR.findall(element)
    ]
    pairs = dict(found)
    if _PAIR.sub("", element).strip() or len(pairs) < len(found):
        raise MalformedProxyHeader("Forwarded", element)
    return pairs


def _address(entry: str) -> str | None:
    found = _WITH_PORT(entry)
    text = (found[1] or found[2] or "") if found is not None else entry
    try:
        return str(ip_address(text))
    except ValueError:
        return None
