"""Pages and handshakes beside thousands of connections that wait: how long do they take?

``python -m benchmarks.waiting``. 5,000 connections say nothing, 2,000 are idle between two requests
and 500 send a byte of a head now and then. What the server ends comes back at once. It is run over
TCP, TLS (silent before, within and after the TLS handshake), a UNIX socket, and with the gunicorn
worker; the same without the crowd is printed beside it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import select
import socket
import ssl
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import trustme

SERVERS = Path(__file__).parent / "servers"

KINDS = ("tcp", "tls", "unix", "gunicorn")

PAGE = b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n"
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

#: A request of which a byte is sent now and then, and the seconds between two of them.
DRIPS, DRIP_SECONDS = b"GET /page HTTP/1.1\r\nX: " + b"x" * 1000, 0.5

#: Seconds that anything here may take before it counts as broken.
DEADLINE = 120.0


class Target:
    """A server, and how to reach it."""

    def __init__(self, kind: str, folder: str) -> None:
        self.kind, self._folder = kind, folder
        self._path = f"{folder}/sock" if kind == "unix" else ""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        if kind == "tls":
            authority = trustme.CA()
            authority.cert_pem.write_to_path(f"{folder}/ca.pem")
            issued = authority.issue_cert("localhost")
            issued.private_key_and_cert_chain_pem.write_to_path(f"{folder}/cert.pem")

    @property
    def command(self) -> list[str]:
        """What starts it."""
        app = str(SERVERS / "waiting_app.py")
        where = f"127.0.0.1:{self._port}"
        if self.kind == "gunicorn":
            gunicorn = str(Path(sysconfig.get_path("scripts"), "gunicorn"))
            worker = "stargate.gunicorn.EventletWorker"
            options = ["--no-control-socket", "--log-level", "warning", "--bind", where]
            return [gunicorn, "-k", worker, *options, "waiting_app:made()"]
        if self.kind == "unix":
            return [sys.executable, app, f"unix_socket={self._path}"]
        tls = [f"certfile={self._folder}/cert.pem"] if self.kind == "tls" else []
        return [sys.executable, app, f"listen={where}", *tls]

    def dial(self) -> socket.socket:
        """A connection; of TLS nothing has been said."""
        if self._path:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(self._path)  # With a time-out it would not wait for a full queue.
            sock.settimeout(DEADLINE)
            return sock
        return socket.create_connection(("127.0.0.1", self._port), timeout=DEADLINE)

    def connect(self) -> socket.socket:
        """A connection on which HTTP may be spoken."""
        sock = self.dial()
        if self.kind != "tls":
            return sock
        context = ssl.create_default_context(cafile=f"{self._folder}/ca.pem")
        return context.wrap_socket(sock, server_hostname="localhost")


@contextmanager
def served(target: Target, descriptors: int) -> Iterator[int]:
    """The server of ``target`` as a process; it gives the process's number."""
    limited = f'ulimit -n {descriptors}; exec "$@"'
    command = ["sh", "-c", limited, "sh", *target.command]
    process = subprocess.Popen(command, cwd=SERVERS, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + DEADLINE
        while True:
            try:
                answered(target, PAGE)
                break
            except OSError:
                if time.monotonic() > end or process.poll() is not None:
                    raise
                time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait(DEADLINE)


def answered(target: Target, request: bytes) -> float:
    """Seconds from dialling to the first bytes of a good answer."""
    began = time.perf_counter()
    with target.connect() as sock:
        sock.sendall(request)
        answer = sock.recv(4096)
        took = time.perf_counter() - began
    if not answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 101 ")):
        raise ConnectionError(f"the server answered {answer[:100]!r}")
    return took


class Crowd:
    """Connections that wait; whoever is sent away comes back."""

    def __init__(self, target: Target, silent: int, idle: int, slow: int) -> None:
        self._target = target
        self._poll = select.epoll()
        self._made: dict[int, tuple[socket.socket, Callable[[], socket.socket]]] = {}
        self._slow: dict[int, int] = {}
        self._gone: deque[Callable[[], socket.socket]] = deque()
        self.ended = 0
        for number in range(silent):
            self._make((self._says_nothing, self._half_tls, self._says_nothing_in_tls)[number % 3])
        for _ in range(idle):
            self._make(self._idles)
        for _ in range(slow):
            self._make(self._drips)

    def __len__(self) -> int:
        return len(self._made)

    def wait(self, seconds: float) -> None:
        """Drip for so long, and come back where the server has ended a connection."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for fd, _events in self._poll.poll(min(left, DRIP_SECONDS)):
                sock, again = self._made[fd]
                with suppress(OSError):
                    if sock.recv(4096) and fd not in self._slow:
                        continue  # TLS has something to say.
                self._slow.pop(fd, None)
                del self._made[fd]
                sock.close()
                self.ended += 1
                self._gone.append(again)
            for again in [self._gone.popleft() for _ in range(len(self._gone))]:
                self._make(again)
            self._drip()

    def _drip(self) -> None:
        now = int(time.monotonic() / DRIP_SECONDS)
        for fd, sent in list(self._slow.items()):
            if sent % 1000 != now % 1000:
                with suppress(OSError):
                    self._made[fd][0].send(DRIPS[:1] if sent < 0 else b"x")
                self._slow[fd] = now

    def _make(self, how: Callable[[], socket.socket]) -> None:
        try:
            sock = how()
        except OSError:
            self._gone.append(how)  # Later.
            return
        self._made[sock.fileno()] = sock, how
        if how == self._drips:
            self._slow[sock.fileno()] = 0
        self._poll.register(sock.fileno(), select.EPOLLIN)

    def _says_nothing(self) -> socket.socket:
        return self._target.dial()

    def _half_tls(self) -> socket.socket:
        sock = self._target.dial()
        if self._target.kind == "tls":
            sock.sendall(b"\x16\x03\x01")
        return sock

    def _says_nothing_in_tls(self) -> socket.socket:
        return self._target.connect()

    def _idles(self) -> socket.socket:
        sock = self._target.connect()
        sock.sendall(PAGE)
        sock.recv(4096)
        return sock

    def _drips(self) -> socket.socket:
        sock = self._target.connect()
        sock.sendall(DRIPS[:30])
        return sock


def surround(target: Target, counts: Sequence[int], link: Any) -> None:
    """Be the crowd, in a process of its own, until ``link`` says that it is enough."""
    crowd = Crowd(target, *counts)
    link.send(len(crowd))
    while not link.poll():
        crowd.wait(DRIP_SECONDS)
    link.send(crowd.ended)


def measure(target: Target, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of pages and of handshakes, each on a connection of its own, in order."""
    found: dict[str, list[float]] = {"page": [], "handshake": []}
    for _ in range(rounds):
        for name, request in (("page", PAGE), ("handshake", HANDSHAKE)):
            found[name].append(answered(target, request) * 1000)
            time.sleep(0.005)
    return {name: sorted(times) for name, times in found.items()}


def memory(pid: int) -> float:
    """MiB that the process and its children have resident."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    page = os.sysconf("SC_PAGE_SIZE") / 2**20
    each = (Path(f"/proc/{one}/statm").read_text().split()[1] for one in (pid, *children))
    return sum(int(pages) for pages in each) * page


def run(kind: str, counts: Sequence[int], rounds: int, descriptors: int) -> bool:
    """Measure one kind of server, with and without a crowd; returns whether it held."""
    with tempfile.TemporaryDirectory() as folder:
        target = Target(kind, folder)
        with served(target, descriptors) as pid:
            told(kind, "alone", measure(target, rounds), memory(pid))
            spawn = multiprocessing.get_context("spawn")
            link, end = spawn.Pipe()
            crowd = spawn.Process(target=surround, args=(target, counts, end), daemon=True)
            crowd.start()
            waiting = link.recv()
            found = measure(target, rounds)
            told(kind, f"{waiting} beside", found, memory(pid))
            link.send("enough")
            print(f"{'':9} {link.recv()} of them were ended by the server, and came back")
            crowd.join(DEADLINE)
    return all(percentile(times, 99) < 50 for times in found.values())


def told(kind: str, beside: str, found: dict[str, list[float]], resident: float) -> None:
    """Print a row."""
    figures = (
        f"{name} p50 {percentile(times, 50):5.1f} p99 {percentile(times, 99):5.1f} ms"
        for name, times in found.items()
    )
    print(f"{kind:9} {beside:12} {'  '.join(figures)}  {resident:5.0f} MiB", flush=True)


def percentile(times: Sequence[float], share: int) -> float:
    """The time that ``share`` of a hundred do not exceed."""
    return times[min(len(times) - 1, len(times) * share // 100)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--silent", type=int, default=5000)
    parser.add_argument("--idle", type=int, default=2000)
    parser.add_argument("--slow", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=1000, help="pages and handshakes")
    parser.add_argument("--descriptors", type=int, default=0, help="that the server may have")
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args()
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    counts = (options.silent, options.idle, options.slow)
    kinds, limit = options.kinds.split(","), options.descriptors or hard
    held = [run(kind, counts, options.rounds, limit) for kind in kinds]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
