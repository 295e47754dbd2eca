"""Whose word counts: the address of a client behind proxies that the server has been told to trust.

A header can be sent by anybody. It is believed as far as trusted proxies have written it, and no
further.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from stargate.parsers import words

#: What ``host_and_port`` calls a peer on a UNIX socket, and ``trusted_proxy`` does.
UNIX = "unix"

HEADERS = ("X-Forwarded-For", "Forwarded", "X-Real-IP")

#: ``192.0.2.1:4711``, ``[2001:db8::1]`` and ``[2001:db8::1]:4711``, as some proxies write it.
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d+)?|([^:]*)(?::\d+)?").fullmatch

#: One element of ``Forwarded`` up to its comma, and ``for`` in it (RFC 7239, section 4).
_ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s]*)\s*(?:;|$)', re.IGNORECASE)


@dataclass(frozen=True)
class Proxies:
    """The proxies that are trusted, and the header in which they say who is behind them."""

    networks: tuple[IPv4Network | IPv6Network, ...]
    unix: bool
    header: str

    def __bool__(self) -> bool:
        return self.unix or bool(self.networks)

    def client(self, peer: str, environ: dict[str, Any]) -> str:
        """The address of the client for whom ``peer`` speaks; ``peer`` where it is not trusted.

        The header is read from its end, where the nearest proxy has written: each trusted one
        vouches for the entry before its own. What is no address ends it there.
        """
        if not self._trusts(peer):
            return peer
        for entry in self._entries(environ):
            address = _address(entry)
            if address is None:
                break
            peer = address
            if not self._trusts(address):
                break
        return peer

    def _trusts(self, peer: str) -> bool:
        if peer == UNIX:
            return self.unix
        address = ip_address(peer.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self.networks)

    def _entries(self, environ: dict[str, Any]) -> Iterator[str]:
        """What the header has, the last entry first."""
        value = environ.get("HTTP_" + self.header.upper().replace("-", "_"), "")
        if self.header == "Forwarded":
            for element in reversed(_ELEMENT.findall(value)):
                found = _FOR.search(element.strip())
                yield found[1].strip('"') if found is not None else ""
        else:
            yield from (entry.strip() for entry in reversed(value.split(",")))


def proxy_names(value: Any) -> tuple[str, ...]:
    """A parser for addresses, networks and ``unix``, with white space or commas between."""
    names = words(value)
    for name in names:
        try:
            trusted((name,), HEADERS[0])
        except ValueError as error:
            raise ValueError(
                f"{error}; it must be addresses, networks or {UNIX!r}, as in 127.0.0.1 10.0.0.0/8: "
                "no names, ports or schemes"
            ) from None
        if name.lower().startswith("::ffff:"):
            raise ValueError(f"{name!r} is an IPv4 address: it must be written as one")
    return names


def trusted(names: Iterable[str], header: str) -> Proxies:
    """The proxies of ``trusted_proxy``, and the header in which they say who is behind them."""
    names = tuple(names)
    networks = tuple(ip_network(name) for name in names if name != UNIX)
    return Proxies(networks, UNIX in names, header)


def _address(entry: str) -> str | None:
    found = _WITH_PORT(entry)
    text = (found[1] or found[2] or "") if found is not None else entry
    try:
        return str(ip_address(text))
    except ValueError:
        return None
