"""What carries messages from the process that sends to the processes that listen.

Which one a URL means its scheme tells: it is the name of an entry point in ``stargate.backplanes``.
What that names, a module as a rule, has ``make_backplane(settings, receiver)``, and
``make_publisher(settings)`` where programs that serve nothing can send through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stargate.settings.backplanes import entry_point, origin_of

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

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
        raise ValueError(f"{origin_of(point)} made no backplane: {error}") from error
    return made


def make_publisher(settings: Mapping[str, Any]) -> Any:
    """What sends through the backplane of ``settings`` from outside; raises the same."""
    point = entry_point(settings["backplane"])
    made = _maker(point, "make_publisher")(settings)
    lacking = [name for name in PUBLISHES if not callable(getattr(made, name, None))]
    if lacking:
        raise ValueError(f"{origin_of(point)} made no publisher: it lacks {', '.join(lacking)}")
    return made


def _maker(point: EntryPoint, name: str) -> Any:
    try:
        loaded = point.load()
    except Exception as error:  # Whatever a module may raise that is imported.
        raise ValueError(
            f"{origin_of(point)} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    maker = getattr(loaded, name, None)
    if not callable(maker):
        raise ValueError(f"{origin_of(point)} has no {name}()")
    return maker
