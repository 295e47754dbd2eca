"""What every backplane promises, of ours over a single Redis."""

from uuid import uuid4

import pytest

from stargate.backplane.contract import BackplaneContract
from stargate.backplane.redis.backplane import RedisBackplane
from stargate.settings.application import read_application
from stargate.stats import Counters


class TestContract(BackplaneContract):
    @pytest.fixture(autouse=True)
    def server(self, redis_server):
        self.url, self.namespace = redis_server.url, f"test-{uuid4().hex[:12]}"

    def make_backplane(self, receiver):
        return self.made(receiver, self.namespace)

    def make_stranger(self, receiver):
        return self.made(receiver, f"{self.namespace}-stranger")

    def made(self, receiver, namespace):
        settings = {"stargate.backplane": self.url, "stargate.namespace": namespace}
        return RedisBackplane(read_application(settings), receiver, Counters())
