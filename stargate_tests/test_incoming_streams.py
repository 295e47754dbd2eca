"""Whatever a peer sends and however it is cut, Incoming reads it as the websockets library does."""

import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Opcode
from websockets.protocol import OPEN, Protocol, Side

from stargate.incoming import Fragments, Incoming, Violation, decode
from stargate.message import deflate
from stargate.settings import Limits

LIMIT = 200
LIMITS = Limits(max_message_size=LIMIT, max_fragments=4)


def extensions(deflates):
    return [PerMessageDeflate(True, True, 12, 12)] if deflates else []


def by_the_library(stream, deflates):
    """Messages and answers as they are when every byte goes through the library, one by one."""
    protocol = Protocol(Side.SERVER, max_size=LIMIT)
    protocol.extensions = extensions(deflates)
    messages, fragments = [], None
    for byte in stream:
        counts = protocol.state is OPEN
        protocol.receive_data(bytes((byte,)))
        for frame in protocol.events_received():
            if not counts:
                continue
            try:
                if frame.opcode in (Opcode.TEXT, Opcode.BINARY) and frame.fin:
                    messages.append(decode(frame.opcode, frame.data))
                elif frame.opcode in (Opcode.TEXT, Opcode.BINARY):
                    fragments = Fragments(frame, LIMITS.max_fragments)
                elif frame.opcode is Opcode.CONT:
                    message = fragments.add(frame)
                    if message is not None:
                        messages.append(message)
            except UnicodeDecodeError as error:
                protocol.fail(1007, f"{error.reason} at position {error.start}")
                counts = False
            except Violation as violation:
                protocol.fail(violation.code, violation.reason)
                counts = False
    return messages, protocol.close_sent, b"".join(protocol.data_to_send())


def by_us(pieces, deflates):
    incoming = Incoming(LIMITS, extensions(deflates))
    messages = [message for piece in pieces for message in incoming.receive(piece)]
    protocol = incoming.protocol
    return messages, protocol.close_sent, b"".join(protocol.data_to_send())


def frame(head, payload, masked=True, size=None):
    """A frame of a client, its length written in ``size`` bytes: the shortest if ``None``."""
    length = len(payload)
    if size is None:
        size = 0 if length < 126 else 2 if length < 65536 else 8
    mask = bytes((7, 0, 255, 90))
    bit = 0x80 if masked else 0
    second = {0: bytes((bit | min(length, 125),))}.get(size) or bytes((bit | (126 + (size == 8)),))
    second += struct.pack("!H", length) if size == 2 else b""
    second += struct.pack("!Q", length) if size == 8 else b""
    if not masked:
        return bytes((head,)) + second + payload
    return bytes((head,)) + second + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


payloads = st.one_of(
    st.binary(max_size=12),
    st.text(max_size=8).map(str.encode),
    st.sampled_from([b"", b"x" * 125, b"x" * 126, b"y" * LIMIT, b"z" * (LIMIT + 1), b"\xc3"]),
)
closes = st.sampled_from([b"", b"\x03", struct.pack("!H", 1000) + b"bye", struct.pack("!H", 1005)])
whole = st.builds(frame, st.sampled_from([0x81, 0x82]), payloads)
parts = st.builds(frame, st.sampled_from([0x01, 0x02, 0x00, 0x80]), payloads)
controls = st.builds(frame, st.sampled_from([0x89, 0x8A]), st.binary(max_size=5))
closing = st.builds(frame, st.just(0x88), closes)
squeezed = payloads.map(lambda payload: frame(0xC1, deflate(payload, 12)))
odd = st.builds(
    frame,
    st.integers(0, 255),
    payloads,
    masked=st.sampled_from([True, True, False]),
    size=st.sampled_from([None, 2, 8]),
)
top_bit = st.just(b"\x82\xff\xff" + bytes(11))
streams = st.lists(
    st.one_of(whole, whole, parts, controls, closing, squeezed, odd, top_bit), max_size=8
).map(b"".join)


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(stream=streams, deflates=st.booleans(), cuts=st.lists(st.integers(0, 400), max_size=6))
def test_any_stream_however_cut_means_what_the_library_reads(stream, deflates, cuts):
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    assert by_us(pieces, deflates) == by_the_library(stream, deflates)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(stream=streams, deflates=st.booleans())
def test_any_stream_may_come_byte_by_byte(stream, deflates):
    pieces = [bytes((byte,)) for byte in stream]
    assert by_us(pieces, deflates) == by_the_library(stream, deflates)
