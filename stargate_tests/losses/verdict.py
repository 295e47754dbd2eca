"""The checker: what each peer has seen, beside what the ledger says that it must have seen.

From the first place that a peer knows of: every message once, in order, over however many
connections, up to the newest; or ``recovered: false``, and everything from the place that it names.
Pure: ledger and stories go in, sentences come out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from stargate.history import MessageId
from stargate_tests.losses.ledger import LONG, RESOURCES, Ledger

#: Sentences that are kept: a broken server breaks nearly every peer.
WRONGS_TOLD = 40


class Came(NamedTuple):
    """A connection begins: with ``?since=``."""

    since: str


class Got(NamedTuple):
    """A message has come."""

    id: str
    message: str


class Told(NamedTuple):
    """``recovered`` has come, with the place where the peer stands."""

    recovered: bool
    id: str | None


class Story(NamedTuple):
    """All that one peer has seen."""

    resource: str
    notes: list[Came | Got | Told]


@dataclass
class Verdict:
    """What was checked, and what was wrong with it."""

    counts: Counter[str] = field(default_factory=Counter)
    wrongs: list[str] = field(default_factory=list)

    def wrong(self, sentence: str) -> None:
        self.counts["wrong"] += 1
        if len(self.wrongs) < WRONGS_TOLD:
            self.wrongs.append(sentence)


def judge(ledger: Ledger, stories: Iterable[Story]) -> Verdict:
    """Compare the ``stories`` with the ``ledger``."""
    verdict = Verdict()
    verdict.counts["messages acknowledged"] = len(ledger) + ledger.unkept
    for sentence in ledger.wrong:
        verdict.wrong(sentence)
    for number, story in enumerate(stories):
        _Reader(ledger, story, number, verdict).check()
    return verdict


class _Reader:
    """Goes through one peer's story."""

    def __init__(self, ledger: Ledger, story: Story, number: int, verdict: Verdict) -> None:
        self._ledger, self._story, self._number, self._verdict = ledger, story, number, verdict
        #: The last place that it knows of.
        self._at: MessageId | None = None
        self._seen: set[str] = set()

    def check(self) -> None:
        counts = self._verdict.counts
        for note in self._story.notes:
            if isinstance(note, Got):
                counts["deliveries"] += 1
                self._check_message(note)
            elif isinstance(note, Told):
                counts[f"recovered: {str(note.recovered).lower()}"] += 1
                self._check_told(note)
        counts["reconnects"] += max(
            0, sum(isinstance(note, Came) for note in self._story.notes) - 1
        )
        self._check_end()

    def _wrong(self, what: str) -> None:
        self._verdict.wrong(f"peer {self._number} at {self._story.resource} {what}")

    def _check_message(self, note: Got) -> None:
        id = MessageId.parse(note.id)
        if id is None or not self._was_sent(note):
            self._wrong(f"got {note.message[:20]!r} as {note.id}, which was not sent")
            return
        at, self._at = self._at, id
        if at is None:
            return
        if at.epoch != id.epoch:
            self._wrong(f"went from {at} to {id} without a word")
        elif id.offset <= at.offset:
            again = "again" if note.message in self._seen else "late"
            self._wrong(f"got {note.message[:20]!r} {again}: {id} behind {at}")
        elif id.offset > at.offset + 1:
            self._wrong(f"did not get {id.offset - at.offset - 1} message(s) between {at} and {id}")
        self._seen.add(note.message)

    def _was_sent(self, note: Got) -> bool:
        """In a Redis that forgets, a message may go out twice: no repeat can be told from it."""
        known = self._ledger.messages[self._story.resource].get(note.id)
        return known == note.message or (known is None and not self._ledger.durable)

    def _check_told(self, note: Told) -> None:
        id = MessageId.parse(note.id)
        if id is None:
            self._wrong(f"was told recovered: {note.recovered} and the place {note.id!r}")
            return
        at, self._at = self._at, id
        if self._ledger.durable and not self._ledger.knows(self._story.resource, id):
            self._wrong(f"was told that it stands at {id}, where nothing is")
        if note.recovered:
            if at is not None and at != id:
                self._wrong(f"was told recovered: true at {id}, and had got to {at}")
        elif self._needless(at, id):
            self._wrong(f"was told recovered: false at {at}, and all that came after is kept")

    def _needless(self, at: MessageId | None, id: MessageId) -> bool:
        if not self._ledger.durable or at is None:
            return False
        if id.offset < at.offset:
            return True
        return RESOURCES[self._story.resource] == LONG

    def _check_end(self) -> None:
        newest = MessageId.parse(self._ledger.newest.get(self._story.resource))
        if newest is None:
            return
        if self._at is None:
            self._wrong("never knew where it stood")
        elif self._at != newest:
            lacking = self._ledger.between(self._story.resource, self._at, newest)
            self._wrong(f"ended at {self._at}: {len(lacking)} message(s) up to {newest} never came")
