"""Counters: what has happened to one application's WebSockets in this process; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Stats:
    """What one application has seen in this process since it was made; counts only ever grow.

    ``connections`` and ``queued_bytes`` are as things stand at this moment. Bytes are those of
    frames, headers included, compressed where they were.
    """

    #: WebSockets that are open now, those in their close handshake included.
    connections: int
    #: WebSockets that have been opened.
    opened: int
    #: Handshakes, requests and connections that were refused, by reason.
    refusals: Mapping[str, int]
    #: Whole messages that have come in, and bytes.
    messages_in: int
    bytes_in: int
    #: Messages handed to connections, one for each listener, and bytes.
    messages_out: int
    bytes_out: int
    #: Walks made: messages for the same listeners that left in one turn are one walk.
    walks: int
    #: Bytes that wait in outboxes now.
    queued_bytes: int
    #: Messages that slow listeners did not get, those dropped at a slow close included.
    drops: int
    #: WebSockets closed with 1013 because their peers read too slowly.
    slow_closes: int
    #: WebSockets closed with 1008 because their peers sent more than ``max_message_rate``.
    rate_closes: int
    #: WebSockets cut because their peers were silent for ``ping_interval`` and ``ping_timeout``.
    pings_missed: int
    #: WebSockets that came back and got all that they had missed, and those that could not.
    recovered: int
    unrecovered: int
    #: Messages that this process has handed to the backplane, and that it was handed by it.
    published: int
    received: int
    #: Messages between processes that were of another version, too long, or none at all.
    skipped: int
    #: Addresses that were subscribed anew because the backplane had been out of reach.
    resubscribed: int
    #: Gaps found in what came from the backplane: messages that had to be fetched.
    gaps: int
    #: Seconds between the sending of the last message that came with a time, and its coming.
    lag: float


class Counters:
    """What :class:`Stats` is made from. Everything belongs to the engine's own OS thread."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "connections",
        "drops",
        "gaps",
        "lag",
        "messages_in",
        "messages_out",
        "opened",
        "pings_missed",
        "published",
        "rate_closes",
        "received",
        "recovered",
        "refusals",
        "resubscribed",
        "skipped",
        "slow_closes",
        "unrecovered",
        "walks",
    )

    def __init__(self) -> None:
        self.connections = self.opened = 0
        self.messages_in = self.bytes_in = self.messages_out = self.bytes_out = 0
        self.walks = self.drops = self.slow_closes = 0
        self.rate_closes = self.pings_missed = 0
        self.recovered = self.unrecovered = 0
        self.published = self.received = self.skipped = self.resubscribed = self.gaps = 0
        self.lag = 0.0
        self.refusals: dict[str, int] = {}

    def refuse(self, cause: str) -> None:
        """Count one refusal for ``cause``, a word of the table in the documentation."""
        count_refusal(self.refusals, cause)


def count_refusal(refusals: dict[str, int], cause: str) -> None:
    """Count one more refusal for ``cause``."""
    refusals[cause] = refusals.get(cause, 0) + 1
