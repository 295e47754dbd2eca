"""The chart of the documentation, drawn from ``results.json``: cost beside the floor, and memory.

``python -m benchmarks.chart RESULTS PNG`` draws it from results that are there already.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

#: Top to bottom, with the name that is written.
SERVERS = {
    "pyraw": "bare Python loop",
    "stargate": "stargate",
    "websockets": "websockets",
    "uvicorn": "uvicorn + Starlette",
    "socketio": "python-socketio",
}

#: The measurement, its figure, and what is written above.
COSTS = (
    ("fanout-1000", "64 B", "Fan-out to 1,000\n64 B"),
    ("fanout-10000", "16 KiB", "Fan-out to 10,000\n16 KiB"),
    ("burst", "64 B", "Burst to 1,000\n64 B, 16 in flight"),
    ("echo", "100x1 64 B", "Echo\n100 WebSockets, 64 B"),
)

MEMORY = ("memory", "a listener", "A listener that waits\nKiB")

COST_NOTE = (
    "As a multiple of the floor, which is a C program that does one send() a socket: the broken "
    "line. Less is better; where a bar has a gap, it is cut."
)

MARGINS = {"left": 0.125, "right": 0.985, "top": 0.70, "bottom": 0.06}

#: Told apart by lightness as well as by hue.
OURS, THEIRS, LIMIT, INK = "#0072B2", "#B9BEC4", "#D9DCDF", "#222222"

#: A bar that is longer than this many times the second one is cut, and shows it.
LONGEST = 1.5

#: How much of its row a bar takes.
HEIGHT = 0.62

Results = dict[str, Any]


def draw(results: Results, file: Path) -> None:
    """Write the chart into ``file``, a PNG of 1,600 pixels' width."""
    pyplot.rcParams.update({"font.size": 10.5, "text.color": INK, "axes.edgecolor": INK})
    figure = pyplot.figure(figsize=(16, 5.4), dpi=100)
    grid = figure.add_gridspec(1, 6, width_ratios=(1, 1, 1, 1, 0.08, 1), **MARGINS)
    first = figure.add_subplot(grid[0])
    axes = [first, *(figure.add_subplot(grid[at], sharey=first) for at in (1, 2, 3))]
    for place, (measurement, name, above) in zip(axes, COSTS, strict=True):
        place.axvline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=0.5)
        _bars(place, _of(results, "ratios", measurement, name), above, "×")
    memory = figure.add_subplot(grid[5], sharey=first)
    _bars(memory, _of(results, "values", *MEMORY[:2]), MEMORY[2], "")
    _name_rows(axes[0], (*axes[1:], memory))
    _headline(first, "CPU time of the server for one delivered message", COST_NOTE)
    _headline(memory, "Memory of the server", "Its PSS. Less is better.")
    figure.savefig(file)
    pyplot.close(figure)


def _headline(axes: Axes, headline: str, note: str) -> None:
    left = axes.get_position().x0
    axes.figure.text(left, 0.925, headline, size=14, weight="bold")
    axes.figure.text(left, 0.865, note)


def _of(results: Results, kind: str, measurement: str, figure: str) -> dict[str, float]:
    """The median of each server that has this figure."""
    table = results["measurements"].get(measurement, {}).get(kind, {})
    return {
        name: median(table[name][figure]) for name in SERVERS if table.get(name, {}).get(figure)
    }


def _bars(axes: Axes, values: dict[str, float], above: str, unit: str) -> None:
    longest = _longest(list(values.values()))
    for row, name in enumerate(SERVERS):
        if name not in values:
            axes.text(longest * 0.02, row, "not measured", va="center", color="#777777")
            continue
        value = values[name]
        ours = name == "stargate"
        color = OURS if ours else LIMIT if name == "pyraw" else THEIRS
        axes.barh(row, min(value, longest), height=HEIGHT, color=color)
        if value > longest:
            axes.barh(row, longest * 0.02, left=longest * 0.9, height=HEIGHT + 0.1, color="white")
        axes.text(
            min(value, longest) + longest * 0.025,
            row,
            _written(value) + unit,
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            weight="bold" if ours else "normal",
            color=OURS if ours else INK,
        )
    axes.set_xlim(0, longest * 1.36)
    axes.set_title(above, loc="left", size=11, pad=10)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _written(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _longest(values: list[float]) -> float:
    """How long the longest bar is: one far beyond the others must not flatten them."""
    return min(max(values), max(1.5, sorted(values)[-2] * LONGEST)) if len(values) > 1 else 1.5


def _name_rows(first: Axes, others: tuple[Axes, ...]) -> None:
    first.set_yticks(range(len(SERVERS)), list(SERVERS.values()))
    first.invert_yaxis()
    first.tick_params(axis="y", length=0, labelsize=11.5)
    for name, label in zip(SERVERS, first.get_yticklabels(), strict=True):
        if name == "stargate":
            label.set(weight="bold", color=OURS)
    for axes in others:
        axes.tick_params(axis="y", length=0, labelleft=False)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
