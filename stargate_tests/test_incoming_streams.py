"""Whatever a peer sends and however it is cut, Incoming reads it as RFC 6455 has it.

The RFC is ``rules.py``. What the websockets library takes without complaint, Incoming takes alike.
"""

import struct
from functools import cache

from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.frames import Opcode
from websockets.protocol import OPEN, Protocol, Side

from stargate.handshake.upgrade import _deflate
from stargate.message.incoming import Incoming, protocol_log
from stargate.message.message import deflate
from stargate.settings.application import Limits
from stargate_tests.rules import Rules, answers_in, frame, same

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


def rules(limit, deflates):
    return Rules(limit, MOST_FRAGMENTS, *extensions(deflates))


class Ours:
    """Incoming, called again as long as it has left something for lack of room."""

    def __init__(self, limit, deflates, room=1000):
        limits = Limits(max_message_size=limit, max_fragments=MOST_FRAGMENTS)
        self._incoming, self._room = Incoming(limits, extensions(deflates)), room
        self.protocol = self._incoming.protocol
        self.messages, self.written = [], []

    def read(self, pieces):
        for piece in pieces:
            self._take(piece)
            while self._incoming.rest:
                self._take(b"")
        return self

    def _take(self, piece):
        messages = self._incoming.receive(piece, self._room)
        assert len(messages) <= self._room
        self.messages += messages
        self.written += self.protocol.data_to_send()

    def say_goodbye(self, code):
        self.protocol.send_close(code)
        self.written += self.protocol.data_to_send()


def assert_same(ours, rules):
    types = [type(message) for message in ours.messages]
    assert (ours.messages, types) == (rules.messages, [type(each) for each in rules.messages])
    answers = answers_in(ours.written)
    assert same(answers, rules.answers), (answers, rules.answers)


class Library:
    """The websockets library, and messages assembled as simply as can be."""

    def __init__(self, limit, deflates):
        self.protocol = Protocol(Side.SERVER, max_size=limit, logger=protocol_log)
        self.protocol.extensions = extensions(deflates)
        self.messages, self.written, self._parts = [], [], []

    def read(self, pieces):
        for piece in pieces:
            counts = self.protocol.state is OPEN
            self.protocol.receive_data(piece)
            for each in self.protocol.events_received():
                if counts and each.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                    self._parts.append(each)
                    self._assemble(each.fin)
        self.written += self.protocol.data_to_send()
        return self

    @property
    def failed(self):
        return self.protocol.parser_exc is not None

    def _assemble(self, fin):
        if fin:
            payload = b"".join(part.data for part in self._parts)
            binary = self._parts[0].opcode is Opcode.BINARY
            self._parts = []
            self.messages.append(payload if binary else payload.decode(errors="surrogateescape"))


def bytewise(stream):
    return [bytes((byte,)) for byte in stream]


def cut(stream, cuts):
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    return [stream[a:b] for a, b in zip(edges, edges[1:], strict=False)]


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
rooms = st.sampled_from([1, 2, 1000])

RIGHT_AMID = frame(0x01, b"abcde") + frame(0x89, b"p")


@settings(max_examples=1200, deadline=None, derandomize=True)
@given(stream=streams, deflates=st.booleans(), cuts=cuts, limit=limits, room=rooms)
@example(frame(0x01, b"\xc3") + frame(0x80, b"\xa4"), False, [8], LIMIT, 1000)
@example(frame(0x01, b"a") + frame(0x81, b"b"), False, [], LIMIT, 1000)
@example(frame(0x01, b"abcde") + frame(0x80, b""), False, [], 5, 1000)
@example(RIGHT_AMID, False, [12], 5, 1000)
@example(frame(0x01, b"abc") + frame(0x88, b"\x03\xe8") + frame(0x80, b"d"), False, [], 5, 1000)
@example(frame(0x88, b"") + frame(0x81, b"b") * 2, False, [9], 5, 1000)
@example(frame(0x81, b"\xff") + frame(0x89, b"p") * 2, False, [], 5, 1000)
@example(frame(0x81, b"ab\xff--")[:-1], False, [], LIMIT, 1000)
@example(frame(0x01, b"\xed") + frame(0x80, b"\xa0--")[:-2], False, [7], LIMIT, 1000)
@example(frame(0x01, b"\xe2\x82") + frame(0x00, b"\xacab")[:-1], False, [8, 12], LIMIT, 1)
@example(frame(0x01, b"a") + frame(0x00, b"\xff--")[:-1], False, [8], LIMIT, 1)
@example(frame(0x01, b"a") + frame(0x80, "äx".encode()), False, [14], LIMIT, 1)
@example(frame(0xC1, deflate(b"b" * (LIMIT + 10), 12)), True, [], LIMIT, 1)
def test_any_stream_however_cut_means_what_the_rules_say(stream, deflates, cuts, limit, room):
    expected = rules(limit, deflates).read(stream)
    assert_same(Ours(limit, deflates, room).read(cut(stream, cuts)), expected)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(stream=streams, deflates=st.booleans(), limit=limits, room=rooms)
def test_any_stream_may_come_byte_by_byte(stream, deflates, limit, room):
    expected = rules(limit, deflates).read(stream)
    assert_same(Ours(limit, deflates, room).read(bytewise(stream)), expected)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(stream=streams, deflates=st.booleans(), before=cuts, after=cuts, when=st.integers(0, 300))
@example(frame(0x81, b"\xff--")[:-1], False, [], [], 0)
@example(frame(0x41, deflate(b"b" * (LIMIT + 10), 12)) + frame(0x88, b""), True, [], [], 0)
def test_any_stream_means_the_same_when_we_say_good_bye_in_the_middle_of_it(
    stream, deflates, before, after, when
):
    expected, ours = rules(LIMIT, deflates).read(stream[:when]), Ours(LIMIT, deflates)
    ours.read(cut(stream[:when], before))
    if expected.over:
        return
    for each in (expected, ours):
        each.say_goodbye(1001)
    # A message that was complete before counts, and none that comes after.
    assert_same(ours.read(cut(stream[when:], after)), expected.read(stream))


@settings(max_examples=600, deadline=None, derandomize=True)
@given(frames=frames, deflates=st.booleans(), cuts=cuts)
def test_what_the_library_takes_is_taken_alike(frames, deflates, cuts):
    stream = b"".join(frames)
    library = Library(LIMIT, deflates).read(bytewise(stream))
    ours = Ours(LIMIT, deflates).read(cut(stream, cuts))
    if library.failed:
        return  # It may be wrong: of a close frame between fragments, for one.
    if ours.protocol.close_sent == library.protocol.close_sent:
        assert (ours.messages, ours.written) == (library.messages, library.written)
    else:  # What the library leaves to its users, and lengths that it lets be written in any way.
        assert int(ours.protocol.close_sent.code) in (1002, 1007, 1009)


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
def test_long_frames_mean_what_the_rules_say(shape, cuts, limit):
    all_ = [long_frame(head, length, 8 if padded else None) for head, length, padded in shape]
    stream = b"".join(all_)
    assert_same(Ours(limit, False).read(cut(stream, cuts)), rules(limit, False).read(stream))
