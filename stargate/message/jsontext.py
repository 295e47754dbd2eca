"""JSON as browsers read it (RFC 8259), where Python takes and writes NaN as well; no I/O."""

from __future__ import annotations

from json import loads
from typing import Any, NoReturn


def checked(text: str | bytes) -> str:
    """``text``, which somebody has written as JSON; a ``ValueError`` where it has NaN or the like.

    What it is besides is not looked at, for it costs as much as writing it. Bytes must be UTF-8.
    """
    if isinstance(text, bytes):
        text = text.decode()
    if "NaN" in text or "Infinity" in text:  # Which may be in a string, or be a key.
        read(text)
    return text


def read(text: str) -> Any:
    """The value that ``text`` is; a ``ValueError`` where it is no JSON."""
    return loads(text, parse_constant=_refuse)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"it has {name}, which is no JSON and which no browser reads")
