"""Who is here, for whoever asks: a worker, or a process that has no listeners."""

from __future__ import annotations

from stargate.backplane.redis.commands import Commands
from stargate.backplane.redis.places import Who, decode
from stargate.backplane.redis.presence_scripts import ALIVE, worker_keys
from stargate.backplane.redis.scripts import keys_of


class Reader:
    """The presence of one namespace of one Redis; listeners of workers with no lease are gone."""

    def __init__(self, commands: Commands, namespace: str) -> None:
        self._commands, self._namespace = commands, namespace

    def presence(self, topic: str) -> dict[str | int, int]:
        """The names at ``topic``, and how many WebSockets each has; raises ``BackplaneError``."""
        return {who: count for who, count in self._counts(topic) if who is not None}

    def listener_count(self, topic: str) -> int:
        """How many WebSockets are at ``topic``, also without names; raises ``BackplaneError``."""
        return sum(count for _who, count in self._counts(topic))

    def _counts(self, topic: str) -> list[tuple[Who, int]]:
        here, workers = keys_of(self._namespace, topic).presence, worker_keys(self._namespace)
        # In this order: whoever stands there had a lease before.
        found = self._commands.command(here, "HGETALL", here)
        alive = set(self._commands.script(ALIVE, (workers.workers,), ())) if found else set()
        counts = []
        for field, text in zip(found[::2], found[1::2], strict=True):
            if not field.startswith(b"@"):
                parts = (part.partition(b"=") for part in text.split()[1:])
                total = sum(int(number) for worker, _, number in parts if worker in alive)
                if total:
                    counts.append((decode(field), total))
        return counts
