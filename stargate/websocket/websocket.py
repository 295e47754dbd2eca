"""WebSocket: what a handler holds; messages in and out, waiting, and who may call what.

Bytes, frames and the end of a connection are ``connection.py``'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from websockets.exceptions import ProtocolError
from websockets.frames import Close
from zope.interface import implementer

from stargate.exceptions import ConnectionClosed
from stargate.interfaces import IWebSocket
from stargate.message.incoming import UNBOUNDED
from stargate.message.message import ENVELOPE, FIN, PING, frame, frame_for
from stargate.websocket.connection import LOST, READ, Connection
from stargate.websocket.state import State
from stargate.websocket.walk import write

if TYPE_CHECKING:
    from stargate.stats import Counters
    from stargate.websocket.heartbeat import Heartbeat

#: Messages that a view takes before everybody else gets a turn.
MESSAGES_A_TURN = 64

_TIMED_OUT = object()

#: The inbox of all to whom no message has come: one of its own is 600 bytes.
NOTHING: deque[str | bytes] = deque(maxlen=0)


class Sender(Protocol):
    """What an application has for its WebSockets."""

    @property
    def counters(self) -> Counters: ...
    @property
    def heartbeat(self) -> Heartbeat | None: ...
    @property
    def by_id(self) -> MutableMapping[str, WebSocket]:
        """The WebSockets whose id somebody has asked for."""

    def to_json(self, value: Any) -> str:
        """``value``, as the application's JSON renderer writes it."""


@implementer(IWebSocket)
class WebSocket(Connection):
    """One connection to a browser. Made by stargate for a view; no other code makes one.

    Everything but :meth:`wait` and iteration may be called from any greenlet and any OS thread.
    """

    __slots__ = (
        "_attend",
        "_drain_waiters",
        "_gate",
        "_id",
        "_inbox",
        "_runner",
        "_since",
        "_taken",
        "_waiter",
        "discarded",
        "origin",
        "path",
        "remote_addr",
        "subprotocol",
        "userid",
    )

    def __init__(self, sock: Any, gate: Sender, facts: dict[str, Any], **options: Any) -> None:
        super().__init__(sock, counters=gate.counters, heartbeat=gate.heartbeat, **options)
        if facts.get("ids"):
            self._form = (self._form or 0) + ENVELOPE
        #: The address that its peer comes back to, and the last id it has seen of that.
        self._since: tuple[str, str] | None = facts.get("since")
        self._gate = gate
        self._id: str | None = None
        #: Messages that wait to be read; ``None`` when nobody will ever read them.
        self._inbox: deque[str | bytes] | None = NOTHING
        #: The greenlet that waits for a message, and the one that runs the view at this moment.
        self._waiter: Any = None
        self._runner: Any = None
        #: How many messages the view has taken without waiting.
        self._taken = 0
        #: Called on the hub when there are messages, or the end, for a view with no greenlet.
        self._attend: Callable[[], object] | None = None
        self._drain_waiters: list[tuple[Any, int]] | None = None
        #: How many messages came in that no view reads.
        self.discarded = 0
        #: The path of the URL that the browser opened, as in ``request.path``.
        self.path: str = facts.get("path", "")
        #: The ``Origin`` header, or ``None`` where there was none (not a browser).
        self.origin: str | None = facts.get("origin")
        #: The subprotocol that was agreed on (RFC 6455, section 1.9), or ``None``.
        self.subprotocol: str | None = facts.get("subprotocol")
        #: The peer's address, as ``REMOTE_ADDR`` had it.
        self.remote_addr: str | None = facts.get("remote_addr")
        #: ``request.authenticated_userid``, captured before the request ended.
        self.userid: Any = facts.get("userid")

    def __repr__(self) -> str:
        state = self.state.name.lower()
        return f"<WebSocket {self.id} at {self.path} from {self.remote_addr}, {state}>"

    # What it is.

    @property
    def id(self) -> str:
        """A name for logs, unique among all connections: 32 hexadecimal digits."""
        if self._id is None:
            self._id = uuid4().hex
            self._gate.by_id[self._id] = self
        return self._id

    @property
    def closed(self) -> bool:
        """Whether it is over: no message will come, none can be sent."""
        return self.state is not State.OPEN

    @property
    def pending(self) -> int:
        """How many messages are ready for :meth:`wait`."""
        return len(self._inbox) if self._inbox is not None else 0

    @property
    def buffered(self) -> int:
        """How many bytes wait in the outbox because the peer has not taken them yet."""
        outbox = self._outbox
        return outbox.size if outbox is not None else 0

    # Reading.

    def wait(self, timeout: float | None = None) -> str | bytes:
        """The next message: ``str`` for a text message, ``bytes`` for a binary one.

        Waits for at most ``timeout`` seconds, 0 being not at all, then raises ``TimeoutError``.
        Raises :class:`~stargate.exceptions.ConnectionClosed` when the connection has ended and all
        that came in before has been read. One greenlet may wait at a time, in the server's thread.
        """
        while True:
            inbox = self._inbox
            if inbox:
                self._give_way()
                return self._take(inbox)
            if self.state is not State.OPEN:
                raise self._closed_error()
            if timeout == 0:
                raise TimeoutError("no message is ready")
            self._park(timeout)

    def __iter__(self) -> Iterator[str | bytes]:
        """The messages, one after the other; stops when the connection has ended."""
        while True:
            try:
                yield self.wait()  # Not by a name: it would be held until the next one comes.
            except ConnectionClosed:
                return

    def _give_way(self) -> None:
        """Let the others have a turn after a number of messages that were ready."""
        self._taken += 1
        if self._taken >= MESSAGES_A_TURN and self._runner is self._engine.greenlet:
            self._taken = 0
            timer = self._engine.call_soon(self._engine.greenlet.switch)
            try:
                self._engine.park()
            finally:
                timer.cancel()  # A time-out of the view's may have come first.

    def _take(self, inbox: deque[str | bytes]) -> str | bytes:
        message = inbox.popleft()
        if not self._events & READ and len(inbox) * 2 <= self._limits.inbox_length:
            self._read_on()
        return message

    def _park(self, timeout: float | None) -> None:
        engine = self._engine
        if self._inbox is None:
            raise RuntimeError("this view reads no messages: override handler() or on_message()")
        if not engine.in_own_thread():
            raise RuntimeError("wait() works in the thread of the server only")
        if self._waiter is not None:
            raise RuntimeError("another greenlet is waiting for a message of this WebSocket")
        greenlet = self._waiter = engine.greenlet
        timer = None
        if timeout is not None:
            timer = engine.call_later(timeout, self._expire, greenlet)
        try:
            if engine.park() is _TIMED_OUT:
                raise TimeoutError(f"no message within {timeout} s")
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _expire(self, greenlet: Any) -> None:
        if self._waiter is greenlet:
            self._waiter = None
            greenlet.switch(_TIMED_OUT)

    def _room(self) -> int:
        inbox = self._inbox
        if inbox is None or self.state is not State.OPEN:
            return UNBOUNDED
        return self._limits.inbox_length - len(inbox)

    def _on_message(self, message: str | bytes) -> None:
        inbox = self._inbox
        if inbox is None:
            self.discarded += 1
            return
        if inbox is NOTHING:
            inbox = self._inbox = deque()
        inbox.append(message)
        if len(inbox) == self._limits.inbox_length:
            self._set_reading(False)  # TCP pushes back until the view has caught up.

    def _on_input(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            if self._inbox or self.state is not State.OPEN:
                self._waiter = None
                self._engine.resume(waiter)
        elif self._attend is not None and (self._inbox or self.state is not State.OPEN):
            self._attend()

    def _on_end(self) -> None:
        # Never on the spot: the end may be noticed in the midst of a walk.
        self._engine.call_soon(self._on_input)
        self._engine.call_soon(self._on_drained)

    def disown(self) -> int:
        """As that of a connection; what has come in is the parent's as well."""
        self._inbox = None
        return super().disown()

    def _discard_input(self) -> None:
        """Nobody will read: count what comes in and forget it."""
        if self._inbox is not None:
            self.discarded += len(self._inbox)
            self._inbox = None
            if self.state is State.OPEN:
                self._read_on()

    # Writing.

    def send(self, message: str | bytes) -> None:
        """Send one message to this connection alone: ``str`` as text, ``bytes`` as binary.

        Behind every ``resource.send()`` that was called before. Does not wait, except in the view
        of this very connection: there it waits while more than ``stargate.outbox_high_water`` bytes
        are queued, so that a handler may stream. Raises ``TypeError`` for any other type, and
        :class:`~stargate.exceptions.ConnectionClosed` when the connection has ended.
        """
        self._send(frame_for(message, self._form))

    def send_json(self, value: Any) -> None:
        """Send ``value`` as text, as the application's JSON renderer writes it.

        NaN and the infinities, which are no JSON and which no browser reads, are a ``ValueError``.
        """
        self._send(frame_for(self._gate.to_json(value), self._form, json=True))

    def _send(self, buffer: bytes) -> None:
        if self.state is not State.OPEN:
            raise self._closed_error()
        engine = self._engine
        if not engine.in_own_thread():
            engine.call_from_thread(self._send_now, buffer, size=len(buffer))
        elif self._runner is engine.greenlet:
            self._stream(buffer)
        else:
            self._send_now(buffer)

    def _send_now(self, buffer: bytes) -> None:
        self._walks.settle(self)
        self._count_out(buffer)
        write(self, buffer)

    def _stream(self, buffer: bytes) -> None:
        """Send to one's own WebSocket, and wait while too much is queued."""
        self._walks.settle(self)
        if self.state is State.OPEN:
            self._count_out(buffer)
            self._put(buffer, messages=1, streamed=True)
        if self._outbox is not None:
            self._wait_drained(self._limits.outbox_high_water, None)
        if self.state is not State.OPEN:
            raise self._closed_error()

    def _count_out(self, buffer: bytes) -> None:
        self._counters.messages_out += 1
        self._counters.bytes_out += len(buffer)

    # What it has missed of a resource.

    def _since_of(self, address: object) -> str | None:
        """What its peer has seen last of ``address``; nothing once it is a listener of that."""
        return self._since[1] if self._since is not None and self._since[0] == address else None

    def _attached(self, address: object) -> None:
        """It is a listener of ``address``: the next time, it has missed nothing."""
        if self._since_of(address) is not None:
            self._since = None

    def ping(self, payload: bytes = b"") -> None:
        """Send a ping with at most 125 bytes (RFC 6455, section 5.5.2); the answer is ignored."""
        if len(payload) > 125:
            raise ValueError(f"a ping carries at most 125 bytes, not {len(payload)}")
        if self.state is not State.OPEN:
            raise self._closed_error()
        self._in_engine(self._ping, payload)

    def _ping(self, payload: bytes) -> None:
        # Behind a full outbox it would ask for nothing that is not asked already.
        if self.state is State.OPEN and not self._full():
            self._put(frame(FIN | PING, payload))

    def flush(self, timeout: float | None = None) -> None:
        """Wait until the kernel has taken everything that was sent before.

        Raises ``TimeoutError`` after ``timeout`` seconds, and
        :class:`~stargate.exceptions.ConnectionClosed` when the connection ended with bytes queued.
        """
        if self._engine.in_own_thread():
            self._flush(timeout)
        else:
            self._engine.ask_from_thread(self._flush, timeout)

    def _flush(self, timeout: float | None) -> None:
        self._walks.settle(self)
        if self._outbox is not None:
            self._wait_drained(0, timeout)
            if self.state is not State.OPEN:
                raise self._closed_error()

    def _wait_drained(self, mark: int, timeout: float | None) -> None:
        """Park until at most ``mark`` bytes are queued, or the connection has ended."""
        engine = self._engine
        if self.buffered <= mark:
            return
        entry = (engine.greenlet, mark)
        if self._drain_waiters is None:
            self._drain_waiters = []
        self._drain_waiters.append(entry)
        timer = None
        if timeout is not None:
            timer = engine.call_later(timeout, self._wake_drained, entry, _TIMED_OUT)
        try:
            if engine.park() is _TIMED_OUT:
                raise TimeoutError(f"{self.buffered} bytes still wait after {timeout} s")
        finally:
            if timer is not None:
                timer.cancel()
            if self._drain_waiters is not None and entry in self._drain_waiters:
                self._drain_waiters.remove(entry)

    def _on_drained(self) -> None:
        if self._drain_waiters:
            over, size = self.state is not State.OPEN, self.buffered
            for entry in self._drain_waiters:
                if over or size <= entry[1]:
                    self._engine.call_soon(self._wake_drained, entry)

    def _wake_drained(self, entry: tuple[Any, int], *given: object) -> None:
        if self._drain_waiters and entry in self._drain_waiters:
            self._drain_waiters.remove(entry)
            entry[0].switch(*given)

    # Ending.

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Start the close handshake (RFC 6455, section 7) and return; ended already, do nothing.

        The connection leaves all its resources at once, what was sent before is still delivered,
        and what has come in and was not read is dropped. Raises ``ValueError`` for a close code
        that may not be sent and for a reason of more than 123 bytes.
        """
        check_close(code, reason)
        self._in_engine(self._close, code, reason, True)

    def _close(self, code: int, reason: str, drop: bool = False) -> None:
        if drop and self._inbox is not None and self.state is State.OPEN:
            self._inbox.clear()
        self._walks.settle(self)
        if self.state is State.OPEN:
            self._start_closing(code, reason)

    def _in_engine(self, function: Callable[..., object], *args: Any) -> None:
        if self._engine.in_own_thread():
            function(*args)
        else:
            self._engine.call_from_thread(function, *args)

    def _closed_error(self) -> ConnectionClosed:
        code = self.close_code if self.close_code is not None else LOST
        return ConnectionClosed(self, code, self.close_reason or "")


def check_close(code: int, reason: str) -> None:
    """Raise ``ValueError`` unless a close frame may carry these (RFC 6455, section 7.4)."""
    try:
        Close(code, reason).check()
    except ProtocolError:
        raise ValueError(
            f"{code} is not a close code that can be sent: 1000 to 1003, 1007 to 1014, or 3000 to "
            "4999"
        ) from None
    size = len(reason.encode())
    if size > 123:
        raise ValueError(f"a close reason has at most 123 bytes, not {size}")
