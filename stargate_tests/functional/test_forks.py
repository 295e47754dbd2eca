"""A process that serves forks: the child is a child, and the parent goes on as it was."""

import json
import os
import signal
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from stargate_tests import raw
from stargate_tests.certificates import certificate, trust
from stargate_tests.functional.program import INI, pserve
from stargate_tests.gunicorns import Gunicorn
from stargate_tests.redis_servers import RedisServer
from stargate_tests.waiting import wait_until

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
def redis_server():
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis(redis_server, tmp_path):
    """The settings of an application with a Redis."""
    return f"stargate.backplane = {redis_server.url}\nstargate.namespace = {tmp_path.name}"


def get(server, path):
    secure = trust() if server.url.startswith("https:") else None
    with urllib.request.urlopen(server.url + path, timeout=30, context=secure) as answer:
        return answer.read().decode()


def ask(server, way, folder):
    """Have a page fork; only the parent answers."""
    return int(get(server, f"/@@fork?way={way}&folder={folder}"))


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
    found = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(os.readlink(each))
    return {name for name in found if name.startswith("socket:")}


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
    assert set(handlers.values()) == {str(signal.SIG_DFL)}


def check_end(server, pid, listener):
    server.process.send_signal(signal.SIGTERM)
    opcode, payload = raw.read_frame(listener)
    assert (opcode, payload[:2]) == (8, b"\x03\xe9")
    listener.sendall(raw.frame(payload, opcode=8))
    assert raw.read_all(listener) == b""
    listener.close()
    assert server.wait() == 0
    assert "Traceback" not in server.log


def whole_life(server, folder, begin, way, *others):
    pid = int(get(server, "/@@page").split()[1])
    with raw.connect(server.url, "/news") as listener:
        wait_until(lambda: get(server, "/news/@@count") == "1")
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
        for sock in others:  # What does not answer its close is waited for.
            sock.close()
        check_end(server, pid, listener)


@SERVERS
@pytest.mark.parametrize("way", WAYS)
def test_a_child_of_a_view(tmp_path, redis, start, way):
    with start(tmp_path, redis) as server:
        whole_life(server, tmp_path, lambda: ask(server, way, tmp_path), way)


@SERVERS
@pytest.mark.parametrize("style", ["forking", "handler"])
@pytest.mark.parametrize("way", ["returning", "process"])
def test_a_child_of_a_message(tmp_path, redis, start, style, way):
    with start(tmp_path, redis) as server:
        with raw.connect(server.url, f"/@@{style}") as sock:

            def begin():
                # The second message waits while the first is handled, and is not the child's.
                sock.sendall(raw.frame(f"{way} {tmp_path}") + raw.frame("and"))
                answers = {raw.read_frame(sock)[1] for _ in range(2)}
                assert answers == {get(server, "/@@page").split()[1].encode()}

            whole_life(server, tmp_path, begin, way, sock)
        assert server.log.count("heard and") == 1
        assert server.log.count("closed in") == (style == "forking")


@SERVERS
def test_a_child_of_a_server_with_tls(tmp_path, redis, start):
    found = certificate()
    said = "certfile = {}\nkeyfile = {}" if start is under_pserve else "--certfile {} --keyfile {}"
    tls = said.format(*found.settings.values())
    with start(tmp_path, redis, tls) as server:
        whole_life(server, tmp_path, lambda: ask(server, "returning", tmp_path), "returning")


@SERVERS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_child_hears_its_own_signals(tmp_path, redis, start, number):
    with start(tmp_path, redis) as server:
        pid = int(get(server, "/@@page").split()[1])
        with raw.connect(server.url, "/news") as listener:
            wait_until(lambda: get(server, "/news/@@count") == "1")
            ask(server, "os_fork", tmp_path)
            with Child(tmp_path) as child:
                assert raw.read_frame(listener) == (1, f"from the child {child.pid}".encode())
                os.kill(child.pid, number)
                child.wait()
            check_parent(server, pid, listener)


@SERVERS
def test_the_server_ends_while_a_child_lives(tmp_path, redis, start):
    with start(tmp_path, redis) as server:
        url = server.url
        with raw.connect(url, "/news") as listener, raw.dial(url) as idle:
            wait_until(lambda: get(server, "/news/@@count") == "1")
            ask(server, "os_fork", tmp_path)
            with Child(tmp_path) as child:
                assert raw.read_frame(listener) == (1, f"from the child {child.pid}".encode())
                server.process.send_signal(signal.SIGTERM)
                assert raw.read_frame(listener)[0] == 8
                listener.sendall(raw.frame(b"\x03\xe9", opcode=8))
                assert raw.read_all(listener) == raw.read_all(idle) == b""
                listener.close()
                server.process.wait(30)
                with pytest.raises(ConnectionRefusedError):
                    raw.dial(url).close()
                assert not child.has_ended()
                child.end()


@SERVERS
def test_what_a_child_sends_without_a_redis_reaches_nobody_and_it_says_so(tmp_path, start):
    with start(tmp_path) as server:
        pid = int(get(server, "/@@page").split()[1])
        with raw.connect(server.url, "/news") as listener:
            wait_until(lambda: get(server, "/news/@@count") == "1")
            ask(server, "os_fork", tmp_path)
            with Child(tmp_path) as child:
                assert child.facts["id"] is None
                check_parent(server, pid, listener)  # The next that it hears is from the parent.
                child.end()
            check_end(server, pid, listener)
    assert server.log.count("stargate.backplane = memory carries it to no other") == 1
