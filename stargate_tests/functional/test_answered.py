"""What a view does to its request when the handshake has been answered: on both servers."""

import re
import urllib.request
from pathlib import Path

import pytest
from websockets.sync.client import connect

from stargate_tests.functional import answered_app
from stargate_tests.functional.program import INI, pserve
from stargate_tests.gunicorns import Gunicorn

LINES = Path(answered_app.__file__).read_text().splitlines()

#: Seconds within which a message has to come.
DEADLINE = 60


def under_pserve(folder):
    return pserve(folder, module="answered_app")


def under_gunicorn(folder):
    ini = INI.format(name="eventlet", server="", app="", module="answered_app")
    (folder / "test.ini").write_text(ini)
    return Gunicorn(folder, "--paste", "test.ini")


def between(first, last):
    """The lines of the application that are to be named, and what is to be said of each."""
    begin, end = (
        next(number for number, line in enumerate(LINES, 1) if line.startswith(each))
        for each in (first, last)
    )
    lines = ((number, LINES[number - 1].partition("  # ")[2]) for number in range(begin, end))
    return {(number, what) for number, what in lines if what}


def named(log):
    """The lines that a log names, once for each time."""
    return [
        (int(number), what)
        for number, what in re.findall(
            r"WARNING stargate\.handshake .*answered_app\.py:(\d+): (.*) when the handshake", log
        )
    ]


servers = pytest.mark.parametrize("start", [under_pserve, under_gunicorn])


@servers
@pytest.mark.parametrize("view", ["Handler", "Methods"])
def test_each_line_that_comes_too_late_is_named_once(tmp_path, start, view):
    with start(tmp_path) as server:
        for _ in range(2):
            with connect(server.websocket_url(f"/@@{view}")) as peer:
                headers = peer.response.headers
                cookies = [each.partition("=")[0] for each in headers.get_all("Set-Cookie")]
                assert sorted(cookies) == ["early", "first", "session"]
                assert headers["X-Early"] == "x" and "Content-Type" not in headers
                for _ in range(2):
                    peer.send("x")
                    assert peer.recv(timeout=DEADLINE) == "('yes', True, 4) [1] [2] [3]"
        server.stop()
    found, expected = named(server.log), between("def too_late", "def in_time")
    assert len(expected) == 8
    assert server.log.count("nothing will call it. Do that in on_close") == 1
    assert set(found) == expected and len(found) == len(expected)
    assert "Traceback" not in server.log


@servers
def test_a_session_that_is_made_late_is_looked_at_as_well(tmp_path, start):
    with start(tmp_path) as server:
        with connect(server.websocket_url("/@@Late")) as peer:
            for expected in ("(None, False, 0)", "(None, False, 1)"):
                peer.send("x")
                assert peer.recv(timeout=DEADLINE).startswith(expected)
        server.stop()
    assert set(named(server.log)) == between("class Late", "class Keeps")
    assert "Traceback" not in server.log


@servers
def test_so_is_a_response_of_before_and_whoever_asks_who_it_is_does_nothing_in_vain(
    tmp_path, start
):
    with start(tmp_path) as server:
        with urllib.request.urlopen(f"{server.url}/@@enter", timeout=DEADLINE) as answer:
            cookie = answer.headers["Set-Cookie"].partition(";")[0]
        url = server.websocket_url("/@@Keeps")
        with connect(url, additional_headers={"Cookie": cookie}) as peer:
            assert peer.response.headers["Set-Cookie"].startswith("auth_tkt=")
            peer.send("x")
            assert peer.recv(timeout=DEADLINE) == "anne"
        server.stop()
    assert set(named(server.log)) == between("class Keeps", "class Closes")
    assert "Traceback" not in server.log


@servers
def test_so_is_the_end_of_a_view(tmp_path, start):
    with start(tmp_path) as server:
        with connect(server.websocket_url("/@@Closes")):
            pass
        server.stop()
    assert set(named(server.log)) == between("class Closes", "def main")
