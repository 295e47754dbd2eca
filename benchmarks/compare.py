"""``make bench-check``: fails when stargate costs more, beside the floor, than was committed.

Measures a short list and compares its ratios with ``baseline.json``; ``--update`` writes that file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks import measurements
from benchmarks.build import CannotBuild, build
from benchmarks.measure import Failure, raise_descriptors
from benchmarks.measurements import Bench, Effort, Measurement
from benchmarks.rounds import Outcome, interleave

BASELINE = Path(__file__).with_name("baseline.json")

#: What a figure may be worse by, as a share of what was committed, before that is more than noise.
TOLERANCE = 0.15

#: What differs from run to run by more, or by less. How much of a burst leaves together depends on
#: how many messages of it have come by the time the server looks; and of an echo with 16 in flight
#: the floor is a quarter of a microsecond, so that its own noise is most of the ratio's.
TOLERANCES = {"burst 64 B": 0.40, "echo 10x16 64 B": 0.40, "memory a listener": 0.25}

EFFORT = Effort(rounds=9, secs=0.3, repeat=2, sockets=5_000, handshakes=800)


@dataclass(frozen=True)
class Figure:
    """One line of the baseline: a ratio to the reference, or KiB where there is no reference."""

    value: float
    unit: str
    tolerance: float


def short_list(bench: Bench) -> list[Measurement]:
    """What is checked, of stargate alone."""
    found = [
        measurements.fanout(bench, 1_000, sizes=(64, 16384)),
        measurements.burst(bench, sizes=(64,)),
        measurements.echo(bench, sizes=(64,)),
        measurements.connect(bench),
        measurements.memory(bench),
    ]
    return [replace(measurement, names=("stargate",)) for measurement in found]


def measured(measurement: Measurement, outcome: Outcome) -> Iterator[tuple[str, Figure]]:
    """The figures of a measurement as the baseline has them."""
    for of in outcome.figures():
        name = f"{measurement.name} {of}"
        tolerance = TOLERANCES.get(name, TOLERANCE)
        if measurement.reference is None:
            value, unit = outcome.value("stargate", of), measurement.unit
        else:
            value, unit = outcome.ratio("stargate", of), f"x {measurement.reference}"
        if value is not None:
            yield name, Figure(round(value.median, 3), unit, tolerance)


def worse(committed: dict[str, Figure], found: dict[str, Figure]) -> list[str]:
    """A sentence for each figure that is worse by more than noise, or that is missing."""
    sentences = []
    for name, figure in committed.items():
        now = found.get(name)
        if now is None:
            sentences.append(f"{name} was not measured; {figure.value} {figure.unit} is committed.")
        elif now.value > figure.value * (1 + figure.tolerance):
            share = now.value / figure.value - 1
            sentences.append(
                f"{name} is {now.value} {now.unit}, {share:.0%} worse than the {figure.value} that "
                f"is committed; up to {figure.tolerance:.0%} is noise."
            )
    return sentences


def better(committed: dict[str, Figure], found: dict[str, Figure]) -> list[str]:
    """The names of the figures that are better by more than noise."""
    return [
        name
        for name, figure in committed.items()
        if name in found and found[name].value < figure.value * (1 - figure.tolerance)
    ]


def read(file: Path) -> dict[str, Figure]:
    """The figures of a baseline."""
    return {name: Figure(**fields) for name, fields in json.loads(file.read_text()).items()}


def write(file: Path, found: dict[str, Figure]) -> None:
    """Write a baseline; a tolerance that somebody has changed in the file stays."""
    before = read(file) if file.exists() else {}
    kept = {
        name: replace(figure, tolerance=before[name].tolerance) if name in before else figure
        for name, figure in found.items()
    }
    text = json.dumps({name: asdict(figure) for name, figure in kept.items()}, indent=2)
    file.write_text(text + "\n")


def report(committed: dict[str, Figure], found: dict[str, Figure]) -> str:
    """A line a figure."""
    lines = []
    for name, now in found.items():
        before = committed.get(name)
        beside = f"{before.value:8.3f}" if before else "     new"
        lines.append(f"  {name:24} {now.value:8.3f} {now.unit:10} committed: {beside}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="commit to what is measured now")
    parser.add_argument("--rounds", type=int, default=EFFORT.rounds, help="default: %(default)s")
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="default: %(default)s")
    options = parser.parse_args(arguments)
    if not options.update and not options.baseline.exists():
        print(f"there is no {options.baseline}: write it, with --update", file=sys.stderr)
        return 2
    try:
        bench = Bench(build(), replace(EFFORT, rounds=options.rounds))
        raise_descriptors(bench.effort.sockets + 500)
    except (CannotBuild, Failure) as error:
        print(error, file=sys.stderr)
        return 2
    found: dict[str, Figure] = {}
    failures: list[str] = []
    for each in short_list(bench):
        print(f"{each.title} ...", flush=True)
        outcome = interleave(each.run, each.names, each.reference, options.rounds, _complain)
        failures += outcome.failures
        found |= measured(each, outcome)
    if failures:
        return 1
    committed = read(options.baseline) if options.baseline.exists() else {}
    print(report(committed, found))
    if options.update:
        write(options.baseline, found)
        print(f"{options.baseline} is written.")
        return 0
    return _judge(committed, found)


def _judge(committed: dict[str, Figure], found: dict[str, Figure]) -> int:
    for name in better(committed, found):
        print(f"{name} is better by more than noise: commit to it, with --update.")
    for sentence in worse(committed, found):
        print(f"FAILED: {sentence}", file=sys.stderr)
    return 1 if worse(committed, found) else 0


def _complain(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
