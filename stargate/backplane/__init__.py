"""What carries messages from the process that sends to the processes that listen.

Which one a URL means its scheme tells: it is the name of an entry point in ``stargate.backplanes``.
What that names, a module as a rule, has ``make_backplane(settings, receiver)``, and
``make_publisher(settings)`` where programs that serve nothing can send through it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "stargate.backplanes"

#: What a publisher has (``IPublisher``, which would import Pyramid).
PUBLISHES = ("publish", "history", "presence", "listener_count", "close")


def make_backplane(settings: Mapping[str, Any] | None, receiver: Any) -> Any:
    """The backplane that the application's ``settings`` name, which delivers to ``receiver``.

    ``None`` is what belongs to no application. Raises ``ValueError`` for a URL that means nothing,
    and for a package that brings no backplane; ``ImportError`` for one that lacks another.
    """
    # Imported when needed: publishers use a part of this package without anything of Pyramid.
    if settings is None:
        from stargate.backplane.memory import MemoryBackplane

        return MemoryBackplane(receiver)
    from zope.interface.exceptions import Invalid
    from zope.interface.verify import verifyObject

    from stargate.interfaces import IBackplane

    point = entry_point(settings["backplane"])
    made = _maker(point, "make_backplane")(settings, receiver)
    try:
        verifyObject(IBackplane, made)
    except Invalid as error:
        raise ValueError(f"{_said(point)} made no backplane: {error}") from error
    return made


def make_publisher(settings: Mapping[str, Any]) -> Any:
    """What sends through the backplane of ``settings`` from outside; raises the same."""
    point = entry_point(settings["backplane"])
    made = _maker(point, "make_publisher")(settings)
    lacking = [name for name in PUBLISHES if not callable(getattr(made, name, None))]
    if lacking:
        raise ValueError(f"{_said(point)} made no publisher: it lacks {', '.join(lacking)}")
    return made


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
            f"{' and '.join(map(_said, found))} bring a backplane for {scheme}:// each: "
            "uninstall all but one"
        )
    return found[0]


@cache
def _installed() -> dict[str, list[EntryPoint]]:
    """The entry points by their schemes; looked for once, as that reads a file a package."""
    from importlib.metadata import entry_points  # Slow, and not for those who only import stargate.

    found: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, {}).setdefault(point.value, point)
    return {scheme: list(found[scheme].values()) for scheme in sorted(found)}


def _maker(point: EntryPoint, name: str) -> Any:
    try:
        loaded = point.load()
    except Exception as error:  # Whatever a module may raise that is imported.
        raise ValueError(
            f"{_said(point)} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    maker = getattr(loaded, name, None)
    if not callable(maker):
        raise ValueError(f"{_said(point)} has no {name}()")
    return maker


def _said(point: EntryPoint) -> str:
    dist = point.dist
    return f"{point.value} of {f'{dist.name} {dist.version}' if dist else 'no package'}"
