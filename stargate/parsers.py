"""How the text of a setting becomes a value; a ``ValueError`` says what it must be.

Nothing here imports Pyramid, whose words these are: publishers read settings as well.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from math import inf
from typing import Any

#: The words of ``pyramid.settings.asbool``.
TRUE, FALSE = ("t", "true", "y", "yes", "on", "1"), ("f", "false", "n", "no", "off", "0")


def at_least(least: float, kind: type = int, most: float = inf) -> Callable[[Any], Any]:
    """A parser for a number of at least ``least`` and at most ``most``."""
    what = "a whole number" if kind is int else "a number"

    def parse(value: Any) -> Any:
        try:
            number = kind(value)
        except (TypeError, ValueError):
            raise ValueError(f"it must be {what}") from None
        if not number >= least:
            raise ValueError(f"it must be at least {least}")
        if number > most:
            raise ValueError(f"it must be at most {most}")
        return number

    return parse


def seconds(least: float) -> Callable[[Any], Any]:
    """A parser for a time of at least ``least`` seconds, and at most a day."""
    return at_least(least, float, most=86_400)


def one_of(*choices: str) -> Callable[[Any], str]:
    """A parser for one of a few words."""

    def parse(value: Any) -> str:
        if value not in choices:
            raise ValueError("it must be " + " or ".join(repr(choice) for choice in choices))
        return str(value)

    return parse


def words(value: Any) -> tuple[str, ...]:
    """A parser for words with white space between them, or a list of them."""
    try:
        return tuple(value.split() if isinstance(value, str) else chain(*map(words, value)))
    except TypeError:
        raise ValueError("it must be words with white space between them") from None


def flag(value: Any) -> bool:
    """A parser for yes and no, in the words that Pyramid knows; any other is an error."""
    word = str(value).strip().lower()
    if word not in (*TRUE, *FALSE):
        raise ValueError("it must be true or false")
    return word in TRUE
