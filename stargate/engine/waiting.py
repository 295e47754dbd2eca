"""Connections that wait, in the order in which they began to, and for how long they may."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stargate.engine.conversation import Conversation


class Waiting:
    """Conversations that wait for one thing, each for at most ``seconds``."""

    __slots__ = ("_seconds", "_since")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        #: Since when each waits; the longest wait comes first.
        self._since: dict[Conversation, float] = {}

    def __len__(self) -> int:
        return len(self._since)

    def __contains__(self, conversation: object) -> bool:
        return conversation in self._since

    def add(self, conversation: Conversation) -> None:
        """``conversation`` waits from now on."""
        self._since.pop(conversation, None)
        self._since[conversation] = monotonic()

    def discard(self, conversation: Conversation) -> None:
        """``conversation`` waits no more, if it did."""
        self._since.pop(conversation, None)

    def longest(self, seconds: float = 0.0) -> Conversation | None:
        """Who has waited longest, if that is at least ``seconds``."""
        for conversation, since in self._since.items():
            return conversation if monotonic() - since >= seconds else None
        return None

    def overdue(self) -> Iterator[Conversation]:
        """Those that have waited for too long; each has to be discarded before the next."""
        while (found := self.longest(self._seconds)) is not None:
            yield found

    def left(self) -> float:
        """Seconds until the first is overdue; all of them where nobody waits."""
        for since in self._since.values():
            return max(0.0, since + self._seconds - monotonic())
        return self._seconds
