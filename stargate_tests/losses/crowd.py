"""The crowd of a trial: WebSockets in one thread that are cut, come back, and note all they get.

Frames are taken apart by hand: reading must cost far less than the server's work. All chance comes
from the seed; time does not.
"""

from __future__ import annotations

import base64
import heapq
import json
import random
import select
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from time import monotonic

from stargate_tests import raw
from stargate_tests.losses.verdict import Came, Got, Story, Told
from stargate_tests.peers import reset

IN, OUT, GONE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR | select.EPOLLHUP

TEXT, CLOSE, PING = 0x81, 0x88, 0x89

OFFER = "Sec-WebSocket-Protocol: stargate.v1"

#: The newest message, and where it stands: what each asks for the first time.
FIRST = "last"

#: Seconds that somebody stays away for, at most; one in so many stays away for so much longer.
AWAY, SELDOM, LONGER = 0.6, 12, 8

#: Seconds after which a handshake without an answer is given up.
PATIENCE = 10.0

#: Seconds between two resets at most, and how much of the crowd one takes along at most.
RESETS, SHARE = 0.8, 0.06

READ_SIZE = 262_144


class Crowd:
    """``size`` peers of the server at ``address``, spread over ``resources``."""

    def __init__(
        self, address: tuple[str, int], seed: int, size: int, resources: Sequence[str]
    ) -> None:
        self.address = address
        self.rng = random.Random(f"{seed} crowd")
        self.counts: Counter[str] = Counter()
        #: What went wrong with a peer itself, as sentences.
        self.wrong: list[str] = []
        self.peers = [Peer(self, resources[at % len(resources)]) for at in range(size)]
        self._known: dict[bytes, Got] = {}
        self._epoll = select.epoll()
        self._watched: dict[int, Peer] = {}
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()
        self.is_calm = False

    def begin(self) -> None:
        """Everybody comes, and resets begin."""
        for peer in self.peers:
            self.later(self.rng.random(), peer.connect)
        self.later(1.0 + self.rng.random() * RESETS, self._reset_some)

    def calm(self) -> None:
        """No more resets."""
        self.is_calm = True

    def close(self) -> None:
        """Hang up."""
        for peer in self.peers:
            peer.hang_up()
        self._epoll.close()

    def run(self, until: Callable[[], bool], deadline: float) -> bool:
        """Go on until ``until()``, looked at ten times a second; whether it came in time."""
        end = monotonic() + deadline
        look = 0.0
        while True:
            now = monotonic()
            if now >= look:
                if until():
                    return True
                if now > end:
                    return False
                look = now + 0.1
            self.turn()

    def turn(self) -> None:
        """Take what has come, and do what is due."""
        wait = min(max(0.0, self._due[0][0] - monotonic()), 0.05) if self._due else 0.05
        for descriptor, events in self._epoll.poll(wait):
            peer = self._watched.get(descriptor)
            if peer is not None:
                peer.on_events(events)
        while self._due and self._due[0][0] <= monotonic():
            heapq.heappop(self._due)[2]()

    def stories(self) -> list[Story]:
        """What each has seen."""
        return [Story(peer.resource, peer.notes) for peer in self.peers]

    def later(self, seconds: float, function: Callable[[], object]) -> None:
        heapq.heappush(self._due, (monotonic() + seconds, next(self._order), function))

    def watch(self, peer: Peer, events: int) -> None:
        assert peer.sock is not None
        if self._watched.get(peer.sock.fileno()) is peer:
            self._epoll.modify(peer.sock.fileno(), events)
        else:
            self._watched[peer.sock.fileno()] = peer
            self._epoll.register(peer.sock.fileno(), events)

    def forget(self, sock: socket.socket) -> None:
        self._watched.pop(sock.fileno(), None)

    def message(self, payload: bytes) -> Got:
        """The message of an envelope; most of the crowd gets the same."""
        found = self._known.get(payload)
        if found is None:
            said = json.loads(payload)
            text = said["data"]
            if said.get("encoding") == "base64":
                text = base64.b64decode(text).decode()
            found = self._known[payload] = Got(said["id"], text)
        return found

    def _reset_some(self) -> None:
        if self.is_calm:
            return
        connected = [peer for peer in self.peers if peer.sock is not None]
        most = max(1, round(len(self.peers) * SHARE))
        for peer in self.rng.sample(connected, min(len(connected), self.rng.randint(1, most))):
            self.counts["sockets reset"] += 1
            peer.reset()
        self.later(self.rng.random() * RESETS, self._reset_some)


class Peer:
    """One WebSocket after the other, each going on where the last one was."""

    __slots__ = ("_buffer", "_crowd", "_opened", "_serial", "notes", "position", "resource", "sock")

    def __init__(self, crowd: Crowd, resource: str) -> None:
        self._crowd, self.resource = crowd, resource
        self.sock: socket.socket | None = None
        self.notes: list[Came | Got | Told] = []
        #: The last id that it has seen.
        self.position: str | None = None
        self._buffer = b""
        self._opened = False
        self._serial = 0

    # Its connections.

    def connect(self) -> None:
        self._serial += 1
        self._opened, self._buffer = False, b""
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.connect_ex(self._crowd.address)
        self._crowd.watch(self, OUT)
        self._crowd.later(PATIENCE, lambda serial=self._serial: self._lose_patience(serial))

    def hang_up(self) -> None:
        if self.sock is not None:
            self._crowd.forget(self.sock)
            self.sock.close()
            self.sock = None

    def reset(self) -> None:
        assert self.sock is not None
        self._crowd.forget(self.sock)
        reset(self.sock)
        self.sock = None
        self._come_back()

    def _come_back(self) -> None:
        rng = self._crowd.rng
        longer = rng.randrange(SELDOM) == 0 and not self._crowd.is_calm
        self._crowd.later(rng.random() * AWAY * (LONGER if longer else 1), self.connect)

    def _lost(self, why: str) -> None:
        self._crowd.counts[why] += 1
        self.hang_up()
        self._come_back()

    def _lose_patience(self, serial: int) -> None:
        if serial == self._serial and self.sock is not None and not self._opened:
            self._lost("handshakes without an answer")

    # What comes.

    def on_events(self, events: int) -> None:
        if events & OUT:
            self._shake_hands()
        elif events & (IN | GONE):
            self._read()

    def _shake_hands(self) -> None:
        assert self.sock is not None
        since = self.position or FIRST
        path = f"/{self.resource}/@@live?since={since}"
        try:
            self.sock.sendall(raw.handshake("127.0.0.1", path, OFFER))
        except OSError:
            self._lost("connects refused")
            return
        self._crowd.watch(self, IN)
        self.notes.append(Came(since))

    def _read(self) -> None:
        assert self.sock is not None
        try:
            read = self.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            read = b""
        self._buffer += read
        if not self._opened and not self._begin():
            read = b""
        elif self._opened:
            self._take_apart()
        if not read and self.sock is not None:
            self._lost("connections lost" if self._opened else "handshakes refused")

    def _begin(self) -> bool:
        """Whether the handshake may still be, or is, a good one."""
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if end and head.startswith(b"HTTP/1.1 101 "):
            self._opened, self._buffer = True, rest
            self._crowd.counts["handshakes"] += 1
        return self._opened or not end

    def _take_apart(self) -> None:
        buffer, at = self._buffer, 0
        while len(buffer) - at >= 2:
            length, begin = buffer[at + 1], at + 2
            if length > 125:
                size = 2 if length == 126 else 8
                begin += size
                if len(buffer) < begin:
                    break
                length = int.from_bytes(buffer[at + 2 : begin], "big")
            if len(buffer) < begin + length:
                break
            first, at = buffer[at], begin + length
            self._take(first, buffer[begin:at])
            if self.sock is None:
                return
        self._buffer = buffer[at:]

    def _take(self, first: int, payload: bytes) -> None:
        if first == TEXT:
            self._note(payload)
        elif first == PING:
            self._answer(bytes((0x8A, 0x80 | len(payload), 0, 0, 0, 0)) + payload)
        elif first == CLOSE:
            self._answer(bytes((0x88, 0x80 | len(payload), 0, 0, 0, 0)) + payload)
            self._lost(f"closed with {int.from_bytes(payload[:2], 'big')}")
        else:
            self._crowd.wrong.append(f"a frame that begins with {first:#x} at {self.resource}")

    def _answer(self, frame: bytes) -> None:
        assert self.sock is not None
        with suppress(OSError):  # The next reading says so.
            self.sock.send(frame)

    def _note(self, payload: bytes) -> None:
        if payload.startswith(b'{"id"'):
            got = self._crowd.message(payload)
            self.notes.append(got)
            self.position = got.id
            return
        said = json.loads(payload)
        if list(said) == ["data"]:
            self._crowd.counts["messages without an id"] += 1
            return
        if "recovered" not in said:
            self._crowd.wrong.append(f"got {payload[:80]!r} at {self.resource}")
            return
        self.notes.append(Told(said["recovered"], said.get("id")))
        self.position = said.get("id") or self.position
