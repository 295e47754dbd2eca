"""Listening sockets: from what a setting says to sockets that are bound, and no port shared."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyramid.exceptions import ConfigurationError

from stargate.engine.hub import socket
from stargate.settings.parsers import split_address


def listening_sockets(
    names: Iterable[str],
    *,
    unix_socket: str,
    unix_socket_perms: int,
    backlog: int,
    setting: str = "listen",
) -> list[Any]:
    """The sockets to accept on: one for each address of ``names``, or the UNIX socket given.

    A port in use is an ``OSError``: two servers never share one in silence. A name that is no
    ``host:port``, or that nobody knows, is a ``ConfigurationError``. ``setting`` is what they call
    where the ``names`` come from.
    """
    if unix_socket:
        return [_unix_socket(unix_socket, unix_socket_perms, backlog)]
    sockets: list[Any] = []
    try:
        for name in names:
            sockets += _tcp_sockets(name, backlog, setting)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _tcp_sockets(name: str, backlog: int, setting: str) -> list[Any]:
    """One socket for each address of ``name`` that this machine has."""
    sockets: list[Any] = []
    missing: OSError | None = None
    for family, address in resolve(name, setting):
        if address[1] == 0 and sockets:
            # ``localhost:0`` is one free port, on IPv4 and on IPv6.
            address = (address[0], sockets[0].getsockname()[1], *address[2:])
        try:
            sockets.append(_tcp_socket(family, address, name, backlog))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                for sock in sockets:
                    sock.close()
                raise
            missing = error  # ``localhost`` has an IPv6 address where the machine has no IPv6.
    if not sockets and missing is not None:
        raise missing
    return sockets


def _tcp_socket(family: int, address: Any, name: str, backlog: int) -> Any:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _bind(sock, address, name)
        sock.listen(backlog)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def resolve(name: str, setting: str = "listen") -> list[tuple[int, Any]]:
    """The addresses of ``host:port``; ``ConfigurationError`` for what is no such thing."""
    try:
        host, port = split_address(name)
    except ValueError as error:
        raise ConfigurationError(f"{setting} = {name!r}: {error}") from error
    try:
        found = socket.getaddrinfo(
            None if host in ("", "*") else host,
            port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigurationError(
            f"{setting} = {name!r}: nobody knows this host "
            f"({getattr(error, 'strerror', None) or error}); it must be a name or an address of "
            "this machine, or * for all that it has"
        ) from error
    return list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))


def describe(address: Any, scheme: str = "http") -> str:
    """An address as a person would type it."""
    if not isinstance(address, tuple):
        return f"unix:{address}"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{scheme}://{host}:{address[1]}"


def _bind(sock: Any, address: Any, name: str) -> None:
    try:
        if isinstance(address, str):
            _remove_stale(address)
        sock.bind(address)
    except OSError as error:
        reason = _reason(error, address)
        raise OSError(error.errno, f"cannot listen on {name}: {reason}") from error


def _reason(error: OSError, address: Any) -> str:
    """The cause, and what would be right."""
    if isinstance(address, str):
        if error.errno == errno.EADDRINUSE and not Path(address).is_socket():
            return "something that is no socket has this name; unix_socket must be a new one"
        if error.errno == errno.EACCES:
            return "Permission denied: the user of this process must be able to write its folder"
    elif error.errno == errno.EACCES:
        return (
            "Permission denied: a port below 1024 is for root alone, or for a process with "
            "CAP_NET_BIND_SERVICE (AmbientCapabilities of systemd)"
        )
    known = {
        errno.EADDRINUSE: "it is in use: another program listens there already",
        errno.EADDRNOTAVAIL: "this machine has no such address; * is for all that it has",
        errno.EINVAL: "a link-local address must have its interface, as in [fe80::1%eth0]:6543",
        errno.ENOENT: "No such file or directory: its folder must be there",
        errno.ENOTDIR: "Not a directory: its folder must be one",
    }
    # One of Python's own has no number.
    return known.get(error.errno or 0) or error.strerror or str(error)


def _unix_socket(path: str, perms: int, backlog: int) -> Any:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mask = os.umask(0o777 & ~perms)
        try:
            _bind(sock, path, path)
        finally:
            os.umask(mask)
        sock.listen(backlog)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def remove_unix_socket(path: str, inode: int) -> None:
    """Remove the socket file of a server that ends; not that of one that was started since."""
    with suppress(FileNotFoundError):
        if os.stat(path).st_ino == inode:
            os.unlink(path)


def _remove_stale(path: str) -> None:
    """Remove a socket file that nobody listens on any more; with any other, binding fails."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
