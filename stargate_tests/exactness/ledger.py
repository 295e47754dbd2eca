"""The ledger of a trial: each send, join, leave and end, noted in the step in which it happened.

Its owner is the server under trial, in the engine's own OS thread; ``verdict.py`` reads it. An
event's place is its index. Nothing gives way between an event and its note, so the places are the
order that stargate promises to keep.
"""

from __future__ import annotations

from zlib import crc32

#: The resources of a trial. ``big`` has most of the crowd, so that its walks come in slices;
#: ``heavy`` fills outboxes.
SMALL = tuple(f"r{number}" for number in range(10))
BIG, HEAVY = "big", "heavy"
RESOURCES = (*SMALL, BIG, HEAVY)

#: The kinds of events, and what follows each: a send to a resource (resource, sender, number,
#: checksum), a send to one listener (listener, sender, number, checksum), a join and a leave
#: (listener, resource), an end (listener, close code).
SEND, DIRECT, JOIN, LEAVE, END = "send", "direct", "join", "leave", "end"


class Ledger:
    """What has happened so far, and who is connected and attached now."""

    def __init__(self) -> None:
        self.events: list[tuple] = []
        #: Whom a message was not for, by its sender and number; written before it is sent.
        self.excluded: dict[str, list[int]] = {}
        #: What OS threads sent to one listener: (sender, number, listener, checksum). Their places
        #: are between those of the same thread's sends to resources.
        self.from_threads: list[tuple[str, int, int, int]] = []
        #: How many messages each sender has numbered.
        self.numbered: dict[str, int] = {}
        #: Who is connected: the number that each listener gave itself, and its WebSocket.
        self.websockets: dict[int, object] = {}
        self._listeners: dict[object, int] = {}
        self._attached: dict[int, set[str]] = {}
        #: How many listen at each resource.
        self.crowd: dict[str, int] = {}

    def opened(self, listener: int, websocket: object) -> None:
        """From here on ``websocket`` is known as ``listener``."""
        self.websockets[listener] = websocket
        self._listeners[websocket] = listener
        self._attached[listener] = set()

    def joined(self, listener: int, resource: str) -> None:
        """To be called in the step of the join; twice is once."""
        if resource not in self._attached[listener]:
            self._attached[listener].add(resource)
            self.crowd[resource] = self.crowd.get(resource, 0) + 1
            self.events.append((JOIN, listener, resource))

    def left(self, listener: int, resource: str) -> None:
        """To be called in the step of the leave."""
        attached = self._attached.get(listener, set())
        if resource in attached:
            attached.discard(resource)
            self.crowd[resource] -= 1
            self.events.append((LEAVE, listener, resource))

    def ended(self, websocket: object, code: int | None) -> None:
        """To be called in the step in which ``websocket`` has ended, and so left everything."""
        listener = self._listeners.pop(websocket, None)
        if listener is None:
            return  # It had not come to its view yet, or is none of the crowd.
        for resource in self._attached.pop(listener):
            self.crowd[resource] -= 1
        del self.websockets[listener]
        self.events.append((END, listener, code))

    def sent(self, resource: str, payload: bytes) -> None:
        """To be called in the step in which the engine takes a message for ``resource``."""
        sender, number = identity(payload)
        self.events.append((SEND, resource, sender, number, crc32(payload)))

    def sent_to(self, listener: int, payload: bytes) -> None:
        """To be called in the step of a ``websocket.send()`` in the engine's thread."""
        sender, number = identity(payload)
        self.events.append((DIRECT, listener, sender, number, crc32(payload)))

    def told(self) -> dict[str, object]:
        """All of it, for ``verdict.py``."""
        names = ("events", "excluded", "from_threads", "numbered")
        return {name: getattr(self, name) for name in names}


def identity(payload: bytes) -> tuple[str, int]:
    """The sender and the number that a message begins with."""
    sender, number, _rest = payload.split(b" ", 2)
    return sender.decode(), int(number)


def key(sender: str, number: int) -> str:
    """The name of a message in :attr:`Ledger.excluded`."""
    return f"{sender} {number}"
