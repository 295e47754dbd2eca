"""Whatever a peer sends and however it is cut, Incoming reads it as the websockets library does."""

import struct
from functools import cache

from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.frames import Opcode
from websockets.protocol import OPEN, Protocol, Side

from stargate.handshake import _deflate
from stargate.incoming import Incoming, protocol_log
from stargate.message import deflate
from stargate.settings import Limits

LIMIT = 200
LENGTHS = [0, 1, 125, 126, 127, 65535, 65536]
MOST_FRAGMENTS = 4


def extensions(deflates):
    """What the handshake agrees on with a browser, which offers ``client_max_window_bits``."""
    if not deflates:
        return []
    _parameters, extension = _deflate().process_request_params(
        [("client_max_window_bits", None)], []
    )
    return [extension]


class Library:
    """The reference: all goes through the library, and messages are assembled as simply as can be.

    Of ``stargate.incoming`` nothing is used here. The one rule of our own is the number of
    fragments that a message may have.
    """

    def __init__(self, limit, deflates):
        self.protocol = Protocol(Side.SERVER, max_size=limit, logger=protocol_log)
        self.protocol.extensions = extensions(deflates)
        self.messages, self._parts = [], []

    def take(self, piece):
        counts = self.protocol.state is OPEN
        self.protocol.receive_data(piece)
        for frame in self.protocol.events_received():
            if counts and frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._parts.append(frame)
                self._assemble(frame.fin)

    def _assemble(self, fin):
        if fin:
            payload = b"".join(part.data for part in self._parts)
            binary = self._parts[0].opcode is Opcode.BINARY
            self._parts = []
            try:
                self.messages.append(payload if binary else payload.decode())
            except UnicodeDecodeError as error:
                self.protocol.fail(1007, f"{error.reason} at position {error.start}")
        elif len(self._parts) == MOST_FRAGMENTS:
            self.protocol.fail(1009, f"over {MOST_FRAGMENTS} fragments")


class Ours:
    def __init__(self, limit, deflates):
        limits = Limits(max_message_size=limit, max_fragments=MOST_FRAGMENTS)
        self._incoming = Incoming(limits, extensions(deflates))
        self.protocol = self._incoming.protocol
        self.messages = []

    def take(self, piece):
        self.messages += self._incoming.receive(piece)


def outcome(reader, pieces):
    """Messages, both close frames, and every answer in its order, the end of the stream as b""."""
    for piece in pieces:
        if piece is None:
            reader.protocol.send_close(1001, "ours")
        else:
            reader.take(piece)
    protocol = reader.protocol
    types = [type(message) for message in reader.messages]
    closes = protocol.close_rcvd, protocol.close_sent
    return reader.messages, types, closes, protocol.data_to_send()


def bytewise(stream):
    return [bytes((byte,)) for byte in stream]


def cut(stream, cuts):
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    return [stream[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def frame(head, payload, masked=True, size=None, mask=b"\x07\x00\xff\x5a"):
    """A frame of a client, its length written in ``size`` bytes: in the fewest if ``None``."""
    length = len(payload)
    if size is None or length >= 1 << 8 * size or (size == 0 and length > 125):
        size = 0 if length < 126 else 2 if length < 65536 else 8
    bit = 0x80 if masked else 0
    if size == 0:
        start = struct.pack("!BB", head, bit | length)
    elif size == 2:
        start = struct.pack("!BBH", head, bit | 126, length)
    else:
        start = struct.pack("!BBQ", head, bit | 127, length)
    if not masked:
        return start + payload
    return start + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


def beginning(whole, size):
    """The first bytes of a frame whose rest never comes.

    Its mask comes along with its length: Incoming may wait for the one to look at the other.
    """
    head = {126: 8, 127: 14}.get(whole[1] & 127, 6)
    return whole[: head if head - 4 <= size < head else size]


@cache
def long_frame(head, length, size):
    return frame(head, (bytes(range(128)) * 513)[:length], size=size)


def closing_payload(code, reason):
    return struct.pack("!H", code) + reason


payloads = st.one_of(
    st.binary(max_size=12),
    st.text(max_size=8).map(str.encode),
    st.sampled_from([b"x" * length for length in (0, 1, 125, 126, 127, LIMIT, LIMIT + 1)]),
    st.sampled_from([b"\xc3", b"\xa4", b"ok\xff", "ä".encode() * 90]),
)
sizes = st.sampled_from([None, None, 2, 8])
whole = st.builds(
    frame,
    st.sampled_from([0x81, 0x82]),
    payloads,
    size=sizes,
    mask=st.binary(min_size=4, max_size=4),
)
parts = st.builds(frame, st.sampled_from([0x01, 0x02, 0x00, 0x80]), payloads, size=sizes)
controls = st.builds(frame, st.sampled_from([0x89, 0x8A]), st.binary(max_size=5), size=sizes)
closes = st.one_of(
    st.sampled_from([b"", b"\x03", closing_payload(1000, b"x" * 123)]),
    st.builds(
        closing_payload,
        st.sampled_from([0, 999, *range(1000, 1017), 2999, 3000, 4999, 5000, 65535]),
        st.sampled_from([b"", b"bye", "grüß".encode(), b"\xff"]),
    ),
)
closing = st.builds(frame, st.just(0x88), closes)
squeezed = st.one_of(payloads, st.just(b"b" * 5_000)).map(lambda payload: deflate(payload, 12))
deflated = st.builds(frame, st.sampled_from([0xC1, 0xC2, 0x41, 0x42]), squeezed)
deflated_parts = st.tuples(squeezed, st.integers(0, 20)).map(
    lambda both: frame(0x41, both[0][: both[1]]) + frame(0x80, both[0][both[1] :])
)
odd = st.builds(
    frame,
    st.integers(0, 255),
    payloads,
    masked=st.sampled_from([True, True, False]),
    size=sizes,
)
top_bit = st.just(b"\x82\xff\xff" + bytes(11))
sensible = st.one_of(whole, whole, parts, controls, closing, deflated)
frames = st.lists(st.one_of(sensible, sensible, deflated_parts, odd, top_bit), max_size=8)
beginnings = st.one_of(st.just(b""), st.builds(beginning, sensible, st.integers(1, 20)))
streams = st.builds(lambda all_, rest: b"".join(all_) + rest, frames, beginnings)
cuts = st.lists(st.integers(0, 600), max_size=6)
limits = st.sampled_from([LIMIT, LIMIT, 1, 5, 125, 126])


@settings(max_examples=1200, deadline=None, derandomize=True)
@given(stream=streams, deflates=st.booleans(), cuts=cuts, limit=limits)
@example(stream=frame(0x01, b"\xc3") + frame(0x80, b"\xa4"), deflates=False, cuts=[8], limit=LIMIT)
@example(stream=frame(0x01, b"a") + frame(0x81, b"b"), deflates=False, cuts=[], limit=LIMIT)
@example(stream=frame(0x01, b"abcde") + frame(0x80, b""), deflates=False, cuts=[], limit=5)
@example(stream=frame(0x01, b"abcde") + frame(0x89, b"p"), deflates=False, cuts=[12], limit=5)
@example(stream=frame(0x88, b"") + frame(0x81, b"b") * 2, deflates=False, cuts=[9], limit=5)
@example(stream=frame(0x81, b"\xff") + frame(0x89, b"p") * 2, deflates=False, cuts=[], limit=5)
def test_any_stream_however_cut_means_what_the_library_reads(stream, deflates, cuts, limit):
    expected = outcome(Library(limit, deflates), bytewise(stream))
    assert outcome(Ours(limit, deflates), cut(stream, cuts)) == expected


@settings(max_examples=150, deadline=None, derandomize=True)
@given(stream=streams, deflates=st.booleans(), limit=limits)
def test_any_stream_may_come_byte_by_byte(stream, deflates, limit):
    pieces = bytewise(stream)
    assert outcome(Ours(limit, deflates), pieces) == outcome(Library(limit, deflates), pieces)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(stream=streams, deflates=st.booleans(), before=cuts, after=cuts, when=st.integers(0, 300))
def test_any_stream_means_the_same_when_we_say_good_bye_in_the_middle_of_it(
    stream, deflates, before, after, when
):
    first, rest = stream[:when], stream[when:]
    library, ours = Library(LIMIT, deflates), Ours(LIMIT, deflates)
    outcome(library, bytewise(first))
    outcome(ours, cut(first, before))
    if library.protocol.state is not OPEN:
        return
    # A message that was complete before counts, and none that comes after.
    expected = outcome(library, [None, *bytewise(rest)])
    assert outcome(ours, [None, *cut(rest, after)]) == expected


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    shape=st.lists(
        st.tuples(
            st.sampled_from([0x81, 0x82, 0x82, 0x01, 0x00, 0x80, 0x89]),
            st.sampled_from(LENGTHS),
            st.booleans(),
        ),
        max_size=4,
    ),
    cuts=st.lists(st.integers(0, 140_000), max_size=4),
    limit=st.sampled_from([65535, 65536, 131_072]),
)
def test_long_frames_mean_what_the_library_reads(shape, cuts, limit):
    all_ = [long_frame(head, length, 8 if padded else None) for head, length, padded in shape]
    # A frame at a time: for the library it makes no difference, and a byte at a time takes minutes.
    expected = outcome(Library(limit, False), all_)
    assert outcome(Ours(limit, False), cut(b"".join(all_), cuts)) == expected
