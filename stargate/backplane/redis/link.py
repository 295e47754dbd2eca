"""A subscribing connection: it is opened again when it is lost, and subscribes again.

Plain blocking code in a thread of its own: under a patched standard library that is a greenlet.
What a message means is not known here, nor which channel belongs on which connection: ``links.py``.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import hiredis
from redis.exceptions import RedisError

from stargate.backplane.redis.commands import Deadline, Place, portions
from stargate.backplane.redis.errors import SILENT, parsed, reason

log = logging.getLogger("stargate.backplane")

#: Seconds after which the reader looks around, though nothing has come.
TICK = 0.5

#: Seconds of silence after which the server is asked whether it is there, and until it is not.
PING_AFTER, LOST_AFTER = 5.0, 10.0

#: Seconds before a lost connection is opened again: at first, and at most. Half of it is at random,
#: or all processes would come back at once. Joins fail meanwhile: a server that is back must be
#: found by the time that pages try again.
SHORTEST_WAIT, LONGEST_WAIT = 0.05, 1.0

#: Seconds that joins wait for a server that is out of reach: one that is restarted is back by then.
#: Later they fail at once, until it answers.
GRACE = 1.0

#: Seconds until it is said again that a server is out of reach.
COMPLAIN_AFTER = 30.0

#: Channels in one command, and bytes in one read.
AT_ONCE, READ_SIZE = 256, 65_536

#: What is read before everybody else gets a turn: where nothing is ready they get it anyhow.
BYTES_A_TURN, READS_A_TURN = 16_384, 16

_MORE = object()


class Channel:
    """A channel that is wanted."""

    __slots__ = ("link", "slot", "stands", "stood")

    def __init__(self, slot: int = 0) -> None:
        self.slot = slot
        self.stands = threading.Event()
        #: Whether it has stood before.
        self.stood = False
        #: The connection that it is heard on; ``None`` while that is looked for.
        self.link: Link | None = None


class Link:
    """What is subscribed over one connection.

    ``open(timeout)`` returns a new connection; ``on_message(channel, payload)`` is called for each
    message, ``on_lost(channels)`` when the connection has gone and ``on_back(channel)`` when a
    subscription stands again that had stood before: all in the link's own thread. So are
    ``on_revoked(channels, where)``, when the server has let go of some and perhaps said where they
    belong, and ``on_trouble()``, when the connection has gone or can't be opened.
    """

    def __init__(
        self,
        name: str,
        open: Callable[[float], Any],
        verbs: tuple[str, str],
        timeout: float,
        *,
        on_message: Callable[[bytes, bytes], object],
        on_lost: Callable[[list[bytes]], object],
        on_back: Callable[[bytes], object],
        on_revoked: Callable[[list[bytes], Place | None], object] = lambda *_: None,
        on_trouble: Callable[[], object] = lambda: None,
    ) -> None:
        self._name, self._open, self._timeout = name, open, timeout
        self._subscribe, self._unsubscribe = verbs
        self._confirmed = verbs[0].lower().encode()
        self._revoked = verbs[1].lower().encode()
        self._on_message, self._on_lost, self._on_back = on_message, on_lost, on_back
        self._on_revoked, self._on_trouble = on_revoked, on_trouble
        self._lock = threading.Lock()
        self._wanted: dict[bytes, Channel] = {}
        #: What has been sent over this connection and not been confirmed.
        self._subscribing: dict[bytes, int] = {}
        self._unsubscribing: dict[bytes, int] = {}
        self._connection: Any = None
        self._reader: Any = None
        self._thread: threading.Thread | None = None
        self._heard = 0.0
        #: When it was lost; 0 while it is there.
        self._lost = 0.0
        self._complained = 0.0
        self._why = ""
        self._pinged = False
        #: Whether somebody has waited in vain for what it should have said, and nothing was heard.
        self._mute = False
        #: Whether the server has said anything over this connection, and how often it was opened.
        self._answered = False
        self._attempts = 0
        self.closed = False

    def __len__(self) -> int:
        return len(self._wanted)

    def want(self, name: bytes, channel: Channel | None = None) -> threading.Event:
        """Subscribe to a channel; the event is set while that stands."""
        with self._lock:
            found = self._wanted.get(name)
            if found is None:
                found = self._wanted[name] = channel or Channel()
                found.link = self
                self._send(self._subscribe, {name: found})
            if self._thread is None and not self.closed:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        return found.stands

    def unwant(self, names: Iterable[bytes]) -> list[bytes]:
        """Unsubscribe; returns those that stood, which stand no more."""
        with self._lock:
            found = {name: self._wanted.pop(name) for name in names if name in self._wanted}
            self._send(self._unsubscribe, found)
            return self._fallen(found)

    def away(self) -> str:
        """Why nothing need be waited for here, as far as is known; ``""`` where it is there."""
        lost = self._lost
        out = time.monotonic() - lost if lost else 0.0
        if out > GRACE:
            return f"out of reach for {out:.0f} s: {self._why}"
        return "it does not answer" if self._mute else ""

    def doubt(self, since: float) -> None:
        """Something was waited for in vain ``since`` then: it is away unless it was heard."""
        with self._lock:
            there = self._connection is not None and self._answered
            if there and self._heard >= since:
                return
            self._mute = True
            if there:
                self._ping()

    def close(self) -> None:
        """End the connection and the thread."""
        with self._lock:
            self.closed = True
            if self._connection is not None:
                self._hang_up()

    # The lock is held.

    def _fallen(self, channels: dict[bytes, Channel]) -> list[bytes]:
        stood = [name for name, channel in channels.items() if channel.stands.is_set()]
        for name in stood:
            channels[name].stands.clear()
        return stood

    def _send(self, verb: str, channels: dict[bytes, Channel]) -> None:
        if self._connection is None or not channels:
            return  # All that is wanted is subscribed to when there is one.
        waiting = self._subscribing if verb == self._subscribe else self._unsubscribing
        for name in channels:
            waiting[name] = waiting.get(name, 0) + 1
        # What is in several slots of a Cluster is not for one command.
        names = sorted(channels, key=lambda name: channels[name].slot)
        slots = groupby(names, lambda name: channels[name].slot)
        self._write([(verb, *some) for _, each in slots for some in portions(list(each), AT_ONCE)])

    def _write(self, commands: list[tuple[Any, ...]]) -> None:
        connection = self._connection
        if connection._sock is None:
            return  # It has been hung up on, and the reader is about to see that.
        try:
            connection.write(connection.pack_commands(commands), Deadline(self._timeout))
        except (RedisError, OSError):
            self._hang_up()  # The reader sees it, and begins again.

    def _ping(self) -> None:
        if not self._pinged:
            self._pinged = True
            self._write([("PING",)])

    def _hang_up(self) -> None:
        connection, sock = self._connection, self._connection._sock
        if sock is not None:
            try:
                sock.shutdown(2)
            except OSError:
                connection.disconnect()

    # The thread.

    def _run(self) -> None:
        wait = SHORTEST_WAIT
        while not self.closed:
            began = time.monotonic()
            try:
                self._begin()
                self._read_on()
            except (RedisError, OSError, hiredis.HiredisError) as error:
                self._end(error)
            except Exception:
                log.exception("the reader of %s failed", self._name)
                self._end(RuntimeError("an error of its own"))
            if self.closed:
                break
            wait = SHORTEST_WAIT if time.monotonic() - began > LONGEST_WAIT else wait
            self._pause(wait * (0.5 + random.random() / 2))
            wait = min(wait * 2, LONGEST_WAIT)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.closed and time.monotonic() < end:
            time.sleep(min(TICK, max(0.0, end - time.monotonic())))

    def _begin(self) -> None:
        self._attempts += 1
        connection = self._open(self._timeout)
        with self._lock:
            self._connection, self._pinged, self._answered = connection, False, False
            self._reader = hiredis.Reader(notEnoughData=_MORE)
            self._heard = time.monotonic()
            self._subscribing.clear()
            self._unsubscribing.clear()
            self._send(self._subscribe, self._wanted)
            # A kernel accepts connections for a server that stands still.
            self._write([("PING",)])

    def _read_on(self) -> None:
        buffer = bytearray(READ_SIZE)
        reader, sock = self._reader, self._connection._sock
        size = reads = 0
        while True:
            if self.closed or sock is None:
                raise ConnectionError("it was closed")
            sock.settimeout(TICK)  # Whoever writes has set another.
            try:
                count = sock.recv_into(buffer)
            except TimeoutError:
                self._look_around()
                continue
            if not count:
                raise ConnectionError(
                    "the server has closed the connection" if self._answered else SILENT
                )
            self._heard, self._pinged, self._mute = time.monotonic(), False, False
            reader.feed(buffer, 0, count)
            while (reply := reader.gets()) is not _MORE:
                self._take(reply)
            size, reads = size + count, reads + 1
            if size >= BYTES_A_TURN or reads >= READS_A_TURN:
                size = reads = 0
                time.sleep(0)  # Everybody else gets a turn, however much there is to read.

    def _look_around(self) -> None:
        silent = time.monotonic() - self._heard
        limit = LOST_AFTER if self._answered else self._timeout
        if silent > limit:
            raise TimeoutError(f"nothing was heard for {limit:g} s, not even a pong")
        if silent > PING_AFTER:
            with self._lock:
                self._ping()

    def _take(self, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self._refused(str(reply))
            return
        if not self._answered:
            self._is_back()
        if not isinstance(reply, list) or len(reply) != 3:
            return  # A pong.
        kind, name, value = reply
        if kind in (b"message", b"smessage"):
            if name in self._wanted:  # Not what was under way when it was let go of.
                self._on_message(name, value)
        elif kind == self._confirmed:
            self._confirm(name)
        elif kind == self._revoked:
            self._revoke(name)

    def _is_back(self) -> None:
        self._answered = True
        if self._lost:
            log.info("%s: back after %.1f s", self._name, self._heard - self._lost)
            self._lost = self._complained = 0.0

    def _refused(self, why: str) -> None:
        code, _, rest = why.partition(" ")
        if code == "MOVED":
            slot, _, where = rest.partition(" ")
            host, _, port = where.rpartition(":")
            with self._lock:
                gone = {name: each for name, each in self._wanted.items() if each.slot == int(slot)}
            self._let_go(gone, (host, int(port)))
        elif code == "CLUSTERDOWN":
            # It is one of those that wait: each of them is asked for again.
            with self._lock:
                gone = {
                    name: self._wanted[name] for name in self._subscribing.keys() & self._wanted
                }
            self._let_go(gone, None)
        else:
            raise parsed(why)
        with self._lock:
            self._unsubscribing.clear()  # It may have been that: then there is nothing more to do.

    def _confirm(self, name: bytes) -> None:
        with self._lock:
            if _one_less(self._subscribing, name):
                return  # One of before an unsubscribing that is still under way.
            found = self._wanted.get(name)
            if found is None:
                return
            again, found.stood = found.stood and not found.stands.is_set(), True
        if again:
            self._on_back(name)
        with self._lock:
            if self._wanted.get(name) is found:
                found.stands.set()

    def _revoke(self, name: bytes) -> None:
        with self._lock:
            asked = name in self._unsubscribing
            _one_less(self._unsubscribing, name)
            found = self._wanted.get(name)
        if found is not None and not asked:
            self._let_go({name: found}, None)

    def _let_go(self, channels: dict[bytes, Channel], where: Place | None) -> None:
        """The server has let go of what is wanted: it is to be heard elsewhere."""
        with self._lock:
            for name in channels:
                self._wanted.pop(name, None)
                self._subscribing.pop(name, None)
                channels[name].link = None
            lost = self._fallen(channels)
        if lost:
            self._on_lost(lost)
        self._on_revoked(list(channels), where)

    def _end(self, error: Exception) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            lost = self._fallen(self._wanted)
        if connection is not None:
            connection.disconnect()
        if not self.closed:
            self._complain(error)
            self._on_lost(lost)
            self._on_trouble()

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        self._lost, self._why = self._lost or now, reason(error)
        if not self._complained or now - self._complained > COMPLAIN_AFTER:
            self._complained = now
            log.warning("%s: %s; %d address(es) wait", self._name, self._why, len(self))


def _one_less(counts: dict[bytes, int], name: bytes) -> int:
    """Count one down; returns what is left."""
    left = counts.pop(name, 1) - 1
    if left:
        counts[name] = left
    return left
