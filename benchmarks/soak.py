"""Soak: connects and leaves by the thousand while broadcasts go on; the server ends as it began.

``make soak``. Prints memory, descriptors, greenlets and watchers before and after; 1 where one of
them has grown. "Before" is after a first thousand: until then caches and pools fill.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

APP = Path(__file__).parent / "servers" / "soak_app.py"

#: Seconds that anything here may take before it counts as broken.
DEADLINE = 60.0

#: What the memory may grow by, in bytes: pages that are in use by a little each.
MEMORY_TOLERANCE = 2 * 1024 * 1024

EXACT = ("descriptors", "greenlets", "watchers")

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Version: 13\r\n\r\n"
)
PATHS = ("/", "/@@answers", "/@@blocks")

#: A text frame and a close frame from a browser whose mask is zero.
SAYS, CLOSES = b"\x81\x85\0\0\0\0hello", b"\x88\x82\0\0\0\0\x03\xe8"

#: ``SO_LINGER``: closing resets.
RESET = b"\1\0\0\0\0\0\0\0"


class Broken(Exception):
    """The server did not do what it has to."""


@dataclass(frozen=True)
class Soak:
    """What a run found."""

    before: dict[str, int]
    after: dict[str, int]

    @property
    def grown(self) -> list[str]:
        """The figures that did not end where they began."""
        grown = [name for name in EXACT if self.after[name] > self.before[name]]
        if self.after["memory"] > self.before["memory"] + MEMORY_TOLERANCE:
            grown.append("memory")
        return grown


class Crowd:
    """Peers that come, stay for a while, and leave in each way that there is."""

    def __init__(self, port: int, at_once: int, seed: int) -> None:
        self._port, self._at_once, self._random = port, at_once, random.Random(seed)
        self._open: deque[socket.socket] = deque()
        self._count = 0

    def come_and_go(self, count: int) -> None:
        """``count`` connects, each with its leave before this returns."""
        for _ in range(count):
            self._open.append(self._connect())
            if len(self._open) > self._at_once:
                self._leave(self._open.popleft())
        while self._open:
            self._leave(self._open.popleft())

    def _connect(self) -> socket.socket:
        self._count += 1
        # Of several addresses, or the ports of one would run out: each rests for a minute.
        source = f"127.0.0.{2 + self._count % 8}"
        sock = socket.create_connection(
            ("127.0.0.1", self._port), timeout=DEADLINE, source_address=(source, 0)
        )
        path = PATHS[self._count % len(PATHS)]
        sock.sendall(HANDSHAKE.format(path=path, port=self._port).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            data = sock.recv(4096)
            if not data:
                raise Broken(f"the server closed instead of answering: {head!r}")
            head += data
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Broken(f"the server answered {head[:100]!r}")
        if self._random.random() < 0.3:
            sock.sendall(SAYS)
        return sock

    def _leave(self, sock: socket.socket) -> None:
        """Say good-bye and wait for the answer, hang up, or reset."""
        with sock:
            way = self._random.randrange(3)
            if way == 0:
                sock.sendall(CLOSES)
                while sock.recv(65536):
                    pass
            elif way == 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


class Server:
    """``soak_app.py`` in a process of its own."""

    def __enter__(self) -> Server:
        self._process = subprocess.Popen(
            [sys.executable, str(APP)], stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            found = re.search(r"serving on http://127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found[1])
                # A pipe that nobody empties would hold the server up.
                self._drain = Thread(target=deque, args=(self._process.stderr, 0), daemon=True)
                self._drain.start()
                return self
        raise Broken("the server does not start")

    def __exit__(self, *_error: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._drain.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def figures(self) -> dict[str, int]:
        """What the server holds when all its peers have gone."""
        end = time.monotonic() + DEADLINE
        while True:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/@@figures", timeout=DEADLINE
            ) as answer:
                found: dict[str, int] = json.load(answer)
            if not found["open"]:
                return found
            if time.monotonic() > end:
                raise Broken(f"{found['open']} WebSockets are still open")
            time.sleep(0.05)


def soak(connects: int, at_once: int, warm: int, seed: int) -> Soak:
    """Connect ``connects`` times, ``at_once`` being open, after ``warm`` more that do not count."""
    with Server() as server:
        crowd = Crowd(server.port, at_once, seed)
        crowd.come_and_go(warm)
        before = server.figures()
        crowd.come_and_go(connects)
        found = Soak(before, server.figures())
    opened = found.after["opened"] - found.before["opened"]
    if opened != connects:
        raise Broken(f"{connects} connects were {opened} WebSockets to the server")
    return found


def told(found: Soak) -> str:
    """The four figures in a table, and what went on meanwhile."""
    before, after = found.before, found.after
    lines = [f"{'':12} {'before':>10} {'after':>10}"]
    mib = 1024 * 1024
    lines.append(
        f"{'memory':12} {before['memory'] / mib:6.1f} MiB {after['memory'] / mib:6.1f} MiB"
    )
    lines += [f"{name:12} {before[name]:10,} {after[name]:10,}" for name in EXACT]
    lines.append(
        f"{after['opened'] - before['opened']:,} connects and leaves, "
        f"{after['messages'] - before['messages']:,} messages delivered"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--connects", type=int, default=20_000)
    parser.add_argument("--at-once", type=int, default=200)
    parser.add_argument("--warm", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None)
    options: Any = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}", flush=True)
    found = soak(options.connects, options.at_once, options.warm, seed)
    print(told(found))
    for name in found.grown:
        print(f"GROWN: {name}", file=sys.stderr)
    return int(bool(found.grown))


if __name__ == "__main__":
    sys.exit(main())
