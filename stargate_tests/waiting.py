"""Waiting for an event under a deadline: the tests' only way to let time pass."""

from __future__ import annotations

import time
from collections.abc import Callable

from stargate.engine.hub import threading

#: Seconds: generous, since only a test that fails waits for it.
DEADLINE = 60.0

_pause = threading.Event()


def wait_until(condition: Callable[[], object], deadline: float = DEADLINE) -> None:
    """Return when ``condition()`` is true; fail when that takes longer than ``deadline``."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {condition}")
        _pause.wait(0.002)


def turn(engine, seconds: float = 0) -> None:
    """Let the hub of ``engine``, whose thread this is, have a turn."""
    engine.call_later(seconds, engine.greenlet.switch)
    engine.park()


def turn_until(engine, condition: Callable[[], object], deadline: float = DEADLINE) -> None:
    """As ``wait_until``, while the hub of ``engine``, whose thread this is, goes on."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {condition}")
        turn(engine, 0.001)
