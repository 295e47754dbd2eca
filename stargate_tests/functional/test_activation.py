"""Socket activation as systemd does it: a parent that passes its sockets, from descriptor 3 on."""

import shutil
import socket
import sys
import sysconfig
import urllib.request
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from websockets.sync.client import connect, unix_connect

from stargate_tests import raw
from stargate_tests.certificates import certificate, trust
from stargate_tests.functional.program import Program, pserve
from stargate_tests.gunicorns import WORKER

#: Becomes the program that it is given, with descriptors passed to it.
PARENT = """
import os, sys
from fcntl import F_DUPFD, fcntl
pid, fds, *command = sys.argv[1:]
for number, fd in enumerate([fcntl(int(each), F_DUPFD, 100) for each in fds.split(",")], 3):
    os.dup2(fd, number)
    os.close(fd)
os.environ.update(LISTEN_PID=pid or str(os.getpid()), LISTEN_FDS=str(len(fds.split(","))))
os.environ["LISTEN_FDNAMES"] = "lamp.socket"
os.execv(command[0], command)
"""

DEADLINE = 60

SERVE = """
from stargate.server.process import serve
serve("stargate_tests.functional.program_app.made", listen="127.0.0.1:0")
"""

GUNICORN = [
    str(Path(sysconfig.get_path("scripts"), "gunicorn")),
    *("--worker-class", WORKER, "--no-control-socket"),
    "stargate_tests.functional.program_app:made",
]


def activation(*sockets, pid=""):
    """The options of a program that is started with ``sockets``."""
    fds = [sock.fileno() for sock in sockets]
    said = ",".join(map(str, fds))
    return {"prefix": [sys.executable, "-c", PARENT, pid, said], "pass_fds": fds}


def started(command, sockets, listening):
    """``command`` with ``sockets``, when it has said that it is ``listening``."""
    options = activation(*sockets)
    program = Program([*options["prefix"], *command], pass_fds=options["pass_fds"])
    try:
        program.expect(listening)
    except BaseException:
        program.__exit__()
        raise
    return program


@pytest.fixture
def passed(tmp_path):
    """Makes listening sockets as ``ListenStream=`` does: ``127.0.0.1``, ``::1``, or a path."""
    with ExitStack() as stack:

        def listen(where):
            family = (
                socket.AF_INET6 if ":" in where
                else socket.AF_UNIX if "/" in where
                else socket.AF_INET
            )  # fmt: skip
            sock = stack.enter_context(socket.socket(family))
            sock.bind(where if family == socket.AF_UNIX else (where, 0))
            sock.listen()
            return sock

        yield listen


def echoes(sock, **options):
    """A WebSocket to ``sock`` is served."""
    name = sock.getsockname()
    if isinstance(name, str):
        peer = unix_connect(name, "ws://localhost/@@echo")
    else:
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        scheme = "wss" if options else "ws"
        peer = connect(f"{scheme}://{host}:{name[1]}/@@echo", **options)
    with peer as found:
        found.send("x")
        assert found.recv(timeout=DEADLINE) == "x"


@pytest.mark.parametrize(
    "kinds",
    [["127.0.0.1"], ["::1"], ["unix"], ["::", "127.0.0.1", "unix"]],
    ids=["IPv4", "IPv6", "UNIX", "several"],
)
def test_pserve_takes_the_sockets_that_it_is_started_with(tmp_path, passed, kinds):
    sockets = [passed(str(tmp_path / "sock") if kind == "unix" else kind) for kind in kinds]
    with pserve(tmp_path, **activation(*sockets)) as program:
        for sock in sockets:
            echoes(sock)
        assert program.stop() == 0
    assert "Traceback" not in program.log
    said = "taken from systemd (LISTEN_FDS), in the place of listen, host, port and unix_socket: "
    assert said in program.log
    assert program.log.count("serving on ") == len(sockets)


def test_they_are_served_with_tls_too(tmp_path, passed):
    sock, found = passed("127.0.0.1"), certificate()
    lines = "\n".join(f"{name} = {value}" for name, value in found.settings.items())
    with pserve(tmp_path, server=lines, **activation(sock)) as program:
        assert program.url.startswith("https://")
        echoes(sock, ssl=trust())


def test_children_have_neither_the_variables_nor_the_sockets(tmp_path, passed):
    with pserve(tmp_path, **activation(passed("127.0.0.1"))) as program:
        with urllib.request.urlopen(program.url + "/@@activation", timeout=DEADLINE) as answer:
            assert answer.read() == b"[] False"


def test_those_of_another_process_are_left_alone(tmp_path, passed):
    sock = passed("127.0.0.1")
    with pserve(tmp_path, **activation(sock, pid="1")) as program:
        assert program.url != f"http://127.0.0.1:{sock.getsockname()[1]}"
        with urllib.request.urlopen(program.url + "/@@activation", timeout=DEADLINE) as answer:
            assert answer.read().startswith(b"['LISTEN_")
    assert "taken from systemd" not in program.log


@pytest.mark.parametrize("kind", ["127.0.0.1", "unix"])
def test_a_socket_goes_on_listening_when_the_server_has_stopped(tmp_path, passed, kind):
    """Whoever comes in between is served by the next one: no connection is refused."""
    sock = passed(str(tmp_path / "sock") if kind == "unix" else kind)
    server = f"unix_socket = {tmp_path}/sock" if kind == "unix" else "listen = 127.0.0.1:0"
    with pserve(tmp_path, server=server, **activation(sock)) as program:
        echoes(sock)
        assert program.stop() == 0
    with closing(raw.dial(f"unix:{tmp_path}/sock" if kind == "unix" else program.url)) as waiting:
        waiting.sendall(b"GET /@@patched HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with pserve(tmp_path, server=server, **activation(sock)):
            assert raw.read_head(waiting).startswith(b"HTTP/1.1 200 ")
    assert kind != "unix" or (tmp_path / "sock").is_socket()


def test_serve_takes_them_as_well(passed):
    sock = passed("127.0.0.1")
    with started([sys.executable, "-c", SERVE], [sock], "serving on ") as program:
        echoes(sock)
        assert program.stop() == 0


def test_gunicorn_takes_them_by_itself(passed):
    sock = passed("127.0.0.1")
    with started(GUNICORN, [sock], "Booting worker") as program:
        echoes(sock)
        assert program.stop() == 0


def test_what_no_server_can_listen_on_ends_it_with_a_sentence(tmp_path):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        with pytest.raises(AssertionError, match="serving on") as caught:
            pserve(tmp_path, **activation(sock))
    assert "ConfigurationError: descriptor 3, of systemd's socket activation" in str(caught.value)


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="no systemd here")
def test_systemd_itself_passes_them(tmp_path):
    """It starts the program when the first connection has come."""
    path = tmp_path / "sock"
    command = (
        *("systemd-socket-activate", "--listen", str(path)),
        *("--setenv", f"PYTHONPATH={Path(__file__).parents[2]}"),
        *(sys.executable, "-c", SERVE),
    )
    with Program(command) as program:
        program.expect("Listening on ")
        with unix_connect(str(path), "ws://localhost/@@echo") as peer:
            peer.send("x")
            assert peer.recv(timeout=DEADLINE) == "x"
        assert program.stop() == 0
    assert "taken from systemd" in program.log
