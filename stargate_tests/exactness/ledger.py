"""The ledger of a trial: each send, join, leave and end, noted in the step in which it happened.

Its owner is the server under trial, in the engine's own OS thread; ``verdict.py`` reads it. An
event's place is its index. Nothing gives way between an event and its note, so the places are the
order that stargate promises to keep.
"""

from __future__ import annotations

import zlib

from stargate.message.message import RSV1
from stargate.websocket.outbox import CLOSE, DROP_OLDEST, LATEST

#: The resources of a trial. ``big`` has most of the crowd, so that its walks come in slices;
#: ``heavy`` fills outboxes.
SMALL = tuple(f"r{number}" for number in range(10))
BIG, HEAVY = "big", "heavy"
RESOURCES = (*SMALL, BIG, HEAVY)

#: The kinds of events, and what follows each: a send to a resource (resource, sender, number,
#: checksum), a send to one listener (listener, sender, number, checksum), a join and a leave
#: (listener, resource), an end (listener, close code, how many messages it missed).
SEND, DIRECT, JOIN, LEAVE, END = "send", "direct", "join", "leave", "end"

#: Who is none of the listeners, or has ended: what is sent to it is for nobody.
NOBODY = 0


class Ledger:
    """What has happened so far, and who is connected and attached now."""

    def __init__(self) -> None:
        self.events: list[tuple] = []
        #: Whom a message was not for, by its sender and number; written before it is sent.
        self.excluded: dict[str, list[int]] = {}
        #: How many messages each sender has numbered, and the last of each that was taken in.
        self.numbered: dict[str, int] = {}
        self.taken: dict[str, int] = {}
        #: Who is connected: the number that each listener gave itself, and its WebSocket.
        self.websockets: dict[int, object] = {}
        self._listeners: dict[object, int] = {}
        self._attached: dict[int, set[str]] = {}
        #: How many listen at each resource.
        self.crowd: dict[str, int] = dict.fromkeys(RESOURCES, 0)

    def opened(self, listener: int, websocket: object) -> None:
        """From here on ``websocket`` is known as ``listener``."""
        self.websockets[listener] = websocket
        self._listeners[websocket] = listener
        self._attached[listener] = set()

    def joined(self, listener: int, resource: str) -> None:
        """To be called in the step of the join; twice is once."""
        if resource not in self._attached[listener]:
            self._attached[listener].add(resource)
            self.crowd[resource] += 1
            self.events.append((JOIN, listener, resource))

    def left(self, listener: int, resource: str) -> None:
        """To be called in the step of the leave."""
        attached = self._attached.get(listener, set())
        if resource in attached:
            attached.discard(resource)
            self.crowd[resource] -= 1
            self.events.append((LEAVE, listener, resource))

    def ended(self, websocket: object, code: int | None, missed: int) -> None:
        """To be called in the step in which ``websocket`` has ended, and so left everything."""
        listener = self._listeners.pop(websocket, None)
        if listener is None:
            return  # It had not come to its view yet, or is none of the crowd.
        for resource in self._attached.pop(listener):
            self.crowd[resource] -= 1
        del self.websockets[listener]
        self.events.append((END, listener, code, missed))

    def sent(self, resource: str, payload: bytes) -> None:
        """To be called in the step in which the engine takes a message for ``resource``."""
        self.events.append((SEND, resource, *self._take(payload)))

    def sent_to(self, websocket: object, payload: bytes) -> None:
        """To be called in the step in which the engine takes a message for one WebSocket."""
        listener = self._listeners.get(websocket, NOBODY)
        self.events.append((DIRECT, listener, *self._take(payload)))

    def _take(self, payload: bytes) -> tuple[str, int, int]:
        sender, number = identity(payload)
        self.taken[sender] = number
        return sender, number, zlib.crc32(payload)

    def told(self) -> dict[str, object]:
        """All of it, for ``verdict.py``."""
        return {name: getattr(self, name) for name in ("events", "excluded", "numbered")}


def identity(payload: bytes) -> tuple[str, int]:
    """The sender and the number that a message begins with; ``ValueError`` where there is none."""
    sender, number, _rest = payload.split(b" ", 2)
    return sender.decode(), int(number)


def key(sender: str, number: int) -> str:
    """The name of a message in :attr:`Ledger.excluded`."""
    return f"{sender} {number}"


def when_slow(listener: int, resource: str) -> str:
    """What ``listener`` asks for at ``resource``: one attachment may differ from another."""
    return (CLOSE, CLOSE, DROP_OLDEST, LATEST)[(listener + RESOURCES.index(resource)) % 4]


def message_in(frame: bytes) -> bytes:
    """The message in a whole frame of the server's."""
    begin = {126: 4, 127: 10}.get(frame[1], 2)
    return content(frame[0], frame[begin:])


def content(first: int, payload: bytes) -> bytes:
    """The message in a frame that begins with ``first``, inflated where it is compressed."""
    if first & RSV1:
        return zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")
    return payload
