"""``make bench``: measures, prints the tables, writes ``build/bench/results.json`` and the chart.

Which measurements there are is told in ``README.rst`` beside this file, and by ``--list``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import behaviour, growth, measurements
from benchmarks.build import BUILD, CannotBuild, build, programs
from benchmarks.catalogue import CATALOGUE
from benchmarks.measure import Broken, cpus, raise_descriptors
from benchmarks.measurements import QUICK, Bench, Effort, Measurement
from benchmarks.rounds import Outcome, interleave
from benchmarks.tables import table

RESULTS = BUILD / "results.json"

PACKAGES = (
    *("stargate", "eventlet", "greenlet", "pyramid", "websockets", "uvicorn", "uvloop"),
    *("starlette", "python-socketio"),
)

#: Descriptors besides those of the listeners.
SPARE = 500


def plan(bench: Bench, quick: bool = False) -> list[Measurement]:
    """Everything that can be measured, in the order in which it is."""
    sizes = (64, 16384) if quick else measurements.SIZES
    most = bench.effort.many
    return [
        measurements.fanout(bench, 1_000),
        measurements.fanout(bench, bench.effort.many, sizes),
        measurements.burst(bench),
        measurements.echo(bench),
        measurements.connect(bench),
        measurements.memory(bench),
        measurements.slow(bench),
        behaviour.shapes(bench),
        behaviour.latency(bench),
        behaviour.interference(bench),
        behaviour.deflate(bench),
        growth.listeners(bench, (10, 1_000, most) if quick else growth.LISTENERS),
        growth.resources(bench, (1, 1_000, most) if quick else growth.RESOURCES),
        growth.stalled(bench, (0, 10, 100) if quick else growth.STALLED),
    ]


def chosen(
    planned: Sequence[Measurement], only: Sequence[str], servers: Sequence[str]
) -> list[Measurement]:
    """Those named by ``only``, whole or up to a hyphen, with only ``servers``; empty means all.

    Raises ``ValueError`` for a name that there is not.
    """
    for name in only:
        if not any(_is_named(each, name) for each in planned):
            raise ValueError(f"there is no measurement {name}: see --list")
    for name in servers:
        if name not in CATALOGUE:
            raise ValueError(f"there is no server {name}: see --list")
    found = [each for each in planned if not only or any(_is_named(each, name) for name in only)]
    if not servers:
        return found
    return [
        replace(each, names=tuple(name for name in servers if name != each.reference))
        if each.servers
        else each
        for each in found
    ]


def _is_named(measurement: Measurement, name: str) -> bool:
    return measurement.name == name or measurement.name.startswith(f"{name}-")


def lacking(planned: Sequence[Measurement]) -> dict[str, list[str]]:
    """The servers that cannot be started, and the modules that they lack."""
    names = {name for each in planned if each.servers for name in each.names}
    return {name: lacks for name in sorted(names) if (lacks := CATALOGUE[name].lacks())}


def machine() -> dict[str, Any]:
    """What the figures were measured on, and with."""
    return {
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "pinned": cpus(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def measure(bench: Bench, planned: Sequence[Measurement]) -> dict[str, Outcome]:
    """Measure, and print each table as soon as there is one."""
    outcomes = {}
    for each in planned:
        started = time.monotonic()
        _note(f"... {each.name}")
        outcome = interleave(each.run, each.names, each.reference, bench.effort.rounds, _note)
        outcomes[each.name] = outcome
        if outcome.values:
            print(table(each, outcome))
        if each.name.startswith("growth-") and (sentence := growth.verdict(each, outcome)):
            print(f"  {sentence}")
        print(f"  ({time.monotonic() - started:.0f} s)\n", flush=True)
    return outcomes


def write(
    file: Path, bench: Bench, planned: Sequence[Measurement], outcomes: dict[str, Outcome]
) -> None:
    """Write ``results.json``."""
    found = {
        "machine": machine(),
        "effort": asdict(bench.effort),
        "measurements": {
            each.name: {
                "title": each.title,
                "unit": each.unit,
                "reference": each.reference,
                **outcomes[each.name].as_json(),
            }
            for each in planned
        },
        "raw": bench.raw,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few minutes, and less exact")
    parser.add_argument("--only", metavar="NAME,..", type=_names, default=[])
    parser.add_argument("--servers", metavar="NAME,..", type=_names, default=[])
    parser.add_argument("--rounds", type=int, help="interleaved pairs, each of fresh processes")
    parser.add_argument("--chart", metavar="FILE", type=Path, help="draw the chart into this PNG")
    parser.add_argument("--results", metavar="FILE", type=Path, default=RESULTS)
    parser.add_argument("--list", action="store_true", help="print the names, and measure nothing")
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds: at least 1")
    return options


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def effort(options: argparse.Namespace) -> Effort:
    """How much is measured, as the options say."""
    found = QUICK if options.quick else Effort()
    return replace(found, rounds=options.rounds) if options.rounds else found


def main(arguments: list[str] | None = None) -> int:
    """0: all measured; 1: something was lost or broke; 2: it could not begin."""
    options = parse(arguments)
    try:
        bench = Bench(programs() if options.list else build(), effort(options))
        planned = chosen(plan(bench, options.quick), options.only, options.servers)
        if options.list:
            return _list(planned)
        raise_descriptors(_descriptors(bench, planned))
        if options.chart:
            import matplotlib  # noqa: F401 - to fail now rather than after an hour
    except (CannotBuild, ImportError, ValueError, Broken) as error:
        _note(str(error))
        return 2
    for name, modules in lacking(planned).items():
        _note(f"{name} lacks {', '.join(modules)}: pip install '.[bench]', or leave it out")
    if lacking(planned):
        return 2
    outcomes = measure(bench, planned)
    write(options.results, bench, planned, outcomes)
    print(f"written: {options.results}")
    if options.chart:
        from benchmarks.chart import draw

        draw(json.loads(options.results.read_text()), options.chart)
        print(f"written: {options.chart}")
    return _report([failure for outcome in outcomes.values() for failure in outcome.failures])


def _descriptors(bench: Bench, planned: Sequence[Measurement]) -> int:
    names = {each.name for each in planned}
    grows = "growth-listeners" in names and bench.effort.peers
    return (max(growth.LISTENERS) if grows else bench.effort.many) + SPARE


def _list(planned: Sequence[Measurement]) -> int:
    for each in planned:
        print(f"{each.name:18} {each.title}")
        print(f"{'':18}   {', '.join(each.names)}; beside {each.reference or 'nothing'}")
    print(f"servers: {', '.join(CATALOGUE)}")
    return 0


def _report(failures: list[str]) -> int:
    for failure in failures:
        _note(f"FAILED: {failure}")
    return 1 if failures else 0


def _note(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
