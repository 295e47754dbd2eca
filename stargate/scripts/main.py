"""The ``stargate`` command itself: which word was said, and what its exit code is."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from stargate.exceptions import BackplaneError, BadAddress, MessageTooBig
from stargate.scripts import history, listen, presence, send
from stargate.scripts.targets import Failed, Misused, Unheard

DONE, FAILED, MISUSED, UNHEARD, INTERRUPTED = 0, 1, 2, 3, 130

COMMANDS = (send, history, presence, listen)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command line; returns the exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except Misused as error:
        options.parser.error(str(error))
    except (Failed, BackplaneError, MessageTooBig) as error:
        print(f"stargate: {error}", file=sys.stderr)
        return FAILED
    except Unheard:
        return UNHEARD
    except BadAddress as error:
        options.parser.error(str(error))
    except BrokenPipeError:
        # Whoever read has seen enough. At its end Python would write what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


def make_parser() -> argparse.ArgumentParser:
    """What the command line may say."""
    parser = argparse.ArgumentParser(
        prog="stargate",
        description="Send to the resources of an application that serves, and see what is sent.",
        epilog="Exit codes: 0, 1 where it could not be done, 2 where it was not understood, "
        "3 where nobody listens and send was to --expect somebody.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2]
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    return parser
