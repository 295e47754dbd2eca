"""The ``stargate`` command itself: which word was said, and what its exit status is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from stargate.exceptions import BackplaneError, BadAddress, MessageTooBig
from stargate.scripts import history, listen, presence, send
from stargate.scripts.output import Abandoned, escaped, page, remark, tell
from stargate.scripts.targets import Failed, Misused, Unheard

DONE, FAILED, MISUSED, UNHEARD, INTERRUPTED, ABANDONED = 0, 1, 2, 3, 130, 141

#: All of them; those of a ``Failed`` are its own to tell.
STATUS = """\
exit status:
  0    it is done
  1    it could not be done: standard error says what
  2    the command line makes no sense
  3    nobody listens, and send was to --expect somebody
  4    standard output could not be written, as on a full disk
  5    standard input could not be read, or a line of it can't be sent
  6    the server has refused the WebSocket, or closed it for good
  130  Ctrl-C has ended it; listen ends with 0
  141  whoever read standard output has gone, as "| head -1" does
"""

COMMANDS = (send, history, presence, listen)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command line; returns the exit status."""
    try:
        return _run(make_parser().parse_args(arguments))
    except (Failed, BackplaneError, MessageTooBig) as error:
        tell(str(error))
        return error.status if isinstance(error, Failed) else FAILED
    except Unheard:
        return UNHEARD
    except Abandoned:
        return ABANDONED
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    try:
        options.run(options)
    except (Misused, BadAddress) as error:
        options.parser.error(str(error))
    return DONE


class _Parser(argparse.ArgumentParser):
    """Prints as the commands do."""

    def print_help(self, file: object = None) -> None:
        page(self.format_help())

    def error(self, message: str) -> NoReturn:
        remark(f"{self.format_usage()}{self.prog}: error: {escaped(message)}")
        raise SystemExit(MISUSED)


def make_parser() -> argparse.ArgumentParser:
    """What the command line may say."""
    parser = _Parser(
        prog="stargate",
        description="Send to the resources of an application that serves, and see what is sent.",
        epilog=STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2]
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.DESCRIPTION,
            epilog=STATUS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    return parser
