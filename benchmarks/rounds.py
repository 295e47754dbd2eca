"""Interleaved rounds and their arithmetic: pairs with the reference, ratios, medians.

Nothing is started or measured here: a run is any function from a name to figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.measure import Failure

#: What one run of one server gave: a value for each figure, by its name.
Figures = dict[str, float]

#: The values of all rounds, of each figure of each name.
Table = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Spread:
    """The median of some values, the lowest and the highest of them, and how many there were."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """The spread of ``values``, of which there is at least one."""
    return Spread(median(values), min(values), max(values), len(values))


@dataclass
class Outcome:
    """What the rounds of one measurement gave."""

    values: Table = field(default_factory=dict)
    #: Of each pair, the value by the reference's value beside it.
    ratios: Table = field(default_factory=dict)
    #: What went wrong, a sentence each.
    failures: list[str] = field(default_factory=list)

    def value(self, name: str, figure: str) -> Spread | None:
        """The values of a figure; ``None`` when there are none."""
        return _spread(self.values, name, figure)

    def ratio(self, name: str, figure: str) -> Spread | None:
        """The ratios of a figure to the reference; ``None`` when there are none."""
        return _spread(self.ratios, name, figure)

    def figures(self) -> list[str]:
        """The names of all figures, in the order in which they were met."""
        return list(dict.fromkeys(name for of in self.values.values() for name in of))

    def as_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return {"values": self.values, "ratios": self.ratios, "failures": self.failures}


def _spread(table: Table, name: str, figure: str) -> Spread | None:
    values = table.get(name, {}).get(figure)
    return spread(values) if values else None


def schedule(names: Sequence[str], reference: str | None, number: int) -> list[list[str]]:
    """Who runs after whom in round ``number``: groups, each with its own run of the reference.

    The reference runs between two of the names, so that each is next to it in time. Every other
    round is the reverse: A, R, B; then B, R, A; and so on.
    """
    others = [name for name in names if name != reference]
    groups = [others[at : at + 2] for at in range(0, len(others), 2)]
    if reference is not None:
        groups = [[*group[:1], reference, *group[1:]] for group in groups or [[]]]
    return groups if number % 2 == 0 else [group[::-1] for group in groups[::-1]]


def interleave(
    run: Callable[[str], Figures],
    names: Sequence[str],
    reference: str | None,
    rounds: int,
    tell: Callable[[str], object] = lambda line: None,
) -> Outcome:
    """Run each of ``names`` once a round, beside ``reference``, and put the figures together.

    A run that raises :class:`~benchmarks.measure.Failure` gives none, and is told of at once.
    """
    outcome = Outcome()
    for number in range(rounds):
        for group in schedule(names, reference, number):
            found: dict[str, Figures] = {}
            for name in group:
                try:
                    found[name] = run(name)
                except Failure as failure:
                    outcome.failures.append(str(failure))
                    tell(f"FAILED: {failure}")
            _add(outcome, found, reference)
    return outcome


def _add(outcome: Outcome, found: dict[str, Figures], reference: str | None) -> None:
    beside = found.get(reference, {}) if reference is not None else {}
    for name, figures in found.items():
        for figure, value in figures.items():
            outcome.values.setdefault(name, {}).setdefault(figure, []).append(value)
            if name != reference and beside.get(figure):
                ratios = outcome.ratios.setdefault(name, {})
                ratios.setdefault(figure, []).append(value / beside[figure])
