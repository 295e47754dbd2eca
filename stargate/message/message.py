"""A message encoded once: its frame for plain WebSockets and one for each other form.

A form is a whole number, or ``None`` for the plain frame: the window of a peer that inflates (RFC
7692), and :data:`ENVELOPE` more for one that speaks ``stargate.v1``. No I/O, and nothing about who
receives it.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from stargate.message.envelope import envelope

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
FIN, RSV1 = 0x80, 0x40

#: Payloads below this many bytes leave uncompressed: deflate would make most of them longer.
DEFLATE_FROM = 64

_EMPTY_BLOCK = b"\x00\x00\xff\xff"


#: What a form has on top for listeners that get each message in an envelope.
ENVELOPE = 32


class Sent(NamedTuple):
    """What became of a message that was sent."""

    #: Its id; ``None`` where nothing is kept of its address.
    id: str | None
    #: How many processes listen there, by the number of connections that it was given to.
    processes: int
    #: Whether it was sent before with the same key, and not now; then nobody was counted.
    repeated: bool


class Message:
    """One message of the application, ``str`` or ``bytes``, and the frames that carry it.

    A ``TypeError`` says what else was given. The frames are unmasked and unfragmented (RFC 6455,
    section 5.2: a server never masks), each made when it is first asked for and shared by all.
    ``json`` tells that a text is JSON, ``id`` is the message's id where it is kept.
    """

    __slots__ = ("_frames", "frame", "id", "json", "opcode", "payload")

    def __init__(self, message: str | bytes, *, json: bool = False, id: str | None = None) -> None:
        self.opcode, self.payload = taken_apart(message)
        self.frame = frame(FIN | self.opcode, self.payload)
        self.json, self.id = json, id
        self._frames: dict[int, bytes] | None = None

    def frame_as(self, form: int | None) -> bytes:
        """The frame for a listener that takes its messages in ``form``.

        Compressed with no context from the message before, so that it fits every such listener.
        """
        if form is None or (form < ENVELOPE and len(self.payload) < DEFLATE_FROM):
            return self.frame
        if self._frames is None:
            self._frames = {}
        found = self._frames.get(form)
        if found is None:
            found = self._frames[form] = self._made(form)
        return found

    def _made(self, form: int) -> bytes:
        opcode, payload, window_bits = self.opcode, self.payload, form
        if form >= ENVELOPE:
            opcode, window_bits = TEXT, form - ENVELOPE
            payload = envelope(payload, self.id, json=self.json, binary=self.opcode == BINARY)
        if window_bits and len(payload) >= DEFLATE_FROM:
            return frame(FIN | RSV1 | opcode, deflate(payload, window_bits))
        return frame(FIN | opcode, payload)


def taken_apart(message: str | bytes) -> tuple[int, bytes]:
    """Opcode and payload of ``message``; a ``TypeError`` says what else was given."""
    if isinstance(message, str):
        return TEXT, message.encode()
    if isinstance(message, bytes):
        return BINARY, message
    raise TypeError(
        f"a message is str (text) or bytes (binary), not {type(message).__name__}; "
        "send_json() takes any value that the JSON renderer takes"
    )


def frame_for(message: str | bytes, form: int | None, json: bool = False) -> bytes:
    """The frame of a message for a single listener, as :class:`Message` makes it for many."""
    if form is not None:
        return Message(message, json=json).frame_as(form)
    opcode, payload = taken_apart(message)
    return frame(FIN | opcode, payload)


def frame(head: int, payload: bytes) -> bytes:
    """One unmasked frame: the first byte as given, the length, the payload."""
    length = len(payload)
    if length < 126:
        return bytes((head, length)) + payload
    if length < 65536:
        return struct.pack("!BBH", head, 126, length) + payload
    return struct.pack("!BBQ", head, 127, length) + payload


def frame_end(buffer: bytes, start: int) -> int:
    """Where the unmasked frame that begins at ``start`` ends."""
    length = buffer[start + 1]
    if length < 126:
        return start + 2 + length
    begin = start + (4 if length == 126 else 10)
    return begin + int.from_bytes(buffer[start + 2 : begin], "big")


def deflate(payload: bytes, window_bits: int) -> bytes:
    """``payload`` as permessage-deflate wants it (RFC 7692, section 7.2.1)."""
    encoder = zlib.compressobj(wbits=-window_bits, memLevel=5)
    return (encoder.compress(payload) + encoder.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_EMPTY_BLOCK)
