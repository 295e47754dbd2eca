"""How a process ends behind its server: in time, whatever the application has left running.

At its exit Python waits for threads and children, and runs ``atexit`` handlers and destructors. It
has no deadline for any of them.
"""

from __future__ import annotations

import faulthandler
import logging
import sys
import threading as patched
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from greenlet import getcurrent

from stargate.engine.hub import os, threading, time

log = logging.getLogger("stargate.server")

#: Seconds that what the application does at the exit has at least.
LEAST = 1.0

#: Seconds to write the log: a lock of it may be held for ever.
TELLING = 0.5

#: Seconds behind that until the process ends without Python: no thread of it runs any more where
#: destructors are called.
LAST = 0.75

WATCHER = "stargate-leaving"

HELD_UP = "the process ends, held up by %s"


def leave_within(seconds: float) -> None:
    """End this process in ``seconds``, at least one, with 0, unless it has ended by itself.

    The log says what was left behind. To be called in the main thread, when there is nothing more
    to serve. A destructor that hangs is seen on standard error, and the exit code is 1.
    """
    seconds = max(LEAST, seconds)
    faulthandler.dump_traceback_later(seconds + LAST, exit=True, file=2)
    _start(_watch, seconds, threading.get_ident(), getcurrent())


def left_behind(main: int, waits: Any) -> Iterator[str]:
    """What keeps this process from its end: threads, children, and where the main thread is.

    That is thread ``main``, or the greenlet that ``waits`` there where another one runs.
    """
    frames = sys._current_frames()
    if waits.gr_frame is not None:
        frames[main] = waits.gr_frame
    # Without the lock of those that are green: in this thread nobody could wait for it.
    for thread in (*threading.enumerate(), *list(patched._active.values())):  # type: ignore[attr-defined]
        frame = frames.get(thread.ident)
        if thread.name in (WATCHER, "MainThread") or (thread.daemon and frame is None):
            continue
        yield f"thread {thread.name}" + (f" in {_place(frame)}" if frame is not None else "")
    for pid in _children():
        yield f"child process {pid}"
    inner = outer = frames[main]
    while outer.f_back is not None:
        outer = outer.f_back
    yield f"the main thread in {_place(outer)}" + (
        f", at {_place(inner)}" if inner is not outer else ""
    )


# Whatever measures what is run ends with the process.
def _watch(seconds: float, main: int, waits: Any) -> None:  # pragma: no cover
    time.sleep(seconds)
    told = threading.Event()
    _start(_tell, main, waits, told)
    if not told.wait(TELLING):
        os.write(2, f"{HELD_UP % 'its log as well'}\n".encode())
    os._exit(0)


def _tell(main: int, waits: Any, told: Any) -> None:
    log.warning(HELD_UP, "; ".join(left_behind(main, waits)))
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # There is none, or it is closed.
            stream.flush()
    told.set()


def _start(function: Any, *args: object) -> None:
    threading.Thread(target=function, args=args, name=WATCHER, daemon=True).start()


def _children() -> list[int]:
    found = set()
    for listed in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # A thread that has ended.
            found |= {int(pid) for pid in listed.read_text().split() if _runs(pid)}
    return sorted(found)


def _runs(pid: str) -> bool:
    """Whether a child has not ended; nobody may have asked how it did."""
    with suppress(OSError):
        return not Path("/proc", pid, "stat").read_text().rpartition(")")[2].startswith(" Z")
    return False


def _place(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_qualname} ({code.co_filename}:{frame.f_lineno})"
