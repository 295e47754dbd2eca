"""The subscribing connections of a process: one for each server that it has to hear.

Where a channel is heard may change: a Sentinel promotes another server, a slot of a Cluster moves.
A thread of its own sees to that; it has none with a single server.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from time import monotonic

from stargate.backplane.redis.commands import NOT_SENT, Commands, Deadline, Place, is_out_of_reach
from stargate.backplane.redis.link import Channel, Link
from stargate.engine.peerlog import peerlog
from stargate.exceptions import BackplaneError

log = logging.getLogger("stargate.backplane")

#: Seconds between two looks at where everything is.
LOOK = 1.0

#: Seconds between two looks at whether a server that is waited for is away.
GLANCE = 0.1

#: Seconds that pass at least between two of them, when there is trouble.
PAUSE = 0.05


class Links:
    """All channels that this process is subscribed to; the callbacks are those of ``Link``."""

    def __init__(
        self,
        commands: Commands,
        *,
        on_message: Callable[[bytes, bytes], object],
        on_lost: Callable[[list[bytes]], object],
        on_back: Callable[[bytes], object],
    ) -> None:
        self._commands = commands
        self._on_message, self._on_lost, self._on_back = on_message, on_lost, on_back
        self._lock = threading.Lock()
        self._channels: dict[bytes, Channel] = {}
        self._links: dict[Place, Link] = {}
        #: Those that no server has now.
        self._homeless: set[bytes] = set()
        self._thread: threading.Thread | None = None
        self._trouble = threading.Event()
        self._closed = threading.Event()
        self._version = -1
        #: Why it can't be found out where anything is, and when that is asked for again.
        self._nowhere, self._ask_at = "", 0.0

    def want(self, name: bytes) -> Channel:
        """Subscribe to a channel; its ``stands`` is set while that stands.

        Raises ``BackplaneError`` where it can't be found out which server that is for, and at once
        where that server is known to be away.
        """
        found = self._channels.get(name)
        if found is None:
            where = self._where(name)
            with self._lock:
                found = self._channels.get(name)
                if found is None:
                    link = self._link(where)
                    self._check(link)
                    found = self._channels[name] = Channel(self._commands.slot(name))
                    link.want(name, found)
                self._watch()
        self._check(found.link)
        return found

    def stand(self, name: bytes) -> None:
        """Return when a channel is subscribed to; raises ``BackplaneError`` where it is not."""
        timeout = self._commands.timeout
        deadline = Deadline(timeout)
        channel = self.want(name)
        try:
            while not channel.stands.wait(min(deadline.left(), GLANCE)):
                self._check(channel.link)
        except TimeoutError as error:
            raise BackplaneError(
                NOT_SENT,
                f"{self._commands.address}: no subscription within {timeout:g} s, and so no "
                "listener",
            ) from error

    def _check(self, link: Link | None) -> None:
        why = link.away() if link is not None else ""
        if why:
            raise BackplaneError(NOT_SENT, f"{self._commands.address}: {why}")

    def doubt(self, name: bytes, since: float) -> None:
        """A channel's server was waited for in vain ``since`` then: see whether it is there."""
        found = self._channels.get(name)
        link = found.link if found is not None else None
        if link is not None:
            link.doubt(since)

    def _where(self, name: bytes) -> Place:
        """Which server a channel is for; looked for once a second where none can be asked."""
        now = monotonic()
        if self._nowhere and now < self._ask_at:
            raise BackplaneError(NOT_SENT, self._nowhere)
        self._ask_at = now + LOOK  # Others do not wait for what one is asking already.
        try:
            where = self._commands.where(name.decode())
        except BackplaneError as error:
            if is_out_of_reach(error):
                self._nowhere = str(error).removeprefix(f"{error.outcome}: ")
                self._ask_at = monotonic() + LOOK
            raise
        self._nowhere = ""
        return where

    def unwant(self, names: Iterable[bytes]) -> None:
        """Unsubscribe."""
        with self._lock:
            for name in names:
                found = self._channels.pop(name, None)
                self._homeless.discard(name)
                if found is not None and found.link is not None:
                    found.link.unwant([name])

    def close(self) -> None:
        """End all connections and threads."""
        self._closed.set()
        self._trouble.set()
        with self._lock:
            for link in self._links.values():
                link.close()

    # The lock is held.

    def _link(self, where: Place) -> Link:
        found = self._links.get(where)
        if found is None:
            commands = self._commands
            found = self._links[where] = Link(
                f"the backplane at {'{}:{}'.format(*where) if where else commands.address}",
                lambda timeout: commands.open_subscriber(where, timeout),
                (commands.subscribe, commands.unsubscribe),
                commands.timeout,
                on_message=self._on_message,
                on_lost=self._on_lost,
                on_back=self._on_back,
                on_revoked=self._revoked,
                on_trouble=self._trouble.set,
            )
            if self._closed.is_set():
                found.close()
        return found

    def _watch(self) -> None:
        if self._commands.moves and self._thread is None and not self._closed.is_set():
            self._thread = threading.Thread(
                target=self._run, name="where the backplane is", daemon=True
            )
            self._thread.start()

    # In the thread of a link.

    def _revoked(self, names: list[bytes], where: Place | None) -> None:
        if where is not None and names:
            self._commands.learn(self._commands.slot(names[0]), where)
        with self._lock:
            self._homeless.update(name for name in names if name in self._channels)
        self._trouble.set()

    # In the thread that watches.

    def _run(self) -> None:
        pause = PAUSE
        while not self._closed.is_set():
            trouble = self._trouble.wait(pause if self._homeless else LOOK)
            self._trouble.clear()
            try:
                self._commands.look_again(now=trouble)
                self._rearrange()
            except Exception:
                log.exception("the watch over the backplane failed")
            pause = min(2 * pause, LOOK) if self._homeless else PAUSE
            self._closed.wait(pause if self._homeless else PAUSE)

    def _rearrange(self) -> None:
        """Have everything heard where it is."""
        version = self._commands.version
        if version == self._version and not self._homeless:
            return
        names = list(self._channels if version != self._version else self._homeless)
        moving = self._moving(dict(self._places(names)))
        if moving:
            with self._lock:
                for name, channel, link in moving:
                    if self._channels.get(name) is channel:
                        link.want(name, channel)
                self._close_empty()
        self._version = version

    def _places(self, names: Iterable[bytes]) -> Iterator[tuple[bytes, Place]]:
        for name in names:
            try:
                yield name, self._commands.where(name.decode())
            except BackplaneError as error:
                peerlog.info(log, "%s", error)  # It stays where it is.

    def _moving(self, places: dict[bytes, Place]) -> list[tuple[bytes, Channel, Link]]:
        """What has to be heard elsewhere, and is heard no more where it was."""
        lost: list[bytes] = []
        moving = []
        with self._lock:
            for name, where in places.items():
                channel, link = self._channels.get(name), self._link(where)
                if channel is not None and channel.link is not link:
                    lost += self._let_go(name, channel)
                    moving.append((name, channel, link))
                self._homeless.discard(name)
        if lost:
            self._on_lost(lost)
        return moving

    def _let_go(self, name: bytes, channel: Channel) -> list[bytes]:
        link, channel.link = channel.link, None
        return link.unwant([name]) if link is not None else []

    def _close_empty(self) -> None:
        for where, link in list(self._links.items()):
            if not len(link):
                del self._links[where]
                link.close()
