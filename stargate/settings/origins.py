"""Origins: what a setting may name, and which pages may open a WebSocket; no log, no HTTP.

An origin is a scheme, a host and a port (RFC 6454). Nothing here imports Pyramid when it is
imported: publishers read the settings as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from stargate.settings.parsers import words

DEFAULT_PORTS = {"http": 80, "https": 443}

#: What a client that is no browser may say, and what a page of the same server would.
_PAGES = {"ws": "http", "wss": "https"}

Origin = tuple[str, str, "int | None"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*", re.ASCII).fullmatch
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?", re.ASCII).fullmatch

#: A host that is what it looks like, with or without a port.
_PLAIN = re.compile(r"[a-z0-9.-]+(:[1-9][0-9]{0,3}|:[1-5][0-9]{4})?", re.ASCII).fullmatch

#: Of a scheme that is not the Web's: an id, a name, a dot, or nothing as in ``file://``.
_OTHER = re.compile(r"[\w.~!$&()+;=-]*(:[0-9]{1,5})?", re.ASCII).fullmatch

#: Characters that the codec of Python takes for others, and browsers since 2010 do not.
_DEVIATIONS = frozenset("\u00df\u03c2\u200c\u200d")


def origins(value: Any) -> tuple[str, ...]:
    """A parser for origins with white space or commas between them, as browsers send them.

    ``https://*.example.com`` is what is below a domain, ``*`` every page. Raises ``ValueError`` for
    what no browser sends, and says what is meant.
    """
    return tuple(origin(word) for word in words(value))


def hosts(names: Iterable[str]) -> tuple[str, ...]:
    """Hosts as Pyramid's ``csrf_trusted_origins`` has them, as browsers send them.

    Raises ``ValueError`` for one that has no such form.
    """
    return tuple(map(_punycode, names))


def origin(text: str) -> str:
    """One origin as a browser writes it; raises ``ValueError`` for what can never be one."""
    if text == "*":
        return text
    if text.lower() == "null":
        raise ValueError(
            "'null' is every page without an origin, so it can't be told whose; only * allows it"
        )
    scheme, found, rest = text.partition("://")
    if not found or not _SCHEME(scheme):
        name = text.lstrip("/").rpartition("@")[2]
        name = f"*{name}" if name.startswith(".") else name
        raise ValueError(
            f"{name!r} has no scheme: it must be as in https://{name} or http://{name}"
        )
    scheme = scheme.lower()
    if scheme in _PAGES:
        meant = f"{_PAGES[scheme]}://"
        raise ValueError(
            f"{scheme}:// is no scheme of a page: it must be that of the page, {meant}"
        )
    return _checked(scheme, rest, _normal(scheme, re.split(r"[/?#\\]", rest, maxsplit=1)[0]))


class OriginPolicy:
    """Which pages may open a WebSocket: those of the same host and port, and the trusted ones.

    ``allowed`` are origins as :func:`origins` reads them; ``trusted_hosts`` are hosts as Pyramid's
    ``csrf_trusted_origins`` has them (``.example.com`` for a domain with all below it), over https.
    """

    def __init__(self, allowed: Iterable[str] = (), trusted_hosts: Iterable[str] = ()) -> None:
        named = tuple(allowed)
        self._any = "*" in named
        found = [each for each in map(split_origin, named) if each is not None]
        self._exact = frozenset(each for each in found if not each[1].startswith("*."))
        self._below = tuple(
            (scheme, name[1:], port) for scheme, name, port in found if name.startswith("*.")
        )
        self._trusted_hosts = tuple(trusted_hosts)

    def allows(self, origin: str | None, host: str) -> bool:
        """Whether a page of ``origin`` may connect to the ``Host`` given; no Origin is no page."""
        if origin is None or self._any:
            return True
        scheme, _, rest = origin.partition("://")
        if rest == host and scheme in DEFAULT_PORTS and _PLAIN(host):
            return True  # As nearly always: nothing needs to be taken apart.
        theirs = split_origin(origin)
        if theirs is None:
            return False
        scheme, name, port = theirs
        # By the Origin's scheme: TLS in front of us is not seen here.
        if scheme in DEFAULT_PORTS and (name, port) == split_host(host, scheme):
            return True
        return theirs in self._exact or self._is_below(theirs) or self._is_trusted(theirs)

    def _is_below(self, theirs: Origin) -> bool:
        scheme, name, port = theirs
        return not name.startswith(".") and any(
            name.endswith(domain) and (scheme, port) == (its_scheme, its_port)
            for its_scheme, domain, its_port in self._below
        )

    def _is_trusted(self, theirs: Origin) -> bool:
        scheme, name, port = theirs
        if scheme != "https" or not self._trusted_hosts:  # As Pyramid: over TLS only.
            return False
        from pyramid.util import is_same_domain

        netloc = name if port == DEFAULT_PORTS[scheme] else f"{name}:{port}"
        return any(is_same_domain(netloc, trusted) for trusted in self._trusted_hosts)


def split_origin(origin: str) -> Origin | None:
    """Scheme, host and port of an origin, or ``None`` for one that is none (``null``).

    The port of a scheme that is not the Web's is ``None`` where there is none.
    """
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    scheme = _PAGES.get(parts.scheme, parts.scheme)
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        return None
    if scheme in DEFAULT_PORTS:
        port = DEFAULT_PORTS[scheme] if port is None else port
        return (scheme, parts.hostname, port) if parts.hostname else None
    if not scheme or "://" not in origin or not _OTHER(parts.netloc):
        return None
    return scheme, parts.hostname or "", port


def split_host(host: str, scheme: str) -> tuple[str, int | None] | None:
    """Name and port of a ``Host`` header, the port filled in as ``scheme`` has it."""
    found = split_origin(f"{scheme}://{host}")
    return None if found is None else found[1:]


def _normal(scheme: str, authority: str) -> str:
    """``authority`` as a browser writes it, or as near as it can be told."""
    authority = authority.rpartition("@")[2].lower()
    if scheme not in DEFAULT_PORTS:
        if not _OTHER(authority):
            raise ValueError(f"{authority!r} is no host of a page with {scheme}://")
        return f"{scheme}://{authority}"
    name, port = _name_and_port(authority)
    if name in ("", "*"):
        raise ValueError(
            f"{scheme}:// must have a host: https://example.com, https://*.example.com for what "
            "is below a domain, or * alone for every page"
        )
    shown = "" if port in (None, DEFAULT_PORTS[scheme]) else f":{port}"
    return f"{scheme}://{_host(scheme, name)}{shown}"


def _name_and_port(authority: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(f"//{authority}")
        port = parts.port
        if port == 0:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{authority!r} must be a host, and a port of at most 65535 where it is not the "
            "scheme's own"
        ) from None
    if authority.startswith("["):
        return f"[{ip_address(parts.hostname or '')}]", port
    return parts.hostname or "", port


def _host(scheme: str, name: str) -> str:
    if name.startswith("["):
        return name
    wild, domain = ("*.", name[2:]) if name.startswith("*.") else ("", name)
    if domain.startswith("."):
        raise ValueError(
            f"{name!r} begins with a dot: it must be {scheme}://*{name} for what is below it"
        )
    if "*" in domain:
        raise ValueError(
            f"{name!r}: * must be the whole of the leftmost label, as in {scheme}://*.example.com"
        )
    domain = _punycode(domain)
    if not _NAME(domain):
        raise ValueError(f"{name!r} is no host: it must be as in {scheme}://example.com")
    if domain.rpartition(".")[2].isdigit():
        _check_ipv4(wild, domain)
    return wild + domain


def _check_ipv4(wild: str, domain: str) -> None:
    if wild:
        raise ValueError(f"nothing is below an address: {domain!r} must be a domain")
    try:
        ip_address(domain)
    except ValueError:
        raise ValueError(f"{domain!r} must be an address of four numbers") from None


def _punycode(domain: str) -> str:
    """As browsers send a name that has more than ASCII (RFC 5891)."""
    if domain.isascii():
        return domain
    dot = "." if domain.startswith(".") else ""
    try:
        if not _DEVIATIONS.isdisjoint(domain):
            raise UnicodeError
        return dot + domain.removeprefix(".").encode("idna").decode()
    except UnicodeError:
        meant = ".".join(map(_punycode_of_label, domain.lower().split(".")))
        raise ValueError(f"{domain!r} must be as browsers send it, in punycode: {meant}") from None


def _punycode_of_label(label: str) -> str:
    return label if label.isascii() else f"xn--{label.encode('punycode').decode()}"


def _checked(scheme: str, rest: str, meant: str) -> str:
    """``meant``, if that is what was said."""
    if "@" in rest:
        raise ValueError(f"an origin has no user and no password: it must be {meant}")
    found = re.search(r"[/?#\\]", rest)
    if found is not None:
        said = f"{scheme}://{rest}"
        raise ValueError(f"{said!r} has more than an origin has ({found[0]}): it must be {meant}")
    return meant
