"""Which kind of Redis a URL names."""

import pytest

from stargate.backplane.redis.address import BadUrl
from stargate.backplane.redis.cluster import ClusterCommands
from stargate.backplane.redis.commands import Commands
from stargate.backplane.redis.kinds import commands_to
from stargate.backplane.redis.sentinel import SentinelCommands


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://localhost:1", Commands),
        ("rediss://localhost:1/3", Commands),
        ("unix:///nowhere", Commands),
        ("redis+sentinel://localhost:1,localhost:2/name/0", SentinelCommands),
        ("rediss+sentinel://localhost:1/name", SentinelCommands),
        ("redis+cluster://localhost:1", ClusterCommands),
        ("rediss+cluster://localhost:1,localhost:2", ClusterCommands),
    ],
)
def test_the_scheme_says_what_is_spoken_to_and_nothing_is_connected_to_yet(url, kind):
    commands = commands_to(url, 1.5)
    assert type(commands) is kind
    assert commands.timeout == 1.5
    commands.close()


def test_anything_else_is_an_error():
    with pytest.raises(BadUrl):
        commands_to("http://localhost", 1.0)
