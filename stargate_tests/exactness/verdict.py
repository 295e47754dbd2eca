"""The checker: what each listener got, beside what the ledger says that it must have got.

Each listener and each attachment: exactly the messages sent between its join and its leave, each
once, in the one order of the engine. Pure: the story of a trial goes in, sentences come out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from stargate_tests.exactness.ledger import DIRECT, END, JOIN, LEAVE, SEND, identity

SLOW, LOST = 1013, 1006

#: Sentences that are kept: a broken server breaks nearly every listener.
FAULTS_TOLD = 40


@dataclass
class Heard:
    """One listener as its peer saw it."""

    listener: int
    #: How it behaves: "closes", "quits", "pauses", "dies", "resets", "halves".
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
    def breaks_off(self) -> bool:
        """Whether it ends in a way that may cost it what was under way."""
        return self.kind in ("dies", "resets", "halves")


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


class _Truth:
    """The ledger, turned so that the expectations of one listener can be looked up."""

    def __init__(self, story: Mapping[str, Any], verdict: Verdict) -> None:
        self.verdict = verdict
        self.events: list[Sequence[Any]] = story["events"]
        self.excluded: dict[int, set[int]] = defaultdict(set)
        #: The places of all sends to a resource, and to one listener.
        self.sends: dict[str, list[int]] = defaultdict(list)
        self.directs: dict[int, list[int]] = defaultdict(list)
        #: (resource, place of the join, place of the leave) of each attachment.
        self.attachments: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
        self.ends: dict[int, tuple[int, int]] = {}
        #: Below zero are the messages of OS threads to one listener, whose places are not known.
        self.unplaced: list[Sequence[Any]] = story["from_threads"]
        self.unplaced_of: dict[int, list[int]] = defaultdict(list)
        self.place: dict[tuple[str, int], int] = {}
        self._open: dict[int, dict[str, int]] = defaultdict(dict)
        for place, event in enumerate(self.events):
            self._note(place, *event)
        for index, (sender, number, listener, _sum) in enumerate(self.unplaced):
            self.place[sender, number] = ~index
            self.unplaced_of[listener].append(~index)
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
            self.attachments[subject].append((more[0], self._open[subject].pop(more[0]), place))
        elif kind == END:
            self.ends[subject] = place, more[0]
            for resource, begin in self._open.pop(subject, {}).items():
                self.attachments[subject].append((resource, begin, place))

    def _place(self, place: int, sender: str, number: int, _sum: int) -> None:
        if (sender, number) in self.place:
            self.verdict.wrong(f"the engine took message {number} of {sender} twice")
        self.place[sender, number] = place

    def _number(self, numbered: Mapping[str, int]) -> None:
        """Every sender's own numbers are without a gap and, as far as they have places, in order.

        That the engine takes what a thread sends in the order of its calls is not assumed.
        """
        for sender, count in numbered.items():
            places = [self.place.get((sender, number)) for number in range(1, count + 1)]
            missing = places.count(None)
            if missing:
                self.verdict.wrong(f"{missing} of {count} messages of {sender} never came in")
            known = [place for place in places if place is not None and place >= 0]
            if known != sorted(known):
                self.verdict.wrong(f"the engine took the messages of {sender} out of order")
            if sender.startswith("t"):
                self.verdict.counts["sends from threads"] += count

    def _exclude(self, excluded: Mapping[str, Sequence[int]]) -> None:
        for name, listeners in excluded.items():
            sender, number = name.split()
            place = self.place.get((sender, int(number)))
            for listener in listeners:
                if place is not None:
                    self.excluded[listener].add(place)

    def places_of(self, payloads: Sequence[bytes]) -> list[int | None]:
        """The place of each payload; ``None``, and a fault, for one that was never sent."""
        seen: set[int] = set()
        places = []
        for payload in payloads:
            place = self._place_of(payload)
            if place is None or place in seen:
                self.verdict.wrong(f"nobody has sent {payload[:60]!r} as it came")
                place = None
            else:
                seen.add(place)
            places.append(place)
        return places

    def _place_of(self, payload: bytes) -> int | None:
        try:
            place = self.place.get(identity(payload))
        except ValueError:
            return None
        if place is None:
            return None
        event = self.unplaced[~place] if place < 0 else self.events[place]
        return place if event[-1] == crc32(payload) else None

    def named(self, place: int | None) -> str:
        """A message by its sender and number, for people."""
        if place is None:
            return "an unknown message"
        if place < 0:
            sender, number, listener, _sum = self.unplaced[~place]
            return f"{sender} {number} to it alone"
        kind, subject, sender, number, _sum = self.events[place]
        return f"{sender} {number} to {subject if kind == SEND else 'it alone'} (place {place})"

    def neighbours(self, place: int) -> tuple[int, int]:
        """Between which places a thread's message to one listener was taken in."""
        sender, number = self.unplaced[~place][:2]
        before = after = -1
        while number > 1 and before < 0:
            number -= 1
            before = self.place.get((sender, number), -1)
        number = self.unplaced[~place][1]
        while after < 0:
            number += 1
            after = self.place.get((sender, number), len(self.events))
        return before, after


class _Listener:
    """One listener's expectations."""

    def __init__(self, truth: _Truth, heard: Heard) -> None:
        self._truth, self._heard, self._verdict = truth, heard, truth.verdict
        #: Where it ended, and with what code; nothing of one that had left before its view began.
        self._end, self._code = truth.ends.get(heard.listener, (0, None))

    def check(self, places: Sequence[int | None]) -> None:
        self._verdict.counts["listeners"] += 1
        self._verdict.counts["messages checked"] += len(places)
        self._verdict.counts[f"that {self._heard.kind}"] += 1
        self._check_end()
        self._check_order([place for place in places if place is None or place >= 0])
        if self._truth.unplaced_of.get(self._heard.listener) or any(
            place is not None and place < 0 for place in places
        ):
            self._check_unplaced(places)

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
            self._verdict.counts["never served"] += 1
            return
        if code == SLOW:
            self._verdict.counts["closed with 1013"] += 1
            if not heard.may_be_slow:
                self._wrong("reads all the time and was closed with 1013")
        elif heard.kind == "dies" and code != LOST:
            self._wrong(f"stopped reading for ever, and ended with {code}")
        elif not heard.breaks_off and code == LOST:
            self._wrong(f"is healthy and was lost")
        if not heard.breaks_off and heard.close_code not in (code, None):
            self._wrong(f"got the close code {heard.close_code}, and the server had {code}")

    def _expected(self) -> list[int]:
        truth, listener = self._truth, self._heard.listener
        found = list(truth.directs.get(listener, ()))
        for resource, begin, end in truth.attachments.get(listener, ()):
            sends = truth.sends.get(resource, [])
            found += sends[bisect_left(sends, begin) : bisect_left(sends, end)]
        found.sort()
        not_for_it = truth.excluded.get(listener)
        if not_for_it:
            found = [place for place in found if place not in not_for_it]
        return found

    def _check_order(self, places: list[int | None]) -> None:
        expected = self._expected()
        if places == (expected if self._whole else expected[: len(places)]):
            return
        at = 0
        while at < min(len(places), len(expected)) and places[at] == expected[at]:
            at += 1
        self._wrong(f"after {at} messages as they should be, {self._difference(places, expected, at)}")

    def _difference(self, places: list[int | None], expected: list[int], at: int) -> str:
        named = self._truth.named
        if at == len(places):
            return f"missed the last {len(expected) - at}, the first being {named(expected[at])}"
        got = places[at]
        if got in places[:at]:
            return f"got {named(got)} again"
        if at == len(expected) or got not in expected:
            return f"got {named(got)}, which was not for it"
        if expected[at] in places:
            return f"got {named(got)} before {named(expected[at])}"
        return f"got {named(got)} and never {named(expected[at])}"

    def _check_unplaced(self, places: Sequence[int | None]) -> None:
        """What OS threads sent to it alone: each once, between what they sent before and behind."""
        truth, mine = self._truth, self._truth.unplaced_of.get(self._heard.listener, [])
        got = Counter(place for place in places if place is not None and place < 0)
        self._verdict.counts["from a thread to one"] += len(got)
        for place, times in got.items():
            if times > 1:
                self._wrong(f"got {truth.named(place)} {times} times")
            if place not in mine:
                self._wrong(f"got {truth.named(place)}, which was for another")
        for place in mine if self._whole else ():
            if place not in got and truth.neighbours(place)[1] <= self._end:
                self._wrong(f"never got {truth.named(place)}")
        self._check_threads_order(places)

    def _check_threads_order(self, places: Sequence[int | None]) -> None:
        last: dict[str, int] = {}
        for place in places:
            sender, number = self._sender(place)
            if number < last.get(sender, 0):
                self._wrong(f"got {self._truth.named(place)} behind number {last[sender]}")
            last[sender] = number

    def _sender(self, place: int | None) -> tuple[str, int]:
        if place is None:
            return "", 0
        if place < 0:
            return self._truth.unplaced[~place][0], self._truth.unplaced[~place][1]
        return self._truth.events[place][2], self._truth.events[place][3]

    def _wrong(self, what: str) -> None:
        self._verdict.wrong(f"listener {self._heard.listener}, which {self._heard.kind}, {what}")
