import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.server import serve

import stargate
from stargate.backplane.redis.kinds import commands_to
from stargate.backplane.redis.presence import Presence
from stargate.backplane.redis.publisher import Publisher as Namespace
from stargate.backplane.redis.scripts import keys_of
from stargate.engine.hub import threading
from stargate.history import Keep
from stargate.scripts.main import main

#: Seconds within which a program has to end.
DEADLINE = 60

STARGATE = Path(sys.executable).with_name("stargate")


def unmeasured():
    """The environment without coverage, which could not write its own files where none may grow."""
    return {key: value for key, value in os.environ.items() if not key.startswith("COV")}


@pytest.fixture
def shell():
    """``shell(script, *words)``: status, output and errors; ``"$@"`` is ``stargate`` with words."""

    def run(script, *words, base=os.environ, **environ):
        done = subprocess.run(
            ["sh", "-c", script, "sh", STARGATE, *map(str, words)],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=DEADLINE,
            env={**base, "PYTHONUNBUFFERED": "", **environ},
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return run


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


@pytest.fixture
def here(redis_server, namespace):
    """``here(*names)``: have a worker with listeners of these names at ``/a``."""
    commands = commands_to(redis_server.url, 30)
    presence = Presence(commands, namespace, lambda event: None)

    def listen(*names):
        for who in names:
            presence.change("/a", who, 1)
        presence.catch_up(30)

    yield listen
    presence.close(30)
    commands.close()


@pytest.fixture
def scripted():
    """``scripted(*messages)``: the URL of a server that says these in stargate.v1, and ends.

    ``answer`` answers handshakes, as ``process_request`` of ``serve``; ``reason`` is why it ends.
    """
    with ExitStack() as stack:

        def start(*messages, answer=None, code=1000, reason=""):
            def say(websocket):
                for message in messages:
                    websocket.send(message)
                websocket.close(code, reason)

            server = stack.enter_context(
                serve(say, "127.0.0.1", 0, subprotocols=["stargate.v1"], process_request=answer)
            )
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            stack.callback(thread.join, DEADLINE)
            stack.callback(server.shutdown)
            return "ws://{}:{}/".format(*server.socket.getsockname())

        yield start
