"""Work that blocks, for code that must not: it runs in an OS thread, and a greenlet waits."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from stargate.engine import engine_of_greenlets

P = ParamSpec("P")
R = TypeVar("R")


def run_in_thread(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call ``function`` in an OS thread; others go on meanwhile. Returns or raises what it does.

    For what blocks the process otherwise (:ref:`blocking`). ``function`` may send to resources and
    WebSockets, log, and use locks and queues of the standard library together with greenlets. It
    runs in a copy of the caller's ``contextvars``; the current request of Pyramid is not there.

    At most ``thread_limit`` calls run at once, a setting of the server; more wait for their turn.
    A thread can't be ended from outside: where the greenlet that waits is ended, or the WebSocket
    of its view, ``function`` goes on to its end. No thread keeps the process from ending.

    Where there are no greenlets to hold up, ``function`` is called on the spot: in an OS thread
    (in that of another ``run_in_thread`` as well), and in a process that neither serves nor has
    called :func:`stargate.patch`.
    """
    call: Callable[[], R] = partial(copy_context().run, partial(function, *args, **kwargs))
    engine = engine_of_greenlets()
    if engine is None:
        return call()
    answer: R = engine.run_in_thread(call)
    return answer
