"""The faults of a trial: what happens to workers and to Redis, when, and how often.

Which, and when, comes from the seed. Sockets are reset by the crowd itself.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from redis import RedisError

from stargate_tests.redis_servers import RedisServer
from stargate_tests.waiting import DEADLINE, wait_until

#: Seconds between two faults, at most.
PAUSE = 2.5

#: How much longer, at most, Redis is away for, and stands still for.
AWAY, STILL = 0.6, 1.2


class Faults:
    """Does harm, in a thread of its own, until :meth:`end`."""

    #: Each kind, and how often it is chosen, beside the others.
    KINDS = {
        **{"kill a worker": 5, "kill both workers": 1, "HUP": 1},
        **{"restart Redis": 1, "kill Redis": 2, "Redis stands still": 1},
        **{"cut the subscribers": 3, "cut those who ask": 2},
    }

    def __init__(
        self,
        redis: RedisServer,
        master: int,
        seed: int,
        pause: float = PAUSE,
        *,
        forgets: bool = False,
    ) -> None:
        self._redis, self._master, self._pause, self._forgets = redis, master, pause, forgets
        self._rng = random.Random(f"{seed} faults")
        self.done: Counter[str] = Counter()
        #: What has gone wrong with doing harm.
        self.error: BaseException | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faults")

    def begin(self) -> None:
        """Begin: each kind once, in any order, and then any of them."""
        self._thread.start()

    @property
    def complete(self) -> bool:
        """Whether each kind has been."""
        return len(self.done) == len(self.KINDS) or self.error is not None

    def end(self) -> None:
        """Do no more; Redis runs."""
        self._over.set()
        self._thread.join(DEADLINE)
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            first = list(self.KINDS)
            self._rng.shuffle(first)
            while not self._wait(self._pause):
                kind = first.pop() if first else self._any()
                self._acts[kind](self)
                self.done[kind] += 1
        except BaseException as error:
            self.error = error

    def _any(self) -> str:
        (kind,) = self._rng.choices(list(self.KINDS), list(self.KINDS.values()))
        return kind

    def _wait(self, most: float) -> bool:
        return self._over.wait(self._rng.random() * most)

    # Workers.

    def _kill_worker(self) -> None:
        self._kill(1)

    def _kill_both(self) -> None:
        self._kill(2)

    def _kill(self, count: int) -> None:
        workers = children(self._master)
        for pid in self._rng.sample(workers, min(count, len(workers))):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _hup(self) -> None:
        os.kill(self._master, signal.SIGHUP)

    # Redis.

    def _restart_redis(self) -> None:
        self._redis.stop()
        self._begin_redis()

    def _kill_redis(self) -> None:
        self._redis.kill()
        self._begin_redis()

    def _begin_redis(self) -> None:
        self._wait(AWAY * self._pause)
        if self._forgets:
            self._redis.wipe()
        else:
            self._redis.start()

    def _stall_redis(self) -> None:
        self._redis.pause()
        self._wait(STILL * self._pause)
        self._redis.resume()

    def _cut_subscribers(self) -> None:
        self._cut("pubsub")

    def _cut_commands(self) -> None:
        self._cut("normal")

    def _cut(self, kind: str) -> None:
        with suppress(RedisError):  # Its own connection may be one of the dead.
            self._redis.ask("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    _acts: dict[str, Callable[[Faults], None]] = {
        "kill a worker": _kill_worker,
        "kill both workers": _kill_both,
        "HUP": _hup,
        "restart Redis": _restart_redis,
        "kill Redis": _kill_redis,
        "Redis stands still": _stall_redis,
        "cut the subscribers": _cut_subscribers,
        "cut those who ask": _cut_commands,
    }


def children(pid: int) -> list[int]:
    """The processes that ``pid`` has started, and that have not ended."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sorted(int(each) for each in found)


def wait_for_workers(master: int, count: int) -> None:
    """Until gunicorn has so many again."""
    wait_until(lambda: len(children(master)) >= count)
