"""A process that serves forks: the child is a child, and the parent goes on as it was."""

import json
import os
import signal
import urllib.request
from pathlib import Path

import pytest

from stargate_tests import raw
from stargate_tests.certificates import certificate, trust
from stargate_tests.functional.program import INI, pserve
from stargate_tests.gunicorns import Gunicorn
from stargate_tests.redis_servers import RedisServer
from stargate_tests.waiting import wait_until

REDIS = "stargate.backplane = {}\nstargate.namespace = forks"

WAYS = (
    *("os_fork", "returning", "process", "executor", "pool", "terminal", "preexec"),
    *("real_thread", "timer", "hub"),
)


def under_pserve(folder, app="", server=""):
    return pserve(folder, app=app, server=f"listen = 127.0.0.1:0\n{server}", module="forks_app")


def under_gunicorn(folder, app="", server=""):
    ini = INI.format(name="eventlet", server="", app=app, module="forks_app")
    Path(folder, "test.ini").write_text(ini)
    return Gunicorn(folder, "--paste", "test.ini", *server.split())


SERVERS = pytest.mark.parametrize("start", [under_pserve, under_gunicorn])


@pytest.fixture(scope="module")
def redis():
    with RedisServer() as server:
        yield server


def get(server, path):
    secure = trust() if server.url.startswith("https:") else None
    with urllib.request.urlopen(server.url + path, timeout=30, context=secure) as answer:
        return answer.read().decode()


class Child:
    """The child that tells of itself in ``folder``, as soon as it does."""

    def __init__(self, folder):
        self.folder = folder
        wait_until((folder / "child.json").exists)
        self.facts = json.loads((folder / "child.json").read_text())
        self.pid = self.facts["pid"]

    def end(self):
        (self.folder / "end").touch()
        self.wait()

    def wait(self):
        wait_until(self.has_ended)

    def has_ended(self):
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        (self.folder / "end").touch()
        if not self.has_ended():
            os.kill(self.pid, signal.SIGKILL)


def sockets_of(pid):
    names = [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()]
    return {name for name in names if name.startswith("socket:")}


def check_parent(server, pid, listener):
    """It answers every page and handshake by itself; who listens to it hears it."""
    for _ in range(40):
        assert get(server, "/@@page") == f"page {pid}"
    for number in range(10):
        with raw.connect(server.url, "/@@echo") as sock:
            sock.sendall(raw.frame(f"{number}"))
            assert raw.read_frame(sock) == (1, f"{number}".encode())
    assert get(server, "/news/@@send?message=again") == "sent"
    assert raw.read_frame(listener) == (1, b"again")


def check_child(child, pid):
    """It has nothing that is the server's."""
    assert child.pid != pid
    assert child.facts["told"] == ["green", ""]
    assert not sockets_of(pid) & set(child.facts["files"])
    handlers = child.facts["handlers"]
    assert "default_int_handler" in handlers.pop("SIGINT")
    assert {signal_.split(".")[-1] for signal_ in handlers.values()} == {"SIG_DFL"} or all(
        value in ("0", "Handlers.SIG_DFL") for value in handlers.values()
    )


def check_end(server, pid, listener):
    server.process.send_signal(signal.SIGTERM)
    opcode, payload = raw.read_frame(listener)
    assert (opcode, payload[:2]) == (8, b"\x03\xe9")
    listener.sendall(raw.frame(payload, opcode=8))
    assert raw.read_all(listener) == b""
    assert server.wait() == 0
    assert "Traceback" not in server.log


def whole_life(server, folder, begin, way):
    pid = int(get(server, "/@@page").split()[1])
    with raw.connect(server.url, "/news") as listener:
        begin()
        with Child(folder) as child:
            check_child(child, pid)
            if way != "preexec":
                assert raw.read_frame(listener) == (1, f"from the child {child.pid}".encode())
            check_parent(server, pid, listener)
            child.end()
        if way in ("process", "executor", "pool"):
            assert get(server, "/@@joined") == ("0" if way == "process" else str(child.pid))
        check_parent(server, pid, listener)
        check_end(server, pid, listener)


@SERVERS
@pytest.mark.parametrize("way", WAYS)
def test_a_child_of_a_view(tmp_path, redis, start, way):
    with start(tmp_path, REDIS.format(redis.url)) as server:
        forking = f"/@@fork?way={way}&folder={tmp_path}"
        if way == "returning":
            whole_life(server, tmp_path, lambda: int(get(server, forking)), way)
        else:
            whole_life(server, tmp_path, lambda: get(server, forking), way)
