"""The settings of the server, ``[server:main]``: one table of names, defaults, units and reasons.

As ``server/process.py`` does, this imports no Pyramid before the standard library is patched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stargate.settings.application import Setting

#: Seconds. With a ``backplane_timeout`` to say good-bye to a Redis it is less than the 10 s after
#: which Docker kills.
GRACEFUL_TIMEOUT = 5.0


@dataclass(frozen=True)
class ServerSettings:
    """The values of ``[server:main]``; ``docs/settings.rst`` says what each is for."""

    listen: tuple[str, ...]
    host: str
    port: int
    unix_socket: str
    unix_socket_perms: int
    backlog: int
    connection_limit: int
    header_timeout: float
    keepalive_timeout: float
    socket_timeout: float
    max_request_line: int
    max_header_size: int
    graceful_timeout: float
    access_log: bool
    certfile: str
    keyfile: str
    trusted_proxy: tuple[str, ...]
    trusted_proxy_headers: tuple[str, ...]
    thread_limit: int


def table() -> tuple[Setting, ...]:
    """The settings of the server, with their defaults, units and reasons."""
    from stargate.settings.application import Setting
    from stargate.settings.parsers import (
        addresses,
        at_least,
        flag,
        host_name,
        permissions,
        seconds,
        socket_path,
        text,
    )
    from stargate.settings.proxies import DEFAULT, header_names, proxy_names

    return (
        Setting(
            "listen",
            (),
            addresses,
            "addresses",
            "Where to listen: `host:port`, several with white space or commas between; "
            "`[::1]:6543` for IPv6, `*:6543` for every interface.",
        ),
        Setting("host", "localhost", host_name, "", "Where to listen when `listen` is not given."),
        Setting(
            "port", 6543, at_least(0, most=65535), "", "The port for `host`; 0 takes a free one."
        ),
        Setting(
            "unix_socket",
            "",
            socket_path,
            "path",
            "Listen on this UNIX socket, for a proxy on the same machine, instead of on a port.",
        ),
        Setting(
            "unix_socket_perms",
            0o600,
            permissions,
            "octal",
            "Who may connect to the UNIX socket: by default its owner alone.",
        ),
        Setting(
            "backlog",
            1024,
            at_least(1),
            "connections",
            "How many connections the kernel keeps waiting: a restart brings all browsers back "
            "in one second.",
        ),
        Setting(
            "connection_limit",
            1000,
            at_least(1),
            "requests",
            "How many requests are read or answered at a time. More wait for their turn, at most "
            "`header_timeout`; then 503. Connections that have no whole request hold no place, nor "
            "do open WebSockets. When descriptors run short, idle connections are closed first.",
        ),
        Setting(
            "header_timeout",
            10.0,
            seconds(0.1),
            "seconds",
            "How long a request's line and headers may take as a whole; then 408. A new connection "
            "that sends nothing is closed after this time.",
        ),
        Setting(
            "keepalive_timeout",
            60.0,
            seconds(0.1),
            "seconds",
            "How long a connection may be silent between two requests.",
        ),
        Setting(
            "socket_timeout",
            60.0,
            seconds(0.1),
            "seconds",
            "How long one read of a request's body or one write of an answer may wait. WebSockets "
            "are not bound by it.",
        ),
        Setting(
            "max_request_line",
            8192,
            at_least(64),
            "bytes",
            "The longest request line; a longer one gets 414.",
        ),
        Setting(
            "max_header_size",
            32_768,
            at_least(64),
            "bytes",
            "The most that a request's headers may have together; more gets 431.",
        ),
        Setting(
            "graceful_timeout",
            GRACEFUL_TIMEOUT,
            seconds(0),
            "seconds",
            "After SIGTERM or SIGINT, how long requests and close handshakes may take before they "
            "are cut. A second signal cuts them at once. `docker stop` kills after 10 s: where "
            "this is longer, whoever starts the process must wait longer too.",
        ),
        Setting("access_log", True, flag, "", "A line a request, to the logger `stargate.access`."),
        Setting(
            "certfile",
            "",
            text,
            "path",
            "Speak TLS (1.2 or 1.3), with the certificate in this PEM file; its chain follows it, "
            "and its key too where there is no `keyfile`. A handshake has `header_timeout`.",
        ),
        Setting(
            "keyfile",
            "",
            text,
            "path",
            "The key of `certfile`, in PEM, not encrypted: nobody is there to type a password.",
        ),
        Setting(
            "trusted_proxy",
            (),
            proxy_names,
            "addresses",
            "The proxies whose word counts about who is behind them: addresses, networks as in "
            "`10.0.0.0/8`, and `unix` for whoever connects to the UNIX socket. What they say is in "
            "`trusted_proxy_headers`, which are taken out of everybody else's requests.",
        ),
        Setting(
            "trusted_proxy_headers",
            DEFAULT,
            header_names,
            "headers",
            "The headers that are believed of `trusted_proxy`: some of `x-forwarded-for`, "
            "`x-forwarded-host`, `x-forwarded-proto`, `x-forwarded-port` and "
            "`x-forwarded-prefix`, or `forwarded` (RFC 7239). The proxy has to set each of them in "
            "every request, or a client can. The others are taken out of all requests.",
        ),
        Setting(
            "thread_limit",
            20,
            at_least(1),
            "threads",
            "How many calls of `stargate.run_in_thread` run at a time; more wait for their turn, "
            "and hold up nobody but their own views. All threads share one interpreter: more of "
            "them help work that waits, such as for a database, and no work on the CPU.",
        ),
    )


def read_settings(settings: dict[str, Any]) -> ServerSettings:
    """``settings`` as the values of the server's table; raises ``ConfigurationError``."""
    from pyramid.exceptions import ConfigurationError

    from stargate.settings.application import read

    both = [name for name in ("listen", "host", "port", "unix_socket") if settings.get(name)]
    if len(both) > 1 and both != ["host", "port"]:
        raise ConfigurationError(
            f"{' and '.join(both)} of the server say different things: give listen, or host and "
            "port, or unix_socket"
        )
    if settings.get("trusted_proxy_headers") and not settings.get("trusted_proxy"):
        raise ConfigurationError(
            f"trusted_proxy_headers = {settings['trusted_proxy_headers']!r}: nobody is believed "
            "without a trusted_proxy, the address of the proxy that sends them"
        )
    if settings.get("keyfile") and not settings.get("certfile"):
        raise ConfigurationError(
            f"keyfile = {settings['keyfile']!r}: it is the key of a certfile, and there is none"
        )
    if settings.get("unix_socket") and settings.get("certfile"):
        raise ConfigurationError(
            f"certfile = {settings['certfile']!r}: a UNIX socket has no TLS. It is for a proxy on "
            "this machine, which has the certificate"
        )
    return ServerSettings(**read(table(), settings))
