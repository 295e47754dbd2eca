"""The real ``pserve`` as a subprocess: the fixture of tests that want the command itself."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stargate.engine.hub import threading

#: Seconds: generous, since only a test that fails waits for it.
DEADLINE = 30.0

JOBS = Path(__file__).parents[1] / "examples" / "jobs"

LISTEN = re.compile(r"^listen = .*$", re.MULTILINE)


class Pserve:
    """``pserve`` over a copy of the ini file of examples/jobs; ``with`` ends it."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        ini = folder / "pserve.ini"
        text, found = LISTEN.subn(
            f"listen = 127.0.0.1:{port}", (JOBS / "development.ini").read_text()
        )
        assert found == 1, "the ini file of the jobs application has no listen"
        ini.write_text(text)
        #: What it has written so far, standard error and output as one.
        self.log = ""
        self._news = threading.Condition()
        self._ended = False
        self.process = subprocess.Popen(
            [Path(sysconfig.get_path("scripts"), "pserve"), ini],
            env={**os.environ, "PYTHONPATH": str(JOBS), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def url(self) -> str:
        """Where it serves, as ``http://127.0.0.1:49152``; waits until it does."""
        return self.wait_for(r"serving on (http://\S+)").group(1)

    @property
    def port(self) -> int:
        """The port of :attr:`url`."""
        return int(self.url.rpartition(":")[2])

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match of ``pattern`` in the log; fails when it does not come."""
        with self._news:
            self._news.wait_for(lambda: re.search(pattern, self.log) or self._ended, DEADLINE)
            match = re.search(pattern, self.log)
        assert match is not None, f"{pattern!r} is not in the log of pserve:\n{self.log}"
        return match

    def stop(self) -> int:
        """End it by SIGTERM; returns its exit code when all of its log has been read."""
        self.process.terminate()
        code = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return code

    def __enter__(self) -> Pserve:
        return self

    def __exit__(self, *_error: object) -> None:
        try:
            self.stop()
        finally:
            self.process.kill()  # Nothing, where it has ended.
            self.process.wait()
            self._reader.join(DEADLINE)
            self.process.stdout.close()

    def _read(self) -> None:
        for line in self.process.stdout:
            with self._news:
                self.log += line
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


@pytest.fixture
def pserve(tmp_path: Path) -> Iterator[Callable[..., Pserve]]:
    """``pserve(port=0)``: the jobs application under the real command; ended after the test."""
    with ExitStack() as stack:
        yield lambda port=0: stack.enter_context(Pserve(tmp_path, port))
