import pytest

from stargate.backplane.redis.kinds import commands_to
from stargate.backplane.redis.presence import Presence


@pytest.fixture
def worker(redis_server, namespace):
    """A worker with listeners at ``/a``."""
    commands = commands_to(redis_server.url, 30)
    presence = Presence(commands, namespace, lambda event: None)
    for who in ("zoe", "ann", "ann", 5, None, None, None):
        presence.change("/a", who, 1)
    presence.catch_up(30)
    yield presence
    presence.close(30)
    commands.close()


def test_each_name_is_a_line_and_the_nameless_are_the_last(command, target, worker):
    assert command("presence", *target, "/a") == (0, "1 5\n2 ann\n1 zoe\n3 -\n", "")


def test_a_publisher_sees_the_same(publisher, worker):
    assert publisher.presence("/a") == {"ann": 2, "zoe": 1, 5: 1}
    assert publisher.listener_count("/a") == 7


def test_nobody_is_nothing(command, target):
    assert command("presence", *target, "/b") == (0, "", "")
