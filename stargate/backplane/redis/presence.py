"""What one process adds to presence, under one lease in the Redis.

What changes is noted in the engine's thread, which never waits; a thread of its own tells the
Redis. That thread also renews the lease, and sweeps away those whose leases have run out.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from time import monotonic, sleep
from typing import Any, NamedTuple

from stargate.backplane.redis.commands import NOT_SENT, PIPELINED, UNKNOWN, Commands
from stargate.backplane.redis.places import Batch, Place, Who
from stargate.backplane.redis.presence_scripts import ANY, LEAVE, LIST, LOOK, NEVER, worker_keys
from stargate.backplane.redis.sweep import Event, Ledger, pieces
from stargate.exceptions import BackplaneError
from stargate.history import random_part

log = logging.getLogger("stargate.backplane")

#: Addresses in one command, and how often what was lost is looked for before it waits a while.
ADDRESSES_AT_ONCE, PASSES = 1000, 1000


class Times(NamedTuple):
    """How long things take, in seconds."""

    #: Who has not renewed its lease for so long is gone. The network may pause for 15 s: then 2 s
    #: have passed since the last renewal, and a call that was under way has to time out first.
    lease: float = 20.0
    #: Between two renewals, and two looks at the leases of others.
    beat: float = 2.0
    #: How long a change waits for others to go with it.
    gather: float = 0.01
    #: Within which each address is compared with what the Redis has.
    verify: float = 30.0
    #: Before what failed is tried again.
    retry: float = 0.5


class Presence:
    """Who listens in this process, as the Redis is to know it.

    ``report(event)`` is called in the thread that this starts at the first change.
    """

    def __init__(
        self,
        commands: Commands,
        namespace: str,
        report: Callable[[Event], object],
        times: Times | None = None,
    ) -> None:
        self._commands, self._report = commands, report
        self._keys, self._ledger = worker_keys(namespace), Ledger(commands, namespace)
        self._times = times if times is not None else Times()
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        #: Changes, and those who wait until all before them has been told, in their order.
        self._inbox: deque[tuple[str, Who, int] | _Waiter] = deque()
        self._news = threading.Event()
        self._hurry = False
        self._thread: threading.Thread | None = None
        #: Until when it may take to close, on the monotonic clock.
        self._closing: float | None = None
        self._closed = False
        self._waiters: list[_Waiter] = []
        self._events: list[Event] = []
        self._complained = False
        self._places: dict[str, Place] = {}
        self._to_verify: deque[str] = deque()
        self._verify_at = 0.0
        self._be_new()

    def _be_new(self) -> None:
        self.worker = random_part()
        self._serials = count(1)
        #: The places where something waits to be told.
        self._active: dict[str, Place] = {}
        #: What has been seen of the Redis, and the one of which it has all that is here.
        self._epoch = self._filled = ""
        #: When the lease ends, at least, on the Redis's clock in ms.
        self._least = 0
        #: Whether the Redis does not have what it was told, and whether this worker is called gone.
        self._lost = self._called_gone = False
        #: Whether all peers have written what they have, so that it can be told who comes and goes.
        self._settled, self._settle_by = True, 0.0
        self._peers: frozenset[bytes] = frozenset()
        self._run_out: list[str] = []
        #: The last look at the workers, the next one, and until when none is called gone.
        self._looked = self._next_look = self._patient = 0.0

    # From the engine's thread.

    def change(self, topic: str, who: Who, by: int) -> None:
        """``by`` WebSockets of ``who`` more at ``topic``; never waits."""
        if self._process != os.getpid():
            self._begin()
        if not self._closed:
            self._put((topic, who, by))

    # From any thread.

    def catch_up(self, timeout: float) -> None:
        """Return when the Redis has been told of all changes so far; raises ``BackplaneError``."""
        if self._thread is None or self._closed or self._process != os.getpid():
            return
        waiter = _Waiter()
        self._hurry = True
        self._put(waiter)
        if not waiter.done.wait(timeout):
            raise BackplaneError(
                UNKNOWN,
                f"{self._commands.address}: not told within {timeout:g} s who is here",
            )
        if waiter.error is not None:
            raise waiter.error

    def close(self, timeout: float) -> None:
        """Take away all that this process has added, within ``timeout`` seconds, and stop."""
        thread = self._thread
        if thread is not None and not self._closed and self._process == os.getpid():
            self._closing = monotonic() + timeout
            self._news.set()
            thread.join(timeout)
        self._closed = True

    def _put(self, item: tuple[str, Who, int] | _Waiter) -> None:
        self._inbox.append(item)
        if not self._news.is_set():
            self._news.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="stargate presence", daemon=True)
            self._thread.start()

    # The thread: all that follows happens in it.

    def _run(self) -> None:
        while not self._closed:
            try:
                self._turn()
            except BackplaneError as error:
                self._fail(error)
            except Exception as error:
                log.exception("presence failed")
                self._complained = True
                self._fail(BackplaneError(NOT_SENT, f"presence failed: {error!r}"))
            if self._closing is not None:
                self._withdraw()
                break
            self._rest()

    def _turn(self) -> None:
        """Tell what there is to tell; look around, sweep and verify when it is time."""
        self._read_inbox()
        try:
            if monotonic() >= self._next_look:
                self._look()
            self._tell()
        finally:
            self._report_all()
        self._answer(None)
        if self._complained:
            self._complained = False
            log.warning("%s: it is told again who is here", self._commands.address)
        if self._run_out and self._settled and monotonic() >= self._patient:
            self._sweep()
        if monotonic() >= self._verify_at:
            self._verify_at = monotonic() + self._times.beat
            self._verify()

    def _rest(self) -> None:
        """Wait until there is something to do."""
        self._news.wait(max(0.0, self._next_look - monotonic()))
        if not self._hurry and self._closing is None:
            sleep(self._times.gather)

    def _read_inbox(self) -> None:
        self._news.clear()
        self._hurry = False
        now = monotonic()
        while self._inbox:
            item = self._inbox.popleft()
            if isinstance(item, _Waiter):
                self._waiters.append(item)
                continue
            topic, who, by = item
            place = self._places.get(topic)
            if place is None:
                place = self._places[topic] = Place(topic)
            place.change(who, by, now)
            self._active[topic] = place

    def _answer(self, error: BackplaneError | None) -> None:
        waiters, self._waiters = self._waiters, []
        for each in waiters:
            each.error = error
            each.done.set()

    def _report_all(self) -> None:
        events, self._events = self._events, []
        for each in events:
            self._report(each)

    def _fail(self, error: BackplaneError) -> None:
        self._answer(error)
        if not self._complained:
            self._complained = True
            log.warning("it can't be told who is here: %s; it will be tried again", error)
        if self._closing is None:
            sleep(self._times.retry)
            self._next_look = 0.0

    # The lease.

    def _look(self) -> None:
        """Renew the lease; see who else has one, and whether anything was lost."""
        reply: list[Any] = [0]
        while not reply[0]:
            facts = (self._least, self._epoch, self._filled, int(self._lost))
            lease_ms = int(self._times.lease * 1000)
            reply = self._commands.script(LOOK, self._keys, (self.worker, lease_ms, *facts))
            if not reply[0]:
                self._begin_anew()
        self._see(*reply[1:])

    def _see(self, epoch: bytes, least: int, held: int, workers: list[list[Any]]) -> None:
        now, found = monotonic(), epoch.decode()
        if not held or now - self._looked > self._times.lease / 4:
            # Others may have been kept from renewing theirs as well: let them come back.
            self._patient = now + self._times.lease / 2
        self._looked, self._least, self._lost = now, least, False
        alive = {name: filled for name, has_lease, filled in workers if has_lease}
        self._run_out = [name.decode() for name, has_lease, _ in workers if not has_lease]
        if not self._epoch:
            self._filled = found
        elif self._epoch != found:
            self._refill(now)
        self._epoch = found
        if not self._settled and (
            now >= self._settle_by or all(alive.get(each) == epoch for each in self._peers)
        ):
            self._settle()
        if self._settled:
            self._peers = frozenset(alive) - {self.worker.encode()}
        self._next_look = now + self._times.beat / (1 if self._settled else 8)

    def _refill(self, now: float) -> None:
        """Write everything again; who comes or goes is not said before all peers have, too."""
        log.warning("%s has lost who is here: it is told again", self._commands.address)
        self._settled, self._settle_by = False, now + self._times.lease
        for place in self._places.values():
            place.doubtful, place.listed = True, False
        self._active = dict(self._places)

    def _settle(self) -> None:
        self._settled = True
        for topic, place in self._places.items():
            if place.settle():
                self._active[topic] = place

    def _begin_anew(self) -> None:
        """This worker was called gone: all who are here come again, to a worker that is new."""
        log.warning(
            "%s: this process was taken for dead, and its listeners for gone: they come again",
            self._commands.address,
        )
        self._be_new()
        for place in self._places.values():
            place.begin_anew()
        self._active = dict(self._places)

    # Telling the Redis.

    def _tell(self) -> None:
        """Tell the Redis all that waits; raises ``BackplaneError``, and then it waits still."""
        for _ in range(PASSES):
            if self._called_gone:
                self._begin_anew()
            if self._lost or not self._epoch:
                self._look()
            if self._active:
                self._pass()
            elif self._filled != self._epoch:
                self._filled = self._epoch
                self._look()  # So that others know.
            else:
                return
        raise BackplaneError(NOT_SENT, f"{self._commands.address} loses what it is told")

    def _pass(self) -> None:
        errors: list[Exception] = []
        for some in pieces(list(self._active.values()), ADDRESSES_AT_ONCE):
            if not self._list([each for each in some if not each.listed]):
                self._lost = True
                return
            for few in pieces(some, PIPELINED):
                errors += self._tell_some(few)
        if errors:
            raise BackplaneError(NOT_SENT, f"{self._commands.address}: {errors[0]}")

    def _list(self, places: list[Place]) -> bool:
        """Have addresses in the worker's set before anything stands at them; false: no lease."""
        if not places:
            return True
        keys = self._keys.workers, self._keys.addresses(self.worker)
        topics = (each.topic for each in places)
        if not self._commands.script(LIST, keys, (self.worker, self._least, *topics)):
            return False
        for each in places:
            each.listed = True
        return True

    def _tell_some(self, places: Iterable[Place]) -> list[Exception]:
        calls: list[tuple[Place, Batch]] = []
        for place in places:
            batch = place.next(next(self._serials), self._settled)
            if batch is not None:
                calls.append((place, batch))
        replies = self._ledger.change(
            [(place.topic, batch.arguments(self.worker)) for place, batch in calls]
        )
        errors: list[Exception] = []
        for (place, batch), reply in zip(calls, replies, strict=True):
            if isinstance(reply, Exception):
                errors.append(reply)
            elif reply is None:
                self._called_gone |= batch.before == ANY
                self._lost = True
                place.lose()
            else:
                place.confirm()
                self._events += reply
            if not place.waits:
                del self._active[place.topic]
        return errors

    # What is to be looked after.

    def _sweep(self, until: float | None = None) -> None:
        """Take away those whose leases have run out."""
        run_out, self._run_out = self._run_out, []
        for worker in run_out:
            for event in self._ledger.sweep(worker, self.worker, self._times.lease / 4, until):
                self._report(event)

    def _verify(self) -> None:
        """Compare some addresses with what the Redis has; let go of those where nobody comes."""
        if not self._to_verify:
            self._to_verify.extend(self._places)
        share = 1 + int(len(self._places) * self._times.beat / self._times.verify)
        long_ago = monotonic() - self._times.verify
        here: list[Place] = []
        empty: list[Place] = []
        while self._to_verify and len(here) + len(empty) < share:
            place = self._places.get(self._to_verify.popleft())
            if place is None or place.waits:
                continue
            (empty if place.empty and place.changed_at < long_ago else here).append(place)
        for some in pieces(here, PIPELINED):
            calls = [(each.topic, (self.worker, NEVER, each.serial, 0)) for each in some]
            self._doubt(some, self._ledger.change(calls))
        for some in pieces(empty, PIPELINED):
            self._let_go(some)

    def _doubt(self, places: Iterable[Place], replies: Iterable[Any]) -> None:
        for place, reply in zip(places, replies, strict=True):
            if reply is None:
                place.lose()
                self._active[place.topic] = place
                self._lost, self._next_look = True, 0.0

    def _let_go(self, places: Iterable[Place]) -> None:
        replies = self._ledger.forget(self.worker, [(each.topic, each.serial) for each in places])
        gone = []
        for place, reply in zip(places, replies, strict=True):
            if reply == 1:
                gone.append(self._places.pop(place.topic).topic)
            else:
                self._doubt([place], [None])
        if gone:
            key = self._keys.addresses(self.worker)
            self._commands.command(key, "SREM", key, *gone)

    def _withdraw(self) -> None:
        """End the lease: at once nobody is here. Others sweep; the last one sweeps for itself."""
        try:
            if not self._commands.script(LEAVE, (self._keys.workers,), (self.worker,)):
                self._run_out.append(self.worker)
                self._sweep(self._closing)
        except BackplaneError as error:
            log.warning("it can't be told that nobody is here any more: %s", error)


class _Waiter:
    """Somebody who waits until all has been told."""

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: BackplaneError | None = None
