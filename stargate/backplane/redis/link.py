"""A subscribing connection: it is opened again when it is lost, and subscribes again.

Plain blocking code in a thread of its own: under a patched standard library that is a greenlet.
What a message means is not known here.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import hiredis
from redis.exceptions import RedisError

from stargate.backplane.redis.commands import reason

log = logging.getLogger("stargate.backplane")

#: Seconds after which the reader looks around, though nothing has come.
TICK = 0.5

#: Seconds of silence after which the server is asked whether it is there, and until it is not.
PING_AFTER, LOST_AFTER = 5.0, 10.0

#: Seconds before a lost connection is opened again: at first, and at most. Half of it is at random,
#: or all processes would come back at once.
SHORTEST_WAIT, LONGEST_WAIT = 0.05, 3.0

#: Seconds until it is said again that a server is out of reach.
COMPLAIN_AFTER = 30.0

#: Channels in one command, and bytes in one read.
AT_ONCE, READ_SIZE = 256, 65_536

_MORE = object()


class Link:
    """What is subscribed over one connection.

    ``open(timeout)`` returns a new connection; ``on_message(channel, payload)`` is called for each
    message, ``on_lost(channels)`` when the connection has gone and ``on_back(channel)`` when a
    subscription stands again that had stood before: all in the link's own thread.
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
    ) -> None:
        self._name, self._open, self._timeout = name, open, timeout
        self._subscribe, self._unsubscribe = verbs
        self._confirmed = verbs[0].lower().encode()
        self._revoked = verbs[1].lower().encode()
        self._on_message, self._on_lost, self._on_back = on_message, on_lost, on_back
        self._lock = threading.Lock()
        self._wanted: dict[bytes, _Channel] = {}
        #: Subscriptions that have been sent over this connection and not been confirmed.
        self._unconfirmed: dict[bytes, int] = {}
        self._connection: Any = None
        self._reader: Any = None
        self._thread: threading.Thread | None = None
        self._heard = 0.0
        #: When it was lost; 0 while it is there.
        self._lost = 0.0
        self._complained = 0.0
        self._pinged = False
        self.closed = False

    def __len__(self) -> int:
        return len(self._wanted)

    def want(self, channel: bytes) -> threading.Event:
        """Subscribe to ``channel``; the event is set while that stands."""
        with self._lock:
            found = self._wanted.get(channel)
            if found is None:
                found = self._wanted[channel] = _Channel()
                self._send(self._subscribe, [channel])
            if self._thread is None and not self.closed:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        return found.stands

    def unwant(self, channels: Iterable[bytes]) -> None:
        """Unsubscribe from ``channels``."""
        with self._lock:
            gone = [each for each in channels if self._wanted.pop(each, None) is not None]
            if gone:
                self._send(self._unsubscribe, gone)

    def close(self) -> None:
        """End the connection and the thread."""
        with self._lock:
            self.closed = True
            if self._connection is not None:
                self._hang_up()

    # Writing: the lock is held.

    def _send(self, verb: str, channels: list[bytes]) -> None:
        if self._connection is None:
            return  # All that is wanted is subscribed to when there is one.
        for begin in range(0, len(channels), AT_ONCE):
            some = channels[begin : begin + AT_ONCE]
            for each in some:
                if verb == self._subscribe:
                    self._unconfirmed[each] = self._unconfirmed.get(each, 0) + 1
            self._write(verb, *some)

    def _write(self, *command: Any) -> None:
        try:
            self._connection.send_command(*command)
        except (RedisError, OSError):
            self._hang_up()  # The reader sees it, and begins again.

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
            wait = SHORTEST_WAIT if time.monotonic() - began > LONGEST_WAIT else wait
            self._pause(wait * (0.5 + random.random() / 2))
            wait = min(wait * 2, LONGEST_WAIT)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.closed and time.monotonic() < end:
            time.sleep(min(TICK, max(0.0, end - time.monotonic())))

    def _begin(self) -> None:
        connection = self._open(self._timeout)
        connection._sock.settimeout(TICK)
        with self._lock:
            self._connection, self._pinged = connection, False
            self._reader = hiredis.Reader(notEnoughData=_MORE)
            self._heard = time.monotonic()
            if self._lost:
                log.info("%s: back after %.1f s", self._name, self._heard - self._lost)
                self._lost = self._complained = 0.0
            self._unconfirmed.clear()
            self._send(self._subscribe, list(self._wanted))

    def _read_on(self) -> None:
        buffer = bytearray(READ_SIZE)
        reader, sock = self._reader, self._connection._sock
        while not self.closed:
            if sock is None:
                raise ConnectionError("it was closed")
            try:
                count = sock.recv_into(buffer)
            except TimeoutError:
                self._look_around()
                continue
            if not count:
                raise ConnectionError("the server has closed the connection")
            self._heard, self._pinged = time.monotonic(), False
            reader.feed(buffer, 0, count)
            while (reply := reader.gets()) is not _MORE:
                self._take(reply)
            time.sleep(0)  # Everybody else gets a turn, however much there is to read.

    def _look_around(self) -> None:
        silent = time.monotonic() - self._heard
        if silent > LOST_AFTER:
            raise TimeoutError(f"nothing was heard for {LOST_AFTER:g} s, not even a pong")
        if silent > PING_AFTER and not self._pinged:
            self._pinged = True
            with self._lock:
                self._write("PING")

    def _take(self, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            raise ConnectionError(f"the server said: {reply}")
        if not isinstance(reply, list) or len(reply) != 3:
            return  # A pong.
        kind, channel, value = reply
        if kind in (b"message", b"smessage"):
            self._on_message(channel, value)
        elif kind == self._confirmed:
            self._confirm(channel)
        elif kind == self._revoked and channel in self._wanted:
            self._lose_one(channel)

    def _confirm(self, channel: bytes) -> None:
        with self._lock:
            left = self._unconfirmed.pop(channel, 1) - 1
            if left:
                self._unconfirmed[channel] = left
                return  # One of before an unsubscribing that is still under way.
            found = self._wanted.get(channel)
            if found is None:
                return
            again, found.stood = found.stood and not found.stands.is_set(), True
        if again:
            self._on_back(channel)
        found.stands.set()

    def _lose_one(self, channel: bytes) -> None:
        """The server has let go of a channel that is wanted: its slot has moved."""

    def _end(self, error: Exception) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            lost = [name for name, each in self._wanted.items() if each.stands.is_set()]
            for name in lost:
                self._wanted[name].stands.clear()
        if connection is not None:
            connection.disconnect()
        if not self.closed:
            self._complain(error)
            self._on_lost(lost)

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        self._lost = self._lost or now
        if not self._complained or now - self._complained > COMPLAIN_AFTER:
            self._complained = now
            log.warning("%s: %s; %d address(es) wait", self._name, reason(error), len(self))


class _Channel:
    """A channel that is wanted."""

    __slots__ = ("stands", "stood")

    def __init__(self) -> None:
        self.stands = threading.Event()
        #: Whether it has stood before.
        self.stood = False
