"""The backplane of a single process: what is published is delivered, at once and here."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from zope.interface import implementer

from stargate.interfaces import IBackplane

if TYPE_CHECKING:
    from stargate.connection import Connection
    from stargate.message import Message


@implementer(IBackplane)
class MemoryBackplane:
    """Carries messages no further than this process, and keeps none."""

    def __init__(self, deliver: Callable[[Hashable, Message, frozenset[Connection]], None]) -> None:
        self._deliver = deliver

    def publish(self, topic: Hashable, message: Message, exclude: frozenset[Connection]) -> None:
        """Deliver ``message`` to the listeners of ``topic``, in the order of the calls."""
        self._deliver(topic, message, exclude)
