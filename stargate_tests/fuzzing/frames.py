"""Frames, and what is none, however they are cut: each view is given what the RFCs say, no more.

The reference reads a whole stream with all of it at hand, one plain rule after the other; of
stargate and of the library under it nothing is used.
"""

from __future__ import annotations

import struct
import time
import zlib
from codecs import getincrementaldecoder
from contextlib import suppress

from hypothesis import strategies as st

from stargate_tests import raw
from stargate_tests.fuzzing.target import LIMIT, MOST_FRAGMENTS
from stargate_tests.rules import frame
from stargate_tests.waiting import DEADLINE

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN, RSV1 = 0x80, 0x40

#: What a close frame may say (RFC 6455, section 7.4, and the registry of IANA).
CODES = frozenset((*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)))

OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"


# What is sent.


def deflated(payload):
    squeezed = zlib.compressobj(wbits=-12)
    return (squeezed.compress(payload) + squeezed.flush(zlib.Z_SYNC_FLUSH))[:-4]


def in_fragments(opcode, payload, cuts, between, compress):
    """One message in fragments, with a control frame behind each but the last."""
    payload, first = (deflated(payload), RSV1) if compress else (payload, 0)
    edges = sorted({0, len(payload), *(cut % (len(payload) + 1) for cut in cuts)})
    parts = [payload[a:b] for a, b in zip(edges, edges[1:], strict=False)] or [b""]
    found = b""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        head = (opcode | first if number == 0 else CONT) | (FIN if last else 0)
        found += frame(head, part) + (b"" if last else between)
    return found


payloads = st.one_of(
    st.binary(max_size=12),
    st.text(max_size=8).map(str.encode),
    st.sampled_from([b"x" * n for n in (0, 1, 125, 126, 127, LIMIT - 1, LIMIT, LIMIT + 1)]),
    st.sampled_from([b"\xc3", b"\xa4", b"ok\xff", "€".encode() * 60, b"\xed\xa0\x80", b"b" * 5000]),
)
sizes = st.sampled_from([None, None, None, 2, 8])
masks = st.binary(min_size=4, max_size=4)
opcodes = st.sampled_from([TEXT, BINARY])
messages = st.builds(
    lambda opcode, payload, size, mask: frame(FIN | opcode, payload, True, size, mask),
    opcodes, payloads, sizes, masks,
)  # fmt: skip
squeezed = st.builds(
    lambda op, payload: frame(FIN | RSV1 | op, deflated(payload)), opcodes, payloads
)
controls = st.builds(frame, st.sampled_from([FIN | PING, FIN | PONG]), st.binary(max_size=6))
reasons = st.sampled_from([b"", b"bye", "grüß".encode(), b"\xff", b"x" * 123])
closes = st.one_of(
    st.sampled_from([b"", b"\x03"]),
    st.builds(
        lambda code, reason: struct.pack("!H", code) + reason,
        st.sampled_from([0, 999, *range(1000, 1017), 2999, 3000, 4999, 5000, 65_535]),
        reasons,
    ),
).map(lambda payload: frame(FIN | CLOSE, payload))
fragmented = st.builds(
    in_fragments,
    opcodes,
    payloads,
    st.lists(st.integers(0, 300), max_size=MOST_FRAGMENTS),
    st.one_of(st.just(b""), st.just(b""), controls, closes),
    st.booleans(),
)
#: Many in one read: more than is looked at in one turn.
many = st.tuples(
    st.sampled_from([frame(FIN | PING, b"p"), frame(FIN | TEXT, b"m")]), st.integers(2, 60)
).map(lambda both: both[0] * both[1])
parts = st.builds(frame, st.sampled_from([TEXT, BINARY, CONT, FIN | CONT]), payloads, size=sizes)
odd = st.builds(
    frame, st.integers(0, 255), payloads, st.sampled_from([True, True, False]), sizes, masks
)
announced = st.builds(
    lambda head, length: struct.pack("!BBQ", head, 0xFF, length),
    st.sampled_from([FIN | TEXT, BINARY, FIN | CONT, FIN | PING]),
    st.sampled_from([0, LIMIT, LIMIT + 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1]),
)
sensible = st.one_of(messages, messages, fragmented, controls, squeezed, many)
streams = st.one_of(
    st.lists(sensible, max_size=6),
    st.lists(st.one_of(sensible, sensible, parts, closes, odd), max_size=6),
    st.builds(list.__add__, st.lists(sensible, max_size=3), st.lists(announced, max_size=1)),
).map(b"".join)
cut_off = st.builds(
    lambda stream, cut: stream[: max(0, len(stream) - cut)], streams, st.integers(0, 9)
)
#: What is sent, where it is cut, and whether compression is agreed on.
cases = st.tuples(
    st.one_of(streams, cut_off),
    st.lists(st.integers(0, 600), max_size=3),
    st.booleans(),
    st.sampled_from([0, 1]),
)


# What is right.


class Failed(Exception):
    """The connection fails, with one of these codes."""

    def __init__(self, *codes):
        self.codes = codes


class Unsure(Exception):
    """The RFCs leave it open, and so do we."""


class Verdict:
    """What a view has to be given, and what the peer has to be told, for a whole stream."""

    def __init__(self, stream, deflates):
        self._stream, self._at, self._deflates = stream, 0, deflates
        #: Of the message in fragments: opcode, whether deflated, frames; ``None`` for none.
        self._opcode, self._deflated, self._frames = None, False, []
        self.messages, self.pongs = [], []
        #: The codes with which it may end, and whether the stream ends it at all.
        self.codes, self.over = (1006,), False
        try:
            while not self.over and self._frame():
                pass
        except Failed as failed:
            self.codes, self.over = failed.codes, True

    def _frame(self):
        rest = self._stream[self._at :]
        if len(rest) < 2:
            return False
        fin, opcode = rest[0] & FIN, rest[0] & 0x0F
        self._judge_head(rest[0], rest[1] & 0x80, rest[1] & 0x7F)
        size = {126: 2, 127: 8}.get(rest[1] & 0x7F, 0)
        if len(rest) < 2 + size:
            return False
        length = int.from_bytes(rest[2 : 2 + size], "big") if size else rest[1] & 0x7F
        self._judge_length(rest[0], length)
        mask, begin = rest[2 + size : 6 + size], 6 + size
        payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(rest[begin : begin + length]))
        if len(rest) < begin + length:
            self._judge_half(rest[0], payload)
            return False
        self._at += begin + length
        if opcode == PING:
            self.pongs.append(payload)
        elif opcode == CLOSE:
            self._close(payload)
        elif opcode != PONG:
            self._part(fin, opcode, rest[0] & RSV1, payload)
        return True

    def _judge_head(self, head, masked, length):
        opcode, bits, amid = head & 0x0F, head & 0x70, self._opcode is not None
        data = opcode in (TEXT, BINARY)
        allowed = (0, RSV1) if data and self._deflates else (0,)
        if (
            opcode not in (CONT, TEXT, BINARY, CLOSE, PING, PONG)
            or not masked
            or bits not in allowed
            or (opcode >= CLOSE and (length > 125 or not head & FIN))
            or (opcode == CONT and not amid)
            or (data and amid)
        ):
            raise Failed(1002)

    def _judge_length(self, head, length):
        if head & 0x0F >= CLOSE:
            return
        if head & RSV1 or self._deflated:
            # What does not get shorter when it is compressed gets longer: how much, who knows.
            if length > 2 * LIMIT + 1000:
                raise Failed(1009)
            if length + sum(map(len, self._frames)) > LIMIT:
                raise Unsure
        elif length + sum(map(len, self._frames)) > LIMIT:
            raise Failed(1009)

    def _judge_half(self, head, payload):
        """Of text that has come in part, what has come has to be some."""
        opcode = head & 0x0F
        whole = b"".join(self._frames) + payload
        if self._opcode == TEXT and not self._deflated and opcode == CONT:
            decode(whole, False)
        elif opcode == TEXT and not head & RSV1:
            decode(payload, False)

    def _part(self, fin, opcode, deflated, payload):
        if opcode != CONT:
            self._opcode, self._deflated, self._frames = opcode, bool(deflated), []
        self._frames.append(payload)
        found = self._content(fin)
        faults = []
        if len(found) > LIMIT:
            faults.append(1009)
        if not fin and len(self._frames) >= MOST_FRAGMENTS:
            faults.append(1009)
        if self._opcode == TEXT:
            with noting(faults):
                found = decode(found, fin)
        if faults:
            raise Failed(*faults)
        if fin:
            self.messages.append(found)
            self._opcode, self._deflated, self._frames = None, False, []

    def _content(self, fin):
        """The message as far as it has come."""
        whole = b"".join(self._frames)
        if not self._deflated:
            return whole
        try:
            return zlib.decompressobj(-12).decompress(whole + (b"\0\0\xff\xff" if fin else b""))
        except zlib.error:
            raise Failed(1002) from None

    def _close(self, payload):
        faults = []
        if len(payload) == 1:
            raise Failed(1002)
        code = int.from_bytes(payload[:2], "big") if payload else 1005
        if payload and code not in CODES:
            faults.append(1002)
        with noting(faults):
            decode(payload[2:], True)
        if faults:
            raise Failed(*faults)
        self.codes, self.over = (code,), True


class noting(suppress):  # noqa: N801 - named as what it is made from
    """``suppress(Failed)``, and a note of the codes."""

    def __init__(self, faults):
        super().__init__(Failed)
        self._faults = faults

    def __exit__(self, kind, error, trace):
        if kind is Failed:
            self._faults.extend(error.codes)
        return super().__exit__(kind, error, trace)


def decode(data, final):
    try:
        return getincrementaldecoder("utf-8")().decode(data, final)
    except UnicodeDecodeError:
        raise Failed(1007) from None


# The two beside each other.


def told(answer):
    """Pongs, and the code of the close frame or ``None``, in what a server has written."""
    pongs, code = [], None
    while answer:
        head, length = answer[0], answer[1]
        payload, answer = answer[2 : 2 + length], answer[2 + length :]
        assert code is None, "a frame behind a close frame"
        assert length < 126 and len(payload) == length and head in (FIN | PONG, FIN | CLOSE)
        if head == FIN | PONG:
            pongs.append(payload)
        else:
            code = int.from_bytes(payload[:2], "big") if payload else 1005
    return pongs, code


def send(server, sock, pieces):
    """Send ``pieces`` one by one, each when the one before has been read."""
    counters, sent = server.gate.counters, 0
    before, opened = counters.bytes_in, counters.connections
    for piece in pieces:
        sock.sendall(piece)
        sent += len(piece)
        end = time.monotonic() + DEADLINE
        while counters.bytes_in - before < sent and counters.connections >= opened:
            assert time.monotonic() < end, "the server does not read"
            time.sleep(0)


def check(target, case):
    """Send it to one of the views, and compare both sides' account of it with the verdict."""
    stream, cuts, deflates, view = case
    try:
        verdict = Verdict(stream, deflates)
    except Unsure:
        return
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    server = target.deflating if deflates else target.plain
    record, query = target.record()
    path = f"/a/@@{target.VIEWS[view]}{query}"
    with raw.connect(server.url, path, *([OFFER] if deflates else [])) as sock:
        with suppress(OSError):  # It may have had enough.
            send(server, sock, pieces)
            sock.shutdown(1)
        pongs, code = told(raw.read_all(sock))
    record.wait()
    assert record.messages == verdict.messages
    assert list(map(type, record.messages)) == list(map(type, verdict.messages))
    assert pongs == verdict.pongs
    assert record.code in verdict.codes, (record.code, verdict.codes)
    assert code == (record.code if verdict.over else None)
    target.check_log()
