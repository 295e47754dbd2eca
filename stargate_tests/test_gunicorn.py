"""The worker class under the real gunicorn: real processes, real signals, a real Redis."""

import json
import logging
import os
import select
import signal
import socket
import ssl
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect, unix_connect

from stargate.gunicorn import EventletWorker, _of_ini
from stargate_tests import raw
from stargate_tests.certificates import certificate, trust, trust_in_threads
from stargate_tests.gunicorns import Gunicorn
from stargate_tests.waiting import wait_until

DEADLINE = 60

INI = """\
[app:main]
use = call:stargate_tests.workers_app:main
{app}

[server:main]
use = egg:stargate#eventlet
{server}

[loggers]
keys = root, access
[handlers]
keys = console, access
[formatters]
keys = plain
[logger_root]
level = INFO
handlers = console
[logger_access]
level = INFO
handlers = access
qualname = stargate.access
propagate = 0
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = plain
[handler_access]
class = FileHandler
args = ("%(here)s/access.log",)
formatter = plain
[formatter_plain]
format = %(process)d %(levelname)s %(name)s %(message)s
"""


@pytest.fixture
def gunicorn(tmp_path):
    """``gunicorn(*arguments)``: the real one; ended after the test, with all of its workers."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(
            Gunicorn(tmp_path, *arguments, **options)
        )


@pytest.fixture(scope="module")
def workers(redis_server, tmp_path_factory):
    """Two workers with a Redis between them, of an ini file as ``pserve`` has it."""
    folder = tmp_path_factory.mktemp("workers")
    app = f"stargate.backplane = {redis_server.url}\nstargate.namespace = workers"
    write_ini(folder, app=app, server="listen = localhost:1\nheader_timeout = 0.5")
    arguments = ("--paste", "test.ini", "--workers", 2, "--timeout", 20)
    with Gunicorn(folder, *arguments, "--bind", f"unix:{folder}/sock", "--umask", "0077") as found:
        found.folder = folder
        yield found
        assert found.stop() == 0
        assert not Path(folder, "sock").exists()
    assert "Traceback" not in found.log


def write_ini(folder, app="", server=""):
    Path(folder, "test.ini").write_text(INI.format(app=app, server=server))


def get(server, path):
    with urllib.request.urlopen(server.url + path, timeout=DEADLINE) as answer:
        return answer.read().decode()


def pid(server):
    """The process that answers."""
    return int(get(server, "/a/@@pid").split()[0])


class On:
    """A connection to one worker, on which requests are sent and a WebSocket is opened."""

    def __init__(self, server):
        self._server = server
        self._address = server.url.removeprefix("http://")
        self._connection = HTTPConnection(self._address, timeout=DEADLINE)
        self.pid = int(self.get("/a/@@pid").split()[0])
        self.websocket = None

    def get(self, path):
        self._connection.request("GET", path)
        return self._connection.getresponse().read().decode()

    def listen(self, path):
        """Be a listener of ``path`` in this worker, since the connection is the same one."""
        before = int(get(self._server, f"{path}/@@count"))
        sock = self._connection.sock
        sock.sendall(raw.handshake(self._address, path))
        assert raw.read_head(sock).startswith(b"HTTP/1.1 101 ")
        wait_until(lambda: int(get(self._server, f"{path}/@@count")) > before)
        self.websocket = sock
        return self

    def hear(self):
        opcode, payload = raw.read_frame(self.websocket)
        return payload.decode() if opcode == 1 else (opcode, payload)

    def close_code(self):
        """The code of the close frame, which is answered as it should be."""
        while True:
            opcode, payload = raw.read_frame(self.websocket)
            if opcode == 8:
                self.websocket.sendall(raw.frame(payload, opcode))
                assert raw.read_all(self.websocket) == b""
                self._connection.close()
                return int.from_bytes(payload[:2], "big")

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self._connection.close()


@pytest.fixture
def each_worker(workers):
    """``each_worker()``: a connection to each of the two workers."""
    with ExitStack() as stack:

        def find():
            found = {}

            def both():
                one = On(workers)
                stack.enter_context(one)
                found.setdefault(one.pid, one)
                return len(found) == 2

            wait_until(both)
            return list(found.values())

        yield find


def wait_for_exit(server, *ended):
    for each in ended:
        wait_until(lambda end=f"Worker exiting (pid: {each.pid})": end in server.log)


# Two workers with a Redis between them.


def test_pages_and_websockets_are_served_by_every_worker(workers, each_worker):
    for one in each_worker():
        assert one.get("/a/@@patched") == "True"
        assert one.get("/a/@@pid").split() == [str(one.pid), "True"]
        one.listen(f"/{one.pid}")
        one.websocket.sendall(raw.frame("nobody reads this"))
        get(workers, f"/{one.pid}/@@send?message=x")
        assert one.hear() == "x"


def test_what_comes_with_the_handshake_is_not_lost(workers):
    with raw.connect(workers.url, "/a/@@echo", behind=raw.frame("early")) as sock:
        assert raw.read_frame(sock) == (1, b"early")


def test_a_message_reaches_the_listeners_of_the_other_worker(workers, each_worker):
    one, other = each_worker()
    one.listen("/shared")
    assert other.get("/shared/@@send?message=over+there") == str(other.pid)
    assert one.hear() == "over there"
    other.listen("/shared")
    get(workers, "/shared/@@send?message=to+both")
    assert (one.hear(), other.hear()) == ("to both", "to both")


def test_a_worker_that_ends_gracefully_takes_its_listeners_along(workers, each_worker):
    one, other = each_worker()
    one.listen("/present")
    wait_until(lambda: other.get("/present/@@count") == "1")
    os.kill(one.pid, signal.SIGTERM)
    assert one.close_code() == 1012
    # A lease of a worker that is killed would last for longer.
    wait_until(lambda: other.get("/present/@@count") == "0", 10)
    wait_for_exit(workers, one)


def test_hup_says_1012_and_no_connection_is_refused_meanwhile(workers, each_worker):
    before = [one.listen("/hup") for one in each_worker()]
    stop, seen = [], []

    def knock():
        while not stop:
            with raw.connect(workers.url, "/a/@@echo", behind=raw.frame("x")) as sock:
                assert raw.read_frame(sock) == (1, b"x")
                seen.append(1)

    with ThreadPoolExecutor(1) as pool:
        knocking = pool.submit(knock)
        try:
            workers.send(signal.SIGHUP)
            assert [one.close_code() for one in before] == [1012, 1012]
            wait_for_exit(workers, *before)
            assert pid(workers) not in {one.pid for one in before}
        finally:
            stop.append(True)
        knocking.result(DEADLINE)
    assert seen


def test_one_worker_less_says_1012_to_its_websockets_and_one_more_serves(workers, each_worker):
    pair = {one.listen("/less").websocket: one for one in each_worker()}
    workers.send(signal.SIGTTOU)
    [told], _, _ = select.select(pair, [], [], DEADLINE)
    assert pair.pop(told).close_code() == 1012
    [stays] = pair.values()
    get(workers, "/less/@@send?message=still+here")
    assert stays.hear() == "still here"
    workers.send(signal.SIGTTIN)
    assert len(each_worker()) == 2


def test_the_ini_file_says_how_the_server_is_but_not_where(workers):
    with raw.dial(workers.url) as sock:
        sock.sendall(b"GET /a HTTP/1.1\r\nHost: local")
        assert raw.read_all(sock).startswith(b"HTTP/1.1 408 ")
    workers.expect(r"not used of \[server:main\]: listen. With gunicorn it is bind")


def test_logs_go_where_the_ini_file_says(workers):
    get(workers, "/logged/@@pid")
    access = workers.folder / "access.log"
    wait_until(lambda: '"GET /logged/@@pid HTTP/1.1" 200' in access.read_text())
    assert "/logged" not in workers.log


def test_usr1_opens_the_log_files_anew(workers):
    get(workers, "/moved/@@pid")
    access, moved = workers.folder / "access.log", workers.folder / "access.log.1"
    access.rename(moved)
    workers.send(signal.SIGUSR1)

    def written_anew():
        get(workers, "/anew/@@pid")
        return access.exists() and "/anew/" in access.read_text()

    wait_until(written_anew)


def test_a_unix_socket_is_served_as_well_and_stays(workers, each_worker):
    path = workers.folder / "sock"
    assert path.stat().st_mode & 0o077 == 0
    with unix_connect(str(path), "ws://localhost/a/@@echo") as peer:
        peer.send("x")
        assert peer.recv(timeout=DEADLINE) == "x"
    one, _other = each_worker()
    os.kill(one.pid, signal.SIGTERM)
    wait_for_exit(workers, one)
    with unix_connect(str(path), "ws://localhost/a/@@echo") as peer:
        peer.send("y")
        assert peer.recv(timeout=DEADLINE) == "y"
