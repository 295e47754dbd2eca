"""One connection to a Redis: commands go out, replies come in, each under a deadline (RESP 2).

redis-py opens the socket, TLS and UNIX included. All else is here, for it sends what nobody asked
for, has one timeout for each system call instead of one for all, and takes five times as long.
"""

from __future__ import annotations

import os
import socket
import ssl
import weakref
from collections.abc import Iterable
from time import monotonic
from typing import Any, Protocol

import hiredis
from redis.connection import SSLConnection
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from stargate.backplane.redis.errors import (
    NO_HANDSHAKE,
    SILENT,
    UNKNOWN_HERE,
    not_opened,
    not_redis,
    parsed,
)

#: Bytes in one read.
READ_SIZE = 65_536

#: The state of a TCP connection that neither side has closed.
ESTABLISHED = 1

_MORE = object()


class Left(Protocol):
    """What knows how many seconds are left; ``left()`` raises ``TimeoutError`` when none are."""

    def left(self) -> float: ...


class Connection:
    """A connection as redis-py makes it (``plain``), and with the names that it has there.

    Whatever fails leaves it unfit for more, but for an error that is the server's reply: then
    :meth:`disconnect` it.
    """

    __slots__ = ("__weakref__", "_heard", "_plain", "_reader", "_sock", "_timeout")

    def __init__(self, plain: Any, timeout: float) -> None:
        plain.redis_connect_func = _nothing  # Logging in is ours.
        self._plain, self._timeout = plain, timeout
        self._reader = hiredis.Reader(replyError=parsed, notEnoughData=_MORE)
        #: ``None`` while it is closed.
        self._sock: Any = None
        #: Whether the server has said anything.
        self._heard = False
        _connections.add(self)

    def connect(self) -> None:
        """Open it and log in, within the ``timeout`` that it was made with."""
        until = _Until(self._timeout)
        try:
            self._dial()
            self._sock = self._plain._sock
            self._log_in(until)
        except BaseException:
            self.disconnect()
            raise

    def disconnect(self) -> None:
        """Close it; in another process than it was opened in, this process's part of it."""
        self._sock = None
        self._plain.disconnect()

    def pack_command(self, *command: Any) -> bytes:
        """One command as it is written."""
        packed: bytes = hiredis.pack_command(command)
        return packed

    def pack_commands(self, commands: Iterable[tuple[Any, ...]]) -> bytes:
        """Several commands as they are written."""
        return b"".join(map(hiredis.pack_command, commands))

    def send_command(self, *command: Any) -> None:
        """:meth:`send_commands` for one."""
        self.send_commands([command])

    def send_commands(self, commands: Iterable[tuple[Any, ...]]) -> None:
        """Send several commands, within the ``timeout`` that it was made with."""
        self.write(self.pack_commands(commands), _Until(self._timeout))

    def write(self, packed: bytes, deadline: Left) -> None:
        """Send commands that are packed; where that fails, the last one is not whole."""
        rest, sock = memoryview(packed), self._open()
        try:
            while rest:
                sock.settimeout(deadline.left())
                rest = rest[sock.send(rest) :]
        except (ConnectionResetError, BrokenPipeError) as error:
            if self._heard or not isinstance(self._plain, SSLConnection):
                raise
            raise ConnectionError(self._unheard()) from error

    def read(self, deadline: Left) -> Any:
        """The next reply; where it is an error of the server, that is raised."""
        try:
            while (reply := self._reader.gets()) is _MORE:
                self._sock.settimeout(deadline.left())
                block = self._sock.recv(READ_SIZE)
                if not block:
                    raise ConnectionError("the server has closed the connection")
                self._reader.feed(block)
                self._heard = True
        except hiredis.HiredisError as error:
            raise ConnectionError(not_redis(error)) from error
        except ConnectionError as error:
            if self._heard:
                raise
            raise ConnectionError(self._unheard()) from error
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _unheard(self) -> str:
        """Why a server has ended the connection before it said anything."""
        # TLS 1.3 is open for us before the server looks at our certificate. The end may overtake
        # what it says of that.
        return UNKNOWN_HERE if isinstance(self._plain, SSLConnection) else SILENT

    def _open(self) -> Any:
        sock = self._sock
        if sock is None:  # Another thread has closed it.
            raise ConnectionError("the connection is closed")
        return sock

    def is_open(self) -> bool:
        """Whether the peer has not hung up, as far as is known: no bytes are sent to find out."""
        sock = self._sock
        if sock is None:
            return False
        if sock.family != socket.AF_UNIX and hasattr(socket, "TCP_INFO"):
            state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
            return bool(state == ESTABLISHED)
        return self._is_silent()

    def _is_silent(self) -> bool:
        try:
            self._sock.settimeout(0)
            self._sock.recv(1)
        except (BlockingIOError, TimeoutError, ssl.SSLWantReadError):
            return True
        except OSError:
            pass
        return False  # Its end, or bytes that nobody has asked for.

    def _dial(self) -> None:
        self._heard = False
        try:
            self._plain.connect()
        except (RedisTimeoutError, TimeoutError) as error:
            if not isinstance(self._plain, SSLConnection):
                raise
            raise TimeoutError(NO_HANDSHAKE.format(self._timeout)) from error
        except (RedisError, OSError, UnicodeError) as error:
            raise ConnectionError(not_opened(error, self._plain)) from error

    def _log_in(self, until: Left) -> None:
        plain = self._plain
        commands: list[tuple[Any, ...]] = []
        if plain.username or plain.password:
            login = (plain.username, plain.password or "") if plain.username else (plain.password,)
            commands.append(("AUTH", *login))
        if plain.client_name:
            commands.append(("CLIENT", "SETNAME", plain.client_name))
        if plain.db:
            commands.append(("SELECT", plain.db))
        if commands:
            self.write(self.pack_commands(commands), until)
        for _ in commands:
            self.read(until)


#: Those that a child of this process has no part of.
_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _leave() -> None:
    for each in list(_connections):
        each.disconnect()


os.register_at_fork(after_in_child=_leave)


def _nothing(_connection: object) -> None:
    """What is done on connecting."""


class _Until:
    """A deadline."""

    def __init__(self, seconds: float) -> None:
        self._end = monotonic() + seconds

    def left(self) -> float:
        left = self._end - monotonic()
        if left <= 0:
            raise TimeoutError("it took too long to connect and log in")
        return left
