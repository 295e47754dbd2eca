"""Faults to plant into the delivery of a trial's server: a checker that sees none of them is none.

Each goes to the heart of the matter, once in a while, where the code of stargate could go wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from stargate.pubsub.topics import Topics
from stargate.websocket.sending import Sending
from stargate.websocket.walk import Walks, write

#: A fault happens at each so many calls.
SENDS, JOINS = 150, 20


def once_in(number: int) -> Callable[[], bool]:
    """True at each call of so many."""
    calls = count(1)
    return lambda: next(calls) % number == 0


def lose() -> None:
    """One listener does not get a message."""
    add, now = Walks.add, once_in(SENDS)

    def faulty(self, listeners, message, exclude=frozenset()):
        if now():
            exclude = exclude | {next(iter(listeners))}
        add(self, listeners, message, exclude)

    Walks.add = faulty


def swap() -> None:
    """A message waits until another one has overtaken it."""
    add, now = Walks.add, once_in(SENDS)
    kept: list[Any] = []

    def faulty(self, *what):
        if now():
            kept.append(what)
            return
        add(self, *what)
        if kept and kept[0][0].topic is what[0].topic:
            add(self, *kept.pop())

    Walks.add = faulty


def twice() -> None:
    """A message is sent again."""
    add, now = Walks.add, once_in(SENDS)

    def faulty(self, *what):
        for _ in range(1 + now()):
            add(self, *what)

    Walks.add = faulty


def after_leave() -> None:
    """A leave does not happen."""
    leave, now = Topics.leave, once_in(JOINS)
    Topics.leave = lambda self, *what: None if now() else leave(self, *what)


def before_join() -> None:
    """A new listener gets the last message that was sent before it came."""
    add, join, now = Walks.add, Topics.join, once_in(JOINS)
    last: dict[Any, bytes] = {}

    def remember(self, listeners, message, *more):
        last[listeners.topic._address] = message.frame
        add(self, listeners, message, *more)

    def faulty(self, listener, address, *more):
        if now() and address in last:
            write(listener, last[address])
        join(self, listener, address, *more)

    Walks.add, Topics.join = remember, faulty


def to_the_excluded() -> None:
    """Nobody is left out."""
    add = Walks.add
    Walks.add = lambda self, listeners, message, exclude=None: add(self, listeners, message)


def uncounted() -> None:
    """One message of those that a slow listener misses is not counted."""
    miss = Sending._miss
    Sending._miss = lambda self, count: miss(self, max(0, count - 1))


FAULTS = {
    fault.__name__: fault
    for fault in (lose, swap, twice, after_leave, before_join, to_the_excluded, uncounted)
}
