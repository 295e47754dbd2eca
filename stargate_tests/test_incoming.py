"""Fragments and text, as they come in."""

import pytest
from websockets.frames import Frame, Opcode

from stargate.incoming import Fragments, Violation, decode


def test_a_binary_payload_is_bytes():
    message = decode(Opcode.BINARY, bytearray(b"\xff"))
    assert message == b"\xff" and type(message) is bytes


def test_a_text_payload_is_str():
    assert decode(Opcode.TEXT, "äö".encode()) == "äö"


def test_text_that_is_not_utf8_is_no_message():
    with pytest.raises(UnicodeDecodeError):
        decode(Opcode.TEXT, b"ok\xff")


def test_fragments_are_one_message_when_the_last_has_come():
    fragments = Fragments(Frame(Opcode.TEXT, b"on", fin=False), 10)
    assert fragments.add(Frame(Opcode.CONT, b"", fin=False)) is None
    assert fragments.add(Frame(Opcode.CONT, b"e", fin=True)) == "one"


def test_a_character_may_be_cut_in_two_by_fragments():
    fragments = Fragments(Frame(Opcode.TEXT, "ä".encode()[:1], fin=False), 10)
    assert fragments.add(Frame(Opcode.CONT, "ä".encode()[1:], fin=True)) == "ä"


def test_more_fragments_than_allowed_are_a_violation():
    fragments = Fragments(Frame(Opcode.BINARY, b"", fin=False), 3)
    fragments.add(Frame(Opcode.CONT, b"", fin=False))
    with pytest.raises(Violation) as caught:
        fragments.add(Frame(Opcode.CONT, b"", fin=False))
    assert caught.value.code == 1009


def test_as_many_fragments_as_allowed_are_a_message():
    fragments = Fragments(Frame(Opcode.BINARY, b"a", fin=False), 3)
    fragments.add(Frame(Opcode.CONT, b"b", fin=False))
    assert fragments.add(Frame(Opcode.CONT, b"c", fin=True)) == b"abc"
