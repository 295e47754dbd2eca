"""``stargate send``: a message from the command line, or one for each line of standard input."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from stargate.exceptions import BackplaneError, StargateError
from stargate.message.jsontext import read
from stargate.scripts.output import Unwritten, put, remark
from stargate.scripts.targets import TARGET, Failed, Misused, Unheard, add_target, connected

if TYPE_CHECKING:
    from stargate.message.message import Sent
    from stargate.publisher import Publisher

#: Where a message stands that is in the command line itself.
MESSAGE = "MESSAGE"

HELP = "send a message to all listeners of a resource"

DESCRIPTION = f"""\
Send a message to all listeners of the resource at PATH, in every process of the
application. Where the resource has a history, the id of the message is printed.
How many processes listen there is told on standard error.

{TARGET}"""


class Unread(Failed):
    """Standard input can't be read, or a line of it is not what was promised."""

    status = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may stand behind ``stargate send``."""
    add_target(parser)
    parser.add_argument(
        "message",
        metavar=MESSAGE,
        help="the text; - sends each line of standard input, as soon as it comes",
    )
    parser.add_argument(
        "--json", action="store_true", help="MESSAGE is JSON: it is checked, and marked as such"
    )
    parser.add_argument(
        "--key", help="a word of yours: a second send with it, within a minute, sends nothing"
    )
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="tell nothing but errors on standard error"
    )
    parser.add_argument(
        "--expect", action="store_true", help="exit with 3 where nobody listens to a message"
    )


def run(options: argparse.Namespace) -> None:
    """Send what is to be sent."""
    streamed = options.message == "-"
    if streamed and options.key is not None:
        raise Misused("--key is for one message: all lines but the first would be its repeats")
    if not streamed:
        _read(options.message, options.json, MESSAGE)
    with connected(options) as publisher:
        sending = _Sending(publisher, options)
        try:
            if streamed:
                for number, text in enumerate(_lines(), 1):
                    sending.send(text, f"line {number}")
            else:
                sending.send(options.message, MESSAGE)
        except BackplaneError as error:
            if streamed:
                raise
            _explain(error)
        finally:
            if not options.quiet:
                sending.tell(streamed)
    if options.expect and sending.unheard:
        raise Unheard


class _Sending:
    """One run: what became of its messages."""

    def __init__(self, publisher: Publisher, options: argparse.Namespace) -> None:
        self._publisher, self._options = publisher, options
        self._count = 0
        self._last: Sent | None = None
        #: How many of them nobody listened to.
        self.unheard = 0

    def send(self, text: str, where: str) -> None:
        """Send ``text``, which stands ``where``, and print its id."""
        options = self._options
        message = _read(text, options.json, where)
        try:
            sent = self._publisher.publish(
                options.path, message, json=options.json, key=options.key
            )
        except (ValueError, RecursionError) as error:
            if isinstance(error, StargateError):
                raise
            raise _fault(where)(f"{where}: {error}") from error
        self._count, self._last = self._count + 1, sent
        self.unheard += not sent.processes and not sent.repeated
        if sent.id is not None:
            try:
                put(sent.id)
            except Unwritten as error:
                raise Unwritten(f"{error}; {where} has been sent, as {sent.id}") from error

    def tell(self, streamed: bool) -> None:
        """Say on standard error who listens, by the last message; of many, how many there were."""
        said = []
        if streamed:
            said.append(f"{self._count} {'message' if self._count == 1 else 'messages'} sent")
        if self._last is not None:
            said.append(_who_listens(self._last))
        if streamed and self.unheard and self._last is not None and self._last.processes:
            said.append(f"nobody did for {self.unheard} of them")
        if said:
            remark("; ".join(said))


def _who_listens(sent: Sent) -> str:
    if sent.repeated:
        return "nothing is sent: it was, with this key, within a minute"
    if not sent.processes:
        return "nobody listens there"
    return (
        f"{sent.processes} {'process listens' if sent.processes == 1 else 'processes listen'} there"
    )


def _lines() -> Iterator[str]:
    if sys.stdin is None:
        raise Unread("standard input is closed")
    lines, number = iter(sys.stdin.buffer), 0
    while True:
        number += 1
        try:
            raw = next(lines, None)
        except OSError as error:
            raise Unread(f"standard input: {error.strerror}") from error
        if raw is None:
            return
        try:
            yield raw.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise Unread(f"line {number} is not UTF-8") from error


def _read(text: str, as_json: bool, where: str) -> Any:
    """``text``, or the value that it is as JSON."""
    try:
        text.encode()
        return read(text) if as_json else text
    except UnicodeEncodeError as error:
        raise _fault(where)(f"{where} is not UTF-8") from error
    except RecursionError as error:
        raise _fault(where)(f"{where} is JSON that is nested too deeply") from error
    except ValueError as error:
        raise _fault(where)(f"{where} is no JSON: {error}") from error


def _fault(where: str) -> type[Exception]:
    return Misused if where == MESSAGE else Unread


def _explain(error: BackplaneError) -> NoReturn:
    again = f" (to repeat it: --key {error.key})" if error.outcome == "unknown" else ""
    raise Failed(f"{error}{again}") from error
