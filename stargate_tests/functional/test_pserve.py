"""The server as ``pserve`` starts it, with the standard library patched."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode
from websockets.sync.client import connect, unix_connect

from stargate_tests import raw
from stargate_tests.functional.program import INI, ROOT, Program, pserve


def get(program, path):
    with urllib.request.urlopen(program.url + path, timeout=60) as answer:
        return answer.read().decode()


def websocket(program, path):
    return connect(program.websocket_url(path))


@pytest.mark.parametrize("name", ["eventlet", "eventlet_server"])
def test_it_serves_pages_and_websockets_and_ends_with_0(tmp_path, name):
    with pserve(tmp_path, name=name) as program:
        assert get(program, "/a/@@patched") == "True"
        with websocket(program, "/a") as peer:
            peer.send("x")
            assert peer.recv(timeout=20) == "x"
            get(program, "/a/@@send?message=from+a+view")
            assert peer.recv(timeout=20) == "from a view"
        assert program.stop() == 0
    assert "Traceback" not in program.log
    assert program.log.count('"GET /a HTTP/1.1" 101') == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_says_1001_to_every_websocket(tmp_path, number):
    with pserve(tmp_path) as program, ExitStack() as stack:
        peers = [stack.enter_context(websocket(program, "/a")) for _ in range(20)]
        program.process.send_signal(number)
        for peer in peers:
            with pytest.raises(ConnectionClosed) as closed:
                peer.recv(timeout=20)
            assert closed.value.rcvd.code == 1001
        assert program.wait() == 0
    assert "Traceback" not in program.log


def is_flooded(tmp_path, app=""):
    """Two OS threads of the program send until a signal comes; it ends as it should."""
    with pserve(tmp_path, app=app) as program:
        with raw.connect(program.url, "/a") as peer:
            get(program, "/a/@@flood")
            for _ in range(1000):
                assert raw.read_frame(peer) == (1, b"x")
            program.process.send_signal(signal.SIGTERM)
            while (found := raw.read_frame(peer)) == (1, b"x"):
                pass
            assert found == (8, b"\x03\xe9the server is stopping")
            peer.sendall(raw.frame(b"\x03\xe9", Opcode.CLOSE))
        assert program.wait() == 0
    assert "Traceback" not in program.log


def test_a_signal_among_the_sends_of_threads_ends_it_all_the_same(tmp_path):
    is_flooded(tmp_path)


def test_os_threads_send_through_a_redis_as_well(tmp_path, redis_server, namespace):
    is_flooded(
        tmp_path, f"stargate.backplane = {redis_server.url}\nstargate.namespace = {namespace}"
    )


def test_a_request_that_is_being_served_is_finished_and_no_new_one_accepted(tmp_path):
    with pserve(tmp_path) as program:
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(get, program, "/a/@@slow?seconds=1.5")
            program.expect("a slow request begins")
            idle = raw.dial(program.url)
            with websocket(program, "/a") as peer:
                program.process.send_signal(signal.SIGTERM)
                with pytest.raises(ConnectionClosed):
                    peer.recv(timeout=20)
            with pytest.raises(OSError):
                raw.dial(program.url)
            assert answer.result() == "done"
            assert idle.recv(1) == b""
            idle.close()
        assert program.wait() == 0


def test_what_outlasts_graceful_timeout_is_cut(tmp_path):
    with pserve(tmp_path, server="listen = 127.0.0.1:0\ngraceful_timeout = 0.5") as program:
        # It never answers the close frame.
        with raw.connect(program.url, "/a") as silent:
            assert program.stop() == 0
            assert raw.read_all(silent).startswith(b"\x88")
    assert "graceful_timeout is 0.5 s" in program.log


def test_a_request_that_outlasts_it_is_cut_as_well(tmp_path):
    with pserve(tmp_path, server="listen = 127.0.0.1:0\ngraceful_timeout = 0.5") as program:
        with raw.dial(program.url) as sock, websocket(program, "/a") as peer:
            sock.sendall(b"GET /a/@@slow?seconds=60 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            peer.send("the request is being served by now")
            peer.recv(timeout=20)
            assert program.stop() == 0
            assert raw.read_all(sock) == b""
    assert "cut 1 request(s), 0 WebSocket(s) and 0 view(s)" in program.log


def test_a_second_signal_exits_at_once(tmp_path):
    with pserve(tmp_path) as program:
        with raw.connect(program.url, "/a") as silent:
            program.process.send_signal(signal.SIGTERM)
            raw.read_frame(silent)
            assert program.stop() == 128 + signal.SIGTERM


def test_no_request_sees_the_thread_locals_of_another(tmp_path):
    with pserve(tmp_path) as program:
        with ThreadPoolExecutor(100) as pool:
            seen = list(pool.map(lambda _: get(program, "/a/@@thread_locals"), range(100)))
    assert seen == ["True"] * 100


def test_an_exception_of_a_view_is_logged_and_never_sent(tmp_path):
    with pserve(tmp_path) as program:
        with raw.dial(program.url) as sock:
            sock.sendall(b"GET /a/@@fail HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = raw.read_all(sock)
        assert program.stop() == 0
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"Traceback" not in answer
    assert "ERROR stargate.server the application raised" in program.log
    assert "ValueError: a view that fails" in program.log


def test_a_unix_socket_serves_its_owner(tmp_path):
    path = tmp_path / "stargate.sock"
    with pserve(tmp_path, server=f"unix_socket = {path}") as program:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with unix_connect(str(path), "ws://localhost/a") as one:
            with unix_connect(str(path), "ws://localhost/a") as two:
                one.send("x")
                assert (one.recv(timeout=20), two.recv(timeout=20)) == ("x", "x")
        assert program.stop() == 0
    assert not path.exists()
    assert "Traceback" not in program.log


def test_host_and_port_say_where_to_listen(tmp_path):
    with pserve(tmp_path, server="host = 127.0.0.1\nport = 0") as program:
        assert get(program, "/a/@@patched") == "True"


def test_a_port_in_use_is_an_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            AssertionError, match=f"cannot listen on 127.0.0.1:{port}: it is in use"
        ):
            pserve(tmp_path, server=f"listen = 127.0.0.1:{port}")


@pytest.mark.parametrize(
    "server, says",
    [
        ("backlog = many", "backlog = 'many': it must be a whole number"),
        ("graceful_timout = 3", "did you mean graceful_timeout"),
        ("listen = here", "it must be host:port"),
        ("listen = 127.0.0.1:0\nport = 7000", "say different things"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(tmp_path, server, says):
    with pytest.raises(AssertionError, match="ConfigurationError") as error:
        pserve(tmp_path, server=server)
    assert says in str(error.value)


def test_headers_that_never_end_get_408(tmp_path):
    with pserve(tmp_path, server="listen = 127.0.0.1:0\nheader_timeout = 0.5") as program:
        with raw.dial(program.url) as sock:
            sock.sendall(b"GET /a HTTP/1.1\r\nHost: local")
            assert raw.read_all(sock).startswith(b"HTTP/1.1 408 ")
        assert get(program, "/a/@@patched") == "True"


def test_a_connection_that_says_nothing_is_closed(tmp_path):
    server = "listen = 127.0.0.1:0\nheader_timeout = 0.2\nkeepalive_timeout = 0.3"
    with pserve(tmp_path, server=server) as program:
        with raw.dial(program.url) as sock:
            assert raw.read_all(sock) == b""


def test_an_open_websocket_is_not_bound_by_the_timeouts_of_http(tmp_path):
    server = "listen = 127.0.0.1:0\nheader_timeout = 0.2\nkeepalive_timeout = 0.2\n"
    server += "socket_timeout = 0.2"
    with pserve(tmp_path, server=server) as program:
        with websocket(program, "/a") as peer:
            # Long enough for each of them, and for a silent connection to be closed meanwhile.
            with raw.dial(program.url) as sock:
                assert raw.read_all(sock) == b""
            peer.send("still here")
            assert peer.recv(timeout=20) == "still here"


def test_headers_that_are_too_large_get_431(tmp_path):
    with pserve(tmp_path, server="listen = 127.0.0.1:0\nmax_header_size = 2000") as program:
        for extra in (b"X: " + b"x" * 3000, b"\r\n".join(b"X%d: y" % n for n in range(500))):
            with raw.dial(program.url) as sock:
                sock.sendall(b"GET /a HTTP/1.1\r\nHost: localhost\r\n" + extra + b"\r\n\r\n")
                assert raw.read_all(sock).startswith(b"HTTP/1.1 431 ")


def test_a_request_line_that_is_too_long_gets_414(tmp_path):
    with pserve(tmp_path, server="listen = 127.0.0.1:0\nmax_request_line = 500") as program:
        with raw.dial(program.url) as sock:
            sock.sendall(b"GET /" + b"x" * 600 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 414 " in raw.read_all(sock)


def test_reload_starts_it_again(tmp_path):
    ini = tmp_path / "test.ini"
    with pserve(tmp_path, "--reload") as program:
        with websocket(program, "/a") as peer:
            for later in range(1, 60):
                # The reloader remembers the time it first saw; that may be any of these.
                os.utime(ini, (0, ini.stat().st_mtime + later))
                try:
                    peer.recv(timeout=1)
                except TimeoutError:
                    continue
                except ConnectionClosed as closed:
                    assert closed.rcvd.code == 1001
                    break
        program.log = ""
        program.url = program.expect(r"serving on (\S+)").group(1)
        assert get(program, "/a/@@patched") == "True"
        program.stop(signal.SIGINT)
    assert "Traceback" not in program.log


def test_without_an_ini_file(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import stargate\n"
        "stargate.patch()\n"
        "from stargate.server.process import serve\n"
        "from stargate_tests.functional.program_app import main\n"
        "serve(main({}), listen='127.0.0.1:0')\n"
    )
    with Program([sys.executable, str(script)]) as program:
        program.url = program.expect(r"serving on (\S+)").group(1)
        with websocket(program, "/a") as peer:
            peer.send("x")
            assert peer.recv(timeout=20) == "x"
        assert program.stop() == 0


def test_pviews_shows_the_page_and_the_websocket(tmp_path):
    ini = tmp_path / "test.ini"
    ini.write_text(INI.format(name="eventlet", server="", app="", module="program_app"))
    command = [sys.executable, "-m", "pyramid.scripts.pviews", str(ini), "/jobs/demo"]
    shown = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    assert "tree.Talk" in shown.stdout, shown.stderr
    assert "websocket = True" in shown.stdout


def test_an_endless_stream_of_one_peer_does_not_starve_the_others(tmp_path):
    with pserve(tmp_path) as program:
        with raw.connect(program.url, "/a") as busy:
            stop = threading.Event()
            flood = raw.frame("x" * 100) * 500

            def pour():
                busy.settimeout(0.2)
                while not stop.is_set():
                    try:
                        busy.sendall(flood)
                    except TimeoutError:
                        busy.recv(65536)

            thread = threading.Thread(target=pour)
            thread.start()
            try:
                for _ in range(20):
                    assert get(program, "/b/@@patched") == "True"
            finally:
                stop.set()
                thread.join(20)


def test_the_socket_file_of_a_server_started_since_stays(tmp_path):
    path = tmp_path / "stargate.sock"
    with pserve(tmp_path, server=f"unix_socket = {path}") as program:
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            assert program.stop() == 0
            assert path.exists()


def test_a_program_of_its_own_may_serve_a_dotted_name_on_a_unix_socket(tmp_path):
    path = tmp_path / "s"
    script = tmp_path / "script.py"
    script.write_text(
        "import logging, stargate\n"
        "stargate.patch()\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "stargate.server.serve('stargate_tests.functional.program_app.made',"
        f" unix_socket={str(path)!r})\n"
        "logging.info('the program goes on')\n"
    )
    with Program([sys.executable, str(script)]) as program:
        program.expect("serving on unix:")
        with unix_connect(str(path), "ws://localhost/a") as peer:
            peer.send("x")
            assert peer.recv(timeout=20) == "x"
        assert program.stop() == 0
    assert "the program goes on" in program.log


def test_a_program_that_patches_too_late_is_told_so_by_name(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import pyramid.threadlocal, transaction, stargate.server.process\n"
        "from stargate_tests.functional.program_app import main\n"
        "stargate.server.serve(main({}), listen='127.0.0.1:0')\n"
    )
    with Program([sys.executable, str(script)]) as program:
        program.url = program.expect(r"serving on (\S+)").group(1)
        with ThreadPoolExecutor(20) as pool:
            seen = list(pool.map(lambda _: get(program, "/a/@@thread_locals"), range(20)))
        assert program.stop() == 0
    assert "pyramid.threadlocal, transaction were imported before stargate could patch" in (
        program.log
    )
    assert seen == ["True"] * 20  # Repaired all the same.
