"""Frames in, messages out: fragments are put together and text is decoded; no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from websockets.frames import Opcode

if TYPE_CHECKING:
    from websockets.frames import Frame
    from websockets.typing import BytesLike

INVALID_DATA, TOO_BIG = 1007, 1009


class Violation(Exception):
    """What came in fails the connection, with this code and reason (RFC 6455, section 7.1.7)."""

    def __init__(self, code: int, reason: str) -> None:
        self.code, self.reason = code, reason
        super().__init__(f"{code} {reason}")


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
    """The message in a text or a binary frame."""
    if opcode is Opcode.BINARY:
        return bytes(payload)
    try:
        return str(payload, "utf-8")
    except UnicodeDecodeError as error:
        raise Violation(INVALID_DATA, f"{error.reason} at position {error.start}") from None
