"""``stargate presence``: who listens to a resource."""

from __future__ import annotations

import argparse

from stargate.exceptions import BackplaneError
from stargate.scripts.output import NONE, put
from stargate.scripts.targets import TARGET, Failed, add_target, connected, why

#: How a name is shown that would be taken for those with none.
DASH = r"\x2d"

HELP = "print who listens to a resource"

DESCRIPTION = f"""\
Print who listens to the resource at PATH in all processes of the application: a
line for each name, with the number of their WebSockets before it. Those with no
name are counted in the last line, as "-".

{TARGET}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may stand behind ``stargate presence``."""
    add_target(parser)


def run(options: argparse.Namespace) -> None:
    """Print who is here."""
    with connected(options) as publisher:
        try:
            here = publisher.presence(options.path)
            total = publisher.listener_count(options.path)
        except BackplaneError as error:
            raise Failed(f"presence can't be read: {why(error)}") from error
    for who, count in sorted(here.items(), key=lambda item: str(item[0])):
        put(f"{count} {who if who != NONE else DASH}")
    if total > sum(here.values()):
        put(f"{total - sum(here.values())} {NONE}")
