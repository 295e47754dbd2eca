"""One trial: a server in a process of its own, a crowd at it for a while, and the verdict."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from stargate_tests.exactness.crowd import Crowd
from stargate_tests.exactness.verdict import Verdict, judge
from stargate_tests.waiting import wait_until

ROOT = Path(__file__).parents[2]

#: Seconds: generous, since only a trial that fails waits for it.
DEADLINE = 60.0


@dataclass(frozen=True)
class Dials:
    """How big a trial is."""

    seed: int
    seconds: float = 8.0
    #: Peers at a time.
    crowd: int = 150
    #: ``SLICE`` and ``SHORT`` of ``stargate/walk.py``. With small ones, walks of a small crowd are
    #: cut and overtaken as those of thousands are.
    slice: int = 24
    short: int = 6


class Server:
    """The program ``served.py``; ``with`` starts and ends it."""

    def __init__(self, dials: Dials) -> None:
        self._command = [sys.executable, "-m", "stargate_tests.exactness.served"]
        for name in ("seed", "slice", "short"):
            self._command += [f"--{name}", str(getattr(dials, name))]

    def __enter__(self) -> Server:
        self._file = tempfile.TemporaryFile()  # Nobody has the time to read a pipe.
        self.process = subprocess.Popen(
            self._command,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=self._file,
        )
        try:
            wait_until(lambda: self.process.poll() is not None or "serving on" in self.log())
            found = re.search(r"serving on (\S+)", self.log())
            assert found, f"the server did not start:\n{self.log()}"
        except BaseException:
            self.__exit__()
            raise
        self.url = found.group(1)
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(DEADLINE)
        finally:
            self.process.kill()
            self.process.wait()
            self._file.close()

    def log(self) -> str:
        """What it has written so far."""
        size = os.fstat(self._file.fileno()).st_size
        return os.pread(self._file.fileno(), size, 0).decode(errors="replace")

    def ask(self, page: str) -> Any:
        """The answer of one of the trial's own pages."""
        with urllib.request.urlopen(f"{self.url}/@@{page}", timeout=DEADLINE) as answer:
            return json.load(answer)


def run(dials: Dials) -> Verdict:
    """Have a trial, and judge it."""
    with Server(dials) as server:
        server.ask("begin")
        parts = urlsplit(server.url)
        with closing(Crowd((parts.hostname, parts.port), dials.seed, dials.crowd)) as crowd:
            crowd.run(dials.seconds)
            crowd.fill()
            late = not _turn_until(crowd, lambda: crowd.dead.isdisjoint(server.ask("connected")))
            crowd.revive()
            errors = server.ask("stop")["errors"]
            crowd.say_good_bye()
            stuck = not _turn_until(crowd, lambda: crowd.gone)
            left = _ask_until_nothing_is_left(server)
            verdict = judge(server.ask("tell"), crowd.payloads, crowd.heard)
        for sentence in (*crowd.faults, *errors, *_errors(server.log())):
            verdict.wrong(sentence)
    if late:
        verdict.wrong(f"peers that read no more were not given up within {DEADLINE} s")
    if stuck:
        verdict.wrong(f"{len(crowd.open)} peers did not come to an end within {DEADLINE} s")
    if any(left.values()):
        verdict.wrong(f"when all had gone, there were still {left}")
    return verdict


def _turn_until(crowd: Crowd, condition: Callable[[], bool]) -> bool:
    """Let the crowd go on until ``condition()``, looked at ten times a second; whether it came."""
    end = monotonic() + DEADLINE
    while not condition():
        look = monotonic() + 0.1
        while monotonic() < look:
            crowd.turn()
        if look > end:
            return False
    return True


def _ask_until_nothing_is_left(server: Server) -> dict[str, int]:
    """What the server still has of connections and the like; it may take a moment to notice."""
    end = monotonic() + 15
    while True:
        left: dict[str, int] = server.ask("left")
        if not any(left.values()) or monotonic() > end:
            return left


def _errors(log: str) -> list[str]:
    """What the server's log has of errors."""
    found = [line for line in log.splitlines() if "ERROR" in line or "Error" in line]
    return [f"the server's log: {line}" for line in found]


def line(dials: Dials, verdict: Verdict) -> str:
    """A trial in one line."""
    told = ", ".join(f"{count:,} {name}" for name, count in sorted(verdict.counts.items()))
    return f"seed {dials.seed}, {dials.seconds:g} s, {dials.crowd} peers at a time: {told}"
