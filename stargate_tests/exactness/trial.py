"""One trial: a server in a process of its own, a crowd at it for a while, and the verdict."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from stargate_tests.exactness.crowd import Crowd
from stargate_tests.exactness.verdict import Verdict, judge
from stargate_tests.functional.program import Program
from stargate_tests.waiting import DEADLINE


@dataclass(frozen=True)
class Dials:
    """How big a trial is."""

    seed: int
    seconds: float = 4.0
    #: Peers at a time.
    crowd: int = 150
    #: ``SLICE`` and ``SHORT`` of ``stargate/walk.py``. With small ones, walks of a small crowd are
    #: cut and overtaken as those of thousands are.
    slice: int = 24
    short: int = 6
    #: One of ``faults.py``, or none.
    fault: str = ""

    def command(self) -> list[str]:
        """What serves such a trial."""
        words = [sys.executable, "-m", "stargate_tests.exactness.served"]
        for name in ("seed", "slice", "short", "fault"):
            value = getattr(self, name)
            words += [f"--{name}", str(value)] if value != "" else []
        return words


def run(dials: Dials) -> Verdict:
    """Have a trial, and judge it."""
    with Program(dials.command()) as server:
        url = server.expect(r"serving on (\S+)").group(1)
        ask(url, "begin")
        parts = urlsplit(url)
        with closing(Crowd((parts.hostname, parts.port), dials.seed, dials.crowd)) as crowd:
            crowd.run(dials.seconds)
            wrong = end(crowd, url)
            verdict = judge(ask(url, "tell"), crowd.payloads, crowd.heard)
        server.stop()
    for sentence in (*wrong, *crowd.faults, *errors(server.log)):
        verdict.wrong(sentence)
    return verdict


def ask(url: str, page: str) -> Any:
    """The answer of one of the trial's own pages."""
    with urllib.request.urlopen(f"{url}/@@{page}", timeout=DEADLINE) as answer:
        return json.load(answer)


def end(crowd: Crowd, url: str) -> list[str]:
    """Let everybody come to an end; returns what did not as it should."""
    page = crowd.fill()
    turn_until(crowd, lambda: page.over)
    wrong: list[str] = ask(url, "stop")["errors"]
    if not turn_until(crowd, lambda: crowd.lost.isdisjoint(ask(url, "connected"))):
        wrong.append(f"peers that are gone were not given up within {DEADLINE} s")
    crowd.revive()
    crowd.say_good_bye()
    if not turn_until(crowd, lambda: crowd.gone):
        wrong.append(f"{len(crowd.open)} peers did not come to an end within {DEADLINE} s")
    left: dict[str, int] = {}
    if not turn_until(crowd, lambda: not any(left.update(ask(url, "left")) or left.values())):
        wrong.append(f"when all had gone, there were still {left}")
    return wrong


def turn_until(crowd: Crowd, condition: Callable[[], bool]) -> bool:
    """Let the crowd go on until ``condition()``, looked at ten times a second; whether it came."""
    end = monotonic() + DEADLINE
    while not condition():
        look = monotonic() + 0.1
        while monotonic() < look:
            crowd.turn()
        if look > end:
            return False
    return True


def errors(log: str) -> list[str]:
    """What the server's log has of errors."""
    found = [line for line in log.splitlines() if "ERROR" in line or "Error" in line]
    return [f"the server's log: {line}" for line in found]


def line(dials: Dials, verdict: Verdict) -> str:
    """A trial in one line."""
    told = ", ".join(f"{count:,} {name}" for name, count in sorted(verdict.counts.items()))
    return f"seed {dials.seed}, {dials.seconds:g} s, {dials.crowd} peers at a time: {told}"
