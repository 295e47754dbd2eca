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
from typing import Any

from stargate.backplane.redis.commands import NOT_SENT, PIPELINED, UNKNOWN, Commands
from stargate.backplane.redis.lease import Lease, Times
from stargate.backplane.redis.places import Place, Who
from stargate.backplane.redis.presence_scripts import ANY, LIST, NEVER, UNLIST, worker_keys
from stargate.backplane.redis.sweep import Event, Ledger, pieces
from stargate.exceptions import BackplaneError

log = logging.getLogger("stargate.backplane")

#: Addresses in one command, and how often what was lost is looked for before it waits a while.
ADDRESSES_AT_ONCE, PASSES = 1000, 1000


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
        self._namespace, self._ledger = namespace, Ledger(commands, namespace)
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
        #: Set when all that this process had added has been taken away, or could not be.
        self._withdrawn = threading.Event()
        self._places: dict[str, Place] = {}
        self._to_verify: deque[str] = deque()
        self._verify_at = 0.0
        self._be_new()

    def _be_new(self) -> None:
        self._lease = Lease(self._commands, worker_keys(self._namespace), self._times)
        self._serials = count(1)
        #: The places where something waits to be told.
        self._active: dict[str, Place] = {}
        #: Whether the Redis does not have what it was told, and whether this worker is called gone.
        self._lost = self._called_gone = False

    @property
    def worker(self) -> str:
        """The name of this process in the Redis; it has another when it was called gone."""
        return self._lease.worker

    # From the engine's thread.

    def begin(self) -> None:
        """Start the thread, before anybody comes: starting one gives way to others."""
        if self._process != os.getpid():
            self._begin()
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="stargate presence", daemon=True)
            self._thread.start()

    def change(self, topic: str, who: Who, by: int) -> None:
        """``by`` WebSockets of ``who`` more at ``topic``; never waits once it has begun."""
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
            # Not join(): on 3.13 eventlet's raises its Timeout there.
            self._withdrawn.wait(timeout)
        self._closed = True

    def _put(self, item: tuple[str, Who, int] | _Waiter) -> None:
        self._inbox.append(item)
        if not self._news.is_set():
            self._news.set()
        self.begin()

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
                self._withdrawn.set()
                break
            self._rest()

    def _turn(self) -> None:
        """Tell what there is to tell; look around, sweep and verify when it is time."""
        self._read_inbox()
        try:
            if monotonic() >= self._lease.next_look:
                self._look()
            self._tell()
        finally:
            self._report_all()
        self._answer(None)
        self._sweep(self._lease.take_gone())
        if monotonic() >= self._verify_at:
            self._verify_at = monotonic() + self._times.beat
            self._verify()
        if self._complained:
            self._complained = False
            log.warning("%s: it is told again who is here", self._commands.address)

    def _rest(self) -> None:
        """Wait until there is something to do."""
        self._news.wait(max(0.0, self._lease.next_look - monotonic()))
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
            self._say(each)

    def _say(self, event: Event) -> None:
        try:
            self._report(event)
        except Exception:
            log.exception("nobody could be told: %s", event)

    def _fail(self, error: BackplaneError) -> None:
        self._answer(error)
        if not self._complained:
            self._complained = True
            log.warning("it can't be told who is here: %s; it will be tried again", error)
        if self._closing is None:
            sleep(self._times.retry)
            self._lease.next_look = 0.0

    # The lease.

    def _look(self) -> None:
        """Renew the lease; see who else has one, and whether anything was lost."""
        while True:
            lease = self._lease
            epoch, settled = lease.epoch, lease.settled
            if lease.look(self._lost):
                break
            self._begin_anew()
        self._lost = False
        if epoch not in ("", lease.epoch):
            self._refill()
        elif lease.settled and not settled:
            self._active |= {topic: each for topic, each in self._places.items() if each.settle()}

    def _refill(self) -> None:
        """Write everything again; who comes or goes is not said before all peers have, too."""
        log.warning("%s has lost who is here: it is told again", self._commands.address)
        for place in self._places.values():
            place.doubt()
        self._active = dict(self._places)

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
            if self._lost or not self._lease.epoch:
                self._look()
            if self._active:
                self._pass()
            elif self._lease.filled != self._lease.epoch:
                self._lease.filled = self._lease.epoch
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
        if not self._lease.in_its_set(LIST, [each.topic for each in places]):
            return False
        for each in places:
            each.listed = True
        return True

    def _tell_some(self, places: Iterable[Place]) -> list[Exception]:
        calls = [
            (place, batch)
            for place in places
            if (batch := place.next(next(self._serials), self._lease.settled)) is not None
        ]
        replies = self._ledger.change(
            [(place.topic, batch.arguments(self._lease.worker)) for place, batch in calls]
        )
        errors: list[Exception] = []
        for (place, batch), reply in zip(calls, replies, strict=True):
            if isinstance(reply, Exception):
                errors.append(reply)
            elif reply is None:
                self._called_gone |= batch.before == ANY
                self._lost |= not place.doubtful  # Else it is known.
                place.lose()
            else:
                place.confirm()
                self._events += reply
            if not place.waits:
                del self._active[place.topic]
        return errors

    # What is to be looked after.

    def _sweep(self, workers: Iterable[str], until: float | None = None) -> None:
        """Take away those whose leases have ended."""
        me, claim = self._lease.worker, self._times.lease / 4
        for worker in workers:
            for event in self._ledger.sweep(worker, me, claim, until):
                self._say(event)

    def _verify(self) -> None:
        """Compare some addresses with what the Redis has; let go of those where nobody comes."""
        if not self._to_verify:
            self._to_verify.extend(self._places)
        share = 1 + int(len(self._places) * self._times.beat / self._times.verify)
        me, long_ago = self._lease.worker, monotonic() - self._times.verify
        here: list[Place] = []
        empty: list[Place] = []
        while self._to_verify and len(here) + len(empty) < share:
            place = self._places[self._to_verify.popleft()]
            (empty if place.empty and place.changed_at < long_ago else here).append(place)
        for some in pieces(here, PIPELINED):
            calls = [(each.topic, (me, NEVER, each.serial, 0)) for each in some]
            self._doubt(some, self._ledger.change(calls))
        for some in pieces(empty, PIPELINED):
            self._let_go(some)

    def _doubt(self, places: Iterable[Place], replies: Iterable[Any]) -> None:
        for place, reply in zip(places, replies, strict=True):
            if reply is None:
                place.lose()
                self._active[place.topic] = place
                self._lost, self._lease.next_look = True, 0.0

    def _let_go(self, places: Iterable[Place]) -> None:
        me = self._lease.worker
        replies = self._ledger.forget(me, [(each.topic, each.serial) for each in places])
        gone = []
        for place, reply in zip(places, replies, strict=True):
            if reply == 1:
                gone.append(self._places.pop(place.topic).topic)
            elif reply == 0:
                self._doubt([place], [None])
        if gone:
            self._lease.in_its_set(UNLIST, gone)

    def _withdraw(self) -> None:
        """End the lease: at once nobody is here. Others sweep; the last one sweeps for itself."""
        try:
            self._sweep(self._lease.end(), self._closing)
        except BackplaneError as error:
            log.warning("it can't be told that nobody is here any more: %s", error)


class _Waiter:
    """Somebody who waits until all has been told."""

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: BackplaneError | None = None
