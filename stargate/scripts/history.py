"""``stargate history``: what is kept of a resource's messages."""

from __future__ import annotations

import argparse
from base64 import b64encode
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from stargate.exceptions import BackplaneError
from stargate.message.jsontext import read
from stargate.scripts.output import json_line, message_line, put
from stargate.scripts.targets import TARGET, Failed, add_target, connected, why

if TYPE_CHECKING:
    from stargate.history import Kept

HELP = "print the messages that are kept of a resource"

DESCRIPTION = f"""\
Print the messages that are kept of the resource at PATH, oldest first: the time
of each, its id, and the message. Bytes are in base64.

{TARGET}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may stand behind ``stargate history``."""
    add_target(parser)
    parser.add_argument("--since", metavar="ID", help="begin behind this message")
    parser.add_argument(
        "--limit",
        metavar="N",
        type=_count,
        default=100,
        help="at most so many: the first ones behind ID, or else the newest (100)",
    )
    parser.add_argument("--json", action="store_true", help="a JSON object for each message")


def run(options: argparse.Namespace) -> None:
    """Print what there is."""
    with connected(options) as publisher:
        try:
            found = publisher.history(options.path, options.since, options.limit)
        except BackplaneError as error:
            raise Failed(f"the history can't be read: {why(error)}") from error
    for kept in found:
        put(_object(kept) if options.json else message_line(kept.time, kept.id, kept.message))
    if not found.complete:
        raise Failed(f"something that came after {options.since} is gone: it can't be gone on from")


def _object(kept: Kept) -> str:
    shown: dict[str, Any] = {"id": kept.id, "time": kept.time}
    if isinstance(kept.message, bytes):
        return json_line({**shown, "data": b64encode(kept.message).decode(), "encoding": "base64"})
    if not kept.json:
        return json_line({**shown, "data": kept.message})
    with suppress(ValueError, RecursionError):
        return json_line({**shown, "data": read(kept.message)})
    return json_line({**shown, "data": kept.message, "encoding": "json"})


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


_count.__name__ = "number of messages"  # How argparse calls it.
