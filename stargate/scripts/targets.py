"""What the commands have in common: the target that they connect to, and how they fail."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stargate.exceptions import BackplaneError

if TYPE_CHECKING:
    from stargate.publisher import Publisher

TARGET = """\
TARGET is the URL of a Redis, as in redis://localhost:6379/0, with --namespace;
or the application's ini file, as in production.ini or production.ini#name; or
env:NAME, the environment variable that has one of them. A password in a command
line can be seen by every user of the machine: keep it in one of the other two.
"""


class Misused(Exception):
    """The command line makes no sense."""


class Failed(Exception):
    """It could not be done; what it is is said, and ``status`` is the exit status."""

    status = 1


class Unheard(Exception):
    """It was done, and nobody listens, though somebody was expected to; that has been said."""


def add_target(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which resource of which application is meant."""
    parser.add_argument("target", metavar="TARGET", help="a URL, an ini file or env:NAME")
    parser.add_argument(
        "path", metavar="PATH", help="the path of the resource, as in /jobs/1 or acme:/jobs/1"
    )
    parser.add_argument(
        "--namespace", metavar="NAME", help="the name of the application in the Redis of a URL"
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, help="how long the Redis may take (2)"
    )


@contextmanager
def connected(options: argparse.Namespace) -> Iterator[Publisher]:
    """The publisher to the target that ``options`` name."""
    from stargate.publisher import connect

    target = options.target
    if target.startswith("env:"):
        target = os.environ.get(target.removeprefix("env:"), "")
        if not target:
            raise Misused(f"the environment has nothing in {options.target.removeprefix('env:')}")
    try:
        publisher = connect(target, options.namespace, timeout=options.timeout)
    except FileNotFoundError as error:
        raise Failed(f"{error.strerror}: {error.filename}") from error
    except ModuleNotFoundError as error:
        raise Failed(str(error)) from error
    except ValueError as error:
        raise (Misused if "://" in target else Failed)(str(error)) from error
    with publisher:
        yield publisher


def why(error: BackplaneError) -> str:
    """What went wrong with a question: nothing was to be sent."""
    return str(error).removeprefix(f"{error.outcome}: ")
