"""The checker: what each listener got, beside what the ledger says that it must have got.

Each listener and each attachment: exactly the messages sent between its join and its leave, each
once, in the one order of the engine; where the attachment lets messages be dropped, some may be
missing, and ``missed`` is their number. Pure: the story of a trial goes in, sentences come out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from stargate.websocket.outbox import CLOSE
from stargate_tests.exactness.ledger import DIRECT, END, JOIN, LEAVE, SEND, identity, when_slow

SLOW, LOST = 1013, 1006

#: Sentences that are kept: a broken server breaks nearly every listener.
FAULTS_TOLD = 40


@dataclass
class Heard:
    """One listener as its peer saw it."""

    listener: int
    #: How it behaves, a word of ``crowd.KINDS``.
    kind: str
    #: The messages that it got, as indices of the list of payloads.
    messages: Sequence[int]
    #: The code of the close frame that it got.
    close_code: int | None = None

    @property
    def may_be_slow(self) -> bool:
        """Whether it stops reading, so that the server may give it up."""
        return self.kind in ("pauses", "dies")

    @property
    def must_be_lost(self) -> bool:
        """Whether the server has to find out by itself that it is gone."""
        return self.kind in ("dies", "mutes")

    @property
    def breaks_off(self) -> bool:
        """Whether it ends in a way that may cost it what was under way."""
        return self.kind in ("dies", "mutes", "resets", "halves")


@dataclass
class Verdict:
    """What was checked, and what was wrong with it."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def wrong(self, sentence: str) -> None:
        self.counts["faults"] += 1
        if len(self.faults) < FAULTS_TOLD:
            self.faults.append(sentence)


def judge(story: Mapping[str, Any], payloads: Sequence[bytes], heard: Iterable[Heard]) -> Verdict:
    """Compare what was ``heard`` with the ``story`` that :meth:`Ledger.told` tells."""
    verdict = Verdict()
    truth = _Truth(story, verdict)
    places = truth.places_of(payloads)
    for each in heard:
        _Listener(truth, each).check([places[index] for index in each.messages])
    return verdict


@dataclass(frozen=True)
class _Attachment:
    """From the place of a join to the place of a leave."""

    resource: str
    begin: int
    end: int


class _Truth:
    """The ledger, turned so that the expectations of one listener can be looked up."""

    def __init__(self, story: Mapping[str, Any], verdict: Verdict) -> None:
        self.verdict = verdict
        self.events: list[Sequence[Any]] = story["events"]
        self.excluded: dict[int, set[int]] = defaultdict(set)
        #: The places of all sends to a resource, and to one listener.
        self.sends: dict[str, list[int]] = defaultdict(list)
        self.directs: dict[int, list[int]] = defaultdict(list)
        self.attachments: dict[int, list[_Attachment]] = defaultdict(list)
        #: The code with which each ended, and how many messages it missed.
        self.ends: dict[int, tuple[int, int]] = {}
        self.place: dict[tuple[str, int], int] = {}
        self._open: dict[int, dict[str, int]] = defaultdict(dict)
        for place, event in enumerate(self.events):
            self._note(place, *event)
        for listener in [each for each, attached in self._open.items() if attached]:
            verdict.wrong(f"listener {listener} has joined, and its end is not in the ledger")
        self._number(story["numbered"])
        self._exclude(story["excluded"])

    def _note(self, place: int, kind: str, subject: Any, *more: Any) -> None:
        self.verdict.counts[f"{kind}s"] += 1
        if kind == SEND:
            self.sends[subject].append(place)
            self._place(place, *more)
        elif kind == DIRECT:
            self.directs[subject].append(place)
            self._place(place, *more)
        elif kind == JOIN:
            self._open[subject][more[0]] = place
        elif kind == LEAVE:
            self._left(place, subject, more[0])
        elif kind == END:
            self.ends[subject] = more[0], more[1]
            for resource in list(self._open[subject]):
                self._left(place, subject, resource)

    def _left(self, place: int, listener: int, resource: str) -> None:
        begin = self._open[listener].pop(resource)
        self.attachments[listener].append(_Attachment(resource, begin, place))

    def _place(self, place: int, sender: str, number: int, _sum: int) -> None:
        if (sender, number) in self.place:
            self.verdict.wrong(f"the engine took message {number} of {sender} twice")
        self.place[sender, number] = place

    def _number(self, numbered: Mapping[str, int]) -> None:
        """One sender's calls keep their order, to resources and to single listeners alike."""
        for sender, count in numbered.items():
            places = [self.place.get((sender, number)) for number in range(1, count + 1)]
            known = [place for place in places if place is not None]
            if len(known) < count:
                self.verdict.wrong(f"{count - len(known)} of {count} of {sender} never came in")
            if known != sorted(known):
                self.verdict.wrong(f"the engine took the messages of {sender} out of order")
            if sender.startswith("t"):
                self.verdict.counts["sends from threads"] += count

    def _exclude(self, excluded: Mapping[str, Sequence[int]]) -> None:
        for name, listeners in excluded.items():
            sender, number = name.split()
            place = self.place.get((sender, int(number)))
            for listener in listeners if place is not None else ():
                self.excluded[listener].add(place)

    def places_of(self, payloads: Sequence[bytes]) -> list[int | None]:
        """The place of each payload; ``None``, and a fault, for one that was never sent."""
        places = [self._place_of(payload) for payload in payloads]
        for payload, place in zip(payloads, places, strict=True):
            if place is None:
                self.verdict.wrong(f"nobody has sent {payload[:60]!r} as it came")
        return places

    def _place_of(self, payload: bytes) -> int | None:
        try:
            place = self.place.get(identity(payload))
        except ValueError:
            return None
        return place if place is not None and self.events[place][-1] == crc32(payload) else None

    def expected(self, listener: int) -> list[int]:
        """The places of all that is for ``listener``."""
        found = list(self.directs.get(listener, ()))
        for attachment in self.attachments.get(listener, ()):
            found += self._sent_during(attachment)
        return sorted(set(found) - self.excluded.get(listener, set()))

    def droppable(self, listener: int) -> set[int]:
        """Those among them that may be dropped if it is slow."""
        return {
            place
            for attachment in self.attachments.get(listener, ())
            if when_slow(listener, attachment.resource) != CLOSE
            for place in self._sent_during(attachment)
        }

    def _sent_during(self, attachment: _Attachment) -> list[int]:
        sends = self.sends.get(attachment.resource, [])
        return sends[bisect_left(sends, attachment.begin) : bisect_left(sends, attachment.end)]

    def named(self, place: int | None) -> str:
        """A message by its sender and number, for people."""
        if place is None:
            return "an unknown message"
        kind, subject, sender, number, _sum = self.events[place]
        return f"{sender} {number} to {subject if kind == SEND else 'it alone'} (place {place})"


class _Listener:
    """One listener's expectations."""

    def __init__(self, truth: _Truth, heard: Heard) -> None:
        self._truth, self._heard, self._counts = truth, heard, truth.verdict.counts
        #: Nothing of one that had left before its view began.
        self._code, self._missed = truth.ends.get(heard.listener, (None, 0))

    def check(self, places: Sequence[int | None]) -> None:
        self._counts["listeners"] += 1
        self._counts["messages checked"] += len(places)
        self._counts[f"that {self._heard.kind}"] += 1
        self._check_end()
        expected = self._truth.expected(self._heard.listener)
        dropped = self._check_order(places, expected)
        if dropped is not None:
            self._check_missed(dropped, len(expected) - len(places))

    @property
    def _whole(self) -> bool:
        """Whether it must have all, rather than a beginning without gaps.

        Who reads slowly may be cut before it has come to the close frame, by ``close_timeout``.
        """
        heard = self._heard
        cut = heard.may_be_slow and heard.close_code is None
        return not heard.breaks_off and not cut and self._code != SLOW

    def _check_end(self) -> None:
        heard, code = self._heard, self._code
        if code is None:
            self._counts["never served"] += 1
            return
        if code == SLOW:
            self._counts["closed with 1013"] += 1
            if not heard.may_be_slow:
                self._wrong("reads all the time and was closed with 1013")
        elif heard.must_be_lost and code != LOST:
            self._wrong(f"is gone without a word, and ended with {code}")
        elif not heard.breaks_off and code == LOST:
            self._wrong("is healthy and was lost")
        if not heard.breaks_off and heard.close_code not in (code, None):
            self._wrong(f"got the close code {heard.close_code}, and the server had {code}")

    def _check_order(self, places: Sequence[int | None], expected: list[int]) -> int | None:
        """How many were dropped before the last that it got; ``None`` where there is a fault."""
        droppable = self._truth.droppable(self._heard.listener)
        at = 0
        for count, place in enumerate(places):
            first = at
            while at < len(expected) and expected[at] != place and expected[at] in droppable:
                at += 1
            if at == len(expected) or expected[at] != place:
                told = self._difference(places, count, expected, first)
                self._wrong(f"after {count} messages as they should be, {told}")
                return None
            at += 1
        rest = [place for place in expected[at:] if place not in droppable]
        if rest and self._whole:
            told = f"missed {len(rest)} of the last, the first being {self._truth.named(rest[0])}"
            self._wrong(f"after {len(places)} messages as they should be, {told}")
            return None
        return at - len(places)

    def _difference(
        self, places: Sequence[int | None], count: int, expected: list[int], at: int
    ) -> str:
        named, got = self._truth.named, places[count]
        if got in places[:count]:
            return f"got {named(got)} again"
        if got not in expected:
            return f"got {named(got)}, which was not for it"
        if at == len(expected) or expected.index(got) < at:
            return f"got {named(got)} too late"
        before = "before" if expected[at] in places else "and never"
        return f"got {named(got)} {before} {named(expected[at])}"

    def _check_missed(self, dropped: int, missing: int) -> None:
        """Missed counts exactly the rest, and of who is cut no more than that."""
        self._counts["dropped"] += dropped
        if self._whole and self._missed != missing:
            self._wrong(f"did not get {missing} messages, and missed says {self._missed}")
        elif self._missed > missing:
            self._wrong(f"missed at most {missing} messages, and missed says {self._missed}")
        elif self._missed < dropped:
            self._wrong(f"saw {dropped} dropped, and missed says {self._missed}")

    def _wrong(self, what: str) -> None:
        listener, kind = self._heard.listener, self._heard.kind
        self._truth.verdict.wrong(f"listener {listener}, which {kind}, {what}")
