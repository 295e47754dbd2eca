"""More than one Redis: a primary and its replica, a Sentinel that watches both, a Cluster."""

from __future__ import annotations

import contextlib
from contextlib import ExitStack

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from stargate_tests.redis_relay import DOWN, Relay
from stargate_tests.redis_servers import OVERSEER, RedisServer, free_port
from stargate_tests.waiting import wait_until


class Replica(RedisServer):
    """A replica of ``primary``, which can be made to lag behind; ``with`` ends it."""

    def __init__(self, primary: RedisServer, **config: object) -> None:
        self.primary = primary
        self.relay = Relay(primary, frames=False)
        self._secret = primary._secret
        try:
            super().__init__(replicaof=f"127.0.0.1 {self.relay.port}", **config)
            wait_until(self.linked)
        except BaseException:
            self.close()
            raise

    def linked(self) -> bool:
        """Whether it has all that the primary had when it came, and gets what comes."""
        return self.info("replication").get("master_link_status") == "up"

    def lag(self) -> None:
        """Let it hear nothing new, though it does not know that."""
        self.relay.stall(DOWN)

    def catch_up(self) -> None:
        """Let it hear everything, and return when it has."""
        self.relay.flow(DOWN)
        top = int(self.primary.info("replication")["master_repl_offset"])
        wait_until(lambda: int(self.info("replication")["slave_repl_offset"]) >= top)

    def promote(self) -> None:
        """Make it a primary, with what it has."""
        self.ask("REPLICAOF", "NO", "ONE")
        self.config.pop("replicaof", None)

    def close(self) -> None:
        super().close()
        self.relay.close()


def replica_of(primary: RedisServer, **config: object) -> Replica:
    """A replica that has all that ``primary`` has."""
    return Replica(primary, **config)


class Sentinel(RedisServer):
    """A Redis Sentinel that watches ``primary`` under ``name``, and its replicas; ``with`` ends it.

    It needs about a second to promote a replica where the primary has gone, and ten to make a
    replica of one that comes back. It cuts all connections of one that it demotes.
    """

    keeps_config = True

    def __init__(
        self, primary: RedisServer, *, name: str = "stargate", quorum: int = 1, **config: object
    ) -> None:
        self.primary, self.name, self.quorum = primary, name, quorum
        super().__init__(**config)

    @property
    def url(self) -> str:
        """The address of what it watches, as ``redis+sentinel://127.0.0.1:12345/stargate/0``."""
        login = f":{self.primary.password}@" if self.primary.password else ""
        return f"redis+sentinel://{login}127.0.0.1:{self.port}/{self.name}/0"

    @property
    def primary_port(self) -> int:
        """The port of the one that it takes for the primary."""
        found = self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
        return int(found[1])

    def sees_replicas(self, count: int = 1) -> bool:
        """Whether it knows so many; before that it cannot fail over."""
        replicas = self.ask("SENTINEL", "REPLICAS", self.name)
        flags = [each[each.index("flags") + 1] for each in replicas]
        return flags.count("slave") >= count

    def fail_over(self) -> None:
        """Have it promote a replica though the primary is there; returns when it has."""
        before = self.primary_port
        wait_until(self._begins)
        wait_until(lambda: self.primary_port != before)

    def _begins(self) -> bool:
        try:
            return bool(self.ask("SENTINEL", "FAILOVER", self.name))
        except redis.ResponseError as error:
            # It sees a replica, and does not know yet how good that is.
            assert "NOGOODSLAVE" in str(error), error
            return False

    def _arguments(self) -> list[str]:
        return ["--sentinel"]

    def _settings(self) -> dict[str, object]:
        watched = [
            f"monitor {self.name} 127.0.0.1 {self.primary.port} {self.quorum}",
            f"auth-user {self.name} {OVERSEER}",
            f"auth-pass {self.name} {self.primary._secret}",
            f"down-after-milliseconds {self.name} 300",
            f"failover-timeout {self.name} 2000",
        ]
        return {**super()._settings(), "sentinel": watched}

    def _shut_down(self) -> None:
        with contextlib.suppress(redis.ConnectionError):
            self.ask("SHUTDOWN")


class ClusterNode(RedisServer):
    """One of a :class:`Cluster`."""

    bus = 0

    def _take_ports(self) -> None:
        super()._take_ports()
        self.bus = free_port()

    def _settings(self) -> dict[str, object]:
        return {
            **super()._settings(),
            "cluster-enabled": "yes",
            "cluster-port": self.bus,
            "cluster-node-timeout": 1000,
        }

    @property
    def id(self) -> str:
        """What the Cluster calls it."""
        return str(self.ask("CLUSTER", "MYID"))


class Cluster:
    """Three primaries of a Redis Cluster, without replicas; ``with`` ends them.

    It takes two seconds to start: for so long a new primary takes no writes.
    """

    def __init__(self, count: int = 3, **config: object) -> None:
        self.nodes: list[ClusterNode] = []
        self._stack = ExitStack()
        try:
            for _ in range(count):
                self.nodes.append(self._stack.enter_context(ClusterNode(**config)))
            self._meet()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Its address, as ``redis+cluster://127.0.0.1:12345,127.0.0.1:12346``."""
        password = self.nodes[0].password
        login = f":{password}@" if password else ""
        return f"redis+cluster://{login}{','.join(f'127.0.0.1:{n.port}' for n in self.nodes)}"

    def node_of(self, key: str | int) -> ClusterNode:
        """The one that has ``key``, or this slot."""
        slot = key if isinstance(key, int) else self.slot(key)
        for first, last, (_host, port, *_rest), *_replicas in self._slots(self.nodes[0]):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"nobody has slot {slot}")

    def slot(self, key: str) -> int:
        """The slot of ``key``."""
        return int(key_slot(key.encode()))

    def move_slot(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Move it with all that is in it; every node knows of it in the end."""
        self.begin_move(slot, source, target)
        self.move_keys(slot, source, target)
        self.end_move(slot, source, target)

    def begin_move(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """From here on ``source`` answers ``ASK`` for what it does not have in ``slot``."""
        for node, word, other in ((target, "IMPORTING", source), (source, "MIGRATING", target)):
            node.ask("CLUSTER", "SETSLOT", slot, word, other.id)

    def move_keys(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Move what is in ``slot``."""
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.ask(
                *("MIGRATE", "127.0.0.1", target.port, "", 0, 5000),
                *("AUTH2", OVERSEER, target._secret, "KEYS", *keys),
            )

    def end_move(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """From here on ``source`` answers ``MOVED``, and so do the others a little later."""
        for node in (target, source):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        wait_until(lambda: all(self._owner(node, slot) == target.port for node in self.nodes))

    def close(self) -> None:
        """End all nodes, and remove what they have left."""
        self._stack.close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # Inside

    def _meet(self) -> None:
        size, first = REDIS_CLUSTER_HASH_SLOTS, self.nodes[0]
        for number, node in enumerate(self.nodes):
            ends = [size * each // len(self.nodes) for each in (number, number + 1)]
            node.ask("CLUSTER", "ADDSLOTSRANGE", ends[0], ends[1] - 1)
            # Else they would find out one after the other that they have the same.
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            first.ask("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus)
        wait_until(lambda: all(map(self._complete, self.nodes)))

    def _complete(self, node: ClusterNode) -> bool:
        known = {port for _first, _last, (_host, port, *_rest), *_replicas in self._slots(node)}
        return "cluster_state:ok" in node.ask("CLUSTER", "INFO") and len(known) == len(self.nodes)

    def _owner(self, node: ClusterNode, slot: int) -> int | None:
        for first, last, (_host, port, *_rest), *_replicas in self._slots(node):
            if first <= slot <= last:
                return int(port)
        return None

    def _slots(self, node: ClusterNode) -> list:
        return node.ask("CLUSTER", "SLOTS")
