"""Which kind of Redis a URL names: one server, one with Sentinels, or a Cluster."""

from __future__ import annotations

from stargate.backplane.redis.address import parse
from stargate.backplane.redis.cluster import ClusterCommands
from stargate.backplane.redis.commands import Commands
from stargate.backplane.redis.sentinel import SentinelCommands

KINDS: dict[str, type[Commands]] = {
    "": Commands,
    "sentinel": SentinelCommands,
    "cluster": ClusterCommands,
}


def commands_to(url: str, timeout: float) -> Commands:
    """Commands to the Redis at ``url``; raises ``BadUrl``. Nothing is connected to yet."""
    address = parse(url)
    return KINDS[address.kind](address, timeout)
