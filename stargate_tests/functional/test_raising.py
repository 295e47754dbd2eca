"""Whatever is no ``Exception``, wherever application code runs: the server goes on."""

import http.client
import re
import signal
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from stargate_tests.functional.program import INI, pserve
from stargate_tests.functional.raising_app import KINDS
from stargate_tests.gunicorns import Gunicorn

#: The page, and what it answers to an error at each place.
PAGES = {
    "view": ("view", 500),
    "factory": ("view", 500),
    "tween": ("view", 500),
    "response": ("view", 500),
    "finished": ("view", 500),
    "subscriber": ("view", 500),
    "renderer": ("rendered", 500),
    "send_json": ("sent", 500),
    "address": ("addressed", 500),
    "middle": ("streamed", "cut"),
    "close": ("streamed", 200),  # All of it has been sent.
    "greenlet": ("spawned", 200),
    "greenlet_n": ("spawned", 200),
    "timer": ("spawned", 200),
    "hub_timer": ("spawned", 200),
    "thread": ("spawned", 200),
    "os_thread": ("spawned", 200),
    "callback": ("spawned", 200),
    "signal": ("spawned", 200),
}

#: The view, and how its WebSocket ends; or the status of the handshake.
VIEWS = {
    "init": ("raising", 500),
    "policy": ("raising", 500),
    "open": ("raising", 1011),
    "message": ("raising", 1011),
    "json": ("raising", 1011),
    "closed": ("raising", 1000),  # It has ended before.
    "handler": ("raising_handler", 1011),
    "failed": ("raising_handler", 1011),
}

#: How a view is killed, a greenlet is, and a thread ends: nothing is logged.
KILLED = {("GreenletExit", place) for place in ("open", "message", "json", "handler", "closed")}
QUIET = (
    KILLED
    | {("GreenletExit", place) for place in ("greenlet", "greenlet_n", "timer")}
    | {("SystemExit", place) for place in ("thread", "os_thread")}
)


def under_pserve(folder):
    return pserve(folder, module="raising_app")


def under_gunicorn(folder):
    ini = INI.format(name="eventlet", server="", app="", module="raising_app")
    Path(folder, "test.ini").write_text(ini)
    return Gunicorn(folder, "--paste", "test.ini")


class Running:
    """A server, and somebody who is connected all the time."""

    def __init__(self, server, witness):
        self.server, self.witness = server, witness

    def get(self, view, **params):
        """The status of a page, or ``cut``."""
        host = urlsplit(self.server.url).netloc
        peer = http.client.HTTPConnection(host, timeout=30)
        try:
            peer.request("GET", f"/a/@@{view}?{urlencode(params)}")
            answer = peer.getresponse()
            answer.read()
            return answer.status
        except http.client.IncompleteRead:
            return "cut"
        finally:
            peer.close()

    def talk(self, view, **params):
        """How a WebSocket's view ends: the status of its handshake, or the close code."""
        url = self.server.websocket_url(f"/a/@@{view}?{urlencode(params)}")
        try:
            with connect(url) as peer, pytest.raises(ConnectionClosed) as closed:
                peer.send("say something")
                peer.recv(timeout=30)
                peer.recv(timeout=30)
            return closed.value.rcvd.code
        except InvalidStatus as error:
            return error.response.status_code

    def is_well(self):
        """Pages are answered, and who was connected before still is."""
        assert self.get("view", say="well at this moment") == 200
        self.witness.send("still there")
        assert self.witness.recv(timeout=30) == "still there"


@pytest.fixture(scope="module", params=[under_pserve, under_gunicorn])
def running(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("raising")
    with ExitStack() as stack:
        server = stack.enter_context(request.param(folder))
        yield Running(server, stack.enter_context(connect(server.websocket_url("/a"))))


def check_logged(running, before, place, kind):
    """The error is in the log with its traceback, once."""
    line, times = rf"(?m)^[ |]*(\S+\.)?{kind}\b.*$", (kind, place) not in QUIET
    if times:
        running.server.expect(line, before)
    running.is_well()
    running.server.expect("well at this moment", before)
    assert len(re.findall(line, running.server.log[before:])) == times


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PAGES)
def test_a_page_has_failed_and_the_server_goes_on(running, place, kind):
    before = len(running.server.log)
    view, outcome = PAGES[place]
    assert running.get(view, at=place, kind=kind) == outcome
    check_logged(running, before, place, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", VIEWS)
def test_a_view_has_failed_and_the_server_goes_on(running, place, kind):
    before = len(running.server.log)
    view, outcome = VIEWS[place]
    if (kind, place) in KILLED and outcome != 1000:
        outcome = 1001
    assert running.talk(view, at=place, kind=kind) == outcome
    check_logged(running, before, place, kind)


def test_a_page_that_fails_is_a_500_though_the_log_fails_too(tmp_path):
    with under_pserve(tmp_path) as server, connect(server.websocket_url("/a")) as peer:
        assert Running(server, peer).get("unlogged") == 500
        Running(server, peer).is_well()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_midst_of_application_code_drains(tmp_path, number):
    with under_pserve(tmp_path) as server, connect(server.websocket_url("/a")) as peer:
        page = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
        page.request("GET", "/a/@@busy")
        server.expect("busy from here on")
        server.process.send_signal(number)
        answer = page.getresponse()
        assert (answer.status, answer.read()) == (200, b"page")
        page.close()
        with pytest.raises(ConnectionClosed) as closed:
            peer.recv(timeout=30)
        assert closed.value.rcvd.code == 1001
        assert server.wait() == 0
    assert "Traceback" not in server.log


def test_gunicorns_worker_is_the_same_after_sys_exit_and_ends_with_a_signal(tmp_path):
    with under_gunicorn(tmp_path) as server, connect(server.websocket_url("/a")) as peer:
        assert Running(server, peer).get("view", at="view", kind="SystemExit") == 500
        Running(server, peer).is_well()
        server.send(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            peer.recv(timeout=30)
        assert closed.value.rcvd.code == 1001
        assert server.wait() == 0
    assert server.log.count("Booting worker") == 1
