"""The crowd of a trial: hundreds of peers in one thread, which read, pause, close, reset and die.

The server's frames are taken apart by hand: reading must cost far less than the server's work. All
chance comes from the seed; time does not.
"""

from __future__ import annotations

import heapq
import random
import select
import socket
from array import array
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Any

from websockets.frames import Opcode

from stargate_tests import raw
from stargate_tests.exactness.ledger import BIG, HEAVY, SMALL, content
from stargate_tests.exactness.verdict import Heard
from stargate_tests.peers import reset

READ, GONE = select.EPOLLIN, select.EPOLLERR | select.EPOLLHUP

#: The first byte of a frame: a whole text message, plain and compressed; a close frame; a ping.
TEXT, DEFLATED, CLOSE, PING = 0x81, 0xC1, 0x88, 0x89

OFFER = (
    "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; "
    "client_no_context_takeover"
)

#: How peers behave, and how many in a hundred do: they say good-bye, ask the server to, do not read
#: for a while, reset, shut their side, read no more, or say nothing any more, not even a pong.
KINDS = {
    **{"closes": 38, "quits": 18, "pauses": 16},
    **{"resets": 10, "halves": 6, "dies": 8, "mutes": 4},
}

#: A receive buffer that holds little, of those who stop reading.
SMALL_BUFFER = 4096

#: Bytes read at once, and how often at most.
READ_SIZE, READS = 262_144, 8

#: Seconds that a peer lives at most, but for those that stay to the end, one in so many.
LIFE, STAYS = 3.0, 8


class Crowd:
    """All peers of one server, and the clock by which they act."""

    def __init__(self, address: tuple[str, int], seed: int, size: int) -> None:
        self.address, self.size = address, size
        self.rng = random.Random(f"{seed} crowd")
        #: Every message that anybody got, once; and its index.
        self.payloads: list[bytes] = []
        self.known: dict[bytes, int] = {}
        self.heard: list[Heard] = []
        self.open: dict[int, _Peer] = {}
        #: What went wrong with a peer itself, as sentences.
        self.faults: list[str] = []
        self.epoll = select.epoll()
        self._watched: dict[int, Any] = {}
        self._due: list[tuple[float, int, Callable[..., object], tuple]] = []
        self._numbers, self._pages, self._order = count(1), count(1), count()
        self._closing = False
        self.pacer = _Pacer(self)

    def close(self) -> None:
        """Cut whatever is open."""
        for each in list(self._watched.values()):
            each.sock.close()
        self.epoll.close()

    def run(self, seconds: float) -> None:
        """Live for so long: whoever ends is followed by another."""
        for _ in range(self.size):
            self.later(self.rng.random() * min(1.0, seconds / 4), self.connect)
        self.later(0.1, self.page)
        end = monotonic() + seconds
        while monotonic() < end:
            self.turn()
        self._closing = True
        self._due.clear()
        for peer in self.open.values():
            peer.resume()

    def say_good_bye(self) -> None:
        """Close all that are open, each in its way; :meth:`turn` until they are :attr:`gone`."""
        self.pacer.say_close()
        for peer in list(self.open.values()):
            peer.say_good_bye()

    @property
    def lost(self) -> set[int]:
        """Those whom the server has to give up by itself."""
        return {peer.number for peer in self.open.values() if peer.silent}

    def revive(self) -> None:
        """Let them read what was on its way when the server gave them up."""
        for number in self.lost:
            self.open[number].read_on()

    @property
    def gone(self) -> bool:
        """Whether no connection is left."""
        return not self._watched

    def connect(self) -> None:
        number = next(self._numbers)
        kind = self.rng.choices(list(KINDS), list(KINDS.values()))[0]
        self.open[number] = _Peer(self, number, kind)

    def page(self) -> None:
        """Ask for a page whose view sends."""
        _Page(self, f"/@@say?sender=p{next(self._pages)}&count={self.rng.randint(1, 4)}")
        self.later(self.rng.random() * 0.2, self.page)

    def fill(self) -> _Page:
        """Ask for a page whose view sends more than any outbox of one that has died can take."""
        return _Page(self, "/@@fill")

    def ended(self, peer: _Peer, heard: Heard) -> None:
        """``peer`` has ended."""
        self.heard.append(heard)
        self.open.pop(peer.number)
        if not self._closing:
            self.later(self.rng.random() * 0.3, self.connect)

    def later(self, seconds: float, action: Callable[..., object], *args: object) -> None:
        heapq.heappush(self._due, (monotonic() + seconds, next(self._order), action, args))

    def turn(self) -> None:
        """Read from all that are ready, then do what is due."""
        for fd, events in self.epoll.poll(self._pause(), 512):
            watched = self._watched.get(fd)
            if watched is not None:
                watched.ready(events)
        now = monotonic()
        while self._due and self._due[0][0] <= now:
            _when, _number, action, args = heapq.heappop(self._due)
            action(*args)

    def _pause(self) -> float:
        return max(0.0, min(0.05, self._due[0][0] - monotonic())) if self._due else 0.05

    def watch(self, each: Any) -> None:
        self._watched[each.sock.fileno()] = each
        self.epoll.register(each.sock.fileno(), READ)

    def unwatch(self, each: Any) -> None:
        self.epoll.unregister(each.sock.fileno())
        del self._watched[each.sock.fileno()]

    def index(self, payload: bytes) -> int:
        """The index of a message among all that anybody got."""
        found = self.known.get(payload)
        if found is None:
            found = self.known[payload] = len(self.payloads)
            self.payloads.append(payload)
        return found


class _Socket:
    """A connection that sends a request, and reads whenever there is something."""

    def __init__(self, crowd: Crowd, request: bytes, rcvbuf: int | None = None) -> None:
        self.crowd = crowd
        self.sock = socket.socket()
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(30)
        self.sock.connect(crowd.address)
        self.sock.sendall(request)
        self.sock.setblocking(False)
        self.rest, self.head = b"", b""
        crowd.watch(self)

    def ready(self, _events: int) -> None:
        """Read all there is: the pacer's answer says that everybody has."""
        for _ in range(READS):
            try:
                data = self.sock.recv(READ_SIZE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.ended()
                return
            self.take(self.rest + data if self.rest else data)
            if len(data) < READ_SIZE // 2:
                return

    def take(self, data: bytes) -> None:
        raise NotImplementedError

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.sock.fileno() < 0

    def ended(self) -> None:
        self.crowd.unwatch(self)
        self.sock.close()


class _Page(_Socket):
    """A page that was asked for."""

    def __init__(self, crowd: Crowd, path: str) -> None:
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        super().__init__(crowd, request.encode())

    def take(self, data: bytes) -> None:
        self.rest = data

    def ended(self) -> None:
        super().ended()
        if not self.rest.startswith(b"HTTP/1.1 200 "):
            self.crowd.faults.append(f"a page was answered with {self.rest[:60]!r}")


class _WebSocket(_Socket):
    """A peer by hand."""

    close_code: int | None = None
    closing = False

    def __init__(self, crowd: Crowd, path: str, *headers: str, rcvbuf: int | None = None) -> None:
        super().__init__(crowd, raw.handshake("localhost", path, *headers), rcvbuf)

    def take(self, data: bytes) -> None:
        if not self.head:
            self.head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self.head, self.rest = b"", self.head
                return
            if not self.head.startswith(b"HTTP/1.1 101 "):
                self.crowd.faults.append(f"a handshake was answered with {self.head[:60]!r}")
        self.rest = data[self.take_frames(data) :]

    def take_frames(self, data: bytes) -> int:
        """Take the frames that are whole; returns where the rest begins."""
        start, size = 0, len(data)
        while size - start > 1:
            begin, length = start + 2, data[start + 1]
            if length == 126:
                begin, length = start + 4, int.from_bytes(data[start + 2 : start + 4], "big")
            elif length == 127:
                begin, length = start + 10, int.from_bytes(data[start + 2 : start + 10], "big")
            end = begin + length
            if end > size:
                break
            self.take_frame(data[start], data[begin:end])
            start = end
        return start

    def take_frame(self, first: int, payload: bytes) -> None:
        if first in (TEXT, DEFLATED):
            self.got(content(first, payload))
        elif first == CLOSE:
            self.close_code = int.from_bytes(payload[:2], "big") if payload else 1005
            self.say_close()
        elif first == PING:
            self.send(raw.frame(payload, Opcode.PONG))
        else:
            self.crowd.faults.append(f"a frame that begins with {first:#x} came in")

    def got(self, payload: bytes) -> None:
        raise NotImplementedError

    def say(self, text: str) -> None:
        self.send(raw.frame(text))

    def say_close(self) -> None:
        if not self.closing:
            self.closing = True
            self.send(raw.frame((1000).to_bytes(2, "big"), Opcode.CLOSE))

    def send(self, frame: bytes) -> None:
        """Send one short frame."""
        try:
            sent = self.sock.send(frame)
        except OSError:
            return  # It has gone, or reads nothing at the moment: nothing that is needed.
        assert sent == len(frame), "a frame was cut"


class _Pacer(_WebSocket):
    """Gives back what the server says, behind all that was read before."""

    def __init__(self, crowd: Crowd) -> None:
        super().__init__(crowd, "/@@pacer")

    def got(self, payload: bytes) -> None:
        self.say(payload.decode())


class _Peer(_WebSocket):
    """One listener with a life of its own."""

    def __init__(self, crowd: Crowd, number: int, kind: str) -> None:
        rng = crowd.rng
        self.number, self.kind, self.reading = number, kind, True
        self.messages = array("I")
        #: Whether it is about to end; and whether that is for the server to find out.
        self.leaving = self.silent = False
        #: Whether it stops reading sooner or later. With so small a buffer it is slow all the time.
        self.small = kind in ("pauses", "dies")
        resources = rng.sample(SMALL, rng.randint(1, 3))
        resources += [BIG] if rng.random() < 0.85 else []
        resources += [HEAVY] if kind == "dies" or rng.random() < 0.06 else []
        path = f"/@@{rng.choice(('events', 'handler'))}?n={number}&at={','.join(resources)}"
        headers = (OFFER,) if rng.random() < 0.15 else ()
        super().__init__(crowd, path, *headers, rcvbuf=SMALL_BUFFER if self.small else None)
        if kind in ("resets", "halves", "dies", "mutes") or rng.randrange(STAYS):
            crowd.later(0.2 + rng.random() * LIFE, self.live_no_more)
        crowd.later(rng.random() * 0.3, self.live)

    def got(self, payload: bytes) -> None:
        self.messages.append(self.crowd.index(payload))

    def live(self) -> None:
        """Do something, and soon something else."""
        crowd, rng = self.crowd, self.crowd.rng
        if self.number not in crowd.open or self.leaving:
            return
        word = rng.choice(("join", "leave", "rejoin", "join", "leave", "say"))
        if self.reading:
            self.say(f"{word} {rng.choice(SMALL)}")
        if self.kind == "pauses" and self.reading and rng.random() < 0.5:
            self.pause()
            crowd.later(0.1 + rng.random() * 1.5, self.resume)
        crowd.later(0.05 + rng.random() * 0.5, self.live)

    def pause(self) -> None:
        """Read no more."""
        self.reading = False
        self.crowd.epoll.modify(self.sock.fileno(), 0)

    def resume(self) -> None:
        if self.kind == "pauses" and self.number in self.crowd.open:
            self.read_on()

    def read_on(self) -> None:
        if not self.reading:
            self.reading = True
            self.crowd.epoll.modify(self.sock.fileno(), READ)

    def live_no_more(self) -> None:
        if self.number not in self.crowd.open or self.leaving:
            return
        if self.kind in ("dies", "mutes"):
            self.leaving = self.silent = True
            if self.kind == "dies":
                self.pause()
        elif self.kind == "resets":
            self.crowd.unwatch(self)
            reset(self.sock)
            self.tell()
        elif self.kind == "halves":
            self.sock.shutdown(socket.SHUT_WR)
            self.leaving = True
        else:
            self.resume()
            self.say_good_bye()

    def send(self, frame: bytes) -> None:
        if not self.silent:
            super().send(frame)

    def say_good_bye(self) -> None:
        """End in good order, whatever else it might have done later."""
        if self.leaving:
            return
        self.leaving = True
        if self.kind == "quits":
            self.say("quit")
        else:
            self.kind = "pauses" if self.small else "closes"
            self.say_close()

    def ready(self, events: int) -> None:
        if events & GONE:
            self.read_on()  # Cut: there is only what the kernel has taken before.
        super().ready(events)

    def ended(self) -> None:
        super().ended()
        self.tell()

    def tell(self) -> None:
        """Say what it has heard."""
        heard = Heard(self.number, self.kind, self.messages, self.close_code)
        self.crowd.ended(self, heard)
