"""How stargate's cost grows with listeners, with resources, and with listeners that do not read.

Also the arithmetic that says whether it stays on a straight line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.behaviour import filled
from benchmarks.catalogue import FLOOR
from benchmarks.measurements import NO_END, Bench, Measurement, cost
from benchmarks.rounds import Figures, Outcome

LISTENERS = (10, 100, 1_000, 4_000, 10_000, 16_000)
RESOURCES = (1, 10, 100, 1_000, 10_000)
STALLED = (0, 1, 10, 50, 100)

#: The most that the end of a line may lie above it and still be called straight: noise.
STRAIGHT = 1.10


def listeners(bench: Bench, counts: Sequence[int]) -> Measurement:
    """From few to many listeners of one resource."""

    def run(server_name: str) -> Figures:
        return {f"{count:,}": _plain(bench, server_name, "--n", count) for count in counts}

    title = "Growth: CPU a delivered message, by the number of listeners of one resource"
    return Measurement("growth-listeners", title, "us", ("stargate",), FLOOR, run)


def resources(bench: Bench, counts: Sequence[int]) -> Measurement:
    """From one resource to many, with the same number of listeners in all, a send to each."""
    all_of_them = ("--n", bench.effort.many, "--path", "/resources", "--pub", "/pub-all")

    def run(server_name: str) -> Figures:
        return {
            f"{count:,}": _plain(bench, server_name, *all_of_them, "--paths", count)
            for count in counts
        }

    title = f"Growth: CPU a delivered message to {bench.effort.many:,}, by the number of resources"
    return Measurement("growth-resources", title, "us", ("stargate",), None, run)


def stalled(bench: Bench, counts: Sequence[int]) -> Measurement:
    """Some of 1,000 listeners do not read."""
    phase = f"{NO_END},b=64,secs={bench.effort.secs},tag=cost"

    def run(server_name: str) -> Figures:
        found = {}
        for count in counts:
            with bench.server(server_name) as server:
                options = ("--n", 1_000, "--slow", count)
                found[f"{count:,}"] = filled(bench, server, phase, *options)["cost"]
                bench.keep(server, f"growth-stalled, {count}")
        return found

    title = "Growth: CPU a delivered message, by how many of 1,000 listeners do not read"
    return Measurement("growth-stalled", title, "us", ("stargate",), FLOOR, run)


def _plain(bench: Bench, server_name: str, *options: object) -> float:
    phase = f"{NO_END},b=64,secs={bench.effort.secs},tag=cost"
    with bench.server(server_name) as server:
        found = cost(bench, server, "fanout", [phase], "--conn-timeout", 240, *options)
        bench.keep(server, f"growth, {options}")
        return found["cost"]


# Whether it is a straight line.


def by_end(costs: Mapping[int, float]) -> float:
    """The cost a delivery at the end, by the cost in the middle."""
    return costs[max(costs)] / costs[_middle(costs)]


def by_line(costs: Mapping[int, float]) -> float:
    """The cost at the end, by where the line through the first point and the last but one leads."""
    first, *_between, before, last = sorted(costs)
    slope = (costs[before] - costs[first]) / (before - first)
    return costs[last] / (costs[first] + slope * (last - first))


def _middle(costs: Mapping[int, float]) -> int:
    return sorted(costs)[len(costs) // 2]


def verdict(measurement: Measurement, outcome: Outcome) -> str:
    """A sentence that says whether the cost stays on a straight line; empty without figures.

    Caches make every server's deliveries dearer when there are more sockets than fit: where the
    floor was measured as well, what it grows by is not held against stargate.
    """
    points = _points(outcome, "stargate")
    if len(points) < 3:
        return ""
    first, *_between, before, last = sorted(points)
    if measurement.name == "growth-resources":
        # Each send has a cost of its own: a delivery's share of it grows with the resources.
        times = allowed = by_line(points)
        what = f"what the line through {first:,} and {before:,} leads to"
    else:
        times = allowed = by_end(points)
        what = f"the cost at {_middle(points):,}"
    floor = _points(outcome, FLOOR)
    beside = ""
    if measurement.reference == FLOOR and floor.keys() == points.keys():
        allowed = times / by_end(floor)
        beside = f" (the floor's {by_end(floor):.2f} times)"
    word = "a straight line or better" if allowed <= STRAIGHT else "worse than a straight line"
    return f"at {last:,} it is {times:.2f} times {what}{beside}: {word}"


def _points(outcome: Outcome, name: str) -> dict[int, float]:
    return {
        int(figure.replace(",", "")): found.median
        for figure in outcome.figures()
        if (found := outcome.value(name, figure)) is not None
    }
