import zlib

import pytest
from websockets.frames import Opcode

from stargate.message.message import (
    DEFLATE_FROM,
    ENVELOPE,
    FIN,
    RSV1,
    TEXT,
    Message,
    deflate,
    frame,
    frame_for,
)
from stargate_tests.peers import Peer


class Deaf:
    """A socket for a peer that is fed by hand."""

    def __init__(self, *data):
        self._data = [*data]

    def setblocking(self, _flag):
        pass

    def recv(self, _size):
        return self._data.pop(0) if self._data else b""


def understood(data):
    return Peer(Deaf(data)).read(answer=False)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 100_000])
def test_a_text_message_of_any_length_is_one_frame(size):
    assert understood(Message("x" * size).frame) == ["x" * size]


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_a_binary_message_of_any_length_is_one_frame(size):
    assert understood(Message(b"\0" * size).frame) == [b"\0" * size]


def test_a_text_message_is_utf_8():
    message = Message("Grüße 🚪")
    assert message.payload == "Grüße 🚪".encode()
    assert understood(message.frame) == ["Grüße 🚪"]


def test_the_length_is_that_of_the_bytes():
    assert Message("ü").frame == b"\x81\x02\xc3\xbc"


def test_str_is_text_and_bytes_are_binary():
    assert Message("").opcode == Opcode.TEXT
    assert Message(b"").opcode == Opcode.BINARY


@pytest.mark.parametrize("value", [None, 1, {"a": 1}, ["a"], bytearray(b"a"), memoryview(b"a")])
def test_anything_else_is_a_type_error_that_names_the_type(value):
    with pytest.raises(TypeError, match=rf"not {type(value).__name__}; send_json\(\)"):
        Message(value)


def test_a_short_message_is_not_compressed():
    message = Message("x" * (DEFLATE_FROM - 1))
    assert message.frame_as(12) is message.frame


def test_a_compressed_message_inflates_to_itself():
    message = Message("tell " * 100)
    data = message.frame_as(12)
    assert data[0] == FIN | RSV1 | TEXT
    assert len(data) < len(message.frame)
    payload = data[2:] if data[1] < 126 else data[4:]
    inflated = zlib.decompressobj(-12).decompress(payload + b"\x00\x00\xff\xff")
    assert inflated == message.payload


def test_a_variant_is_made_once_for_all_listeners():
    message = Message("tell " * 100)
    assert message.frame_as(12) is message.frame_as(12)


def test_each_window_has_its_own_variant():
    message = Message(bytes(range(256)) * 40 + b"x" * 9000 + bytes(range(256)) * 40)
    assert message.frame_as(9) is not message.frame_as(15)
    for bits in (9, 15):
        assert zlib.decompressobj(-bits).decompress(
            message.frame_as(bits)[4:] + b"\x00\x00\xff\xff"
        )


def test_no_variant_depends_on_the_message_before():
    first, second = Message("tell " * 100), Message("tell " * 100)
    assert first.frame_as(12) == second.frame_as(12)


MESSAGES = ["", "ü", "x" * 63, "x" * 64, "tell " * 100, b"", b"\xff" * 64, bytes(range(256)) * 300]


@pytest.mark.parametrize("message", MESSAGES, ids=len)
@pytest.mark.parametrize("bits", [9, 12, 15])
def test_a_frame_for_one_is_the_frame_for_many(message, bits):
    assert frame_for(message, None) == Message(message).frame
    assert frame_for(message, bits) == Message(message).frame_as(bits)


def test_a_frame_for_one_that_is_compressed_differs_from_the_plain_one():
    assert frame_for("tell " * 100, 12)[0] == FIN | RSV1 | TEXT
    assert frame_for("tell " * 100, None)[0] == FIN | TEXT


@pytest.mark.parametrize("bits", [None, 12])
@pytest.mark.parametrize("value", [None, {"a": 1}, bytearray(b"a")])
def test_a_frame_of_anything_else_is_a_type_error_that_names_the_type(value, bits):
    with pytest.raises(TypeError, match=rf"not {type(value).__name__}; send_json\(\)"):
        frame_for(value, bits)


def test_the_empty_block_at_the_end_is_left_out():
    assert not deflate(b"tell " * 100, 12).endswith(b"\x00\x00\xff\xff")


def test_a_frame_begins_with_the_byte_given():
    assert frame(0x8A, b"hi") == b"\x8a\x02hi"


def test_an_envelope_is_made_once_for_all_who_take_it():
    message = Message("x" * DEFLATE_FROM, id="id")
    assert message.frame_as(ENVELOPE) is message.frame_as(ENVELOPE)
    assert message.frame_as(ENVELOPE + 12) is message.frame_as(ENVELOPE + 12)
