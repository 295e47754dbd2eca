"""The real ``gunicorn`` as a subprocess, with its workers, its log and its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stargate_tests.waiting import wait_until

ROOT = Path(__file__).parents[1]

JOBS = ROOT / "examples" / "jobs"

WORKER = "stargate.gunicorn.EventletWorker"

BACKPLANE = re.compile(r"^(stargate.backplane|stargate.namespace) = .*$", re.MULTILINE)


class Gunicorn:
    """``gunicorn -k stargate.gunicorn.EventletWorker`` on a free port, in a session of its own.

    ``with`` ends it and all of its workers, whatever has become of them.
    """

    def __init__(self, folder: Path, *arguments: object, bind: str = "127.0.0.1:0") -> None:
        self._files = [folder / "gunicorn.err", folder / "gunicorn.out"]
        with open(self._files[0], "ab") as err, open(self._files[1], "ab") as out:
            self.process = subprocess.Popen(
                [
                    Path(sysconfig.get_path("scripts"), "gunicorn"),
                    *("--worker-class", WORKER, "--no-control-socket", "--bind", bind),
                    *map(str, arguments),
                ],
                env={
                    **os.environ,
                    "PYTHONPATH": f"{ROOT}{os.pathsep}{JOBS}",
                    "PYTHONUNBUFFERED": "1",
                },
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """What it and its workers have written to standard error."""
        return self._files[0].read_text()

    @property
    def output(self) -> str:
        """What they have written to standard output."""
        return self._files[1].read_text()

    @property
    def url(self) -> str:
        """Where it listens first, as ``http://127.0.0.1:49152``."""
        return self.expect(r"Listening at: ([^\s,]+)").group(1)

    def websocket_url(self, path: str) -> str:
        """The same for a WebSocket at ``path``."""
        return "ws" + self.url.removeprefix("http") + path

    def expect(self, pattern: str, after: int = 0) -> re.Match[str]:
        """The first match of ``pattern`` in the log ``after`` so many characters."""

        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.log[after:])
            ended = self.process.poll() is not None
            match = match or re.search(pattern, self.log[after:])
            assert match or not ended, f"{pattern!r} is not in the log of gunicorn:\n{self.log}"
            return match

        wait_until(found)
        match = found()
        assert match
        return match

    def workers(self, count: int) -> list[int]:
        """The processes of its first ``count`` workers, when there are as many."""
        booted = r"Booting worker with pid: (\d+)"
        wait_until(lambda: len(re.findall(booted, self.log)) >= count)
        return [int(pid) for pid in re.findall(booted, self.log)[:count]]

    @contextmanager
    def only(self, worker: int, others: list[int]) -> Iterator[None]:
        """Meanwhile ``others`` are held up, so that ``worker`` serves whoever comes."""
        others = [pid for pid in others if pid != worker]
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in others:
                os.kill(pid, signal.SIGCONT)

    def send(self, number: int) -> None:
        """Send a signal to the arbiter."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        return self.process.wait(60)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal that ends it; returns its exit code."""
        self.send(number)
        return self.wait()

    def __enter__(self) -> Gunicorn:
        return self

    def __exit__(self, *_error: object) -> None:
        try:
            if self.process.poll() is None:
                self.stop(signal.SIGQUIT)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def jobs_in_two_workers(folder: Path, redis_url: str, namespace: str) -> Gunicorn:
    """The jobs application, by a copy of its production.ini with another Redis in it."""
    said = {"stargate.backplane": redis_url, "stargate.namespace": namespace}
    text, found = BACKPLANE.subn(
        lambda line: f"{line[1]} = {said[line[1]]}", (JOBS / "production.ini").read_text()
    )
    assert found == 2, "production.ini of the jobs application has no backplane"
    (folder / "production.ini").write_text(text)
    return Gunicorn(folder, "--paste", "production.ini", "--workers", 2)
