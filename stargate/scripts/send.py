"""``stargate send``: a message from the command line, or one for each line of standard input."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from stargate.exceptions import BackplaneError, StargateError
from stargate.scripts.targets import TARGET, Failed, Misused, add_target, connected

HELP = "send a message to all listeners of a resource"

DESCRIPTION = f"""\
Send a message to all listeners of the resource at PATH, in every process of the
application. Where the resource has a history, the id of the message is printed.

{TARGET}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may stand behind ``stargate send``."""
    add_target(parser)
    parser.add_argument(
        "message",
        metavar="MESSAGE",
        help="the text; - sends each line of standard input, as soon as it comes",
    )
    parser.add_argument(
        "--json", action="store_true", help="MESSAGE is JSON: it is checked, and marked as such"
    )
    parser.add_argument(
        "--key", help="a word of yours: a second send with it, within a minute, sends nothing"
    )


def run(options: argparse.Namespace) -> None:
    """Send what is to be sent."""
    streamed = options.message == "-"
    if streamed and options.key is not None:
        raise Misused("--key is for one message: all lines but the first would be its repeats")
    if not streamed:
        _read(options.message, options.json, "MESSAGE")
    with connected(options) as publisher:

        def send(text: str, where: str) -> None:
            call = publisher.send_json if options.json else publisher.send
            try:
                id = call(options.path, _read(text, options.json, where), key=options.key)
            except ValueError as error:
                if isinstance(error, StargateError):
                    raise
                raise Misused(f"{where}: {error}") from error
            if id is not None:
                print(id, flush=True)

        if streamed:
            _send_lines(send)
        else:
            try:
                send(options.message, "MESSAGE")
            except BackplaneError as error:
                _explain(error)


def _send_lines(send: Callable[[str, str], None]) -> None:
    sent = 0
    try:
        for number, text in enumerate(_lines(), 1):
            send(text, f"line {number}")
            sent += 1
    finally:
        print(f"{sent} {'message' if sent == 1 else 'messages'} sent", file=sys.stderr)


def _lines() -> Iterator[str]:
    for number, raw in enumerate(sys.stdin.buffer, 1):
        try:
            yield raw.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise Failed(f"line {number} is not UTF-8") from error


def _read(text: str, as_json: bool, where: str) -> Any:
    """``text``, or the value that it is as JSON."""
    if not as_json:
        return text
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise (Misused if where == "MESSAGE" else Failed)(f"{where} is no JSON: {error}") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"it has {name}")


def _explain(error: BackplaneError) -> NoReturn:
    again = f" (to repeat it: --key {error.key})" if error.outcome == "unknown" else ""
    raise Failed(f"{error}{again}") from error
