"""What a Redis between the processes costs: latency, sends, CPU, recovery and memory.

``make bench-backplane``; starts its own Redis and its own workers, and prints each figure beside
the memory backplane's, taken in the same run. A figure for which a message was lost is no figure.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.crowd import Crowd, dial, frame
from benchmarks.measure import cpu_ns, pss, raise_descriptors
from stargate.backplane.redis.kinds import commands_to
from stargate.backplane.redis.publisher import Publisher as Namespace
from stargate.exceptions import BackplaneError
from stargate.history import Keep
from stargate_tests.redis_servers import RedisServer, free_port

APP = Path(__file__).parent / "servers" / "backplane_app.py"

#: The bytes of a message.
SIZE = 64
MESSAGE = b"x" * SIZE

NAMESPACE = "bench"

KEEP = Keep(5000)


class Workers:
    """Processes that serve the same application, each on a port of its own."""

    def __init__(self, count: int, backplane: str) -> None:
        self.ports = [free_port() for _ in range(count)]
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(APP), str(port), backplane], stderr=subprocess.DEVNULL
            )
            for port in self.ports
        ]
        for port in self.ports:
            wait_for_port(port)

    @property
    def pids(self) -> list[int]:
        """Their processes."""
        return [each.pid for each in self.processes]

    def stop(self) -> None:
        """End them."""
        for each in self.processes:
            each.terminate()
        for each in self.processes:
            each.wait(20)


def wait_for_port(port: int, seconds: float = 30.0) -> None:
    """Until somebody listens."""
    end = time.monotonic() + seconds
    while True:
        try:
            dial(port, "/live/first").close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


@contextmanager
def workers(count: int, backplane: str) -> Iterator[Workers]:
    """Workers for as long as it lasts."""
    found = Workers(count, backplane)
    try:
        yield found
    finally:
        found.stop()


def publisher(url: str) -> Namespace:
    """What sends from another process."""
    return Namespace(commands_to(url, 10.0), NAMESPACE)


# The measurements.


def latency(ports: Sequence[int], rounds: int) -> dict[str, float]:
    """From a WebSocket's message to the same at a listener, in microseconds."""
    said, heard = dial(ports[0], "/live/a?speaks"), dial(ports[-1], "/live/a")
    times = []
    try:
        for _ in range(rounds + 100):
            began = time.perf_counter()
            said.sendall(frame(MESSAGE))
            left = SIZE + 2
            while left:
                left -= len(heard.recv(left))
            times.append((time.perf_counter() - began) * 1e6)
    finally:
        said.close()
        heard.close()
    times = sorted(times[100:])  # The first ones warm up.
    return {"p50_us": statistics.median(times), "p99_us": times[int(len(times) * 0.99)]}


def _send_for(url: str, seconds: float, kept: bool, result: Any) -> None:
    sends, mine = 0, publisher(url)
    path = "/kept/s" if kept else "/live/s"
    end = time.monotonic() + seconds
    cpu = time.process_time()
    while time.monotonic() < end:
        mine.publish(path, "t", MESSAGE, keep=KEEP if kept else None)
        sends += 1
    result.put((sends, time.process_time() - cpu))
    mine.close()


def sends(url: str, publishers: int, seconds: float, kept: bool) -> dict[str, float]:
    """Sends a second of so many processes together, and CPU of theirs a send."""
    context = get_context("spawn")
    result = context.Queue()
    several = [
        context.Process(target=_send_for, args=(url, seconds, kept, result))
        for _ in range(publishers)
    ]
    for each in several:
        each.start()
    found = [result.get(timeout=seconds + 60) for _ in several]
    for each in several:
        each.join(20)
    count = sum(each[0] for each in found)
    return {"sends_per_s": count / seconds, "cpu_us": sum(e[1] for e in found) / count * 1e6}


def fan_out(served: Workers, listeners: int, broadcasts: int) -> dict[str, float]:
    """CPU of the workers a delivered message, each broadcast sent when the last has arrived."""
    where = [(served.ports[i % len(served.ports)], "/live/f") for i in range(listeners)]
    crowd, said = Crowd(where), dial(served.ports[0], "/live/f")
    try:
        crowd.wait_for(0, SIZE)
        for warm in (True, False):
            began, wall = cpu_ns(served.pids), time.monotonic()
            for _ in range(20 if warm else broadcasts):
                said.sendall(frame(MESSAGE))
                crowd.wait_for(1, SIZE)
                said.recv(SIZE + 2)
        spent, wall = cpu_ns(served.pids) - began, time.monotonic() - wall
    finally:
        crowd.close()
        said.close()
    delivered = (listeners + 1) * broadcasts
    return {"cpu_us": spent / 1e3 / delivered, "wall_us": wall * 1e6 / delivered}


def recovery(redis: RedisServer, messages: int, listeners: int) -> dict[str, float]:
    """A Redis is ended and comes back; what is sent before the worker has noticed is caught up."""
    with workers(1, redis.url) as served:
        crowd = Crowd([(served.ports[0], "/kept/r")] * listeners)
        sends = publisher(redis.url)
        try:
            sends.publish("/kept/r", "t", MESSAGE, keep=KEEP)
            crowd.wait_for(1, SIZE)
            redis.kill()
            redis.start()
            began, cpu = time.monotonic(), cpu_ns(served.pids)
            for _ in range(messages):
                _insist(sends, "/kept/r")
            sent = time.monotonic()
            done = crowd.wait_for(messages, SIZE)
            spent = cpu_ns(served.pids) - cpu
        finally:
            crowd.close()
            sends.close()
    return {
        "sent_after_s": sent - began,
        "all_after_s": done - began,
        "behind_the_last_send_s": done - sent,
        "cpu_us": spent / 1e3 / (messages * listeners),
    }


def _insist(sends: Namespace, path: str) -> None:
    key = None
    for _ in range(100):
        try:
            sends.publish(path, "t", MESSAGE, keep=KEEP, key=key)
            return
        except BackplaneError as error:
            key = error.key
            time.sleep(0.02)
    raise TimeoutError("the Redis did not come back")


def memory(backplane: str, addresses: int) -> float:
    """Bytes of a worker for each address that one WebSocket listens at."""
    with workers(1, backplane) as served:
        Crowd([(served.ports[0], f"/live/warm{i}") for i in range(200)]).close()
        before = pss(served.pids)
        crowd = Crowd([(served.ports[0], f"/live/m{i}") for i in range(addresses)])
        try:
            time.sleep(2)
            return (pss(served.pids) - before) / addresses
        finally:
            crowd.close()


# The report.


def run(quick: bool) -> dict[str, Any]:
    """All of it, as one table of figures."""
    few = 4 if quick else 1
    found: dict[str, Any] = {}
    with RedisServer(appendonly="yes") as redis:
        with workers(1, "memory") as served:
            found["latency, memory"] = latency(served.ports, 4000 // few)
            found["fan-out 500, memory"] = fan_out(served, 500, 400 // few)
        for count in (1, 2):
            with workers(count, redis.url) as served:
                found[f"latency, Redis, {count} worker(s)"] = latency(served.ports, 4000 // few)
                found[f"fan-out 500, Redis, {count} worker(s)"] = fan_out(served, 500, 400 // few)
        for kept in (False, True):
            for publishers in (1, 16):
                name = f"sends, {publishers} publisher(s), {'kept' if kept else 'not kept'}"
                found[name] = sends(redis.url, publishers, 8 / few, kept)
        found["recovery of 1,000 messages for 1,000 listeners"] = recovery(redis, 1000, 1000)
        addresses = 10_000 // few
        used = redis.client().info("memory")["used_memory"]
        found[f"memory of {addresses:,} addresses"] = {
            "bytes_an_address,_memory": memory("memory", addresses),
            "bytes_an_address,_Redis": memory(redis.url, addresses),
            "used_memory_of_the_Redis_before": float(used),
        }
    return found


def table(found: dict[str, Any]) -> str:
    """The figures as the documentation has them."""
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 52 48", ""]
    lines += ["   * - What", "     - Figures"]
    for name, figures in found.items():
        lines += [f"   * - {name}", f"     - {_shown(figures)}"]
    return "\n".join(lines) + "\n"


def _shown(figures: dict[str, float]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {value:,.{0 if value >= 100 else 1}f}"
        for name, value in figures.items()
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What a Redis between the processes costs.")
    parser.add_argument("--quick", action="store_true", help="a quarter of the time, less exact")
    parser.add_argument("--rst", type=Path, help="write the table of the documentation there")
    options = parser.parse_args(arguments)
    raise_descriptors(12_000)
    found = run(options.quick)
    for name, figures in found.items():
        print(f"{name:52} {_shown(figures)}")
    if options.rst:
        options.rst.write_text(table(found))


if __name__ == "__main__":
    main()
