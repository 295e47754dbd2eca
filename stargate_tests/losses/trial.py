"""One trial: Redis, gunicorn, publishers and a crowd; harm for a while; and the verdict."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from stargate import connect
from stargate_tests.losses.crowd import Crowd
from stargate_tests.losses.faults import PAUSE, Faults, children, wait_for_workers
from stargate_tests.losses.ledger import RESOURCES, Ledger
from stargate_tests.losses.verdict import Story, Verdict, judge
from stargate_tests.redis_servers import RedisServer
from stargate_tests.waiting import DEADLINE, wait_until

NAMESPACE = "losses"

WORKERS = 2

#: Those that send with ``stargate.connect``, and the one that sends by a view.
PUBLISHERS = ("first", "second", "third", "view")

#: Seconds that the crowd listens on when everything has come: for what comes twice.
SILENCE = 0.5


@dataclass(frozen=True)
class Dials:
    """How big a trial is."""

    seed: int
    seconds: float = 60.0
    websockets: int = 500
    #: Messages a second of each publisher.
    rate: float = 12.0
    #: Seconds between two faults, at most.
    pause: float = PAUSE
    #: Whether Redis writes each message to its disk before it says that it has it.
    durable: bool = True
    #: Where the workers write what they log; by default it is not kept.
    log: str = ""


@dataclass
class Outcome:
    """What came of a trial."""

    verdict: Verdict
    ledger: Ledger
    stories: list[Story]
    #: How often there was each fault, and what it did to those who listen and to those who send.
    faults: Counter[str]
    counts: Counter[str] = field(default_factory=Counter)


def run(dials: Dials) -> Outcome:
    """Have a trial, and judge it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="losses-")))
        durable = {"appendonly": "yes", "appendfsync": "always"} if dials.durable else {}
        redis = stack.enter_context(RedisServer(**durable))
        server = stack.enter_context(gunicorn(redis.url, folder, dials.log))
        place = urlsplit(server.url)
        where = str(place.hostname), int(place.port or 0)
        crowd = Crowd(where, dials.seed, dials.websockets, list(RESOURCES))
        stack.enter_context(closing(crowd))
        _gather(crowd)
        publishers = stack.enter_context(publishing(dials, redis.url, server.url, folder))
        faults = Faults(redis, server.pid, dials.seed, dials.pause, forgets=not dials.durable)
        _harm(dials, crowd, faults)
        wait_for_workers(server.pid, WORKERS)
        ledger, doubtful = _end(dials, crowd, publishers, redis.url)
        stories = crowd.stories()
        verdict = judge(ledger, stories)
        for sentence in crowd.wrong:
            verdict.wrong(sentence)
        counts = crowd.counts + doubtful + Counter({"messages that were not kept": ledger.unkept})
        done = faults.done + Counter({"sockets reset": counts.pop("sockets reset")})
        return Outcome(verdict, ledger, stories, done, counts)


def _gather(crowd: Crowd) -> None:
    """Until each knows a place to go on from: so all that is sent is for it, and is kept."""
    crowd.begin()
    crowd.run(lambda: all(peer.position for peer in crowd.peers), DEADLINE)


def _harm(dials: Dials, crowd: Crowd, faults: Faults) -> None:
    """Until the time is over and there has been each fault."""
    end = monotonic() + dials.seconds
    faults.begin()
    try:
        crowd.run(lambda: monotonic() > end and faults.complete, dials.seconds + DEADLINE)
    finally:
        faults.end()
        crowd.calm()


def _end(
    dials: Dials, crowd: Crowd, publishers: list[Publisher], redis: str
) -> tuple[Ledger, Counter[str]]:
    """The publishers come to their end; the crowd gets what there is."""
    for each in publishers:
        each.finish()
    crowd.run(lambda: all(each.ended for each in publishers), DEADLINE)
    told = [each.told for each in publishers]
    entries = [entry for found in told for entry in found["acknowledged"]]
    with connect(redis, NAMESPACE) as reader:
        newest = {name: reader.history(f"/{name}", limit=1).position for name in RESOURCES}
    ledger = Ledger(entries, durable=dials.durable, newest=newest)
    crowd.run(lambda: all(peer.position == newest[peer.resource] for peer in crowd.peers), DEADLINE)
    over = monotonic() + SILENCE
    crowd.run(lambda: monotonic() > over, DEADLINE)
    doubtful: Counter[str] = Counter()
    for found in told:
        doubtful.update({f"sends {name}": count for name, count in found["doubtful"].items()})
    return ledger, doubtful


class Gunicorn:
    """Two workers, and what they log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.pid, self._log = process, process.pid, log
        self.url = ""

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until_it_serves(self) -> None:
        def serves() -> bool:
            assert self.process.poll() is None, self.log
            found = re.search(r"Listening at: (http://\S+)", self.log)
            self.url = found[1] if found else ""
            return bool(self.url) and len(children(self.pid)) == WORKERS

        wait_until(serves)


@contextmanager
def gunicorn(redis: str, folder: Path, kept: str = "") -> Iterator[Gunicorn]:
    """Serve the trial's application; its control socket is in ``folder``, not in a home."""
    application = f"stargate_tests.losses.served:main({redis!r}, {NAMESPACE!r})"
    command = [
        *(sys.executable, "-m", "gunicorn", "-k", "stargate.gunicorn.EventletWorker"),
        *("-w", str(WORKERS), "-b", "127.0.0.1:0", "--graceful-timeout", "6"),
        *("--control-socket", str(folder / "control"), application),
    ]
    log = Path(kept or folder / "log")
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        server = Gunicorn(process, log)
        server.wait_until_it_serves()
        yield server
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE)
        finally:
            process.kill()
            process.wait()


@contextmanager
def publishing(dials: Dials, redis: str, url: str, folder: Path) -> Iterator[list[Publisher]]:
    """The publishers, each a process of its own; what they tell is in ``folder``."""
    ways: dict[str, list[Any]] = {
        name: ["--view", url] if name == "view" else ["--redis", redis, "--namespace", NAMESPACE]
        for name in PUBLISHERS
    }
    with ExitStack() as stack:
        publishers = []
        for name, way in ways.items():
            command = [sys.executable, "-m", "stargate_tests.losses.publisher", "--name", name]
            command += ["--seed", str(dials.seed), "--rate", str(dials.rate), *way]
            publishers.append(stack.enter_context(Publisher(command, folder / name)))
        yield publishers


class Publisher:
    """A process that sends until it is told to end; ``with`` ends it in any case."""

    def __init__(self, command: list[str], told: Path) -> None:
        self._told = told
        with told.open("wb") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out)

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def told(self) -> Any:
        """What it has printed, once it has ended."""
        assert self.process.poll() == 0, f"{self.process.args} ended with {self.process.poll()}"
        return json.loads(self._told.read_text())

    def finish(self) -> None:
        """Come to an end with what is under way."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.wait()
        self.finish()


def line(dials: Dials, outcome: Outcome) -> str:
    """A trial in a few lines."""
    counts = outcome.verdict.counts
    first = ("messages acknowledged", "deliveries", "reconnects")
    first += ("recovered: true", "recovered: false")
    return "\n".join(
        (
            f"seed {dials.seed}, {dials.seconds:g} s, {dials.websockets} WebSockets, "
            f"Redis {'keeps all' if dials.durable else 'keeps nothing'}",
            "  " + ", ".join(f"{name} {counts[name]:,}" for name in first),
            "  faults: " + _told(outcome.faults),
            "  seen: " + _told(outcome.counts),
            f"  verdict: {counts['wrong'] or 'nothing'} wrong",
        )
    )


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
