"""RFC 6455 and 7692 as plainly as can be: what a stream of a browser's means, all of it at hand.

The reference for ``stargate.message.incoming``, of which nothing is used here. Slow, and no pieces:
each frame is judged by as much of it as there is, so that "as early as can be" needs no care.
"""

from __future__ import annotations

import struct
from codecs import getincrementaldecoder

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Frame, Opcode

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

#: The codes that a close frame may carry (section 7.4, and IANA's registry).
CLOSE_CODES = frozenset((*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)))


class Failed(Exception):
    """The connection fails with this code."""


class Rules:
    """Reads a stream up to its first violation or close frame.

    ``messages`` are those that it completes; ``answers`` what a server says: ``("pong", payload)``,
    ``("close", payload)`` for the echo of a close frame, ``("fail", code)``, and ``"end"``.
    """

    def __init__(self, limit, most_fragments, extension=None):
        self._limit, self._most, self._extension = limit, most_fragments, extension
        self._at = 0
        self._closing = False
        #: Of the message that has come in part: its opcode, content, number of fragments.
        self._opcode, self._content, self._count, self._deflated = None, b"", 0, False
        self._decoder = None
        self.messages, self.answers = [], []

    @property
    def over(self):
        return "end" in self.answers

    def say_goodbye(self, code):
        """The server closes, between what has been read and what will be."""
        self._closing = True
        self.answers.append(("fail", code))

    def read(self, stream):
        """Go on reading ``stream``, which begins with what was read before."""
        try:
            while not self.over and self._frame(stream):
                pass
        except Failed as failed:
            if not self._closing:
                self.answers.append(("fail", failed.args[0]))
            self.answers.append("end")
        return self

    def _frame(self, stream):
        """Read one frame; false where it has not come whole."""
        rest = stream[self._at :]
        if len(rest) < 2:
            return False
        fin, reserved, opcode = rest[0] & 0x80, rest[0] & 0x70, rest[0] & 0x0F
        self._judge(rest[0], rest[1])
        length, begin = rest[1] & 0x7F, 2
        if length > 125:
            size = 2 if length == 126 else 8
            if len(rest) < 2 + size:
                return False
            length, begin = int.from_bytes(rest[2 : 2 + size], "big"), 2 + size
        deflated = self._deflated if opcode == CONT else bool(reserved)
        slack = self._limit // 64 + 64 if deflated else 0
        if opcode < 8 and length > max(0, self._limit - len(self._content)) + slack:
            raise Failed(1009)
        mask, masked = rest[begin : begin + 4], rest[begin + 4 : begin + 4 + length]
        payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(masked))
        if len(mask) < 4 or len(payload) < length:
            self._look_ahead(opcode, deflated, payload)
            return False
        self._at += begin + 4 + length
        if opcode < 8:
            self._take(opcode, bool(fin), deflated, payload)
        elif opcode == PING:
            self.answers.append(("pong", payload))
        elif opcode == CLOSE:
            self._close(payload)
        return True

    def _judge(self, head, second):
        opcode, reserved = head & 0x0F, head & 0x70
        may_be_deflated = self._extension is not None and opcode in (TEXT, BINARY)
        if (
            opcode not in (CONT, TEXT, BINARY, CLOSE, PING, PONG)
            or not second & 0x80
            or reserved not in ((0, 0x40) if may_be_deflated else (0,))
            or (opcode >= 8 and (second & 0x7F > 125 or not head & 0x80))
            or (opcode == CONT and self._opcode is None)
            or (opcode in (TEXT, BINARY) and self._opcode is not None)
        ):
            raise Failed(1002)

    def _look_ahead(self, opcode, deflated, payload):
        if deflated or self._closing:
            return
        if opcode == TEXT:
            decode(getincrementaldecoder("utf-8")(), payload)
        elif opcode == CONT and self._opcode == TEXT:
            decoder = getincrementaldecoder("utf-8")()
            decode(decoder, self._content)
            decode(decoder, payload)

    def _take(self, opcode, fin, deflated, payload):
        if opcode != CONT:
            self._opcode, self._content, self._count = opcode, b"", 0
            self._deflated, self._decoder = deflated, getincrementaldecoder("utf-8")()
        if deflated:
            payload = self._inflate(opcode, fin, payload)
        self._content += payload
        self._count += 1
        if not self._closing:
            if len(self._content) > self._limit:
                raise Failed(1009)
            if self._opcode == TEXT:
                decode(self._decoder, payload, fin)
            if not fin and self._count >= self._most:
                raise Failed(1009)
            if fin:
                text = self._opcode == TEXT
                self.messages.append(self._content.decode() if text else self._content)
        if fin:
            self._opcode, self._content, self._deflated = None, b"", False

    def _inflate(self, opcode, fin, payload):
        room = self._limit + self._limit // 64 + 64 - len(self._content)
        if len(payload) > room:
            raise Failed(1009)
        frame = Frame(Opcode(opcode), payload, fin, rsv1=opcode != CONT)
        try:
            return bytes(self._extension.decode(frame, max_size=room).data)
        except PayloadTooBig:
            raise Failed(1009) from None
        except ProtocolError:
            raise Failed(1002) from None

    def _close(self, payload):
        if len(payload) == 1:
            raise Failed(1002)
        if payload:
            decode(getincrementaldecoder("utf-8")(), payload[2:], True)
            if struct.unpack("!H", payload[:2])[0] not in CLOSE_CODES:
                raise Failed(1002)
        if not self._closing:
            self.answers.append(("close", payload))
        self.answers.append("end")


def decode(decoder, payload, final=False):
    try:
        decoder.decode(payload, final)
    except UnicodeDecodeError:
        raise Failed(1007) from None


def answers_in(written):
    """What a server has written, as ``Rules`` tells it; ``b""`` is the end of it."""
    found = []
    for each in written:
        if not each:
            found.append("end")
            continue
        length = each[1]
        assert length < 126 and len(each) == 2 + length, each
        kind = {0x8A: "pong", 0x88: "close"}[each[0]]
        found.append((kind, each[2:]))
    return found


def same(answers, expected):
    """Whether ``answers`` are the ``expected`` ones; of a failure the code alone is looked at."""
    return len(answers) == len(expected) and all(map(_alike, answers, expected))


def _alike(answer, expected):
    if expected[0] != "fail":
        return answer == expected
    return answer[0] == "close" and answer[1][:2] == struct.pack("!H", expected[1])


def frame(head, payload, masked=True, size=None, mask=b"\x07\x00\xff\x5a"):
    """A client's frame; its length is written in ``size`` bytes where it fits in."""
    length, bit = len(payload), 0x80 if masked else 0
    least = 0 if length < 126 else 2 if length < 65_536 else 8
    size = least if size is None else max(size, least)
    if size == 0:
        start = struct.pack("!BB", head, bit | length)
    elif size == 2:
        start = struct.pack("!BBH", head, bit | 126, length)
    else:
        start = struct.pack("!BBQ", head, bit | 127, length)
    if not masked:
        return start + payload
    return start + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
