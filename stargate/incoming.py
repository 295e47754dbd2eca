"""Bytes in, messages out: frames are told apart, fragments put together, text decoded; no I/O.

A whole message in one plain frame, which is nearly every one that a browser sends, is read here;
all else (control frames, fragments, compression, whatever breaks a rule) is the ``websockets``
library's, which also says what the peer has to be answered.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from websockets.frames import Opcode, apply_mask  # type: ignore[attr-defined]
from websockets.protocol import OPEN, Protocol, Side

from stargate.message import BINARY, FIN, TEXT

if TYPE_CHECKING:
    from websockets.extensions import Extension
    from websockets.frames import Frame
    from websockets.typing import BytesLike

    from stargate.settings import Limits

protocol_log = logging.getLogger("stargate.protocol")

INVALID_DATA, TOO_BIG = 1007, 1009

#: The first byte of a frame that is a whole message: final, not compressed.
WHOLE_TEXT, WHOLE_BINARY = FIN | TEXT, FIN | BINARY
WHOLE = frozenset((WHOLE_TEXT, WHOLE_BINARY))

#: The opcodes that there are (RFC 6455, section 5.2): any other fails without its payload.
OPCODES = frozenset(Opcode)

#: The second byte of a frame from a browser: always masked, then the length.
MASKED, MASKED_16_BITS = 0x80, 0x80 | 126


class Violation(Exception):
    """What came in fails the connection, with this code and reason (RFC 6455, section 7.1.7)."""

    def __init__(self, code: int, reason: str) -> None:
        self.code, self.reason = code, reason
        super().__init__(f"{code} {reason}")


class Incoming:
    """What one peer says. Made when it first says something: most listeners never do."""

    __slots__ = ("_fragments", "_limits", "_needed", "_partial", "protocol")

    def __init__(self, limits: Limits, extensions: list[Extension]) -> None:
        #: The state of the connection as RFC 6455 has it, and what is to be answered.
        self.protocol = Protocol(Side.SERVER, max_size=limits.max_message_size, logger=protocol_log)
        self.protocol.extensions = extensions
        self._limits = limits
        self._fragments: Fragments | None = None
        #: A frame that has come in part, and how many bytes it will have at least.
        self._partial: bytearray | None = None
        self._needed = 0

    def receive(self, data: bytes) -> list[str | bytes]:
        """The messages that ``data`` completes, in order.

        Ask ``protocol.data_to_send()`` for the answers afterwards. What breaks a rule leaves
        ``protocol`` failed, with the close frame to send.
        """
        if self._partial is not None:
            self._partial += data
            if len(self._partial) < self._needed:
                return []
            data, self._partial = bytes(self._partial), None
        messages: list[str | bytes] = []
        try:
            self._read(data, messages)
        except Violation as violation:
            self.protocol.fail(violation.code, violation.reason)
        except UnicodeDecodeError as error:
            self.protocol.fail(INVALID_DATA, f"{error.reason} at position {error.start}")
        return messages

    def _read(self, data: bytes, messages: list[str | bytes]) -> None:
        """Take the frames that are whole; keep the beginning of one that is not."""
        start, size = 0, len(data)
        limit = self._room()
        while size - start > 1 and limit >= 0:
            second = data[start + 1]
            if MASKED <= second < MASKED_16_BITS:
                begin = start + 6
                end = begin + second - MASKED
            elif second >= MASKED:
                begin, end = long_extent(data, start)
            else:
                break  # Not masked: no need to wait for the rest of it.
            if end - begin > limit:
                break  # Nor here: it announces too much.
            if end > size:
                if data[start] & 0x0F not in OPCODES:
                    break
                self._keep(data[start:], end - start)
                return
            head = data[start]
            if head in WHOLE and self._fragments is None:
                payload = apply_mask(data[begin:end], data[begin - 4 : begin])
                messages.append(str(payload, "utf-8") if head == WHOLE_TEXT else payload)
            else:
                self._leave_to_protocol(data[start:end], messages)
                limit = self._room()
            start = end
        if size - start == 1 and limit >= 0:
            self._keep(data[start:], 2)
        elif start < size:
            self._leave_to_protocol(data[start:], messages)

    def _room(self) -> int:
        """How long the payload of the next frame may be; less than nothing when all is over."""
        protocol = self.protocol
        if protocol.state is not OPEN:
            return -1
        return self._limits.max_message_size - (protocol.current_size or 0)

    def _keep(self, partial: bytes, needed: int) -> None:
        self._partial, self._needed = bytearray(partial), needed

    def _leave_to_protocol(self, data: bytes, messages: list[str | bytes]) -> None:
        protocol = self.protocol
        counts = protocol.state is OPEN
        protocol.receive_data(data)
        for frame in protocol.events_received():
            if counts:
                self._add(frame, messages)  # type: ignore[arg-type]

    def _add(self, frame: Frame, messages: list[str | bytes]) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            if frame.fin:
                messages.append(decode(opcode, frame.data))
            else:
                self._fragments = Fragments(frame, self._limits.max_fragments)
        elif opcode is Opcode.CONT and self._fragments is not None:
            message = self._fragments.add(frame)
            if message is not None:
                self._fragments = None
                messages.append(message)


def long_extent(data: bytes, start: int) -> tuple[int, int]:
    """Where the payload of a frame with a long length begins, and where it ends.

    The end is beyond ``data`` as long as the length itself has not come.
    """
    begin = start + (8 if data[start + 1] == MASKED_16_BITS else 14)
    if len(data) < begin - 4:
        return begin, begin - 4
    return begin, begin + int.from_bytes(data[start + 2 : begin - 4], "big")


class Fragments:
    """A message that has come in part; its size is bounded by the protocol, their number here."""

    __slots__ = ("_count", "_most", "_opcode", "_payload")

    def __init__(self, first: Frame, most: int) -> None:
        self._opcode, self._payload = first.opcode, bytearray(first.data)
        self._count, self._most = 1, most

    def add(self, frame: Frame) -> str | bytes | None:
        """Take the next fragment; returns the message if it was the last."""
        self._payload += frame.data
        self._count += 1
        if frame.fin:
            return decode(self._opcode, self._payload)
        if self._count >= self._most:
            raise Violation(TOO_BIG, f"over {self._most} fragments")
        return None


def decode(opcode: Opcode, payload: BytesLike) -> str | bytes:
    """The message in a text or a binary frame; raises ``UnicodeDecodeError``."""
    return bytes(payload) if opcode is Opcode.BINARY else str(payload, "utf-8")
