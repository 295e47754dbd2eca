"""The backplane of a program that has no listeners: it sends, and asks (``IPublisher``).

Nothing here imports Pyramid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stargate.backplane.redis.kinds import commands_to
from stargate.backplane.redis.publisher import Publisher, kind_of
from stargate.backplane.redis.who import Reader
from stargate.message.message import Message, Sent


class Outside:
    """One namespace of one Redis."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        commands = commands_to(settings["backplane"], float(settings["backplane_timeout"]))
        namespace, replicas = settings["namespace"], int(settings["backplane_replicas"])
        self._publisher = Publisher(commands, namespace, replicas=replicas)
        reader = Reader(commands, namespace)
        self.history, self.close = self._publisher.history, self._publisher.close
        self.presence, self.listener_count = reader.presence, reader.listener_count

    def __str__(self) -> str:
        return str(self._publisher.commands.address)

    def publish(
        self, topic: str, message: Message, excluded: Iterable[str] = (), key: str | None = None
    ) -> Sent:
        """Send ``message``; what is kept of ``topic`` is as the application has said."""
        kind, payload = kind_of(message), message.payload
        return self._publisher.send(topic, kind, payload, excluded, key=key)
