"""The thread in which a backplane does what has to be done later, and again and again.

Under a patched standard library it is a greenlet.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from time import monotonic

from stargate.backplane.redis.subscription import Subscription
from stargate.engine.peerlog import peerlog
from stargate.exceptions import BackplaneError

log = logging.getLogger("stargate.backplane")

#: Seconds between two looks at what there is to do, and before what failed is tried again.
TICK = 1.0


class Upkeep:
    """Catches up with addresses one after the other, and looks around once in ``TICK`` seconds.

    Both functions may raise ``BackplaneError``: then that address comes again.
    """

    def __init__(
        self, catch_up: Callable[[Subscription], object], look: Callable[[], object]
    ) -> None:
        self._catch_up, self._look = catch_up, look
        self._lacking: queue.SimpleQueue[Subscription | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """There will be something to do."""
        if self._thread is None and not self._ended.is_set():
            self._thread = threading.Thread(target=self._run, name="stargate backplane")
            self._thread.daemon = True
            self._thread.start()

    def add(self, subscription: Subscription) -> None:
        """Catch up with ``subscription`` soon; in the engine's thread."""
        if not subscription.lacking:
            subscription.lacking = True
            self._lacking.put(subscription)

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._lacking.put(None)

    def _run(self) -> None:
        look = monotonic() + TICK
        while not self._ended.is_set():
            try:
                self._do_next(max(0.0, look - monotonic()))
                if monotonic() >= look and not self._ended.is_set():
                    look = monotonic() + TICK
                    self._look()
            except BackplaneError as error:
                peerlog.info(log, "to be tried again: %s", error)
            except Exception:
                if not self._ended.is_set():
                    log.exception("the upkeep of the backplane failed")

    def _do_next(self, timeout: float) -> None:
        try:
            subscription = self._lacking.get(timeout=timeout)
        except queue.Empty:
            return
        if subscription is None:
            return
        subscription.lacking = False
        try:
            self._catch_up(subscription)
        except BackplaneError:
            self.add(subscription)
            self._ended.wait(TICK)
            raise
