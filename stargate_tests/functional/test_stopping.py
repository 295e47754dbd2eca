"""How long stopping takes with the settings as they come, whatever the peers do."""

import signal
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest

from stargate_tests import raw
from stargate_tests.functional.program import INI, pserve
from stargate_tests.gunicorns import Gunicorn
from stargate_tests.redis_servers import RedisServer

#: ``docker stop`` kills after so many seconds. By default all is over within 8.
DOCKER = 10.0

APP = "stargate.backplane = {}\nstargate.namespace = stopping"


def under_pserve(folder, app):
    return pserve(folder, app=app)


def under_gunicorn(folder, app):
    ini = INI.format(name="eventlet", server="", app=app, module="program_app")
    Path(folder, "test.ini").write_text(ini)
    return Gunicorn(folder, "--paste", "test.ini", "--workers", 2)


@pytest.mark.parametrize("start", [under_pserve, under_gunicorn])
def test_stopping_takes_less_than_docker_waits_whatever_the_peers_do(tmp_path, start):
    with RedisServer() as redis, start(tmp_path, APP.format(redis.url)) as server:
        url = server.url
        with ExitStack() as stack:
            for sent in (
                b"",  # Says nothing.
                b"GET /a HTTP/1.1\r\nX: ",  # Does not end its head,
                b"POST /a/@@send HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nmess",  # its body.
                b"GET /a/@@slow?seconds=60 HTTP/1.1\r\nHost: x\r\n\r\n",
            ):
                stack.enter_context(raw.dial(url)).sendall(sent)
            for _ in range(4):
                stack.enter_context(raw.connect(url, "/a"))  # Never answers a close frame.
                stack.enter_context(raw.connect(url, "/a", rcvbuf=4096))  # Never reads.
                stack.enter_context(raw.connect(url, "/a/@@deaf"))  # Its view waits for ever.
            with raw.dial(url) as sock:
                sock.sendall(b"GET /a/@@many?count=500 HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert raw.read_head(sock).startswith(b"HTTP/1.1 200 ")
            redis.pause()
            began = monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.wait() == 0
            took = monotonic() - began
            redis.resume()
    assert took < DOCKER
    assert "graceful_timeout is 5.0 s" in server.log
