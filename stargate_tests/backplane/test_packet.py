from contextlib import suppress
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stargate.backplane.packet import (
    BINARY,
    JSON,
    MAX_HEAD,
    NOBODY,
    TEXT,
    Packet,
    WireError,
    checked_id,
    checked_key,
    decode,
    halves,
)

ID = "0123456789ab-42-ba9876543210"
ONE, OTHER = "0" * 31 + "1", "0" * 31 + "2"

LIMIT = 1000


def encoded(kind, id, time, excluded, key, payload):
    head, tail = halves(kind, excluded, key, payload)
    return head + f"{id} {time}".encode() + tail


def test_the_first_line_is_this():
    assert encoded(TEXT, ID, 5, [OTHER, ONE], "k", "ü".encode()) == (
        f"1 t {ID} 5 {ONE},{OTHER} k\n".encode() + b"\xc3\xbc"
    )
    assert encoded(BINARY, "-", 0, [], "k", b"\xff") == b"1 b - 0 - k\n\xff"


ids = st.sets(st.uuids().map(lambda found: found.hex), max_size=5)
keys = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=200)


@given(st.sampled_from([TEXT, JSON]), ids, keys, st.integers(0, 10**15), st.text(max_size=200))
def test_a_text_comes_out_as_it_went_in(kind, excluded, key, time, text):
    packet = decode(encoded(kind, ID, time, excluded, key, text.encode()), LIMIT)
    assert packet == Packet(kind, ID, time, frozenset(excluded), key, text.encode())
    assert packet.message == text


@given(ids, keys, st.binary(max_size=200))
def test_bytes_come_out_as_they_went_in(excluded, key, payload):
    packet = decode(encoded(BINARY, "-", 1, excluded, key, payload), LIMIT)
    assert packet == Packet(BINARY, "", 1, frozenset(excluded), key, payload)
    assert packet.message == payload


def test_nobody_is_left_out_by_default():
    assert decode(b"1 t - 0 - k\n", LIMIT).excluded is NOBODY


@pytest.mark.parametrize(
    ("raw", "version"), [(b"2 t - 0 - k\n", "2"), (b"", ""), (b"11 t - 0 - k\n", "11")]
)
def test_another_version_is_named(raw, version):
    with pytest.raises(WireError) as caught:
        decode(raw, LIMIT)
    assert str(caught.value) == f"of version {version.encode()!r}, and version 1 is understood"


@pytest.mark.parametrize(
    "raw",
    [
        b"1 t - 0 - k",
        b"1 \n",
        b"1 x - 0 - k\n",
        b"1 t ? 0 - k\n",
        b"1 t - -1 - k\n",
        b"1 t - 0 z k\n",
        b"1 t - 0 " + b"A" * 32 + b" k\n",
        b"1 t - 0 - \n",
        b"1 t - 0 - k k\n",
        b"1 t - 0 - " + b"k" * 201 + b"\n",
        b"1 t - 0 - \xff\n",
        b"1  t - 0 - k\n",
        b"1 t - 12345678901234567 - k\n",
        b"1 t " + ID.upper().encode() + b" 0 - k\n",
        b"1 t - 0 " + b",".join([ONE.encode()] * 4000) + b" k\n",
    ],
)
def test_a_first_line_that_is_none_is_an_error(raw):
    with pytest.raises(WireError, match="its first line is none"):
        decode(raw, LIMIT)


def test_a_payload_may_be_as_long_as_the_limit_and_no_longer():
    assert decode(b"1 t - 0 - k\n" + b"x" * LIMIT, LIMIT).payload == b"x" * LIMIT
    with pytest.raises(WireError) as caught:
        decode(b"1 t - 0 - k\n" + b"x" * (LIMIT + 1), LIMIT)
    assert str(caught.value) == "its 1001 bytes are more than stargate.max_send_size, 1000"


@pytest.mark.parametrize("kind", [TEXT, JSON])
def test_a_text_that_is_not_utf_8_is_an_error(kind):
    with pytest.raises(WireError, match="its text is not UTF-8"):
        decode(encoded(kind, "-", 0, [], "k", b"\xff"), LIMIT)


@given(st.binary(max_size=100) | st.binary(max_size=100).map(lambda found: b"1 " + found))
def test_whatever_comes_is_a_packet_or_a_wire_error(raw):
    with suppress(WireError):
        assert isinstance(decode(raw, 50), Packet)


@pytest.mark.parametrize("key", ["", " ", "a b", "a\n", "ü", "k" * 201, "\x7f"])
def test_a_key_that_does_not_fit_in_is_a_value_error(key):
    for check in (checked_key, lambda each: halves(TEXT, [], each, b"")):
        with pytest.raises(ValueError, match="it must be 1 to 200 visible ASCII characters"):
            check(key)


@pytest.mark.parametrize("id", ["", "x", ONE.upper() + "A", "A" * 32, ONE + ",", f"{ONE}\n"])
def test_an_id_that_does_not_fit_in_is_a_value_error(id):
    for check in (checked_id, lambda each: halves(TEXT, [each], "k", b"")):
        with pytest.raises(ValueError, match="which is no id of a WebSocket"):
            check(id)


def test_what_fits_in_is_given_back():
    assert checked_id(ONE) == ONE
    assert checked_key("k" * 200) == "k" * 200


def many(count):
    return [UUID(int=number).hex for number in range(count)]


def test_as_many_ids_as_fit_are_read_back():
    excluded = many((MAX_HEAD - 64 - 202) // 33)
    raw = encoded(TEXT, ID, 10**15, excluded, "k" * 200, b"")
    assert decode(raw, LIMIT).excluded == frozenset(excluded)


def test_more_ids_than_fit_are_a_value_error():
    with pytest.raises(ValueError, match="exclude has 4000 WebSockets: more than fit"):
        halves(TEXT, many(4000), "k", b"")
