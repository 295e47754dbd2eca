"""Processes of one namespace over whatever Redis a URL names, for the tests in this folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stargate.backplane.contract.process import Process, Receiver
from stargate.backplane.redis.backplane import RedisBackplane
from stargate.settings.application import read_application
from stargate.stats import Counters


def made(url: str, namespace: str, receiver: Receiver, **settings: Any) -> RedisBackplane:
    """A backplane as an application makes it."""
    found = {"stargate.backplane": url, "stargate.namespace": namespace}
    found |= {f"stargate.{name}": str(value) for name, value in settings.items()}
    return RedisBackplane(read_application(found), receiver, Counters())


@contextmanager
def process(url: str, namespace: str, **settings: Any) -> Iterator[Process]:
    """A process of an application; ended behind it."""
    receiver = Receiver()
    try:
        found = Process(receiver, made(url, namespace, receiver, **settings))
        try:
            yield found
        finally:
            found.backplane.close()
    finally:
        receiver.stop()
    assert receiver.errors == []
