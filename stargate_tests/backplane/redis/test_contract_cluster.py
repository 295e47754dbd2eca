"""What every backplane promises, of ours over a Redis Cluster."""

from uuid import uuid4

import pytest

from stargate.backplane.contract import BackplaneContract
from stargate_tests.backplane.redis.processes import made


class TestContractOfACluster(BackplaneContract):
    @pytest.fixture(autouse=True)
    def cluster(self, redis_cluster):
        self.url, self.namespace = redis_cluster.url, f"test-{uuid4().hex[:12]}"

    def make_backplane(self, receiver):
        return made(self.url, self.namespace, receiver)

    def make_stranger(self, receiver):
        return made(self.url, f"{self.namespace}-stranger", receiver)
