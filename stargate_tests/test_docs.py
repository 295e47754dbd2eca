"""What the documentation shows is run: the README's application, and every whole module of it.

A module is a block with a caption that names its file, or a block below the sentence that does. The
recipes of docs/howto/database.rst are in test_docs_recipes.py.
"""

import ast
import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
from configparser import ConfigParser
from contextlib import ExitStack
from pathlib import Path
from textwrap import dedent, indent
from urllib.request import Request, urlopen

import docutils.core
import pytest
from pyramid.config import Configurator
from pyramid.paster import get_app
from pyramid.response import Response
from websockets.sync.client import connect

import stargate
from stargate import WebSocketAwareContext
from stargate.scripts.main import make_parser
from stargate.server.process import read_settings
from stargate_tests.waiting import wait_until

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.rst"))

#: Seconds within which a message has to come, and within which a program has to end.
DEADLINE, PROGRAM = 10, 60


def blocks(path, language):
    """The code blocks of a page: pairs of the caption, if any, and the code."""
    pattern = rf"^( *)\.\. code-block:: {language}\n((?:\1 +:.*\n)*)\n((?:\1 +.*\n|\n)+)"
    for match in re.finditer(pattern, path.read_text() + "\n", re.MULTILINE):
        caption = re.search(r":caption: (\S+)", match[2])
        yield caption and caption[1], dedent(match[3])


def modules(page):
    """The whole modules of a page, by the names of their files."""
    return {caption: code for caption, code in blocks(ROOT / "docs" / page, "python") if caption}


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def post(live, path, data, **headers):
    with urlopen(Request(live.url + path, data, headers), timeout=DEADLINE) as answer:
        return answer.status


@pytest.fixture
def lamp_files():
    """The two files of the README."""
    [(_, ini), *_settings] = blocks(ROOT / "README.rst", "ini")
    lamp, *_others = [code for _, code in blocks(ROOT / "README.rst", "python")]
    return {"development.ini": ini, "lamp/__init__.py": lamp}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder whose modules can be imported, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def run_pytest(folder):
    """Run the tests in ``folder`` as their author would."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PROGRAM)


# The README.


def test_the_readme_and_the_changes_render_without_warnings():
    text = "\n".join((ROOT / name).read_text() for name in ("README.rst", "CHANGES.rst"))
    docutils.core.publish_string(
        text, writer="html5", settings_overrides={"report_level": 1, "halt_level": 1}
    )


def test_the_application_of_the_readme_broadcasts(lamp_files, folder, live_server):
    write(folder, lamp_files)
    live = live_server(get_app(str(folder / "development.ini")))
    with urlopen(live.url, timeout=DEADLINE) as answer:
        assert b"The lamp is" in answer.read()
    url = live.websocket_url("/")
    with connect(url, origin=live.url) as first, connect(url) as second:
        assert first.recv(DEADLINE) == second.recv(DEADLINE) == "off"
        first.send("on")
        assert first.recv(DEADLINE) == second.recv(DEADLINE) == "on"
        assert post(live, "/", b"state=off") == 204
        assert first.recv(DEADLINE) == second.recv(DEADLINE) == "off"


def test_the_server_of_the_readme_has_settings_that_make_sense(lamp_files):
    ini = ConfigParser()
    ini.read_string(lamp_files["development.ini"])
    server = dict(ini["server:main"])
    assert server.pop("use") == "egg:stargate#eventlet"
    assert read_settings(server).listen == ("localhost:6543",)


# Every page.


@pytest.mark.parametrize("page", [ROOT / "README.rst", *DOCS], ids=lambda page: page.stem)
def test_every_python_block_is_python(page):
    for _caption, code in blocks(page, "python"):
        try:
            ast.parse(code)
        except SyntaxError:
            ast.parse("def function():\n" + indent(code, "    "))


def test_the_names_of_the_api_page_are_the_names_of_stargate():
    _, code = next(blocks(ROOT / "docs/api/index.rst", "python"))
    [names] = [node.names for node in ast.parse(code).body]
    assert sorted(name.name for name in names) == sorted(set(stargate.__all__) - {"includeme"})


# docs/howto/testing.rst and docs/tutorial.rst


def test_the_tests_of_the_testing_page_pass(lamp_files, tmp_path):
    write(tmp_path, lamp_files | modules("howto/testing.rst"))
    found = run_pytest(tmp_path)
    assert found.returncode == 0, found.stdout
    assert "5 passed" in found.stdout


def test_the_tests_of_the_tutorial_pass(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "examples/jobs"))
    [(_, code)] = blocks(ROOT / "docs/tutorial.rst", "python")
    write(tmp_path, {"test_tutorial.py": code})
    found = run_pytest(tmp_path)
    assert found.returncode == 0, found.stdout
    assert "2 passed" in found.stdout


# docs/howto/tenants.rst


def test_tenants_by_host_do_not_hear_each_other(folder, live_server):
    write(folder, modules("howto/tenants.rst"))
    live = live_server(importlib.import_module("boards").main({}))
    url = live.websocket_url("/")
    with connect(url) as one, connect(url.replace("127.0.0.1", "localhost")) as two:
        wait_until(
            lambda: live.gate.listeners("127.0.0.1:/") and live.gate.listeners("localhost:/")
        )
        assert post(live, "/", b"text=for+one") == 204
        assert post(live, "/", b"text=for+two", Host="localhost") == 204
        assert (one.recv(DEADLINE), two.recv(DEADLINE)) == ("for one", "for two")


def test_the_contexts_of_a_route_are_told_apart_by_their_number(folder, live_server):
    write(folder, modules("howto/tenants.rst"))
    live = live_server(importlib.import_module("routes").main({}))
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(connect(live.websocket_url(f"/jobs/{number}"))) for number in (1, 2)
        )
        wait_until(lambda: live.gate.listeners("/jobs/1") and live.gate.listeners("/jobs/2"))
        assert post(live, "/jobs/1", b"state=for+1") == 204
        assert post(live, "/jobs/2", b"state=for+2") == 204
        assert (one.recv(DEADLINE), two.recv(DEADLINE)) == ("for 1", "for 2")


# docs/howto/page-and-socket.rst


class Document(WebSocketAwareContext):
    __name__, __parent__ = "", None


@pytest.mark.parametrize(
    "predicates",
    [
        {},
        {"request_method": "GET"},
        {"request_method": "GET", "request_param": "a"},
        {"accept": "text/html"},
        {"request_method": "GET", "request_param": "a", "websocket": False},
        {"accept": "text/html", "websocket": False},
    ],
)
def test_a_handshake_is_never_taken_by_a_page(live_server, predicates):
    with Configurator(root_factory=lambda request: Document()) as config:
        config.include("stargate")
        config.add_view(lambda request: Response("a page"), context=Document, **predicates)
        config.add_websocket_view(context=Document)
        live = live_server(config.make_wsgi_app())
    with urlopen(live.url + "/?a=1", timeout=DEADLINE) as answer:
        assert answer.read() == b"a page"
    with connect(live.websocket_url("/?a=1")):
        wait_until(lambda: len(live.gate.listeners("/")) == 1)


# docs/howto/without-an-ini-file.rst


@pytest.mark.parametrize("name", ["serve.py", "serve_by_name.py"])
def test_the_program_without_an_ini_file_serves_and_stops(lamp_files, tmp_path, name):
    found = modules("howto/without-an-ini-file.rst")
    assert "localhost:6543" in found[name]
    found[name] = found[name].replace("localhost:6543", "127.0.0.1:0")
    write(tmp_path, lamp_files | found)
    with subprocess.Popen(
        [sys.executable, name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONWARNINGS": "ignore::UserWarning"},  # Pyramid's own.
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            # Patched early enough, so the first line is no warning.
            said = program.stderr.readline()
            url = re.search(r"serving on http(://\S+)", said)
            assert url, said
            with connect("ws" + url[1]) as websocket:
                assert websocket.recv(DEADLINE) == "off"
            program.send_signal(signal.SIGTERM)
            assert program.wait(PROGRAM) == 0
        finally:
            program.kill()


# docs/howto/send-from-anywhere.rst and docs/commands.rst


def test_the_settings_and_the_publisher_of_the_page_belong_together(
    tmp_path, monkeypatch, own_redis
):
    page = ROOT / "docs/howto/send-from-anywhere.rst"
    [(_, ini)] = blocks(page, "ini")
    [program] = [code for _, code in blocks(page, "python") if "stargate.connect(" in code]
    redis = own_redis()
    assert "redis://localhost:6379/0" in ini
    write(tmp_path, {"production.ini": ini.replace("redis://localhost:6379/0", redis.url)})
    monkeypatch.chdir(tmp_path)
    heard = redis.client().pubsub()
    with heard:
        heard.subscribe("stargate:{shop:/jobs/1}", "stargate:{shop:/jobs/2}")
        messages = (each for each in heard.listen() if each["type"] == "message")
        exec(compile(program, str(page), "exec"), {})
        assert [next(messages)["data"].partition("\n")[2] for _ in range(2)] == [
            "on",
            '{"state": "off"}',
        ]


@pytest.mark.parametrize("name", ["howto/send-from-anywhere.rst", "commands.rst"])
def test_every_command_that_is_shown_is_understood(name):
    text = (ROOT / "docs" / name).read_text()
    lines = re.findall(
        r"^    (?:\$ )?(?:.* \| )?(?:/srv/shop/env/bin/)?stargate (.*)$", text, re.MULTILINE
    )
    shown = [shlex.split(each) for each in lines]
    assert len(shown) >= 3
    for words in shown:
        make_parser().parse_args(words)


def test_the_page_of_the_command_names_every_option():
    text = (ROOT / "docs/commands.rst").read_text()
    [commands] = make_parser()._subparsers._group_actions
    for name, command in commands.choices.items():
        assert f"stargate {name}\n=" in text
        for option in command._option_string_actions:
            if option.startswith("--") and option not in ("--help", "--limit", "--timeout"):
                assert option in text, option


# The engine can be replaced: who uses stargate need not know its name.

NAMES_EVENTLET = re.compile(
    r"^\s*(?:import|from) eventlet\b|\beventlet\.(?!wsgi\b)\w+", re.MULTILINE
)

SHOWN = [
    *(page for page in DOCS if page.name != "why-eventlet.rst"),
    ROOT / "README.rst",
    *sorted((ROOT / "examples").rglob("*.py")),
]


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_page_and_no_example_calls_eventlet(path):
    assert not NAMES_EVENTLET.findall(path.read_text())


def test_what_calls_eventlet_is_found():
    for text in ("import eventlet", "    from eventlet import sleep", "``eventlet.spawn(work)``"):
        assert NAMES_EVENTLET.search(text)
    for text in ("use = egg:stargate#eventlet", "``eventlet.wsgi.server``", "on eventlet."):
        assert not NAMES_EVENTLET.search(text)


OTHERS_GO_ON = """
import stargate; stargate.patch()
import os, sys, threading, time
{code}
class Job:
    heard = []
    def send(self, line):
        self.heard.append((line, turns))

turns, over = 0, False
def turn():
    global turns
    while not over:
        turns += 1
        time.sleep(0.001)

thread = threading.Thread(target=turn)
thread.start()
program = "import sys; print('one', flush=True); sys.stdin.read(1); print('two')"
read, write = os.pipe()
def answer():
    seen = turns
    while turns < seen + 20:
        time.sleep(0.001)
    os.write(write, b"x")
os.dup2(read, 0)
threading.Thread(target=answer).start()
build(Job(), [sys.executable, "-c", program])
over = True
(one, before), (two, after) = Job.heard
assert (one, two) == ("one", "two") and after >= 20, Job.heard
"""


def test_what_waits_for_a_process_lets_the_others_go_on():
    page = ROOT / "docs" / "howto" / "send-from-anywhere.rst"
    [code] = [code for _, code in blocks(page, "python") if "Popen" in code]
    command = [sys.executable, "-W", "ignore", "-c", OTHERS_GO_ON.format(code=code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM, cwd=ROOT)
    assert done.returncode == 0, done.stderr


# docs/howto/systemd.rst


def test_the_units_of_systemd_belong_together():
    page, units = ROOT / "docs/howto/systemd.rst", {}
    for caption, text in blocks(page, "ini"):
        units[Path(caption).name] = ConfigParser()
        units[Path(caption).name].optionxform = str
        units[Path(caption).name].read_string(text)
    assert set(units) == {"lamp.socket", "lamp.service"}
    path = units["lamp.socket"]["Socket"]["ListenStream"]
    assert units["lamp.service"]["Unit"]["Requires"] == "lamp.socket"
    assert units["lamp.service"]["Service"]["ExecStart"].endswith("/pserve production.ini")
    for shown in (f"unix_socket: unix:{path}\n", f"proxy_pass http://unix:{path};"):
        assert shown in page.read_text()
