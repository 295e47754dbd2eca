"""What many of these tests need: a hub in this thread, WebSockets on it, no application left."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from contextlib import ExitStack
from uuid import uuid4

import pytest

from stargate.application.gates import Gate
from stargate.engine.hub import Engine
from stargate.engine.hub import threading as engines_threading
from stargate.engine.peerlog import peerlog
from stargate.settings.application import Limits
from stargate.websocket.websocket import WebSocket
from stargate_tests.peers import Peer
from stargate_tests.redis_groups import Cluster
from stargate_tests.redis_relay import Relay
from stargate_tests.redis_servers import RedisServer, executable
from stargate_tests.waiting import turn, turn_until

NO_REDIS = """
**********************************************************************
** NO REDIS: the tests that need one are SKIPPED. Install Redis >= 7 **
** (or Valkey), or name one in REDIS_SERVER=/path/to/redis-server    **
**********************************************************************
"""

NO_NGINX = """
**********************************************************************
** NO NGINX: the tests that need one are SKIPPED. Install nginx from **
** your system's packages, or name one in NGINX=/path/to/nginx       **
**********************************************************************
"""


@pytest.fixture(autouse=True, scope="session")
def measured():
    """Coverage follows the threads of the ``threading`` that the engine has for itself, too."""
    if engines_threading is not threading:
        engines_threading.settrace(threading.gettrace())


@pytest.fixture(autouse=True)
def first_lines():
    """Whatever other tests have had logged, a peer's first line is written in full."""
    peerlog.clear()


@pytest.fixture
def engine():
    """An engine of this thread, closed at the end; what is still open on it is cut."""
    engine = Engine()
    yield engine
    for connection in list(engine.connections):
        connection._dispose()
    turn(engine)
    engine.close()


@pytest.fixture
def wire(engine):
    """``wire(family, gate=..., **limits)``: a WebSocket on ``engine`` and the peer of it."""
    with ExitStack() as stack:

        def connect(family="unix", *, gate=None, early=b"", **limits):
            ours, theirs = pair(family)
            stack.callback(theirs.close)
            gate = gate if gate is not None else Gate(None)
            websocket = WebSocket(
                ours,
                gate,
                {"path": "/here", "remote_addr": "192.0.2.1"},
                engine=engine,
                walks=gate.bind(engine),
                limits=Limits(**limits),
                extensions=[],
            )
            websocket._open(b"", early)
            return websocket, Peer(theirs)

        yield connect


def pair(family: str) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets: a UNIX pair, or TCP on the loopback."""
    if family == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        ours, _address = listening.accept()
    return ours, theirs


@pytest.fixture(params=["unix", "tcp"])
def family(request):
    """Every behaviour on every transport."""
    return request.param


@pytest.fixture
def run(engine):
    """``run(function, *args)``: what it returns or raises, run in a greenlet under a deadline."""

    def run(function, *args):
        answer = []

        def call():
            try:
                answer.append((True, function(*args)))
            except BaseException as error:
                answer.append((False, error))

        engine.spawn(call)
        turn_until(engine, lambda: answer)
        returned, value = answer[0]
        if returned:
            return value
        raise value

    return run


@pytest.fixture(scope="session")
def redis_path(request):
    """The path of a Redis. Without one: a notice and a skip, or a failure where CI=true."""
    return executable() or _without(request, "Redis", NO_REDIS)


@pytest.fixture(scope="session")
def nginx_path(request):
    """The same of an nginx."""
    places = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    found = os.environ.get("NGINX") or shutil.which("nginx", path=places)
    return found or _without(request, "nginx", NO_NGINX)


def _without(request, what, notice):
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(f"no {what} for the tests that need one, and CI=true", pytrace=False)
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(notice, flush=True)
    pytest.skip(f"NO {what.upper()}")


@pytest.fixture(scope="session")
def redis_server(redis_path):
    """A Redis for all tests of this process: each has a ``namespace`` of its own, none ends it."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def namespace():
    """A name that no other test has."""
    return f"test-{uuid4().hex[:12]}"


@pytest.fixture
def own_redis(redis_path):
    """``own_redis(**config)``: a Redis for one test, which may end it and start it again."""
    with ExitStack() as stack:
        yield lambda **config: stack.enter_context(RedisServer(**config))


@pytest.fixture(scope="session")
def redis_cluster(redis_path):
    """A Redis Cluster for all tests of this process; its slots may be moved, its nodes stay."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def relay():
    """``relay(server, **options)``: a relay in front of a Redis; closed after the test."""
    with ExitStack() as stack:
        yield lambda server, **options: stack.enter_context(Relay(server, **options))
