from contextlib import ExitStack

import pytest

import stargate
from stargate.backplane.redis.kinds import commands_to
from stargate.backplane.redis.publisher import Publisher as Namespace
from stargate.backplane.redis.scripts import keys_of
from stargate.history import Keep
from stargate.scripts.main import main


@pytest.fixture
def command(capsys):
    """``command(*words)``: exit code, output and errors of ``stargate`` with those words."""

    def run(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as ended:  # argparse's own.
            code = ended.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def target(redis_server, namespace):
    """The words that name a Redis and a namespace, before the path."""
    return ("--namespace", namespace, redis_server.url)


@pytest.fixture
def publisher(redis_server, namespace):
    with stargate.connect(redis_server.url, namespace) as publisher:
        yield publisher


@pytest.fixture
def keep(redis_server, namespace):
    """``keep(path)``: have the messages of ``path`` kept, as an application would."""
    made = Namespace(commands_to(redis_server.url, 30), namespace)
    yield lambda path: made.touch(path, Keep(1000))
    made.close()


@pytest.fixture
def gone_redis(own_redis):
    """The URL of a Redis that has ended."""
    redis = own_redis()
    redis.kill()
    return redis.url


@pytest.fixture
def listeners(redis_server, namespace):
    """``listeners(path, count)``: have as many processes listen there, as workers do."""
    with ExitStack() as stack:

        def listen(path, count):
            channel = keys_of(namespace, path).channel
            for _ in range(count):
                heard = stack.enter_context(redis_server.client().pubsub())
                heard.subscribe(channel)
                assert heard.get_message(timeout=30)["type"] == "subscribe"

        yield listen
