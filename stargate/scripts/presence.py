"""``stargate presence``: who listens to a resource."""

from __future__ import annotations

import argparse

from stargate.exceptions import BackplaneError
from stargate.scripts.targets import TARGET, Failed, add_target, connected, why

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
        print(count, who)
    if total > sum(here.values()):
        print(total - sum(here.values()), "-")
