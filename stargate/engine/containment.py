"""What the application raises stays where it was raised: only a signal ends the server.

``SystemExit``, ``KeyboardInterrupt``, ``GreenletExit``, a ``Timeout`` of eventlet's and whatever
else is no ``Exception`` are errors of the application like any other. Where its code runs:

===================================  ==========================  ==============================
place                                caught in                   what becomes of it
===================================  ==========================  ==============================
page: view, factory, policy, tween,  ``answer.Answer.run``       500, or the connection is cut
callbacks, renderer, subscribers,                                behind a head that is out
``WebSocketView.__init__``
app_iter, ``close()``, ``write()``   ``answer.Answer.run``       the same
``handler``, ``on_open``,            ``view._Life._call``        1011; ``GreenletExit`` ends the
``on_message``, ``on_close``                                     view with 1001, as it is killed
subscriber to ``ViewFailed``         ``view._Life._fail``        logged
subscriber to another event          ``application``             logged
greenlet, green thread, timer        the hub, below              ends it; ``GreenletExit`` quietly
callback of a descriptor             the hub, below              it is watched no more
handler of a signal                  the hub, below, or where    logged, or as there
                                     it comes
call from another OS thread          ``hub.Engine._call``        logged
question from another OS thread      ``ask_from_thread``         raised in that thread
===================================  ==========================  ==============================

Elsewhere than under a server of ours nobody else may hear Ctrl-C: there the hub stays as it is.
"""

from __future__ import annotations

import logging
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

log = logging.getLogger(__name__)

Report = Callable[[BaseException, str], None]


@contextmanager
def contained(hub: Any, kept: int, waker: int, report: Report) -> Iterator[None]:
    """Meanwhile the loop of ``hub``, eventlet's, goes on whatever is raised in what it runs.

    ``report`` is called on the hub with each error and a sentence; descriptor ``kept`` is watched
    on. What the handler of a signal raises is an error like any other. A signal wakes the hub by a
    byte that is written to ``waker``: where it comes just before the hub waits, its handler would
    run when something else happens, a minute later.
    """

    def squelch_timer_exception(_timer: object, info: Any) -> None:
        report(info[1], "a greenlet or a timer of the application failed")

    def squelch_exception(fileno: int, info: Any) -> None:
        report(info[1], f"whoever waited for descriptor {fileno} failed")
        if fileno == kept:
            return
        try:
            hub.remove_descriptor(fileno)
        except BaseException:  # It calls them once more. Left there, they fail at every turn.
            for waiting in hub.listeners.values():
                waiting.pop(fileno, None)
            with suppress(BaseException):
                hub.remove_descriptor(fileno)

    def guarded(method: Callable[..., object], text: str) -> Callable[..., None]:
        def call(*args: object) -> None:
            try:
                method(hub, *args)
            except BaseException as error:
                report(error, text)

        return call

    closed = "whoever waited for a descriptor that was closed failed"
    mended = {
        "wait": guarded(type(hub).wait, "the handler of a signal failed"),
        "SYSTEM_EXCEPTIONS": (),
        "squelch_timer_exception": squelch_timer_exception,
        "squelch_exception": squelch_exception,
        "close_one": guarded(type(hub).close_one, closed),
    }
    vars(hub).update(mended)
    try:
        with _woken_by_signals(waker):
            yield
    finally:
        for name in mended:
            vars(hub).pop(name, None)


@contextmanager
def _woken_by_signals(waker: int) -> Iterator[None]:
    before = None
    with suppress(ValueError):  # In another thread than the main one no signal is heard.
        before = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    try:
        yield
    finally:
        if before is not None:
            signal.set_wakeup_fd(before)


def log_of_application(error: BaseException, text: str) -> None:
    """Log what code of the application raised that nothing waits for."""
    try:
        log.error(text, exc_info=error)
    except BaseException:  # Of a handler of the log. It would come back here, again and again.
        traceback.print_exc()
