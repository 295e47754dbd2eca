"""Other processes send to the WebSockets of an application under ``pserve``, over a Redis."""

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import stargate
from stargate_tests.functional.program import ROOT, Program, pserve
from stargate_tests.waiting import wait_until

#: Seconds within which a message comes, and a program ends.
DEADLINE = 60

PUBLISHERS = ROOT / "examples" / "publishers"
STARGATE = Path(sys.executable).with_name("stargate")


NAMESPACE = f"test-{uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def server(tmp_path_factory, redis_server):
    """One for all; each test has resources of its own, and all below ``/kept`` are kept."""
    folder = tmp_path_factory.mktemp("publishers")
    app = f"stargate.backplane = {redis_server.url}\nstargate.namespace = {NAMESPACE}"
    with pserve(folder, app=app) as server:
        server.ini = folder / "test.ini"
        yield server


@pytest.fixture
def listening(server):
    """``listening(path, ...)``: WebSockets at these, once they are listeners."""
    with ExitStack() as stack:
        publisher = stack.enter_context(stargate.connect(server.ini))

        def opened(*paths):
            found = [stack.enter_context(connect(server.websocket_url(path))) for path in paths]
            for path in paths:
                wait_until(lambda path=path: publisher.listener_count(path.partition("/@@")[0]))
            return found

        yield opened


def run(*command, stdin=None, **environ):
    """What a program wrote that has ended well."""
    done = subprocess.run(
        [str(word) for word in command],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_reaches_real_websockets(server, listening):
    one, other = listening("/kept/1", "/b1")
    id = run(STARGATE, "send", server.ini, "/kept/1", "from a shell").strip()
    assert one.recv(DEADLINE) == "from a shell"
    run(STARGATE, "send", server.ini, "/b1", "-", "--json", stdin='{"a": 1}\n2\n')
    assert [json.loads(other.recv(DEADLINE)) for _ in range(2)] == [{"a": 1}, 2]
    assert run(STARGATE, "history", server.ini, "/kept/1").endswith(f" {id} from a shell\n")
    assert run(STARGATE, "presence", server.ini, "/kept/1") == "1 -\n"


def test_the_command_tells_that_the_server_listens(server, listening):
    listening("/b9")
    for path, code, said in (
        ("/b9", 0, "1 process listens there\n"),
        ("/b10", 3, "nobody listens there\n"),
    ):
        command = [STARGATE, "send", server.ini, path, "on", "--expect"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
        assert (done.returncode, done.stdout, done.stderr) == (code, "", said)


def test_the_longest_path_that_the_server_takes_is_an_address(server, listening):
    path = "/kept/" + "x" * (8191 - len("GET /kept/ HTTP/1.1\r\n"))
    [peer] = listening(path)
    with stargate.connect(server.ini) as publisher:
        assert publisher.publish(path, "on").processes == 1
        assert peer.recv(DEADLINE) == "on"
        assert [each.message for each in publisher.history(path)] == ["on"]
        assert publisher.presence(path) == {}
        with pytest.raises(InvalidStatus, match="414"):
            connect(server.websocket_url(path + "x"))


def test_what_another_process_sends_is_missed_by_nobody_who_comes_back(server, listening):
    [_first] = listening("/kept/2")
    begin, end = (run(STARGATE, "send", server.ini, "/kept/2", text).strip() for text in "ab")
    with connect(
        server.websocket_url(f"/kept/2/@@ids?since={begin}"), subprotocols=["stargate.v1"]
    ) as back:
        assert json.loads(back.recv(DEADLINE)) == {"id": end, "data": "b"}
        assert json.loads(back.recv(DEADLINE)) == {"recovered": True, "id": end}


def test_a_view_in_one_process_is_heard_by_listen_in_another(server, listening):
    [_first] = listening("/kept/3")
    with stargate.connect(server.ini) as publisher:
        command = [STARGATE, "listen", server.websocket_url("/kept/3/@@ids"), "--count", "1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
            wait_until(lambda: publisher.listener_count("/kept/3") == 2)
            id = publisher.send("/kept/3", "on")
            assert listener.stdout.read().endswith(f" {id} on\n")
            assert listener.wait(DEADLINE) == 0


def test_the_script_for_cron(server, listening):
    [peer] = listening("/kept/4")
    assert run(sys.executable, PUBLISHERS / "cron.py", server.ini, "/kept/4") == ""
    assert json.loads(peer.recv(DEADLINE))["load"] >= 0


def test_the_script_for_cron_fails_with_one_line(tmp_path):
    ini = tmp_path / "gone.ini"
    ini.write_text(
        "[app:main]\nstargate.backplane = redis://127.0.0.1:1\nstargate.namespace = shop\n"
    )
    command = [sys.executable, PUBLISHERS / "cron.py", ini, "/kept"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 1
    assert re.fullmatch(r"cron\.py: not sent: .*Connection refused.*\n", done.stderr)


def test_the_asyncio_program(server, listening, redis_server):
    peers = listening("/a6", "/b6")
    program = PUBLISHERS / "asyncio_program.py"
    run(sys.executable, "-W", "error", program, redis_server.url, NAMESPACE, "/a6", "/b6")
    for peer in peers:
        assert [peer.recv(DEADLINE) for _ in range(3)] == [f"reading {n}" for n in range(3)]


def test_the_celery_tasks(server, listening, redis_server, monkeypatch):
    """A real worker with two forked processes, its broker in the same Redis."""
    broker = redis_server.url.removesuffix("/0") + "/1"
    monkeypatch.setenv("BROKER", broker)
    monkeypatch.setenv("TARGET", str(server.ini))
    monkeypatch.chdir(PUBLISHERS)
    peers = listening("/a7", "/kept/7")
    celery = [sys.executable, "-m", "celery", "-A", "celery_tasks"]
    worker = [*celery, "worker", "--concurrency", "2", "--loglevel", "INFO", "--without-mingle",
              "--without-gossip", "--without-heartbeat"]  # fmt: skip
    with Program(worker) as program:
        program.expect("celery@.* ready")
        for path in ("/a7", "/kept/7"):
            run(*celery, "call", "celery_tasks.build", "--args", json.dumps([path]))
        for peer in peers:
            steps = [json.loads(peer.recv(DEADLINE))["step"] for _ in range(3)]
            assert steps == ["compiling", "testing", "done"]
        assert program.stop() == 0
    assert "Traceback" not in program.log
