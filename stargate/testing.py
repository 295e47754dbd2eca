"""For the tests of applications: a WebSocket without a network, and a real server in a thread.

The pytest fixture ``live_server`` is in ``stargate.fixtures``; nothing here needs pytest.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Any

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from stargate.application.gates import Gate, current_gate, gate
from stargate.engine.hub import threading
from stargate.server.process import Server, read_settings
from stargate.settings.application import Limits
from stargate.websocket.walk import Walks
from stargate.websocket.websocket import WebSocket

__all__ = ["FakeWebSocket", "LiveServer"]

#: Seconds that a server may take to start or to stop.
DEADLINE = 30.0


class FakeWebSocket(WebSocket):
    """A real WebSocket whose peer is a script: hand it to a handler, or make it a listener.

    ``messages`` is what the peer has sent; behind the last of them it has gone away with the close
    code ``gone``, so that a handler's loop ends. With ``stays=True`` it does not go, and a
    ``wait()`` for one more raises ``TimeoutError`` at once, since nothing can ever come.
    ``facts`` are ``path``, ``origin``, ``subprotocol``, ``remote_addr`` and ``userid``.
    """

    __slots__ = ("_gone", "_peer", "_stays")

    def __init__(
        self,
        messages: Iterable[str | bytes] = (),
        *,
        stays: bool = False,
        gone: int = 1001,
        **facts: Any,
    ) -> None:
        self._peer = _Peer()
        super().__init__(
            self._peer,
            current_gate(),
            facts,
            engine=_NoEngine(),
            walks=Walks(),
            limits=Limits(),
            extensions=[],
        )
        self._stays, self._gone = stays, gone
        self.receive(*messages)

    @property
    def sent(self) -> list[str | bytes]:
        """The messages that the peer has got, in order; those under way are waited for."""
        _arrive()
        return self._peer.messages

    def receive(self, *messages: str | bytes) -> None:
        """Let the peer send ``messages``."""
        for message in messages:
            self._on_message(message)

    def leave(self, code: int = 1001, reason: str = "") -> None:
        """Let the peer close the connection."""
        self._end(code, reason)
        self._dispose()

    def wait(self, timeout: float | None = None) -> str | bytes:
        """The next message of the script; behind the last one the peer has gone, or stays."""
        if not self.pending and not self.closed and not self._stays:
            self.leave(self._gone)
        return super().wait(timeout)

    def _give_way(self) -> None:
        """There is nobody else."""

    def _park(self, timeout: float | None) -> None:
        raise TimeoutError("the script of this FakeWebSocket has no more messages")


def _arrive() -> None:
    """Wait until every message that was sent before has been delivered."""
    gate: Gate = current_gate()
    delivery = gate._delivery
    delivery.ask(lambda: delivery.walks.run())


class _Peer:
    """Stands where the socket would: takes frames, and reads them as a browser does."""

    family = socket.AF_UNIX

    def __init__(self) -> None:
        self.messages: list[str | bytes] = []
        self._protocol = Protocol(Side.CLIENT, max_size=None)

    def fileno(self) -> int:
        return -1

    def send(self, data: bytes) -> int:
        self._protocol.receive_data(data)
        for frame in self._protocol.events_received():
            assert isinstance(frame, Frame)
            payload = bytes(frame.data)
            if frame.opcode is Opcode.TEXT:
                self.messages.append(payload.decode())
            elif frame.opcode is Opcode.BINARY:
                self.messages.append(payload)
        return len(data)

    def close(self) -> None:
        pass


class _NoEngine:
    """Stands where the engine would: one thread, and no turn of a hub ever comes."""

    greenlet = None

    def __init__(self) -> None:
        self.connections: set[Any] = set()

    def in_own_thread(self) -> bool:
        return True

    def call_soon(self, *_args: Any) -> None:
        pass

    call_later = spawn = rewatch = unwatch = call_soon


class LiveServer:
    """A real server with ``application`` in an OS thread of its own, on a free port.

    A context manager. The standard library is not patched: a view that sleeps or asks a database
    holds up the other requests of this server. ``settings`` are those of ``[server:main]``.
    """

    def __init__(self, application: Callable[..., Any], **settings: Any) -> None:
        self.application = application
        if not settings.get("unix_socket"):
            settings.setdefault("listen", "127.0.0.1:0")
        self.settings = read_settings({"graceful_timeout": "5", **settings})
        #: What is served: ``server.engine`` and ``server.http`` tell what is open.
        self.server: Server
        #: Where it listens, as ``http://127.0.0.1:49152``.
        self.url = ""
        self._ready = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def gate(self) -> Gate:
        """The gate of the application, to send through from a test."""
        return gate(self.application.registry)  # type: ignore[attr-defined]

    def websocket_url(self, path: str = "/") -> str:
        """The URL to open a WebSocket at."""
        return "ws" + self.url.removeprefix("http") + path

    def start(self) -> LiveServer:
        """Serve; returns when it listens, and raises what kept it from that."""
        self._thread.start()
        if not self._ready.wait(DEADLINE):  # pragma: no cover - only where a machine hangs
            raise TimeoutError(f"the server did not start within {DEADLINE} s")
        if self._failed is not None:
            raise self._failed
        return self

    def stop(self) -> None:
        """Stop as after SIGTERM: WebSockets get 1001. Returns when all has ended."""
        if self._thread.is_alive():
            engine = self.server.engine
            engine.call_from_thread(engine.spawn, self.server.stop)
            self._thread.join(DEADLINE)
        if self._thread.is_alive():  # pragma: no cover - only where a machine hangs
            raise TimeoutError(f"the server did not stop within {DEADLINE} s")

    def __enter__(self) -> LiveServer:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            self.server = Server(self.application, self.settings)
            self.url = self.server.urls[0]
        except BaseException as error:
            self._failed = error
            return
        finally:
            self._ready.set()
        try:
            self.server.serve()
        finally:
            self.server.engine.close()
