"""Many WebSockets in one thread that count what comes: enough of a peer to measure a backplane.

Messages are short, unfragmented and all of one length.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from typing import Any

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Version: 13\r\n\r\n"
)

#: Seconds that anything may take before it counts as broken.
DEADLINE = 60.0


class Broken(Exception):
    """Somebody did not get what was sent, or got more."""


def frame(message: bytes) -> bytes:
    """A text frame of at most 125 bytes, masked with zeros."""
    return bytes((0x81, 0x80 | len(message), 0, 0, 0, 0)) + message


def dial(port: int, path: str) -> socket.socket:
    """An open WebSocket."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(HANDSHAKE.format(path=path, port=port).encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(1)
        if len(head) > 8192 or not head.startswith(b"HTTP/1.1 101"[: len(head)]):
            raise Broken(head.decode("latin-1"))
    return sock


class Crowd:
    """WebSockets at ``where``, pairs of a port and a path."""

    def __init__(self, where: Sequence[tuple[int, str]]) -> None:
        self.sockets = [dial(port, path) for port, path in where]
        self._epoll = select.epoll()
        self._bytes: dict[int, int] = {}
        self._by_fd: dict[int, Any] = {}
        for sock in self.sockets:
            sock.setblocking(False)
            self._by_fd[sock.fileno()] = sock
            self._bytes[sock.fileno()] = 0
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    def wait_for(self, count: int, size: int, deadline: float = DEADLINE) -> float:
        """Until each has ``count`` more messages of ``size`` bytes; when that was."""
        wanted, end = count * (size + 2), time.monotonic() + deadline
        missing = {fd for fd, got in self._bytes.items() if got < wanted}
        while missing:
            if time.monotonic() > end:
                raise Broken(f"{len(missing)} of {len(self.sockets)} did not get everything")
            for fd, _events in self._epoll.poll(1.0):
                data = self._by_fd[fd].recv(262_144)
                if not data:
                    raise Broken("a WebSocket was closed")
                self._bytes[fd] += len(data)
                if self._bytes[fd] >= wanted:
                    missing.discard(fd)
        done = time.monotonic()
        for fd, got in self._bytes.items():
            if got > wanted:
                raise Broken(f"{got} bytes came, and {wanted} were sent")
            self._bytes[fd] = 0
        return done

    def close(self) -> None:
        """Hang up."""
        self._epoll.close()
        for sock in self.sockets:
            sock.close()
