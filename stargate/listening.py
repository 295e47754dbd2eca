"""Listening sockets: from what a setting says to sockets that are bound, and no port shared."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from pyramid.exceptions import ConfigurationError

from stargate.engine.hub import socket
from stargate.parsers import split_address


def listening_sockets(
    names: Iterable[str], *, unix_socket: str, unix_socket_perms: int, backlog: int
) -> list[Any]:
    """The sockets to accept on: one for each address of ``names``, or the UNIX socket given.

    A port in use is an ``OSError``: two servers never share one in silence. A name that is no
    ``host:port``, or that nobody knows, is a ``ConfigurationError``.
    """
    if unix_socket:
        return [_unix_socket(unix_socket, unix_socket_perms, backlog)]
    sockets: list[Any] = []
    try:
        for name in names:
            sockets += _tcp_sockets(name, backlog)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _tcp_sockets(name: str, backlog: int) -> list[Any]:
    """One socket for each address of ``name`` that this machine has."""
    sockets: list[Any] = []
    missing: OSError | None = None
    for family, address in resolve(name):
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


def resolve(name: str) -> list[tuple[int, Any]]:
    """The addresses of ``host:port``; ``ConfigurationError`` for what is no such thing."""
    try:
        host, port = split_address(name)
    except ValueError as error:
        raise ConfigurationError(f"listen = {name!r}: {error}") from error
    try:
        found = socket.getaddrinfo(
            None if host in ("", "*") else host,
            port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except socket.gaierror as error:
        raise ConfigurationError(f"listen = {name!r}: {error}") from error
    return list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))


def describe(address: Any, scheme: str = "http") -> str:
    """An address as a person would type it."""
    if not isinstance(address, tuple):
        return f"unix:{address}"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{scheme}://{host}:{address[1]}"


def _bind(sock: Any, address: Any, name: str) -> None:
    try:
        sock.bind(address)
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        reason = "it is in use" if in_use else os.strerror(error.errno or 0)
        raise OSError(error.errno, f"cannot listen on {name}: {reason}") from error


def _unix_socket(path: str, perms: int, backlog: int) -> Any:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
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
