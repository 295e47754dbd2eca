"""The other end of a WebSocket: what a browser would be, on a socket or on bare lists."""

from __future__ import annotations

import socket
import struct

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

#: A message that a socket does not take many of.
BIG = "x" * 300_000


class Peer:
    """A client that speaks WebSocket on ``sock``, never waits, and may break the rules."""

    def __init__(self, sock) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.messages: list[str | bytes] = []
        self.pongs: list[bytes] = []
        self.pings: list[bytes] = []
        self.ended = False
        self._protocol = Protocol(Side.CLIENT, max_size=None)

    @property
    def close(self):
        """The close frame that came in, or ``None``."""
        return self._protocol.close_rcvd

    def say(self, *messages: str | bytes) -> None:
        for message in messages:
            if isinstance(message, str):
                self._protocol.send_text(message.encode())
            else:
                self._protocol.send_binary(message)
        self.flush()

    def say_fragments(self, opcode: Opcode, *parts: bytes) -> None:
        """Send ``parts`` as the fragments of one message, the last of them final."""
        for number, part in enumerate(parts):
            self.frame(opcode if number == 0 else Opcode.CONT, part, number == len(parts) - 1)

    def frame(self, opcode: Opcode, data: bytes = b"", fin: bool = True) -> None:
        """Send one frame, sensible or not."""
        self.sock.sendall(Frame(opcode, data, fin).serialize(mask=True, extensions=[]))

    def offer(self, data: bytes) -> int:
        """Send what the socket takes of ``data``; returns how many bytes that was."""
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0

    def ping(self, payload: bytes) -> None:
        self._protocol.send_ping(payload)
        self.flush()

    def say_close(self, code: int | None = 1000, reason: str = "") -> None:
        self._protocol.send_close(code, reason)
        self.flush()

    def flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self.sock.sendall(data)

    def read(self, answer: bool = True) -> list[str | bytes]:
        """All messages that have come in so far; answers a close frame unless told not to."""
        while not self.ended:
            try:
                data = self.sock.recv(65536)
            except BlockingIOError:
                break
            except ConnectionError:
                data = b""
            if not data:
                self.ended = True
                break
            self._protocol.receive_data(data)
            for frame in self._protocol.events_received():
                self._take(frame)
        if answer and not self.ended:
            self.flush()
        return self.messages

    def _take(self, frame: Frame) -> None:
        payload = bytes(frame.data)
        if frame.opcode is Opcode.TEXT:
            self.messages.append(payload.decode())
        elif frame.opcode is Opcode.BINARY:
            self.messages.append(payload)
        elif frame.opcode is Opcode.PONG:
            self.pongs.append(payload)
        elif frame.opcode is Opcode.PING:
            self.pings.append(payload)


def client_frame(message: str) -> bytes:
    """One text message as a client puts it on the wire."""
    return Frame(Opcode.TEXT, message.encode()).serialize(mask=True, extensions=[])


class DummyListener:
    """What a walk and a topic ask of a connection, with a list in the place of the socket."""

    def __init__(self, form: int | None = None) -> None:
        self._form = form
        self._served = 0
        self._topics: tuple = ()
        self.buffers: list[bytes] = []
        self.held: list[tuple[bytes, int]] = []
        self.lost = False

    def _write(self, buffer: bytes) -> int:
        self.buffers.append(buffer)
        return len(buffer)

    def _hold(self, buffer: bytes, sent: int) -> None:
        self.held.append((buffer, sent))

    def _lose(self) -> None:
        self.lost = True

    def _set_policy(self, topic, policy: str) -> None:
        pass

    @property
    def got(self) -> list[str]:
        """The short text messages in what was written."""
        data, found = b"".join(self.buffers), []
        while data:
            found.append(data[2 : 2 + data[1]].decode())
            data = data[2 + data[1] :]
        return found


class DummyEngine:
    """An engine whose turns are made by the test."""

    turns = 0

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def call_soon(self, function, *args) -> None:
        self.calls.append((function, args))

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for function, args in calls:
            function(*args)


class Scripted:
    """A connection's own socket, but for what the test has put in the place of a method."""

    def __init__(self, websocket, **methods):
        self._sock = websocket._sock
        self.__dict__.update(methods)
        websocket._sock = self

    def __getattr__(self, name):
        return getattr(self._sock, name)


def raises(error):
    def method(*_args):
        raise error

    return method


def fill(websocket):
    """Send until the kernel takes no more; returns how many messages that took."""
    count = 0
    while not websocket.buffered:
        websocket.send(BIG)
        count += 1
    return count


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
