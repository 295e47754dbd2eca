"""The outcome of a measurement as a table of plain text."""

from __future__ import annotations

from benchmarks.catalogue import CATALOGUE
from benchmarks.measurements import Measurement
from benchmarks.rounds import Outcome, Spread

#: With more columns than this, a table is turned: its figures become its rows.
WIDE = 8


def table(measurement: Measurement, outcome: Outcome) -> str:
    """A title and a row for each name: the median, and the ratio with its lowest and highest."""
    names = [name for name in (measurement.reference, *measurement.names) if name is not None]
    names = [name for name in dict.fromkeys(names) if name in outcome.values]
    figures = outcome.figures()
    rows = [
        [title(measurement, name), *(cell(measurement, outcome, name, of) for of in figures)]
        for name in names
    ]
    rows.insert(0, [measurement.unit and f"({measurement.unit})", *figures])
    if len(figures) > WIDE:
        rows = [list(row) for row in zip(*rows, strict=True)]
    return f"{measurement.title}\n{_aligned(rows)}"


def title(measurement: Measurement, name: str) -> str:
    """What a row is called."""
    return CATALOGUE[name].title if measurement.servers else name


def cell(measurement: Measurement, outcome: Outcome, name: str, figure: str) -> str:
    """``7.2  1.20x [1.18-1.23]``: the median, and the ratio to the reference of the same rounds."""
    value = outcome.value(name, figure)
    if value is None:
        return "-"
    text = number(value.median)
    ratio = outcome.ratio(name, figure)
    if ratio is None or (measurement.compared is not None and figure not in measurement.compared):
        return text
    return f"{text}  {times(ratio)}"


def times(ratio: Spread) -> str:
    """``1.20x [1.18-1.23]``; without the range where there is one round only."""
    text = f"{ratio.median:.2f}x"
    return text if ratio.count == 1 else f"{text} [{ratio.low:.2f}-{ratio.high:.2f}]"


def number(value: float) -> str:
    """Three figures that count, as a person would write them."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *rest in rows:
        cells = [text.ljust(width) for text, width in zip(rest, widths[1:], strict=True)]
        lines.append("  " + "  | ".join([first.ljust(widths[0]), *cells]).rstrip())
    lines.insert(1, "  " + "-" * (sum(widths) + 4 * len(widths) - 4))
    return "\n".join(lines)
