"""What carries messages from the process that sends to the processes that listen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stargate.delivery import Delivery
    from stargate.stats import Counters


def make_backplane(
    settings: Mapping[str, Any] | None, receiver: Delivery, counters: Counters
) -> Any:
    """The backplane that the application's ``settings`` name, which delivers to ``receiver``."""
    # Imported when needed: publishers use a part of this package without anything of Pyramid.
    if settings is None or settings["backplane"] == "memory":
        from stargate.backplane.memory import MemoryBackplane

        return MemoryBackplane(receiver)
    from stargate.backplane.redis.backplane import RedisBackplane

    return RedisBackplane(settings, receiver, counters)
