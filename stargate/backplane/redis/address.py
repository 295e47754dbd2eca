"""The URL of a Redis: one server, Sentinels or a Cluster, and how a connection to it is opened.

A password in it is never shown: not in an error, not in a ``repr``.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.backoff import NoBackoff
from redis.connection import Connection as PlainConnection
from redis.connection import SSLConnection, parse_url
from redis.exceptions import RedisError
from redis.retry import Retry

from stargate.backplane.redis.connection import Connection

#: What a URL may not set: timeouts are ``stargate.backplane_timeout``'s, and nothing is sent twice.
OURS = (
    "decode_responses",
    "encoding",
    "encoding_errors",
    "health_check_interval",
    "max_connections",
    "protocol",
    "retry",
    "retry_on_error",
    "retry_on_timeout",
    "socket_connect_timeout",
    "socket_timeout",
    "timeout",
)

FORMS = (
    "redis://host:6379/0, rediss://host:6380/0, unix:///path/to/socket?db=0, "
    "redis+sentinel://host:26379,host:26379/service/0 or redis+cluster://host:6379,host:6379"
)


#: What a URL may set behind its ``?``, and for TLS alone.
OPTIONS = (
    *("client_name", "db", "password", "socket_keepalive", "username"),
    *("sentinel_username", "sentinel_password"),
)
TLS_OPTIONS = (
    *("ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password"),
    *("ssl_cert_reqs", "ssl_check_hostname", "ssl_ciphers"),
)


class BadUrl(ValueError):
    """A URL that names no Redis; its text does not have what stood in the URL."""

    def __init__(self, why: str, *, form: bool = True) -> None:
        right = f"; it must be as in {FORMS}" if form else ""
        super().__init__(f"the URL of the backplane is wrong: {why}{right}")


@dataclass(frozen=True)
class Address:
    """Where a Redis is, and how to log in."""

    #: ``""`` for one server, ``"sentinel"`` or ``"cluster"``.
    kind: str
    hosts: tuple[tuple[str, int], ...]
    #: What Sentinels call the server.
    service: str = ""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    #: How to log in to the Sentinels themselves.
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)
    connection_class: type = PlainConnection

    def connection(self, timeout: float, host: str = "", port: int = 0) -> Connection:
        """A connection, not yet opened, to the server or to the one at ``host`` and ``port``."""
        where = {"host": host, "port": port} if host else {}
        return self._made({**self.options, **where}, timeout)

    def sentinel(self, timeout: float, host: str, port: int) -> Connection:
        """A connection, not yet opened, to the Sentinel at ``host`` and ``port``."""
        return self._made({**self.sentinel_options, "host": host, "port": port}, timeout)

    def _made(self, options: dict[str, Any], timeout: float) -> Connection:
        plain = self.connection_class(
            **options,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
        )
        return Connection(plain, timeout)

    def __str__(self) -> str:
        where = ",".join(f"{bracketed(host)}:{port}" for host, port in self.hosts)
        kind = f" ({self.kind}{f' {self.service}' if self.service else ''})" if self.kind else ""
        return (where or str(self.options.get("path"))) + kind


def parse(url: str) -> Address:
    """What ``url`` says; raises :class:`BadUrl`."""
    scheme, found, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    if base not in ("redis", "rediss", "unix") or kind not in ("", "sentinel", "cluster"):
        raise BadUrl("its scheme is none of those")
    if not found:
        raise BadUrl("it has no ://")
    if base == "unix" and kind:
        raise BadUrl("a UNIX socket has no Sentinels and no Cluster")
    if base != "unix" and "@" in rest.partition("/")[2].partition("?")[0]:
        raise BadUrl("a slash in a password is written %2F, and in an ini file %%2F")
    if not kind:
        return _one(url)
    return _several(base, kind, rest)


def _one(url: str) -> Address:
    options = _options(url)
    kind = options.pop("connection_class", PlainConnection)
    hosts = () if "path" in options else ((options["host"], int(options["port"])),)
    return Address("", hosts, options=options, connection_class=kind)


def _several(base: str, kind: str, rest: str) -> Address:
    where, slash, tail = rest.partition("/")
    if not slash:
        where, mark, tail = rest.partition("?")
        tail = mark + tail
    login, at, hosts = where.rpartition("@")
    path, mark, query = tail.partition("?")
    service, _, database = path.partition("/") if kind == "sentinel" else ("", "", path)
    if kind == "sentinel" and not service:
        raise BadUrl("the name that the Sentinels know the server by is missing")
    if kind == "cluster" and database not in ("", "0"):
        raise BadUrl("a Cluster has database 0 alone")
    found = tuple(_host(each, 26379 if kind == "sentinel" else 6379) for each in hosts.split(","))
    options = _options(f"{base}://{login}{at}localhost:1/{database}{mark}{query}")
    options.pop("connection_class", None)
    options.pop("host"), options.pop("port")
    sentinel_options = {
        name.removeprefix("sentinel_"): options.pop(name)
        for name in ("sentinel_username", "sentinel_password")
        if name in options
    }
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    return Address(
        kind,
        found,
        unquote(service),
        options,
        {**sentinel_options, **tls},
        SSLConnection if base == "rediss" else PlainConnection,
    )


def _host(text: str, port: int) -> tuple[str, int]:
    name, colon, given = text.rpartition(":")
    if not colon or given.endswith("]"):
        name, given = text, str(port)
    inside = name.removeprefix("[").removesuffix("]")
    right = re.fullmatch("[0-9]{1,5}", given) and 0 < int(given) < 65536
    if not inside or not right or (":" in inside and inside == name):
        raise BadUrl("one of its hosts is no host:port")
    return inside, int(given)


def bracketed(host: str) -> str:
    """``host`` as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def _options(url: str) -> dict[str, Any]:
    try:
        options: dict[str, Any] = dict(parse_url(url))
        parts = urlsplit(url)
    except (ValueError, TypeError) as error:
        raise BadUrl(_unread(str(error))) from None
    known = parse_qs(parts.query, keep_blank_values=True)
    if parts.scheme != "unix" and not re.fullmatch("/?[0-9]*", parts.path):
        raise BadUrl("its database is no number")
    if parts.scheme == "unix" and (parts.hostname or "path" not in options):
        raise BadUrl("the path of a UNIX socket has three slashes before it")
    if "," in (parts.hostname or ""):
        raise BadUrl("several hosts are for redis+sentinel:// or redis+cluster://")
    _check(known, tls=parts.scheme == "rediss")
    for name in OURS:
        options.pop(name, None)
    if "path" not in options:
        options.setdefault("host", "localhost")
        options.setdefault("port", 6379)
    try:
        options.get("connection_class", PlainConnection)(
            **{name: value for name, value in options.items() if name not in _NOT_FOR_IT}
        )
    except RedisError:
        raise BadUrl("ssl_cert_reqs must be required, optional or none", form=False) from None
    return options


def _check(given: Collection[str], *, tls: bool) -> None:
    """Raise :class:`BadUrl` for an option that a URL can't have."""
    known = (*OPTIONS, *TLS_OPTIONS) if tls else OPTIONS
    for name in given:
        if name in known:
            continue
        near = get_close_matches(name.lower(), (*OPTIONS, *TLS_OPTIONS, *OURS), 1)
        if name in OURS:
            why = "is not for the URL to say"
        elif not near:
            why = f"is no option of it: there are {', '.join(known)}"
        elif near[0] in OURS:
            why = f"is no option of it, and {near[0]} is not for the URL to say"
        elif near[0] in known:
            why = f"is no option of it: did you mean {near[0]}?"
        else:
            why = f"is wrong there: {near[0]} is for a URL that begins with rediss://"
        raise BadUrl(f"{name} {why}", form=False)
    if "ssl_keyfile" in given and "ssl_certfile" not in given:
        raise BadUrl("ssl_keyfile must have its ssl_certfile beside it", form=False)


def _unread(why: str) -> str:
    """What could not be read, by the words of Python and of redis-py: they may have a password."""
    option = re.match(r"Invalid value for '([a-z_]+)' in connection URL", why)
    if option:
        return f"{option[1]} has a value that makes no sense"
    if why.startswith("Port"):
        return (
            "its port is no number of 0 to 65535 (in a password / is written %2F, # %23, ? %3F, "
            "@ %40 and % %25)"
        )
    return "something in it can't be read"


_NOT_FOR_IT = ("connection_class", "sentinel_username", "sentinel_password")
