"""Builds the two programs in C, the load generator and the floor, when their sources are newer."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

#: Where everything goes that a run makes.
BUILD = HERE.parent / "build" / "bench"

FLAGS = ("-O2", "-Wall", "-Wextra")


class CannotBuild(Exception):
    """There is no C compiler, or no zlib to compile with, or the compiler refused a source.

    If you see this, install ``cc`` and the headers of zlib (Debian: gcc, libc6-dev, zlib1g-dev).
    """


@dataclass(frozen=True)
class Programs:
    """The programs as they were built."""

    load: Path
    floor: Path


def programs(folder: Path = BUILD) -> Programs:
    """Where both programs are once they are built."""
    return Programs(load=folder / "load", floor=folder / "floor")


def build(folder: Path = BUILD) -> Programs:
    """Both programs, in ``folder``; raises :class:`CannotBuild`."""
    why = missing()
    if why:
        raise CannotBuild(why)
    folder.mkdir(parents=True, exist_ok=True)
    built = programs(folder)
    _compile(HERE / "load.c", built.load, "-lz")
    _compile(HERE / "floor.c", built.floor)
    return built


def missing() -> str:
    """What is missing here for building, as a sentence; empty when nothing is."""
    if shutil.which("cc") is None:
        return "there is no C compiler: cc is not on the PATH"
    has_zlib = subprocess.run(
        ["cc", "-x", "c", "-E", "-"],
        input="#include <zlib.h>\n",
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return "" if has_zlib.returncode == 0 else "the headers of zlib are missing: no zlib.h"


def _compile(source: Path, program: Path, *libraries: str) -> None:
    if program.exists() and _newest(source) < program.stat().st_mtime:
        return
    unfinished = program.with_name(f"{program.name}.{os.getpid()}")
    command = ["cc", *FLAGS, "-o", str(unfinished), str(source), *libraries]
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode != 0:
        raise CannotBuild(f"{' '.join(command)}\n{done.stderr}")
    unfinished.replace(program)  # In one step: another run may be using it.


def _newest(source: Path) -> float:
    """When ``source``, or one of the headers beside it, was changed last."""
    return max(path.stat().st_mtime for path in (source, *source.parent.glob("*.h")))
