"""Lines of the log that a peer can bring about: one of each cause, and then a count a minute.

What an application's own code raises is no such line, and is logged whenever it happens.
"""

from __future__ import annotations

import logging
from _thread import RLock  # Never a green one: it is for OS threads.
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from stargate.engine import engine_here

if TYPE_CHECKING:
    from stargate.engine.hub import Engine

#: The least time between two lines of one cause, in seconds.
QUIET_SECONDS = 60.0

#: Characters of a line that stands for others.
MOST_OF_EXAMPLE = 140


class PeerLog:
    """Writes the first line of a cause in full, and then at most one a minute, with the count.

    A cause is a text of the code for a logger, and a word where that has several; never what a
    peer says. From any greenlet and any OS thread; nothing is waited for but the log's own
    handlers. Where the calling thread has an engine, a timer of it writes what is held back;
    elsewhere the next line of the cause counts it.
    """

    def __init__(
        self,
        clock: Callable[[], float] = monotonic,
        engine: Callable[[], Engine | None] = engine_here,
    ) -> None:
        self._clock, self._engine = clock, engine
        self._causes: dict[tuple[str, str, str], _Cause] = {}
        self._lock = RLock()

    def info(self, log: logging.Logger, text: str, *args: object, cause: str = "") -> None:
        """Something about a peer that its operator need not act on."""
        self._take(log, logging.INFO, cause, text, args)

    def warning(self, log: logging.Logger, text: str, *args: object, cause: str = "") -> None:
        """Something about a peer that may be a setting's fault."""
        self._take(log, logging.WARNING, cause, text, args)

    def error(
        self,
        log: logging.Logger,
        text: str,
        *args: object,
        exc_info: BaseException | None = None,
    ) -> None:
        """Something that went wrong on this side; each kind of ``exc_info`` is a cause by itself.

        The first one has its traceback.
        """
        cause = "" if exc_info is None else type(exc_info).__qualname__
        self._take(log, logging.ERROR, cause, text, args, exc_info)

    def tell_all(self) -> None:
        """Write now what is held back."""
        for cause in list(self._causes.values()):
            self._tell(cause, cause.until)

    def clear(self) -> None:
        """Forget what was written, and what is held back."""
        self._causes = {}

    def _take(
        self,
        log: logging.Logger,
        level: int,
        word: str,
        text: str,
        args: tuple[object, ...],
        error: BaseException | None = None,
    ) -> None:
        if not log.isEnabledFor(level):
            return
        now = self._clock()
        with self._lock:
            cause = self._causes.setdefault((log.name, text, word), _Cause(log))
            first = now >= cause.until and not cause.count
            if first:
                cause.until = now + QUIET_SECONDS
            else:
                cause.hold(level, _example(text % args, error))
        if first:
            log.log(level, text, *args, exc_info=error)
        elif now >= cause.until:  # There was no engine, or it has ended.
            self._tell(cause, cause.until)
        else:
            self._tell_later(cause, now)

    def _tell_later(self, cause: _Cause, now: float) -> None:
        engine = self._engine()
        if engine is not None and cause.timer is not engine:
            cause.timer = engine
            tell = partial(self._tell, cause, cause.until)
            engine.call_later(cause.until - now, engine.spawn, tell)

    def _tell(self, cause: _Cause, until: float) -> None:
        """Write the newest line that was held back until then, and how many there were."""
        with self._lock:
            if not cause.count or cause.until != until:
                return  # Somebody has told already.
            count, level, line = cause.count, cause.level, cause.line
            seconds = self._clock() - cause.until + QUIET_SECONDS
            cause.begin_anew(self._clock() + QUIET_SECONDS)
        cause.log.log(level, "%s (the newest of %d in %.0f s)", line, count, seconds)


class _Cause:
    """What is held back of one cause, and until when."""

    __slots__ = ("count", "level", "line", "log", "timer", "until")

    def __init__(self, log: logging.Logger) -> None:
        self.log, self.timer = log, None
        self.begin_anew(float("-inf"))

    timer: Any

    def begin_anew(self, until: float) -> None:
        self.until, self.count, self.level, self.line, self.timer = until, 0, 0, "", None

    def hold(self, level: int, line: str) -> None:
        self.count += 1
        self.level, self.line = level, line


def _example(line: str, error: BaseException | None) -> str:
    if error is not None:
        line = f"{line}: {error!r}"
    return line if len(line) <= MOST_OF_EXAMPLE else f"{line[:MOST_OF_EXAMPLE]}..."


#: The one of this process.
peerlog = PeerLog()
