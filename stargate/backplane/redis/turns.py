"""Turns: of thousands that want the same at once, a few get it at a time, and the others wait.

A deadline that began while somebody was waiting for others of the same process would be missed
although the Redis is well.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from stargate.backplane.redis.commands import NOT_SENT
from stargate.exceptions import BackplaneError


class Turns:
    """At most ``count`` have their turn at a time; the others wait ``patience`` seconds at most."""

    def __init__(self, count: int, patience: float) -> None:
        self._count, self._patience = count, patience
        self._free = threading.Semaphore(count)

    @contextmanager
    def take(self, what: str) -> Iterator[None]:
        """Have a turn for ``what``; raises ``BackplaneError`` where none comes."""
        if not self._free.acquire(timeout=self._patience):
            raise BackplaneError(
                NOT_SENT,
                f"{self._count} others have had their turn for {self._patience:g} s, and so there "
                f"was none for {what}",
            )
        try:
            yield
        finally:
            self._free.release()
