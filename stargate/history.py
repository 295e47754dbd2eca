"""What is kept of a resource's messages: ids, and what a reader who was away gets; no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from os import urandom
from typing import NamedTuple

#: The newest message alone, for somebody who has seen none.
LAST = "last"

#: Seconds that messages are kept where a resource says only how many.
DEFAULT_TTL = 86_400.0

_ID = re.compile(r"([0-9a-f]{12})-(0|[1-9][0-9]{0,15})-([0-9a-f]{12})", re.ASCII).fullmatch

#: The tag of the place before the first message.
NO_TAG = "0" * 12


class MessageId(NamedTuple):
    """The id of a message that is kept: where it stands, in which history, and a tag of its own.

    ``offset`` counts the messages of an address from 1 on, within one ``epoch``: a history that
    was lost begins another. The ``tag`` is random: a history that was set back to an older state
    may use an offset again, but not with the same tag. ``str()`` and :meth:`parse` are inverse.
    """

    epoch: str
    offset: int
    tag: str

    def __str__(self) -> str:
        return f"{self.epoch}-{self.offset}-{self.tag}"

    @classmethod
    def parse(cls, text: object) -> MessageId | None:
        """The id that ``text`` is; ``None`` for anything else: it may come from a browser."""
        found = _ID(text) if isinstance(text, str) else None
        return cls(found[1], int(found[2]), found[3]) if found else None


def random_part() -> str:
    """A new epoch or tag: 48 random bits as 12 hexadecimal digits."""
    return urandom(6).hex()


@dataclass(frozen=True)
class Keep:
    """How much of an address is kept: ``size`` messages, none older than ``ttl`` seconds."""

    size: int
    ttl: float = DEFAULT_TTL


#: Nothing is kept.
NOT_KEPT = Keep(0)


@dataclass(frozen=True)
class Kept:
    """One message of a history: its ``id``, ``str`` or ``bytes``, and when it was sent (Unix time).

    ``json`` tells whether it was sent by ``send_json()``.
    """

    id: str
    message: str | bytes
    time: float
    json: bool = False


class History(list[Kept]):
    """Messages, oldest first; ``complete`` is false where some of those asked for are gone.

    ``position`` is the id of the newest message of the address, whether it is among these or not:
    where to go on from. ``None`` where nothing is kept.
    """

    def __init__(
        self, kept: Iterable[Kept] = (), *, complete: bool = True, position: str | None = None
    ) -> None:
        super().__init__(kept)
        self.complete = complete
        self.position = position
