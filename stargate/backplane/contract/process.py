"""What stands in for a process of an application while a backplane is tested: no sockets.

It has a thread of its own, as an engine has, and writes down all that a backplane hands to it. The
tests that use it are in the modules beside it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from zope.interface import implementer

from stargate.history import History, Keep
from stargate.interfaces import IReceiver
from stargate.message.message import BINARY, Message
from stargate.stats import Counters

#: Seconds that an event is waited for: generous, since only a test that fails waits for it.
DEADLINE = 30.0

_pause = threading.Event()


def until(condition: Callable[[], object], deadline: float | None = None) -> None:
    """Return when ``condition()`` is true; an ``AssertionError`` when that takes too long."""
    deadline = DEADLINE if deadline is None else deadline
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"not within {deadline} s: {condition}"
        _pause.wait(0.002)


@dataclass(frozen=True)
class Heard:
    """A message as a backplane handed it over."""

    message: str | bytes
    id: str | None
    json: bool
    excluded: frozenset[str]


@dataclass(eq=False)
class Listener:
    """One that listens to ``topic`` under the name ``who``, and what it has got since it joined.

    ``history`` is what its joining gave it.
    """

    topic: Hashable
    who: str | int | None
    history: History = field(default_factory=History)
    heard: list[Heard] = field(default_factory=list)

    def has(self, count: int) -> Callable[[], bool]:
        """Says whether it has heard ``count`` messages."""
        return lambda: len(self.heard) >= count

    @property
    def messages(self) -> list[str | bytes]:
        """What it has heard since it joined."""
        return [each.message for each in self.heard]


@implementer(IReceiver)
class Receiver:
    """What a backplane under test hands its messages to; :meth:`stop` ends its thread."""

    def __init__(self) -> None:
        self.counters = Counters()
        #: Who listens at which topic.
        self.listeners: dict[Hashable, list[Listener]] = {}
        #: Everything that has been delivered: the topic and the message.
        self.delivered: list[tuple[Hashable, Heard]] = []
        #: Each ``(topic, complete, position)``.
        self.interruptions: list[tuple[Hashable, bool, str | None]] = []
        #: Each ``(topic, who, id)``.
        self.arrivals: list[tuple[Hashable, Any, str]] = []
        self.departures: list[tuple[Hashable, Any, str]] = []
        #: What went wrong in this thread where nobody waited.
        self.errors: list[BaseException] = []
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="a process under test", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except BaseException as error:
                self.errors.append(error)

    def stop(self) -> None:
        """End its thread, behind all that waits for it."""
        self._calls.put(None)
        self._thread.join(DEADLINE)

    # As an engine has it.

    def ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call ``function`` in this process's thread, and wait for what it returns or raises."""
        if threading.current_thread() is self._thread:
            return function(*args)
        done, answer = threading.Event(), [None, None]

        def call() -> None:
            try:
                answer[0] = function(*args)
            except BaseException as error:
                answer[1] = error  # type: ignore[call-overload]
            finally:
                done.set()

        self._calls.put(call)
        assert done.wait(DEADLINE), f"not done within {DEADLINE} s: {function}"
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def tell(self, function: Callable[..., object], *args: Any, size: int = 0) -> None:
        """Call ``function`` in this process's thread, soon; a caller in it: now."""
        if threading.current_thread() is self._thread:
            function(*args)
        else:
            self._calls.put(lambda: function(*args))

    # What a backplane has for the listeners.

    def deliver(self, topic: Hashable, message: Message, excluded: Iterable[str] = ()) -> None:
        """Write down ``message``, for this process and for each who listens to ``topic``."""
        text = message.payload if message.opcode == BINARY else message.payload.decode()
        self.tell(self._hear, topic, Heard(text, message.id, message.json, frozenset(excluded)))

    def _hear(self, topic: Hashable, heard: Heard) -> None:
        self.delivered.append((topic, heard))
        for listener in self.listeners.get(topic, ()):
            listener.heard.append(heard)

    def listener_count(self, topic: Hashable) -> int:
        """How many listen at ``topic`` in this process."""
        return len(self.listeners.get(topic, ()))

    def interrupted(self, topic: Hashable, complete: bool, position: str | None) -> None:
        """Write it down."""
        self.interruptions.append((topic, complete, position))

    def came(self, topic: Hashable, who: Any, id: str) -> None:
        """Write it down."""
        self.arrivals.append((topic, who, id))

    def went(self, topic: Hashable, who: Any, id: str) -> None:
        """Write it down."""
        self.departures.append((topic, who, id))


class Process:
    """A backplane and its receiver, used as an application uses them."""

    def __init__(self, receiver: Receiver, backplane: Any) -> None:
        self.receiver, self.backplane = receiver, backplane

    def join(
        self,
        topic: Hashable,
        keep: Keep | None = None,
        since: str | None = None,
        who: str | int | None = None,
    ) -> Listener:
        """A new listener: from here on it hears what is sent to ``topic``."""
        found: Listener = self.receiver.ask(self._join, Listener(topic, who), keep, since)
        return found

    def _join(self, listener: Listener, keep: Keep | None, since: str | None) -> Listener:
        listener.history = self.backplane.subscribe(listener.topic, keep, since)
        self.receiver.listeners.setdefault(listener.topic, []).append(listener)
        self.backplane.enter(listener.topic, listener.who)
        return listener

    def leave(self, listener: Listener) -> None:
        """Undo :meth:`join`."""
        self.receiver.ask(self._leave, listener)

    def _leave(self, listener: Listener) -> None:
        others = self.receiver.listeners[listener.topic]
        others.remove(listener)
        self.backplane.leave(listener.topic, listener.who)
        if not others:
            del self.receiver.listeners[listener.topic]
            self.backplane.unsubscribe(listener.topic)

    def send(
        self,
        topic: Hashable,
        message: str | bytes,
        *,
        json: bool = False,
        exclude: Iterable[str] = (),
        keep: Keep | None = None,
        key: str | None = None,
    ) -> str | None:
        """Publish ``message``; returns its id where it is kept."""
        found: str | None = self.backplane.publish(
            topic, Message(message, json=json), frozenset(exclude), keep, key
        )
        return found

    def end(self) -> None:
        """Close the backplane, and end the thread of the receiver."""
        self.backplane.close()
        self.receiver.stop()


class Writer:
    """Sends from a thread of its own: ``prefix`` and a number, ``count`` times."""

    def __init__(
        self, process: Process, topic: str, prefix: str, count: int, keep: Keep | None = None
    ) -> None:
        self.sent: list[str] = []
        self._process, self._topic, self._keep = process, topic, keep
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(prefix, count), daemon=True)
        self._thread.start()

    def _run(self, prefix: str, count: int) -> None:
        try:
            for number in range(count):
                if self._stop.is_set():
                    return
                message = f"{prefix}:{number}"
                self.sent.append(message)
                self._process.send(self._topic, message, keep=self._keep)
        except BaseException as error:
            self._error = error

    def finish(self, now: bool = False) -> None:
        """Wait for its end; ``now``: however much it has sent. Raises what it failed with."""
        if now:
            self._stop.set()
        until(lambda: not self._thread.is_alive())
        if self._error is not None:
            raise self._error


def texts(history: History) -> list[str | bytes]:
    """What was sent."""
    return [each.message for each in history]


def state(history: History) -> tuple[list[str | bytes], bool]:
    """What was sent, and whether that is all."""
    return texts(history), history.complete
