"""A TCP relay in front of a Redis: what lies between the two, to be slow, cut, or leaky at will."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

from stargate_tests.redis_servers import RedisServer, free_port
from stargate_tests.waiting import DEADLINE, wait_until

#: From the one who has connected to the server, and back.
UP, DOWN = "up", "down"

MESSAGES = tuple(
    b"%c%d\r\n$%d\r\n%s\r\n" % (kind, length, len(name), name)
    for kind in b"*>"
    for length, name in ((3, b"message"), (3, b"smessage"), (4, b"pmessage"))
)


class Relay:
    """``with Relay(server) as relay``: the same server on ``relay.port``, until the end.

    Its threads are the system's. ``frames=False`` where it shall not look into what passes, as
    over TLS; :meth:`drop` and :meth:`repeat` are not to be had then.
    """

    def __init__(self, server: RedisServer, *, frames: bool | None = None) -> None:
        self.server = server
        self.frames = not server.tls if frames is None else frames
        #: Bytes that have been passed on, and connections that have been made, so far.
        self.passed = {UP: 0, DOWN: 0}
        self.accepted = 0
        #: Seconds that everything waits before it goes on.
        self.delay = {UP: 0.0, DOWN: 0.0}
        #: The frames that have been left out, or have been repeated.
        self.dropped: list[bytes] = []
        self.repeated: list[bytes] = []
        self._flowing = {UP: threading.Event(), DOWN: threading.Event()}
        self._left: int | None = None
        self._rules: list[tuple[bytes, int]] = []
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._listening: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()
        self.port = free_port()
        for each in self._flowing.values():
            each.set()
        self.accept()

    @property
    def url(self) -> str:
        """The server's address by way of this."""
        return self.server.url.replace(f":{self.server.port}/", f":{self.port}/")

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._links)

    def refuse(self) -> None:
        """Let nobody connect any more; who is connected stays so."""
        listening, self._listening = self._listening, None
        if listening is not None:
            # Closing alone does not wake the thread that waits in accept().
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()

    def accept(self) -> None:
        """Let everybody connect again."""
        if self._listening is None:
            self._listening = socket.create_server(("127.0.0.1", self.port))
            self._start(self._welcome, self._listening)

    def stall(self, direction: str = DOWN) -> None:
        """Pass on nothing more in this direction, until :meth:`flow`; nobody is cut."""
        self._flowing[direction].clear()

    def flow(self, direction: str = DOWN) -> None:
        """Pass on what has come, and what comes."""
        self._flowing[direction].set()

    def cut(self, *, reset: bool = False) -> None:
        """Close all connections, by a TCP reset if wanted."""
        for link in list(self._links):
            link.close(reset=reset)
        wait_until(lambda: not self._links)

    def cut_after(self, count: int) -> None:
        """Close the connection that gets the ``count`` next bytes of replies, behind them."""
        with self._lock:
            self._left = count

    def drop(self, containing: bytes = b"", count: int = 1) -> None:
        """Leave out the next Pub/Sub messages that contain this; nobody notices."""
        self._arm(containing, 0, count)

    def repeat(self, containing: bytes = b"", count: int = 1) -> None:
        """Pass on the next Pub/Sub messages that contain this, twice."""
        self._arm(containing, 2, count)

    def close(self) -> None:
        """Cut all, and end its threads."""
        self._closed.set()
        self.refuse()
        for each in self._flowing.values():
            each.set()
        while self._threads:
            for link in list(self._links):
                link.close()
            self._threads.pop().join(DEADLINE)

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # Inside

    def _start(self, function, *args: object) -> None:
        thread = threading.Thread(target=function, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _arm(self, containing: bytes, times: int, count: int) -> None:
        assert self.frames, "this relay does not look into what passes"
        with self._lock:
            self._rules += [(containing, times)] * count

    def _welcome(self, listening: socket.socket) -> None:
        while True:
            try:
                near, _address = listening.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.server.port), DEADLINE)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            link = _Link(near, far)
            self.accepted += 1
            self._links.add(link)
            self._start(self._pump, link, UP)
            self._start(self._pump, link, DOWN)

    def _pump(self, link: _Link, direction: str) -> None:
        source, sink = (link.near, link.far) if direction == UP else (link.far, link.near)
        frames = Frames() if self.frames and direction == DOWN else None
        try:
            while block := source.recv(65536):
                self._flowing[direction].wait()
                if self.delay[direction]:
                    self._closed.wait(self.delay[direction])
                if frames is not None:
                    block = b"".join(map(self._treated, frames.feed(block)))
                self._pass(sink, block, direction)
        except OSError:
            pass
        finally:
            if link.leave():
                self._links.discard(link)

    def _pass(self, sink: socket.socket, block: bytes, direction: str) -> None:
        cut = False
        if direction == DOWN:
            with self._lock:
                if self._left is not None:
                    cut = len(block) >= self._left
                    block = block[: self._left]
                    self._left = None if cut else self._left - len(block)
        # Counted first: whoever has got something finds it counted.
        self.passed[direction] += len(block)
        sink.sendall(block)
        if cut:
            raise ConnectionResetError("cut in mid-reply, as wanted")

    def _treated(self, frame: bytes) -> bytes:
        """``frame`` as often as it is to be passed on."""
        if not self._rules or not frame.startswith(MESSAGES):
            return frame
        with self._lock:
            rule = next((rule for rule in self._rules if rule[0] in frame), None)
            if rule is None:
                return frame
            self._rules.remove(rule)
        (self.repeated if rule[1] else self.dropped).append(frame)
        return frame * rule[1]


class _Link:
    """Two sockets; closed when the threads of both directions have left."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near, self.far = near, far
        self._there = 2
        self._end = socket.SHUT_RDWR
        self._lock = threading.Lock()

    def close(self, *, reset: bool = False) -> None:
        """Wake both threads, which do the rest."""
        if reset:
            self._end = socket.SHUT_RD  # A FIN would come before the RST.
            with contextlib.suppress(OSError):
                self.near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for each, how in ((self.near, self._end), (self.far, socket.SHUT_RDWR)):
            with contextlib.suppress(OSError):
                each.shutdown(how)

    def leave(self) -> bool:
        """One thread has ended: wake the other. Whether this was the last."""
        self.close()
        with self._lock:
            self._there -= 1
            last = self._there == 0
        if last:
            self.near.close()
            self.far.close()
        return last


class Frames:
    """Cuts what a Redis sends (RESP 2 and 3) into its whole replies and pushes."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, block: bytes) -> list[bytes]:
        """The frames that are whole now."""
        found, start = [], 0
        self._rest += block
        while (end := frame_end(self._rest, start)) is not None:
            found.append(self._rest[start:end])
            start = end
        self._rest = self._rest[start:]
        return found


def frame_end(block: bytes, start: int) -> int | None:
    """Behind the frame that begins at ``start``, or ``None`` where it is not whole."""
    line = block.find(b"\r\n", start)
    if line < 0:
        return None
    kind, end = block[start : start + 1], line + 2
    if kind in b"+-:_#,(":
        return end
    count = int(block[start + 1 : line])
    if kind in b"$=!":
        end += count + 2 if count >= 0 else 0
        return end if end <= len(block) else None
    if kind in b"%|":
        count = 2 * count + (kind == b"|")
    for _ in range(count):
        behind = frame_end(block, end)
        if behind is None:
            return None
        end = behind
    return end
