"""What the tests of presence need."""

from contextlib import ExitStack

import pytest

from stargate_tests.backplane.redis.presences import CALM, DEADLINE, Worker


@pytest.fixture
def workers(namespace):
    """``workers(server, times=..., timeout=...)``: a worker, closed at the end."""
    with ExitStack() as stack:

        def make(server, times=CALM, timeout=DEADLINE, commands=None):
            worker = Worker(server.url, namespace, times, timeout, commands)
            stack.callback(worker.close)
            return worker

        yield make
