"""A worker's lease in the Redis, and what is seen of the others when it is renewed.

As long as a worker renews its lease, who listens there is here.
"""

from __future__ import annotations

from time import monotonic
from typing import Any, NamedTuple

from stargate.backplane.redis.commands import Commands
from stargate.backplane.redis.presence_scripts import LEAVE, LOOK, WorkerKeys
from stargate.backplane.redis.scripts import Script
from stargate.history import random_part


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


class Lease:
    """The lease of one worker, of which there was none before."""

    def __init__(self, commands: Commands, keys: WorkerKeys, times: Times) -> None:
        self._commands, self._keys, self._times = commands, keys, times
        self.worker = random_part()
        #: Which Redis has been seen, so to say, and of which it has all that is here: the epoch
        #: changes when something was lost.
        self.epoch = self.filled = ""
        #: Whether the peers have written all that they have since then: else it can't be told who
        #: comes and who goes.
        self.settled = True
        #: Who has ended its lease, and who has not renewed it.
        self._ended: list[str] = []
        self._run_out: list[str] = []
        #: When the next look is due.
        self.next_look = 0.0
        #: When the lease ends, at least, on the Redis's clock in ms.
        self._least = 0
        self._peers: frozenset[bytes] = frozenset()
        self._looked = self._settle_by = self._patient = 0.0

    def look(self, lost: bool) -> bool:
        """Renew it; false where this worker was called gone, and has to be another from now on.

        ``lost`` says that the Redis has lost something. Raises ``BackplaneError``.
        """
        facts = (self._least, self.epoch, self.filled, int(lost))
        lease_ms = int(self._times.lease * 1000)
        reply = self._commands.script(LOOK, self._keys, (self.worker, lease_ms, *facts))
        if reply[0]:
            self._see(*reply[1:])
        return bool(reply[0])

    def _see(self, epoch: bytes, least: int, held: int, workers: list[list[Any]]) -> None:
        now, before = monotonic(), self.epoch
        self.epoch = epoch.decode()
        if not held or now - self._looked > self._times.lease / 4:
            # Others may have been kept from renewing theirs as well: let them come back.
            self._patient = now + self._times.lease / 2
        self._looked, self._least = now, least
        if not before:
            self.filled = self.epoch
        elif before != self.epoch:
            self.settled, self._settle_by = False, now + self._times.lease
        alive = {name: filled for name, state, filled in workers if state == b"alive"}
        if not self.settled:
            all_have = all(alive.get(each) == epoch for each in self._peers)
            self.settled = all_have or now >= self._settle_by
        if self.settled:
            self._peers = frozenset(alive) - {self.worker.encode()}
        self._ended = [name.decode() for name, state, _ in workers if state == b"ended"]
        self._run_out = [name.decode() for name, state, _ in workers if state == b"run out"]
        # Those who wait for others look more often.
        self.next_look = now + self._times.beat / (1 if self.settled else 8)

    def take_gone(self) -> list[str]:
        """Those who are to be swept away now."""
        if not self.settled:
            return []
        gone, self._ended = self._ended, []
        if monotonic() >= self._patient:
            gone, self._run_out = gone + self._run_out, []
        return gone

    def in_its_set(self, script: Script, topics: list[str]) -> bool:
        """Carry out ``script`` for addresses in the worker's set; false where the lease is lost."""
        keys = self._keys.workers, self._keys.addresses(self.worker)
        return bool(self._commands.script(script, keys, (self.worker, self._least, *topics)))

    def end(self) -> list[str]:
        """End it; returns who is to be swept away, where nobody is left to do that."""
        reply = self._commands.script(LEAVE, (self._keys.workers,), (self.worker,))
        return [name.decode() for name in reply]
