"""OS threads beside greenlets under both servers, as docs/howto/threads.rst has them."""

import socket
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from websockets.sync.client import connect

from stargate_tests.functional.program import INI, pserve
from stargate_tests.gunicorns import Gunicorn

DEADLINE = 60

#: Twenty views, the messages of each, and the requests that log beside them.
VIEWS, EACH, BESIDE = 20, 60, 200


@contextmanager
def with_pserve(tmp_path):
    program = pserve(
        tmp_path, module="threads_app", server="listen = 127.0.0.1:0\ngraceful_timeout = 1"
    )
    with program, ThreadPoolExecutor(1) as reader:
        # Its log has to be read, or whoever writes to it is held up.
        end = reader.submit(program.expect, "that is all")
        yield program
        get(program, "/x/@@say?what=that+is+all")
        end.result(DEADLINE)
        assert program.stop() == 0


@contextmanager
def with_gunicorn(tmp_path):
    ini = INI.format(name="eventlet", module="threads_app", app="", server="port = 1")
    (tmp_path / "test.ini").write_text(ini)
    with Gunicorn(tmp_path, "--paste", "test.ini", "--graceful-timeout", 2) as gunicorn:
        gunicorn.workers(1)
        yield gunicorn
        assert gunicorn.stop() == 0


@pytest.fixture(params=[with_pserve, with_gunicorn], ids=["pserve", "gunicorn"])
def served(request, tmp_path):
    with request.param(tmp_path) as served:
        yield served


def get(served, path):
    with urlopen(served.url + path, timeout=DEADLINE) as answer:
        return answer.read().decode()


def readings(browser, count):
    return [browser.recv(DEADLINE) for _ in range(count)]


def test_twenty_views_that_log_in_threads_beside_requests_that_log(served):
    with connect(served.websocket_url("/x")) as browser, ThreadPoolExecutor(VIEWS + 4) as pool:
        views = [pool.submit(get, served, f"/x/@@measure?count={EACH}") for _ in range(VIEWS)]
        beside = [pool.submit(get, served, "/x/@@say?what=beside") for _ in range(BESIDE)]
        found = readings(browser, VIEWS * EACH)
        assert {view.result(DEADLINE) for view in views} == {f"{EACH} readings"}
        assert {each.result(DEADLINE) for each in beside} == {"said"}
    assert sorted(found) == sorted(f"reading {n}" for n in range(EACH) for _ in range(VIEWS))


def test_a_thread_of_the_applications_own_sends(served):
    with connect(served.websocket_url("/x")) as browser:
        assert get(served, "/x/@@start") == "started"
        assert readings(browser, 100) == [f"reading {n}" for n in range(100)]


def test_a_queue_brings_a_greenlet_what_a_thread_finds(served):
    with connect(served.websocket_url("/x")) as browser, ThreadPoolExecutor(2) as pool:
        both = [pool.submit(get, served, "/x/@@follow") for _ in range(2)]
        found = readings(browser, 200)
        assert {each.result(DEADLINE) for each in both} == {"followed"}
    assert sorted(found) == sorted(f"reading {n}" for n in range(100) for _ in range(2))


def test_two_views_run_asyncio_at_once(served):
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(get, served, "/x/@@fetch") for _ in range(2)]
        assert [each.result(DEADLINE) for each in both] == ["met met"] * 2


def test_two_views_cannot_run_asyncio_at_once_in_greenlets(served):
    """What the page says of it; where this fails, the page has to be changed."""
    with ThreadPoolExecutor(3) as pool:
        both = [pool.submit(get, served, "/x/@@fetch_in_a_greenlet") for _ in range(2)]
        failed = next(as_completed(both, DEADLINE))
        assert isinstance(failed.exception(), HTTPError) and failed.exception().code == 500
        # The other one waits for as many as there would have been.
        pool.submit(get, served, "/x/@@meet")
        get(served, "/x/@@meet")
        [other] = [each for each in both if each is not failed]
        assert other.result(DEADLINE) == "met met"


def test_a_thread_that_does_not_end_keeps_no_server_from_ending(served):
    """Within its ``graceful_timeout``; the fixture stops it, and waits for less than that takes."""
    with socket.create_connection(served.url.removeprefix("http://").split(":")) as browser:
        browser.sendall(b"GET /x/@@stuck HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert get(served, "/x/@@wait_for_stuck") == "stuck"
