"""The settings of an application, out of its ini file; the application itself is not loaded."""

from __future__ import annotations

import configparser
import os
import re
from errno import ENOENT
from typing import Any

#: How the section of an application begins (PasteDeploy), and of what leads to one.
APPLICATIONS, PIPELINE, FILTERED = ("app", "application"), "pipeline", "filter-app"

#: How often one section may lead to another.
STEPS = 20


PERCENT = (
    "{0}: {1} in [{2}] can't be read: in an ini file each % is written twice, as in %%2F for the / "
    "of a password, and what %(name)s names must be there"
)


def read_ini(target: str) -> dict[str, Any]:
    """The settings of the application of ``target``, ``path`` or ``path#name``, as for ``pserve``.

    A pipeline leads to its last part, a filter to what is next, and ``use = other`` to another
    application, whose settings hold where there are no others. Raises ``ValueError`` where it can't
    be told which application is meant, and ``FileNotFoundError``.
    """
    path, _, name = target.partition("#")
    found: dict[str, Any] = {}
    for _ in range(STEPS):
        loader = _loader(path)
        try:
            section = _section(path, loader.get_sections(), name or "main")
            values = dict(loader.get_settings(section))
        except configparser.Error as error:
            raise _broken(path, error) from None
        if section.partition(":")[0] in APPLICATIONS:
            found = {**values, **found}
        there = _leads_to(section.partition(":")[0], values)
        if there is None:
            return found
        if there.startswith("config:"):
            file, _, name = there.removeprefix("config:").partition("#")
            path = os.path.join(os.path.dirname(path), file)
        else:
            name = there
    raise ValueError(f"{target}: its sections lead in a circle")


def _loader(path: str) -> Any:
    if not os.path.isfile(path):
        raise FileNotFoundError(
            ENOENT, "no such ini file (a Redis is named as in redis://localhost:6379/0)", path
        )
    from plaster import PlasterURL, get_loader  # Pyramid brings it.

    return get_loader(PlasterURL("file+ini", path))


def _section(path: str, sections: list[str], name: str) -> str:
    """The section of the application ``name``."""
    applications = (*APPLICATIONS, PIPELINE, FILTERED)
    names = [
        rest for kind, _, rest in (each.partition(":") for each in sections) if kind in applications
    ]
    if name not in names:
        hint = f"; say which is meant, as in {path}#{names[0]}" if names else ""
        raise ValueError(f"{path} has no [app:{name}]{hint}")
    return next(f"{kind}:{name}" for kind in applications if f"{kind}:{name}" in sections)


def _leads_to(kind: str, values: dict[str, Any]) -> str | None:
    if kind == PIPELINE:
        return str(values.get("pipeline", "").split()[-1])
    if kind == FILTERED:
        return str(values["next"])
    use = values.get("use")
    return use if use and (":" not in use or use.startswith("config:")) else None


def _broken(path: str, error: configparser.Error) -> ValueError:
    """Without what stands there: it may have a password in it."""
    if isinstance(error, configparser.InterpolationError):
        return ValueError(PERCENT.format(path, error.option, error.section))
    where, name = getattr(error, "lineno", None), getattr(error, "option", None)
    several = getattr(error, "errors", ())  # Of lines that can't be read.
    where = several[0][0] if several else where
    line = f", line {where}" if where else ""
    if name is not None:
        return ValueError(f"{path}{line}: {name} stands there for the second time")
    if isinstance(error, configparser.DuplicateSectionError):
        return ValueError(f"{path}{line}: [{error.section}] stands there for the second time")
    return ValueError(
        f"{path}{line} is no ini file: a line must be [section], name = value or # a comment, and "
        "an indented one goes on with the line before"
    )


def check_percents(path: str) -> None:
    """Raise ``ConfigurationError`` where a ``%`` in a setting of an application can't be read.

    PasteDeploy's own error has in it what follows the ``%``, which may be the rest of a password.
    """
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read(path)
    except (configparser.Error, UnicodeError):
        return  # Whoever loads it says so.
    for section in parser.sections():
        for name, value in parser.items(section):
            if name.startswith("stargate.") and _broken_percent(value.replace("%%", "")):
                from pyramid.exceptions import ConfigurationError

                raise ConfigurationError(PERCENT.format(path, name, section))


_broken_percent = re.compile(r"%(?!\([^)]+\)s)").search
