"""Which backplane a URL means: the entry point in ``stargate.backplanes`` of its scheme's name.

Nothing is loaded here.
"""

from __future__ import annotations

import sys
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "stargate.backplanes"


def entry_point(url: str) -> EntryPoint:
    """The one that brings the backplane of ``url``, not loaded yet; raises ``ValueError``."""
    scheme, installed = url.partition("://")[0], _installed()
    found = installed.get(scheme, [])
    if not found:
        close = get_close_matches(scheme.lower(), installed, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(
            f"no backplane for {scheme}:// is installed{hint} (there are: "
            f"{', '.join(installed) or 'none, install stargate itself anew'}); "
            f"pip install the package that brings it into {sys.prefix}"
        )
    if len(found) > 1:
        raise ValueError(
            f"{' and '.join(map(origin_of, found))} bring a backplane for {scheme}:// each: "
            "uninstall all but one"
        )
    return found[0]


def origin_of(point: EntryPoint) -> str:
    """What ``point`` names, and the package that brings it."""
    dist = point.dist
    return f"{point.value} of {f'{dist.name} {dist.version}' if dist else 'no package'}"


@cache
def _installed() -> dict[str, list[EntryPoint]]:
    """The entry points by their schemes; looked for once, as that reads a file a package."""
    from importlib.metadata import entry_points  # Slow, and not for those who only import stargate.

    found: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, {}).setdefault(point.value, point)
    return {scheme: list(found[scheme].values()) for scheme in sorted(found)}
