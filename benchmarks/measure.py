"""One server, one load, one phase: starting, stopping, accounting by /proc, and what is a fault.

What is measured, on which servers and how often is told elsewhere. Linux only.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.build import BUILD, Programs
from benchmarks.catalogue import Subject

Result = dict[str, Any]

#: Counts of a result that must be zero: a figure that was bought with loss is none.
FAULTS = (
    *("lost", "dup", "reordered", "badlen", "badbody", "stale"),
    *("failed", "proto_errors", "closed"),
)

#: Seconds in which a server must listen, and in which it must end.
START, STOP = 30.0, 5.0

#: Seconds that one generator may take altogether, whatever happens.
LOAD_LIMIT = 900.0

#: Outside the range from which the kernel takes the ports of outgoing connections.
PORTS = range(20_000, 32_000)


class Failure(Exception):
    """A measurement that gave no figure."""


class Broken(Failure):
    """A server or the load generator did not start, or ended too early."""


class Faulty(Failure):
    """A message was lost, or was not what it should be: the figure is void.

    If you see this, look at the server's log, in ``build/bench/logs/``.
    """

    def __init__(self, server: str, tag: str, wrong: dict[str, int], error: str = "") -> None:
        self.server, self.tag, self.wrong = server, tag, wrong
        counts = ", ".join(f"{name} = {count}" for name, count in wrong.items())
        super().__init__(f"{server}, {tag}: {counts}" + (f" ({error})" if error else ""))


def faults(result: Result) -> dict[str, int]:
    """What went wrong in a phase, by name; empty when all was delivered as it should be."""
    wrong = {name: int(result.get(name, 0)) for name in FAULTS if result.get(name, 0)}
    if result.get("stalled"):
        wrong["stalled"] = 1
    return wrong


def cpus() -> tuple[int, int] | None:
    """The CPU for servers and the one for the load; ``None`` where there is one only."""
    free = sorted(os.sched_getaffinity(0))
    return (free[0], free[1]) if len(free) > 1 else None


def raise_descriptors(wanted: int) -> None:
    """Let this process, and what it starts, open ``wanted`` files; raises :class:`Broken`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Broken(
            f"{wanted} file descriptors are needed and the hard limit is {hard}: raise it "
            f"(ulimit -Hn {wanted}, or LimitNOFILE= of the service) and run this again"
        )
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# What the kernel says of a tree of processes.


def tree(root: int) -> list[int]:
    """``root`` and all its descendants."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(name))
    found, unseen = [], [root]
    while unseen:
        pid = unseen.pop()
        found.append(pid)
        unseen += children.get(pid, [])
    return found


def cpu_ns(pids: Iterable[int]) -> int:
    """The CPU time of all threads of ``pids`` so far, user and system, in nanoseconds."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                total += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
    return total


def pss(pids: Iterable[int]) -> int:
    """The proportional set size of ``pids`` in bytes: what the kernel counts as their memory."""
    return sum(_kib(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in pids) * 1024


def rss(pids: Iterable[int], *, peak: bool = False) -> int:
    """The resident set size of ``pids`` in bytes, now or at its highest."""
    return sum(_kib(f"/proc/{pid}/status", "VmHWM:" if peak else "VmRSS:") for pid in pids) * 1024


def _kib(file: str, name: str) -> int:
    with suppress(OSError):
        for line in Path(file).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0


def machine_ticks() -> tuple[int, int]:
    """The time of all CPUs since the machine started, and how much of it they were idle."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]


class Server:
    """A server of its own for one measurement, pinned to a CPU; ``with`` starts and ends it."""

    def __init__(self, subject: Subject, programs: Programs, *, logs: Path = BUILD / "logs"):
        self.subject, self.programs = subject, programs
        self.port = free_port()
        #: What its phases gave, as they came.
        self.results: list[Result] = []
        self._log = logs / f"{subject.name}.log"

    def __enter__(self) -> Server:
        filled = {"port": str(self.port), "floor": str(self.programs.floor)}
        command = [part.format(**filled) for part in self.subject.command]
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        pin(self.process, 0)
        try:
            self._wait_until_it_listens()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def pids(self) -> list[int]:
        """Its processes."""
        return tree(self.process.pid)

    def stop(self) -> None:
        """End it by SIGTERM, and what is left of it by SIGKILL."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # Its session, and so its children.
        self.process.wait()

    def settle(self) -> None:
        """Wait until it has nothing more to do: it used no CPU time worth a mention for a while."""
        pids, end = self.pids(), time.monotonic() + 10
        before = cpu_ns(pids)
        while time.monotonic() < end:
            time.sleep(0.2)
            now = cpu_ns(pids)
            if now - before < 2_000_000:
                return
            before = now

    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-2000:]

    def _wait_until_it_listens(self) -> None:
        end = time.monotonic() + START
        while self.process.poll() is None and time.monotonic() < end:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            time.sleep(0.05)
        raise Broken(f"{self.subject.name} does not listen:\n{self.said()}")


def free_port() -> int:
    """A port on the loopback that nobody listens on."""
    for port in random.sample(PORTS, 200):
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise Broken("no port is free")


def pin(process: subprocess.Popen[Any], which: int) -> None:
    """Keep ``process`` on the CPU for servers (0) or for the load (1)."""
    found = cpus()
    if found:
        with suppress(ProcessLookupError):
            os.sched_setaffinity(process.pid, {found[which]})


class Load:
    """The load generator at work on one server; ``with`` starts and ends it."""

    def __init__(self, server: Server, mode: str, *options: object) -> None:
        self.server = server
        subject = server.subject
        given = [str(option) for option in options]
        if "--path" not in given:
            given += ["--path", subject.sub if mode in ("fanout", "idle") else subject.echo]
        if mode == "fanout" and "--pub" not in given:
            given += ["--pub", subject.pub]
        self._command = [
            *(str(server.programs.load), mode, "--port", str(server.port), "--sync"),
            *("--profile", subject.profile, *subject.load, *given),
        ]

    def __enter__(self) -> Load:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        pin(self._process, 1)
        self._limit = threading.Timer(LOAD_LIMIT, self._process.kill)
        self._limit.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._limit.cancel()
        try:
            self._process.communicate(timeout=10)  # Closes its standard input, which ends it.
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def ready(self) -> Result:
        """Wait until it is ready for its next phase."""
        return self._until("ready")

    def go(self) -> Result:
        """Let it do its next phase, and return what it tells of it; call :meth:`ready` before."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # It has ended: what it said of it is read next.
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return self._until("result")

    def phase(self, *, tolerant: bool = False) -> Result:
        """The next phase: its result, with what the server used for it.

        ``cpu_us`` is the CPU time of the whole server, in microseconds for one delivered message.
        Raises :class:`Faulty` when a message was lost or wrong, unless ``tolerant``.
        """
        self.ready()
        pids = self.server.pids()
        resident, ticks, before = rss(pids), machine_ticks(), cpu_ns(pids)
        result = self.go()
        time.sleep(0.02)  # The kernel books the last turn of a CPU a tick later.
        used = cpu_ns(pids) - before
        total, idle = (now - then for now, then in zip(machine_ticks(), ticks, strict=True))
        result["server_cpu_s"] = used / 1e9
        result["cpu_us"] = used / 1e3 / result["delivered"] if result.get("delivered") else None
        result["rss_growth"] = max(0, rss(pids, peak=True) - resident)
        result["machine_busy"] = round(1 - idle / total, 3) if total else None
        self.server.results.append(result)
        self._judge(result, tolerant)
        return result

    def phases(self, count: int) -> Iterator[Result]:
        """The next ``count`` phases."""
        return (self.phase() for _ in range(count))

    def slow_ones(self) -> Result:
        """What became of the listeners that did not read; after the last phase."""
        told = self._until("slow")
        return {name: told[name] for name in ("slow_closed", "slow_close_codes")}

    def _judge(self, result: Result, tolerant: bool) -> None:
        wrong, name = faults(result), self.server.subject.name
        if not result.get("delivered"):
            wrong.setdefault("delivered", 0)
        if wrong and not tolerant:
            tag = str(result.get("tag", result["mode"]))
            raise Faulty(name, tag, wrong, str(result.get("error", "")))

    def _until(self, event: str) -> Result:
        assert self._process.stdout is not None and self._process.stderr is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if told["event"] == event:
                return dict(told)
        error = self._process.stderr.read().strip() or "it ended before its time"
        raise Broken(f"load on {self.server.subject.name}: {error}")
