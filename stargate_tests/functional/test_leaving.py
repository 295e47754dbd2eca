"""A process ends within ``graceful_timeout``, whatever the application has left running."""

import os
import re
import signal
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path
from time import monotonic

import pytest

from stargate_tests import raw
from stargate_tests.functional.program import DEADLINE, INI, Program, pserve
from stargate_tests.gunicorns import Gunicorn
from stargate_tests.waiting import wait_until

GRACEFUL = 2

#: Seconds: of the second that is promised beyond, and for a machine that has other work.
SLACK = 5

#: What is left behind, and what the log says of it.
LEFT = {
    "sleep_in_pool": r"thread tpool_thread_\d+ in ",
    "sleep_in_child": r"child process (\d+)",
    "sleep_in_handler": r"the main thread in slow_goodbye \(\S+leaving_app.py:\d+\)",
    "sleep_in_green_handler": r"the main thread in green_goodbye \(\S+leaving_app.py:\d+\)",
}


def get(server, how):
    with urllib.request.urlopen(f"{server.url}/a/@@leave?how={how}", timeout=60) as answer:
        assert answer.read() == b"left"


def under_pserve(folder):
    server = f"listen = 127.0.0.1:0\ngraceful_timeout = {GRACEFUL}"
    return pserve(folder, module="leaving_app", server=server)


def end_child(log):
    """What is left behind is nobody's any more."""
    for pid in re.findall(r"child process (\d+)", log):
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


@pytest.mark.parametrize("how", LEFT)
def test_pserve_ends_in_time_and_says_what_was_left(tmp_path, how):
    with under_pserve(tmp_path) as program:
        get(program, how)
        began = monotonic()
        program.process.send_signal(signal.SIGTERM)
        line = program.expect(r"held up by .*\n")[0]
        code = program.process.wait(DEADLINE)
        took = monotonic() - began
        end_child(line)
        program.wait()
    assert re.search(LEFT[how], line)
    assert code == 0
    assert GRACEFUL - 1 < took < GRACEFUL + SLACK


@pytest.mark.parametrize("how", LEFT)
def test_a_worker_of_gunicorn_ends_in_time_and_says_what_was_left(tmp_path, how):
    """gunicorn itself would wait for it for ever: it has another one, and goes on."""
    ini = INI.format(name="eventlet", server="", app="", module="leaving_app")
    Path(tmp_path, "test.ini").write_text(ini)
    arguments = ("--paste", "test.ini", "--graceful-timeout", GRACEFUL + 1, "--timeout", 0)
    with Gunicorn(tmp_path, *arguments) as server:
        get(server, how)
        (worker,) = server.workers(1)
        began = monotonic()
        server.send(signal.SIGHUP)
        line = server.expect(r"held up by .*\n")[0]
        wait_until(lambda: not Path(f"/proc/{worker}").exists())
        took = monotonic() - began
        end_child(line)
        assert re.search(LEFT[how], line)
        assert took < GRACEFUL + SLACK
        get(server, "quick_handler")
        assert server.stop() == 0


@pytest.mark.parametrize("how", ["sleep_in_os_thread", "sleep_in_executor", "sleep_in_thread"])
def test_nobody_waits_for_a_thread_of_the_patched_library_or_its_original(tmp_path, how):
    with under_pserve(tmp_path) as program:
        get(program, how)
        assert program.stop() == 0
    assert "held up" not in program.log


def test_a_destructor_that_hangs_is_ended_without_python(tmp_path):
    with under_pserve(tmp_path) as program:
        get(program, "sleep_in_destructor")
        began = monotonic()
        assert program.stop() == 1
        took = monotonic() - began
    assert GRACEFUL < took < GRACEFUL + SLACK
    assert "in __del__" in program.log


def test_a_log_that_is_held_by_a_thread_holds_up_no_end(tmp_path):
    with under_pserve(tmp_path) as program:
        sock = raw.dial(program.url)
        sock.sendall(b"GET /a/@@leave?how=hold_log HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 200")
        began = monotonic()
        assert program.stop() == 0
        assert monotonic() - began < GRACEFUL + SLACK
        sock.close()
    assert "the process ends, held up by its log as well" in program.log


def test_a_handler_that_is_quick_runs_to_its_end(tmp_path):
    with under_pserve(tmp_path) as program:
        get(program, "quick_handler")
        assert program.stop() == 0
    assert "a quick handler has ended" in program.log
    assert "held up" not in program.log


def test_it_has_a_second_where_requests_took_all_of_the_time(tmp_path):
    with under_pserve(tmp_path) as program:
        with raw.dial(program.url) as sock:
            sock.sendall(b"GET /a/@@leave?how=sleep_in_page HTTP/1.1\r\nHost: x\r\n\r\n")
            program.expect("a page sleeps")
            assert program.stop() == 0
    assert "cut 1 request(s)" in program.log
    assert "a quick handler has ended" in program.log


SERVE = f"""
from stargate.server.process import serve
import stargate
stargate.patch()
from stargate_tests.functional.leaving_app import main, sleep_in_handler
sleep_in_handler()
serve(main({{}}), listen="127.0.0.1:0", graceful_timeout={GRACEFUL})
"""


def test_serve_ends_in_time_as_well_and_writes_what_was_printed(tmp_path):
    printed = tmp_path / "printed"
    with printed.open("wb") as out:
        program = Program([sys.executable, "-c", SERVE], stdout=out, unbuffered="")
    with program:
        program.expect(r"serving on")
        began = monotonic()
        assert program.stop() == 0
        assert GRACEFUL - 1 < monotonic() - began < GRACEFUL + SLACK
    assert "the main thread in slow_goodbye" in program.log
    assert printed.read_text() == "a slow handler begins\n"
