"""The worker class under the real gunicorn: real processes, real signals, a real Redis."""

import json
import logging
import os
import select
import signal
import socket
import subprocess
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
from stargate.server.process import read_settings
from stargate_tests import raw
from stargate_tests.certificates import certificate, trust, trust_in_threads
from stargate_tests.gunicorns import Gunicorn, jobs_in_two_workers
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


# Those that end, or never begin.


MADE = "stargate_tests.workers_app:made()"


def test_int_cuts(gunicorn):
    server = gunicorn(MADE)
    with raw.connect(server.url, "/a") as peer:
        assert server.stop(signal.SIGINT) == 0  # gunicorn makes it QUIT for its workers.
        assert raw.read_all(peer) == b""
    assert "Traceback" not in server.log


def test_term_says_1001_and_ends_it_all(gunicorn):
    server = gunicorn(MADE, "--workers", 2)
    with connect(server.websocket_url("/a")) as peer:
        server.send(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            peer.recv(timeout=DEADLINE)
        assert closed.value.rcvd.code == 1001
    assert server.wait() == 0
    assert "Traceback" not in server.log
    assert server.output == ""  # No access log where none is asked for.


def test_a_worker_that_is_still_loading_ends_at_once(gunicorn, tmp_path):
    loading = tmp_path / "loading"
    (tmp_path / "slow.py").write_text(
        f"import time\nopen({str(loading)!r}, 'w').close()\ntime.sleep(600)\n"
    )
    server = gunicorn("slow:application", "--graceful-timeout", 20)
    wait_until(loading.exists)
    assert server.stop() == 0
    assert "SIGKILL" not in server.log


def test_workers_end_when_the_arbiter_is_killed(gunicorn):
    server = gunicorn(MADE)
    worker = os.pidfd_open(pid(server))
    try:
        with connect(server.websocket_url("/a")) as peer:
            server.send(signal.SIGKILL)
            with pytest.raises(ConnectionClosed) as closed:
                peer.recv(timeout=DEADLINE)
            assert closed.value.rcvd.code == 1001
        assert select.select([worker], [], [], DEADLINE)[0]
    finally:
        os.close(worker)
    assert "Worker exiting" in server.log
    assert server.log.count("Parent changed, shutting down") == 1


def test_a_worker_whose_hub_is_stuck_is_killed_and_replaced(gunicorn):
    server = gunicorn(MADE, "--timeout", 2)
    first = pid(server)
    with raw.dial(server.url) as sock:
        sock.sendall(b"GET /a/@@stick HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert raw.read_all(sock) == b""
    assert f"WORKER TIMEOUT (pid:{first})" in server.log
    assert pid(server) != first


def test_a_worker_that_has_served_its_requests_is_replaced(gunicorn):
    server = gunicorn(MADE, "--max-requests", 3, "--access-logfile", "-")
    first = pid(server)
    with connect(server.websocket_url("/a")) as peer:
        get(server, "/a/@@send?message=the+third")
        assert peer.recv(timeout=DEADLINE) == "the third"
        with pytest.raises(ConnectionClosed) as closed:
            peer.recv(timeout=DEADLINE)
        assert closed.value.rcvd.code == 1012
    assert pid(server) != first
    server.expect("INFO. Autorestarting worker after current request")
    server.expect("INFO. stopped")  # The library's own log.
    assert '"GET /a/@@send?message=the+third HTTP/1.1" 200' in server.output


def test_a_change_of_the_application_reloads_it_and_a_broken_one_waits_for_that(gunicorn, tmp_path):
    app = tmp_path / "changes.py"
    app.write_text("application = (\n")
    server = gunicorn("changes:application", "--reload")
    with raw.dial(server.url) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b" 500 " in raw.read_head(sock)
    app.write_text("from stargate_tests.workers_app import made\napplication = made()\n")
    touch_until(app, lambda: server.log.count("Booting worker") > 1)
    first = pid(server)
    with connect(server.websocket_url("/a")) as peer:
        touch_until(app, lambda: server.log.count("changes.py modified") > 1)
        with pytest.raises(ConnectionClosed) as closed:
            peer.recv(timeout=DEADLINE)
        assert closed.value.rcvd.code == 1012
    assert pid(server) != first
    assert server.stop() == 0
    assert server.log.count("Traceback") == server.log.count("SyntaxError: ") == 1


def touch_until(path, condition):
    """Change ``path`` until that is noticed: the reloader remembers the time it first saw."""
    for _ in range(DEADLINE):
        os.utime(path, (0, path.stat().st_mtime + 1))
        with suppress(AssertionError):
            wait_until(condition, 1)
            return
    raise AssertionError(f"nobody has noticed a change of {path}")


def test_tls_is_that_of_gunicorns_settings(gunicorn):
    found = certificate()
    server = gunicorn(MADE, "--certfile", found.certfile, "--keyfile", found.keyfile)
    with urllib.request.urlopen(f"{server.url}/a/@@patched", context=trust()) as answer:
        assert answer.read() == b"True"
    with connect(server.websocket_url("/a/@@echo"), ssl=trust_in_threads()) as peer:
        peer.send("x")
        assert peer.recv(timeout=DEADLINE) == "x"


def test_preloading_is_refused_in_a_line(gunicorn):
    server = gunicorn(MADE, "--preload")
    assert server.wait() == 4
    assert server.log.count("[ERROR] preload_app: the application would be loaded before") == 1
    assert "Traceback" not in server.log


def test_two_workers_with_a_memory_each_are_refused(gunicorn, tmp_path):
    write_ini(tmp_path)
    server = gunicorn("--paste", "test.ini", "--workers", 2)
    assert server.wait() == 4
    assert server.log.count("[ERROR] stargate.backplane = memory carries a message to the") == 1
    assert "Traceback" not in server.log


# The application of the examples.


def test_the_jobs_run_in_two_workers_unchanged(tmp_path, redis_server, namespace):
    with jobs_in_two_workers(tmp_path, redis_server.url, namespace) as server, ExitStack() as stack:
        pages, pids = [], server.workers(2)
        url = server.websocket_url("/jobs/demo")
        for each in pids:
            with server.only(each, pids):
                page = stack.enter_context(
                    connect(url, subprotocols=["stargate.v1"], open_timeout=DEADLINE)
                )
                pages.append(page)
                assert heard(page)["state"] == "off"
        with urllib.request.urlopen("http" + url[2:], b"state=on", timeout=DEADLINE) as answer:
            assert answer.status == 204
        for page in pages:
            while not (news := heard(page).get("news")):
                pass
            assert news[0]["event"] == "switched on"
    assert "Traceback" not in server.log


def heard(page):
    return json.loads(page.recv(timeout=DEADLINE))["data"]


# What gunicorn's settings mean, in this process.


@pytest.fixture
def worker(capsys):
    """``worker(**settings)``: one that has not been started; it logs to the test's stderr."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(list(each.handlers), each.propagate, each.level) for each in loggers]
    handlers = [(number, signal.getsignal(number)) for number in ENDS]
    with ExitStack() as stack:

        def make(**settings):
            cfg = Config()
            for name, value in settings.items():
                cfg.set(name, value)
            found = EventletWorker(1, os.getppid(), [], None, 30, cfg, Logger(cfg))
            stack.callback(found.tmp.close)
            return found

        yield make
    for number, handler in handlers:
        signal.signal(number, handler)
    for logger, (theirs, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = theirs, propagate
        logger.setLevel(level)


ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

LOGGERS = ("gunicorn.error", "gunicorn.access", "stargate", "stargate.access")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cert_reqs", 2),
        ("ca_certs", "ca.pem"),
        ("ciphers", "ECDHE+AESGCM"),
        ("proxy_protocol", "auto"),
        ("ssl_context", lambda config, default: default()),
    ],
)
def test_what_would_be_less_safe_without_it_is_refused(worker, capsys, name, value):
    with pytest.raises(SystemExit, match="^4$"):
        worker(**{name: value}).init_process()
    assert (
        f"[ERROR] {name}: stargate.gunicorn.EventletWorker has no such" in capsys.readouterr().err
    )


def test_what_is_not_used_is_named(worker, capsys):
    made = worker(threads=4, access_log_format="%(h)s")
    EventletWorker.check_config(made.cfg, made.log)
    said = capsys.readouterr().err
    assert "not used by stargate.gunicorn.EventletWorker: access_log_format, threads\n" in said


def test_nothing_is_said_where_nothing_is_set(worker, capsys):
    made = worker()
    EventletWorker.check_config(made.cfg, made.log)
    assert capsys.readouterr().err == ""


def test_defaults_are_those_of_the_library(worker):
    found, usual = worker()._settings(), read_settings({})
    same = ("connection_limit", "keepalive_timeout", "max_request_line", "header_timeout")
    assert all(getattr(found, name) == getattr(usual, name) for name in same)
    assert (found.graceful_timeout, found.access_log, found.certfile) == (5.0, False, "")


def test_gunicorns_settings_are_ours_where_they_are_set(worker):
    made = worker(worker_connections=5, keepalive=7, limit_request_line=5000, graceful_timeout=2)
    found = made._settings()
    assert (found.connection_limit, found.keepalive_timeout) == (5, 7.0)
    assert (found.max_request_line, found.graceful_timeout) == (5000, 1.5)


def test_a_setting_of_gunicorns_that_is_none_of_ours_is_refused(worker, capsys):
    with pytest.raises(SystemExit, match="^4$"):
        worker(limit_request_line=0)._settings()
    assert "[ERROR] max_request_line = 0: " in capsys.readouterr().err


@pytest.mark.parametrize("age", [1, 2])
def test_one_that_has_been_told_to_end_does_not_wait_to_say_why_it_cannot_serve(
    worker, age, capsys
):
    """The exception of the signal may have been caught by what was being loaded."""
    made = worker(workers=2, worker_connections=0)
    made.age, made.alive = age, False
    with pytest.raises(SystemExit, match="^0$"):
        made._settings()
    assert "[ERROR]" not in capsys.readouterr().err


def test_a_bad_setting_of_the_ini_file_is_refused(worker, tmp_path, capsys):
    write_ini(tmp_path, server="header_timout = 3")
    with pytest.raises(SystemExit, match="^4$"):
        worker(paste=str(tmp_path / "test.ini"))._settings()
    assert "did you mean header_timeout" in capsys.readouterr().err


@pytest.mark.parametrize(("said", "logged"), [("", True), ("access_log = false", False)])
def test_with_logging_in_the_ini_file_that_says_whether_requests_are_logged(
    worker, tmp_path, said, logged
):
    write_ini(tmp_path, server=said)
    path = str(tmp_path / "test.ini")
    made = worker(paste=path)
    made.cfg.set("logconfig", path)
    assert made._settings().access_log is logged


def test_an_access_log_of_gunicorns_has_the_last_word(worker, tmp_path):
    write_ini(tmp_path, server="access_log = false")
    made = worker(paste=str(tmp_path / "test.ini"), accesslog=str(tmp_path / "access"))
    assert made._settings().access_log is True
    logging.getLogger("stargate.access").info("a line")
    assert (tmp_path / "access").read_text() == "a line\n"
    for handler in logging.getLogger("gunicorn.access").handlers:
        handler.close()


def test_the_section_of_another_server_says_nothing(worker, tmp_path):
    (tmp_path / "test.ini").write_text("[server:main]\nuse = egg:waitress#main\nport = 1\n")
    assert _of_ini(worker(paste=str(tmp_path / "test.ini")).cfg) == {}


def test_an_ini_file_without_a_server_says_nothing(worker, tmp_path):
    (tmp_path / "test.ini").write_text("[app:main]\nuse = call:nowhere:main\n")
    assert _of_ini(worker(paste=str(tmp_path / "test.ini")).cfg) == {}


def test_a_server_of_the_same_name_as_the_application_is_preferred(worker, tmp_path):
    text = "[server:{}]\nuse = egg:stargate#eventlet\nbacklog = {}\n"
    path = tmp_path / "test.ini"
    path.write_text("[DEFAULT]\nother = 1\n" + text.format("main", 1) + text.format("shop", 2))
    assert _of_ini(worker(paste=f"{path}#shop").cfg) == {"backlog": "2"}
    assert _of_ini(worker(paste=f"config:{path}#page").cfg) == {"backlog": "1"}


def test_others_take_over_as_long_as_gunicorn_listens(worker):
    made = worker()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        place = listening.fileno()
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[place]) as arbiter:
            made._arbiters = os.open(f"/proc/{arbiter.pid}/fd", os.O_RDONLY)
            made._places = {str(place)}
            try:
                assert made._others_take_over()
                made._places = {str(place + 100)}  # Closed there, or never opened.
                assert not made._others_take_over()
            finally:
                os.close(made._arbiters)


def test_where_it_cannot_be_seen_nobody_is_said_to_take_over(worker):
    made = worker()
    made._places = {"0"}
    assert not made._others_take_over()
    made._arbiters = os.open(os.devnull, os.O_RDONLY)  # Nor can this be listed.
    try:
        assert not made._others_take_over()
    finally:
        os.close(made._arbiters)
    made.cfg.set("reuse_port", True)
    assert not made._others_take_over()


def test_signals_are_heard_before_anything_else_is_done(worker, capsys):
    made = worker(preload_app=True)
    with pytest.raises(SystemExit, match="^4$"):
        made.init_process()
    found = [signal.getsignal(number) for number in ENDS]
    assert found == [made.handle_exit, made.handle_quit, made.handle_quit]


def test_a_signal_before_there_is_a_server_ends_the_worker(worker):
    for name in ("handle_exit", "handle_quit"):
        made = worker()
        handle = getattr(made, name)
        with pytest.raises(SystemExit, match="^0$"):
            handle(signal.SIGTERM, None)
        assert not made.alive  # Where that exception does not come through.
    made.handle_usr1(signal.SIGUSR1, None)
    made._end("no server", restarts=False)
