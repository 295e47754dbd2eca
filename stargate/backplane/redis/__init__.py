"""The backplane over Redis or Valkey: the only room that knows redis-py.

It is what the entry points of its URLs name; redis-py is imported when one of them is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any


def make_backplane(settings: Mapping[str, Any], receiver: Any) -> Any:
    """That of a worker."""
    return _imported("backplane").RedisBackplane(settings, receiver, receiver.counters)


def make_publisher(settings: Mapping[str, Any]) -> Any:
    """That of any other program."""
    return _imported("outside").Outside(settings)


def _imported(name: str) -> Any:
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        lacking = str(error.name).partition(".")[0]
        raise ModuleNotFoundError(
            f"{lacking} is missing: pip install stargate[redis]", name=lacking
        ) from error
