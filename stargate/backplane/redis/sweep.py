"""Changes of presence as the Redis carries them out, and taking away what workers have left.

Whose worker it is, and when, is ``presence.py``'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from time import monotonic
from typing import Any, NamedTuple
from zlib import crc32

from stargate.backplane.redis.commands import NOT_SENT, PIPELINED, Commands
from stargate.backplane.redis.places import Who, decode
from stargate.backplane.redis.presence_scripts import (
    ANY,
    CHANGE,
    END,
    FORGET,
    GONE,
    TAKE,
    worker_keys,
)
from stargate.backplane.redis.scripts import keys_of
from stargate.exceptions import BackplaneError


class Event(NamedTuple):
    """Somebody has come to an address, or has gone."""

    came: bool
    topic: str
    who: Who
    #: The same for a repeat; at one address later ones are greater.
    id: str


class Ledger:
    """The presence of one namespace of one Redis, to be changed."""

    def __init__(self, commands: Commands, namespace: str) -> None:
        self._commands, self._namespace = commands, namespace
        self._keys = worker_keys(namespace)

    def change(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Carry out a batch for each of some addresses; raises ``BackplaneError``.

        Returns for each the events that it made, ``None`` where something else stands there than
        was expected, or an error that the server gave.
        """
        here = [((keys_of(self._namespace, topic).presence,), args) for topic, args in calls]
        replies = self._commands.scripts(CHANGE, here)
        return [
            reply if isinstance(reply, Exception) else _events(topic, *reply)
            for (topic, _), reply in zip(calls, replies, strict=True)
        ]

    def forget(self, worker: str, places: Iterable[tuple[str, str]]) -> list[Any]:
        """Remove ``worker`` from addresses at which it wrote a serial number last, and nobody is.

        Returns for each whether that was so, or an error that the server gave.
        """
        calls = [
            ((keys_of(self._namespace, topic).presence,), (worker, serial))
            for topic, serial in places
        ]
        return self._commands.scripts(FORGET, calls)

    def sweep(
        self, worker: str, sweeper: str, claim: float, until: float | None = None
    ) -> Iterator[Event]:
        """Take away all of a worker whose lease has run out, unless somebody else is about it.

        Somebody else may do so after ``claim`` seconds. Stops at ``until``, on the monotonic clock.
        Gives the events as they come to be known; raises ``BackplaneError``.
        """
        keys, addresses = self._keys, self._keys.addresses(worker)
        sweeping = keys.sweeping(worker)
        taken = self._commands.script(
            TAKE,
            (keys.workers, keys.gone, sweeping, addresses),
            (worker, sweeper, int(claim * 1000)),
        )
        if not taken[0]:
            return
        errors: list[Exception] = []
        for some in pieces([each.decode() for each in taken[1]], PIPELINED):
            if until is not None and monotonic() >= until:
                return
            replies = self.change([(topic, (worker, ANY, GONE, 1)) for topic in some])
            for reply in replies:
                yield from reply if isinstance(reply, list) else ()
            replies += self.forget(worker, [(topic, GONE) for topic in some])
            errors += [each for each in replies if is_passing(each)]
        if errors:
            raise BackplaneError(NOT_SENT, f"{worker} is not swept away yet: {errors[0]}")
        self._commands.script(END, (keys.workers, keys.filled, addresses, sweeping), (worker,))


def is_passing(reply: Any) -> bool:
    """Whether ``reply`` is an error, and not that somebody else's key has our key's name."""
    return isinstance(reply, Exception) and not str(reply).startswith("WRONGTYPE")


def _events(topic: str, known: int, answer: bytes) -> list[Event] | None:
    if not known:
        return None
    end = f"{crc32(topic.encode()):08x}"
    return [
        Event(sign == "+", topic, decode(field), f"{revision}-{end}")
        for field, sign, revision in json.loads(answer)
    ]


def pieces(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """``items``, at most ``size`` at a time."""
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]
