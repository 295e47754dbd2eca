"""Bytes in, messages out: frames are told apart, fragments put together, text decoded; no I/O.

A whole message in one plain frame, which is nearly every one that a browser sends, is read here.
All else (control frames, fragments, compression) is taken apart and answered by the ``websockets``
library, a frame at a time, behind what it would see late or in another way than RFC 6455 has it:

- text that is not UTF-8 fails with the first bytes of it that show it (section 8.1), however they
  are cut into frames and reads;
- what is wrong with a frame by its first two bytes fails before its payload has come;
- control frames may come between the fragments of a message (section 5.4), a close frame too, and
  the size of messages is no limit to them;
- that size is the inflated one: what cannot be compressed is a little longer on the wire.
"""

from __future__ import annotations

import logging
import sys
from codecs import utf_8_decode
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING

from websockets.frames import Opcode, apply_mask  # type: ignore[attr-defined]
from websockets.protocol import OPEN, Protocol, Side

from stargate.message.message import BINARY, CLOSE, FIN, PONG, RSV1, TEXT

if TYPE_CHECKING:
    from websockets.extensions import Extension
    from websockets.frames import Frame
    from websockets.typing import BytesLike

    from stargate.settings.application import Limits

protocol_log = logging.getLogger("stargate.protocol")

PROTOCOL_ERROR, INVALID_DATA, POLICY, TOO_BIG = 1002, 1007, 1008, 1009

#: The first byte of a frame that is a whole message: final, not compressed.
WHOLE_TEXT, WHOLE_BINARY = FIN | TEXT, FIN | BINARY
WHOLE = frozenset((WHOLE_TEXT, WHOLE_BINARY))

#: The opcodes that there are (RFC 6455, section 5.2), and the bit that all for control have.
OPCODES, CONTROL = frozenset(Opcode), 0x8

#: The bits of the first byte that are for extensions.
RESERVED = 0x70

#: The second byte of a frame from a browser: always masked, then the length.
MASKED, MASKED_16_BITS = 0x80, 0x80 | 126

#: What one call does at most, in units of about 2 us: a plain frame is one, a frame that goes
#: through the library eight, and every KiB that it has inflated to another.
WORK, WORK_OF_LIBRARY, UNIT_BYTES = 256, 8, 1024

#: A pong that nobody asked for, which is ignored (RFC 6455, section 5.5.3), with a mask of zeros.
EMPTY_PONG = bytes((FIN | PONG, MASKED, 0, 0, 0, 0))

UNBOUNDED = sys.maxsize


class Violation(Exception):
    """What came in fails the connection, with this code and reason (RFC 6455, section 7.1.7)."""

    def __init__(self, code: int, reason: str) -> None:
        self.code, self.reason = code, reason
        super().__init__(f"{code} {reason}")


class TooBig(Violation):
    """A message is longer than ``stargate.max_message_size``."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(TOO_BIG, f"over {limits.max_message_size} bytes")


class Incoming:
    """What one peer says. Made when it first says something: most listeners never do."""

    __slots__ = (
        "_controls",
        "_fragments",
        "_limits",
        "_partial",
        "_rate",
        "_slack",
        "due",
        "protocol",
        "rest",
        "too_fast",
    )

    def __init__(self, limits: Limits, extensions: list[Extension]) -> None:
        #: How much longer than its content a message may be on the wire, when it is compressed.
        self._slack = limits.max_message_size // 64 + 64 if extensions else 0
        #: The state of the connection as RFC 6455 has it, and what is to be answered.
        self.protocol = Protocol(
            Side.SERVER, max_size=limits.max_message_size + self._slack, logger=protocol_log
        )
        self.protocol.extensions = extensions
        self._limits = limits
        self._fragments: Fragments | None = None
        #: A frame that has come in part.
        self._partial: Partial | None = None
        self._rate = Rate(limits.max_message_rate) if limits.max_message_rate else None
        #: How many control frames have come in this call: they count as messages do.
        self._controls = 0
        #: Whether it has failed because there were too many of both in too short a time.
        self.too_fast = False
        #: What has come in and was not looked at, for lack of room or for the sake of others.
        self.rest = b""
        #: Whether a turn has been asked for to go on with it.
        self.due = False

    def receive(self, data: bytes, room: int = UNBOUNDED) -> list[str | bytes]:
        """The messages that ``data`` completes, in order, and at most ``room`` of them.

        What is beyond that, or beyond a turn's work, stays in ``rest``: call again with ``b""``.
        Ask ``protocol.data_to_send()`` for the answers after each call. What breaks a rule leaves
        ``protocol`` failed, with the close frame to send.
        """
        messages: list[str | bytes] = []
        try:
            if self._partial is not None:
                data = self._complete(self._partial, data)
            elif self.rest:
                data, self.rest = self.rest + data, b""
            self._read(data, room, messages)
            if self._rate is not None:
                self._count(self._rate, messages)
        except Violation as violation:
            self._fail(violation.code, violation.reason)
        except UnicodeDecodeError as error:
            self._fail(INVALID_DATA, f"{error.reason} at position {error.start}")
        return messages

    def _fail(self, code: int, reason: str) -> None:
        self._partial = self._fragments = None
        self.protocol.fail(code, reason)

    def _read(self, data: bytes, room: int, messages: list[str | bytes]) -> None:
        """Take the frames that are whole; keep the beginning of one that is not."""
        start, size, work = 0, len(data), WORK
        protocol, most = self.protocol, self._most()
        counts = protocol.state is OPEN
        while size - start > 1 and most >= 0:
            head, second = data[start], data[start + 1]
            plain = head in WHOLE and second >= MASKED and protocol.current_size is None
            if not plain:
                self._check(head, second)
            if second < MASKED_16_BITS:
                begin = start + 6
                end = begin + second - MASKED
            else:
                begin, end = long_extent(data, start)
            if end - begin > most:
                self._check_size(head, end - begin - most)
            if end > size:
                self._partial = Partial(data[start:], begin - start, end - start, self._text(head))
                return
            if not plain:
                work -= self._leave_to_protocol(data[start:end], messages)
                most = self._most()
            else:
                work -= 1
                if counts:
                    payload = apply_mask(data[begin:end], data[begin - 4 : begin])
                    messages.append(str(payload, "utf-8") if head == WHOLE_TEXT else payload)
            start = end
            if start < size and (work <= 0 or len(messages) >= room):
                self.rest = data[start:]
                return
        if start < size and most >= 0:
            self._partial = Partial(data[start:], 6, 2, None)

    def _most(self) -> int:
        """How long the payload of the next frame may be; less than nothing when all is over."""
        protocol = self.protocol
        if protocol.eof_sent:
            return -1
        return max(0, self._limits.max_message_size - (protocol.current_size or 0))

    def _check(self, head: int, second: int) -> None:
        protocol = self.protocol
        wrong = fault(head, second, bool(protocol.extensions), protocol.current_size is not None)
        if wrong:
            raise Violation(PROTOCOL_ERROR, wrong)

    def _check_size(self, head: int, excess: int) -> None:
        """A frame announces ``excess`` bytes more than the message may have."""
        fragments = self._fragments
        deflated = head & RSV1 or (fragments is not None and fragments.deflated)
        if not head & CONTROL and (not deflated or excess > self._slack):
            raise TooBig(self._limits)

    def _complete(self, partial: Partial, data: bytes) -> bytes:
        """All there is of a frame that had come in part, or nothing as long as more is to come."""
        found = partial.add(data)
        if found:
            self._partial = None
        return found

    def _text(self, head: int) -> Text | None:
        """What looks at the payload of a frame while it is coming: for plain text only."""
        if self.protocol.state is not OPEN:
            return None
        if head & ~FIN == TEXT:
            return Text()
        fragments = self._fragments
        if head & ~FIN or fragments is None or fragments.deflated or fragments.text is None:
            return None
        return fragments.text.copy()  # It is given the whole fragment later on.

    def _leave_to_protocol(self, data: bytes, messages: list[str | bytes]) -> int:
        """Have the library take one frame; returns what work that was."""
        head = data[0]
        if head & CONTROL:
            return self._leave_control(head, data)
        protocol = self.protocol
        counts = protocol.state is OPEN
        work = WORK_OF_LIBRARY
        protocol.receive_data(data)
        for frame in protocol.events_received():
            work += len(frame.data) // UNIT_BYTES  # type: ignore[union-attr]
            if counts:
                self._add(frame, bool(head & RSV1), messages)  # type: ignore[arg-type]
        if work > WORK_OF_LIBRARY:
            self._forget_frame()
        return work

    def _forget_frame(self) -> None:
        """Have the library forget the frame that it read last: it holds it until the next one."""
        self.protocol.receive_data(EMPTY_PONG)
        self.protocol.events_received()

    def _leave_control(self, head: int, data: bytes) -> int:
        protocol = self.protocol
        if head == FIN | CLOSE:
            # The library would call it a violation between fragments; nothing follows it.
            protocol.current_size = self._fragments = None
        most, protocol.max_message_size = protocol.max_message_size, None
        protocol.receive_data(data)
        protocol.events_received()
        protocol.max_message_size = most
        self._controls += 1
        return WORK_OF_LIBRARY

    def _add(self, frame: Frame, deflated: bool, messages: list[str | bytes]) -> None:
        fragments = self._fragments
        if fragments is not None:
            message = fragments.add(frame)
            if message is not None:
                self._fragments = None
                messages.append(message)
        elif frame.fin:
            if len(frame.data) > self._limits.max_message_size:
                raise TooBig(self._limits)
            messages.append(decode(frame.opcode, frame.data))
        else:
            self._fragments = Fragments(frame, self._limits, deflated)

    def _count(self, rate: Rate, messages: list[str | bytes]) -> None:
        """Take what has come out of the bucket; what was too much is not delivered."""
        controls, self._controls = self._controls, 0
        excess = rate.take(len(messages) + controls)
        if excess and self.protocol.state is OPEN:
            del messages[max(0, len(messages) - excess) :]
            self.too_fast = True
            raise Violation(POLICY, f"over {rate.most} messages a second")


def fault(head: int, second: int, deflates: bool, amid: bool) -> str:
    """What is wrong with a frame by its first two bytes alone, or ``""``.

    ``deflates``: compression was agreed on; ``amid``: it comes between the fragments of a message.
    """
    opcode, reserved = head & 0x0F, head & RESERVED
    if opcode not in OPCODES:
        return "invalid opcode"
    if second < MASKED:
        return "incorrect masking"
    if reserved and not (reserved == RSV1 and deflates and opcode in (TEXT, BINARY)):
        return "reserved bits must be 0"
    if opcode & CONTROL:
        if second >= MASKED_16_BITS:
            return "control frame too long"
        return "" if head & FIN else "fragmented control frame"
    if opcode:
        return "expected a continuation frame" if amid else ""
    return "" if amid else "unexpected continuation frame"


def long_extent(data: bytes, start: int) -> tuple[int, int]:
    """Where the payload of a frame with a long length begins, and where it ends.

    The end is beyond ``data`` as long as the length itself has not come.
    """
    begin = start + (8 if data[start + 1] == MASKED_16_BITS else 14)
    if len(data) < begin - 4:
        return begin, begin - 4
    return begin, begin + int.from_bytes(data[start + 2 : begin - 4], "big")


class Partial:
    """A frame that has come in part, and what looks at its text before all of it is there."""

    __slots__ = ("_begin", "_buffer", "_needed", "_seen", "_text")

    def __init__(self, data: bytes, begin: int, needed: int, text: Text | None) -> None:
        self._buffer, self._text = bytearray(data), text
        #: Where its payload begins, and up to where it was looked at.
        self._begin = self._seen = begin
        #: How many bytes it will have at least.
        self._needed = needed
        self._look()

    def add(self, data: bytes) -> bytes:
        """Take what comes next; returns all of it and what is behind it when it is whole."""
        self._buffer += data
        if len(self._buffer) >= self._needed:
            return bytes(self._buffer)
        self._look()
        return b""

    def _look(self) -> None:
        buffer, begin, seen = self._buffer, self._begin, self._seen
        if self._text is None or len(buffer) <= seen:
            return
        mask, turn = buffer[begin - 4 : begin], (seen - begin) % 4
        self._text.feed(apply_mask(buffer[seen:], mask[turn:] + mask[:turn]))
        self._seen = len(buffer)


class Text:
    """Looks at text that comes in pieces, cut anywhere; a ``Violation`` as soon as it is none."""

    __slots__ = ("_pending", "_position")

    def __init__(self, pending: bytes = b"", position: int = 0) -> None:
        #: The beginning of a character whose end has not come, and where in the text that is.
        self._pending, self._position = pending, position

    def copy(self) -> Text:
        """One that goes on from here by itself."""
        return Text(self._pending, self._position)

    def feed(self, piece: BytesLike) -> None:
        """Look at the next bytes."""
        found = self._pending + piece if self._pending else piece
        try:
            used = utf_8_decode(found, "strict", False)[1]
        except UnicodeDecodeError as error:
            where = self._position + error.start
            raise Violation(INVALID_DATA, f"{error.reason} at position {where}") from None
        self._pending = bytes(found[used:])
        self._position += used


class Fragments:
    """A message that has come in part."""

    __slots__ = ("_count", "_limits", "_opcode", "_payload", "deflated", "text")

    def __init__(self, first: Frame, limits: Limits, deflated: bool = False) -> None:
        self._opcode, self._payload = first.opcode, bytearray()
        self._count, self._limits = 0, limits
        #: Whether they come compressed: what is on the wire is no text then.
        self.deflated = deflated
        self.text = Text() if first.opcode is Opcode.TEXT else None
        self.add(first)

    def add(self, frame: Frame) -> str | bytes | None:
        """Take the next fragment; returns the message if it was the last."""
        self._payload += frame.data
        self._count += 1
        if len(self._payload) > self._limits.max_message_size:
            raise TooBig(self._limits)
        if self.text is not None:
            self.text.feed(frame.data)
        if frame.fin:
            return decode(self._opcode, self._payload)
        if self._count >= self._limits.max_fragments:
            raise Violation(TOO_BIG, f"over {self._limits.max_fragments} fragments")
        return None


def decode(opcode: Opcode, payload: BytesLike) -> str | bytes:
    """The message in a text or a binary frame; raises ``UnicodeDecodeError``."""
    return bytes(payload) if opcode is Opcode.BINARY else str(payload, "utf-8")


class Rate:
    """A bucket of one second's worth of messages, which fills up as time goes by."""

    __slots__ = ("_at", "_left", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._left, self._at = float(most), monotonic()

    def take(self, count: int) -> int:
        """Take ``count`` out; returns how many were not there."""
        now = monotonic()
        self._left = min(self.most, self._left + (now - self._at) * self.most) - count
        self._at = now
        return max(0, ceil(-self._left))
