"""The listening sockets that systemd passes to a service that it starts (sd_listen_fds(3))."""

from __future__ import annotations

import logging
import os
from typing import Any

from pyramid.exceptions import ConfigurationError

from stargate.engine.hub import socket
from stargate.server.listening import describe

log = logging.getLogger("stargate.server")

#: The first descriptor that is passed.
FIRST = 3

#: As where a shell or a reloader stands between.
OF_ANOTHER = (
    "sockets of systemd (LISTEN_FDS) are not taken: they are for the process LISTEN_PID = %r, and "
    "this process is %d. ExecStart= must start the server itself, or by exec"
)

_NAMES = ("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES")


def activated(*, tls: bool = False) -> list[Any] | None:
    """The sockets that this process was started with; ``None`` where it was started without.

    They are taken once: the variables are unset, and children of this process inherit no socket.
    Raises ``ConfigurationError`` for what no server can accept connections on, ``tls`` or not.
    """
    whose, count = os.environ.get("LISTEN_PID"), os.environ.get("LISTEN_FDS", "")
    if whose != str(os.getpid()):
        if count:
            log.warning(OF_ANOTHER, whose, os.getpid())
        return None
    for name in _NAMES:
        os.environ.pop(name, None)
    if not (count.isascii() and count.isdigit()):
        raise ConfigurationError(f"LISTEN_FDS = {count!r}: it must be how many sockets there are")
    found = [_taken(fd, tls) for fd in range(FIRST, FIRST + int(count))]
    if not found:
        return None
    scheme = "https" if tls else "http"
    log.info(
        "taken from systemd (LISTEN_FDS), in the place of listen, host, port and unix_socket: %s",
        ", ".join(describe(sock.getsockname(), scheme) for sock in found),
    )
    return found


def _taken(fd: int, tls: bool) -> Any:
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise _wrong(fd, f"it is no socket: {error.strerror}") from error
    why = _unfit(sock, tls)
    if why:
        sock.close()
        raise _wrong(fd, why)
    sock.setblocking(False)
    return sock


def _unfit(sock: Any, tls: bool) -> str:
    if sock.type != socket.SOCK_STREAM:
        return "it must be a stream socket, by ListenStream= of the socket unit"
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "it does not listen: the socket unit must have Accept=no"
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        return f"it must be of IPv4, IPv6 or UNIX, and not {sock.family!r}"
    if tls and sock.family == socket.AF_UNIX:
        return "a UNIX socket has no TLS, and the server has a certfile"
    return ""


def _wrong(fd: int, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"descriptor {fd}, of systemd's socket activation (LISTEN_FDS): {why}"
    )
