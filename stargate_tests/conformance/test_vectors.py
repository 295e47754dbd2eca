"""RFC 6455 and RFC 7692 written out as bytes, against a real server and both styles of view.

What Autobahn|Testsuite shows at length, as far as it needs no Python 2.7. Frames are made and read
here by hand: the library that the server is built on has no say in what is right.
"""

from __future__ import annotations

import random
import struct
import zlib

import pytest

from stargate.testing import LiveServer
from stargate_tests import raw
from stargate_tests.functional.tree import Echo, Node, make_app

#: Both styles of view: events, and a handler.
VIEWS = ["/a/@@echo", "/a/@@handler"]

#: The masking key of the RFC's examples.
KEY = bytes.fromhex("37fa213d")

#: The longest message that the servers of these tests take.
LIMIT = 65_536

OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN = 0x80


@pytest.fixture(scope="module")
def servers():
    """One for all cases, by whether it compresses: what ends one connection harms no other."""
    settings = {
        "stargate.max_message_size": str(LIMIT),
        "stargate.max_fragments": "100",
        "stargate.ping_interval": "0",
    }
    with (
        LiveServer(make_app(**settings)) as plain,
        LiveServer(make_app(**settings, **{"stargate.compression": "deflate"})) as deflating,
    ):
        yield {False: plain, True: deflating}


@pytest.fixture(params=VIEWS)
def path(request):
    return request.param


@pytest.fixture
def connect(servers, path):
    """``connect()``: a socket that has shaken hands with the view; ``deflate=True`` offers it."""
    opened = []

    def connect(deflate=False):
        offer = [OFFER] if deflate else []
        opened.append(raw.connect(servers[deflate].url, path, *offer))
        return opened[-1]

    yield connect
    for sock in opened:
        sock.close()


def masked(head, payload=b"", size=None):
    """A client's frame; its length in ``size`` bytes (0, 2 or 8), by default in the fewest."""
    length = len(payload)
    if size is None:
        size = 0 if length < 126 else 2 if length < 65_536 else 8
    if size == 0:
        start = struct.pack("!BB", head, 0x80 | length)
    elif size == 2:
        start = struct.pack("!BBH", head, 0x80 | 126, length)
    else:
        start = struct.pack("!BBQ", head, 0x80 | 127, length)
    return start + KEY + bytes(byte ^ KEY[at % 4] for at, byte in enumerate(payload))


def announced(head, length):
    """The beginning of a frame of ``length`` bytes, none of which come."""
    return struct.pack("!BBQ", head, 0x80 | 127, length)


def close(code, reason=b""):
    return masked(FIN | CLOSE, struct.pack("!H", code) + reason)


def read_frame(sock):
    """The server's next frame: its first byte and its payload. It is never masked."""
    head, length = raw._exactly(sock, 2)
    if length == 126:
        length = int.from_bytes(raw._exactly(sock, 2), "big")
        assert length > 125, "not the shortest length"
    elif length == 127:
        length = int.from_bytes(raw._exactly(sock, 8), "big")
        assert length > 65_535, "not the shortest length"
    return head, raw._exactly(sock, length)


def said(sock, data, *expected):
    """Send ``data``; the server says exactly what was ``expected``, and goes on listening."""
    sock.sendall(data)
    assert [read_frame(sock) for _ in expected] == list(expected)
    sock.sendall(close(1000))
    assert read_frame(sock) == (FIN | CLOSE, b"\x03\xe8")
    assert raw.read_all(sock) == b""


def failed(sock, data, code):
    """Send ``data``: the server says ``code`` and not another word, and ends the connection."""
    sock.sendall(data)
    head, payload = read_frame(sock)
    assert (head, int.from_bytes(payload[:2], "big")) == (FIN | CLOSE, code)
    assert payload[2:].decode(), "no reason"
    assert raw.read_all(sock) == b""


# RFC 6455, section 1.3: the opening handshake.


CHAT = b"""\
GET /chat HTTP/1.1\r
Host: server.example.com\r
Upgrade: websocket\r
Connection: Upgrade\r
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
Origin: http://example.com\r
Sec-WebSocket-Protocol: chat, superchat\r
Sec-WebSocket-Version: 13\r
\r
"""


def test_the_handshake_of_the_rfc(live_server):
    class Chat(Node):
        def __getitem__(self, name):
            raise KeyError(name)

    def configure(config):
        config.add_websocket_view(Echo, context=Chat, name="chat", subprotocols=("chat",))

    app = make_app(configure, root=Chat(), **{"stargate.allowed_origins": "http://example.com"})
    with raw.dial(live_server(app).url) as sock:
        sock.sendall(CHAT)
        first, *lines = raw.read_head(sock).decode().split("\r\n")
        assert first == "HTTP/1.1 101 Switching Protocols"
        assert {
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
            "Sec-WebSocket-Protocol: chat",
        } <= set(lines)
        said(sock, masked(FIN | TEXT, b"Hello"), (FIN | TEXT, b"Hello"))


# RFC 6455, section 5.7: the examples.


def test_a_masked_text_message_comes_back_as_the_unmasked_one_of_the_rfc(connect):
    sock = connect()
    sock.sendall(bytes.fromhex("81 85 37 fa 21 3d 7f 9f 4d 51 58"))
    assert raw._exactly(sock, 7) == bytes.fromhex("81 05 48 65 6c 6c 6f")


def test_an_unmasked_text_message_fails(connect):
    failed(connect(), bytes.fromhex("81 05 48 65 6c 6c 6f"), 1002)


def test_a_message_in_two_fragments_is_one(connect):
    data = masked(0x01, bytes.fromhex("48 65 6c")) + masked(0x80, bytes.fromhex("6c 6f"))
    said(connect(), data, (FIN | TEXT, b"Hello"))


def test_a_ping_is_answered_with_the_pong_of_the_rfc_unmasked(connect):
    sock = connect()
    sock.sendall(bytes.fromhex("89 85 37 fa 21 3d 7f 9f 4d 51 58"))
    assert raw._exactly(sock, 7) == bytes.fromhex("8a 05 48 65 6c 6c 6f")


def test_the_masked_pong_of_the_rfc_is_taken_and_means_nothing(connect):
    said(connect(), bytes.fromhex("8a 85 37 fa 21 3d 7f 9f 4d 51 58"))


@pytest.mark.parametrize(
    ("length", "head"),
    [(256, "82 7e 01 00"), (65_536, "82 7f 00 00 00 00 00 01 00 00")],
)
def test_a_binary_message_has_the_head_of_the_rfc(connect, length, head):
    message = bytes(range(256)) * (length // 256)
    sock = connect()
    sock.sendall(masked(FIN | BINARY, message))
    expected = bytes.fromhex(head)
    assert raw._exactly(sock, len(expected)) == expected
    assert raw._exactly(sock, length) == message


# RFC 7692, section 7.2.3: the examples.


DEFLATED = {
    "7.2.3.1": masked(0xC1, bytes.fromhex("f2 48 cd c9 c9 07 00")),
    "7.2.3.1, in fragments": masked(0x41, bytes.fromhex("f2 48 cd"))
    + masked(0x80, bytes.fromhex("c9 c9 07 00")),
    "7.2.3.3, not compressed": masked(0xC1, bytes.fromhex("00 05 00 fa ff 48 65 6c 6c 6f 00")),
    "7.2.3.4, a final block": masked(0xC1, bytes.fromhex("f3 48 cd c9 c9 07 00 00")),
    "7.2.3.5, two blocks": masked(
        0xC1, bytes.fromhex("f2 48 05 00 00 00 ff ff ca c9 c9 07 00")
    ),
    "7.2.3.6, an empty fragment": masked(0x41, bytes.fromhex("f2 48 cd c9 c9 07"))
    + masked(0x80, b"\x00"),
    "without compression": masked(0x81, b"Hello"),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFLATED)
def test_a_compressed_message_of_the_rfc_is_hello(connect, name):
    said(connect(deflate=True), DEFLATED[name] * 2, *[(FIN | TEXT, b"Hello")] * 2)


def test_the_context_of_a_message_before_is_not_there(connect):
    """Section 7.2.3.2, which the handshake has ruled out: client_no_context_takeover."""
    sock = connect(deflate=True)
    sock.sendall(DEFLATED["7.2.3.1"])
    assert read_frame(sock) == (FIN | TEXT, b"Hello")
    sock.sendall(masked(0xC1, bytes.fromhex("f2 00 11 00 00")))
    head, payload = read_frame(sock)
    assert (head, payload[:2]) == (FIN | CLOSE, (1002).to_bytes(2, "big"))


def test_a_compressed_answer_inflates_as_the_rfc_says(connect):
    message = b"the same words again and again " * 50
    sock = connect(deflate=True)
    sock.sendall(masked(FIN | TEXT, message))
    head, payload = read_frame(sock)
    assert head == 0xC1 and len(payload) < 100
    assert zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff") == message


def test_a_ping_is_not_compressed(connect):
    said(connect(deflate=True), masked(FIN | PING, b"x" * 100), (FIN | PONG, b"x" * 100))


@pytest.mark.parametrize(
    "data",
    [masked(0xC1, b"\xff\xff\xff"), masked(0x41, b"\xff") + masked(0x80, b"\xff\xff")],
)
def test_what_does_not_inflate_fails(connect, data):
    failed(connect(deflate=True), data, 1002)


def test_text_that_is_not_utf8_when_inflated_fails(connect):
    squeezed = zlib.compressobj(wbits=-12)
    payload = squeezed.compress(b"ok\xff") + squeezed.flush(zlib.Z_SYNC_FLUSH)
    failed(connect(deflate=True), masked(0xC1, payload[:-4]), 1007)


# RFC 6455, section 5.4: fragmentation, and control frames between fragments.


FRAGMENTED = {
    "empty fragments": [masked(TEXT), masked(CONT), masked(FIN | CONT, b"Hello")],
    "the last one empty": [masked(TEXT, b"Hello"), masked(FIN | CONT)],
    "a byte each": [masked(TEXT, b"H"), *(masked(CONT, b"%c" % c) for c in b"ell"),
                    masked(FIN | CONT, b"o")],
    "pongs between": [masked(TEXT, b"Hel"), masked(FIN | PONG, b"x"), masked(FIN | CONT, b"lo")],
}  # fmt: skip


@pytest.mark.parametrize("name", FRAGMENTED)
def test_fragments_are_one_message(connect, name):
    said(connect(), b"".join(FRAGMENTED[name]) * 2, *[(FIN | TEXT, b"Hello")] * 2)


def test_a_ping_between_fragments_is_answered_before_the_message(connect):
    data = masked(TEXT, b"Hel") + masked(FIN | PING, b"1") + masked(CONT, b"l")
    data += masked(FIN | PING, b"2") + masked(FIN | CONT, b"o")
    said(connect(), data, (FIN | PONG, b"1"), (FIN | PONG, b"2"), (FIN | TEXT, b"Hello"))


def test_as_many_fragments_as_allowed_are_a_message_and_one_more_fails(connect):
    first, more, last = masked(BINARY, b"x"), masked(CONT, b"x"), masked(FIN | CONT, b"x")
    said(connect(), first + more * 98 + last, (FIN | BINARY, b"x" * 100))
    failed(connect(), first + more * 99, 1009)


AMISS = {
    "a continuation of nothing": masked(FIN | CONT, b"x"),
    "a continuation of nothing, not final": masked(CONT, b"x"),
    "a continuation behind the last": masked(TEXT) + masked(FIN | CONT) + masked(FIN | CONT),
    "a message amid another": masked(TEXT, b"x") + masked(FIN | TEXT, b"x"),
    "fragments amid others": masked(BINARY, b"x") + masked(BINARY, b"x"),
    "a ping in fragments": masked(PING, b"x") + masked(FIN | CONT, b"x"),
    "a pong in fragments": masked(PONG, b"x") + masked(FIN | CONT, b"x"),
    "a close in fragments": masked(CLOSE, b"\x03") + masked(FIN | CONT, b"\xe8"),
    "a ping in fragments amid a message": masked(TEXT, b"x") + masked(PING, b"x"),
}


@pytest.mark.parametrize("name", AMISS)
def test_fragments_out_of_place_fail(connect, name):
    failed(connect(), AMISS[name], 1002)


# RFC 6455, section 5.5: control frames.


@pytest.mark.parametrize("length", [0, 1, 124, 125])
def test_a_ping_has_up_to_125_bytes_which_the_pong_repeats(connect, length):
    payload = bytes(range(length))
    said(connect(), masked(FIN | PING, payload) * 2, *[(FIN | PONG, payload)] * 2)


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
@pytest.mark.parametrize("size", [2, 8])
def test_a_longer_control_frame_fails_however_its_length_is_written(connect, opcode, size):
    failed(connect(), masked(FIN | opcode, b"\x03\xe8" + b"x" * 124, size=size), 1002)


def test_pongs_that_nobody_asked_for_are_nothing(connect):
    said(connect(), masked(FIN | PONG, b"x" * 125) * 100)


# RFC 6455, section 5.2: reserved bits, opcodes, masks and lengths.


@pytest.mark.parametrize("opcode", [CONT, TEXT, BINARY, CLOSE, PING, PONG])
@pytest.mark.parametrize("bits", [0x10, 0x20, 0x40, 0x70])
@pytest.mark.parametrize("deflate", [False, True])
def test_a_reserved_bit_that_nobody_agreed_on_fails(connect, opcode, bits, deflate):
    if deflate and bits == 0x40 and opcode in (TEXT, BINARY):
        return  # That is what was agreed on.
    start = masked(TEXT, b"x") if opcode == CONT else b""
    failed(connect(deflate), start + masked(FIN | bits | opcode, b"\x03\xe8"), 1002)


@pytest.mark.parametrize("opcode", [*range(3, 8), *range(11, 16)])
@pytest.mark.parametrize("fin", [0, FIN])
def test_an_opcode_that_there_is_not_fails(connect, opcode, fin):
    failed(connect(), masked(fin | opcode, b"x"), 1002)


@pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING, PONG])
@pytest.mark.parametrize("length", [0, 5, 200])
def test_a_frame_without_a_mask_fails(connect, opcode, length):
    start = (
        bytes((FIN | opcode, length))
        if length < 126
        else struct.pack("!BBH", FIN | opcode, 126, length)
    )
    failed(connect(), start + b"\x03\xe8x" * (length // 3) + b"x" * (length % 3), 1002)


@pytest.mark.parametrize("length", [0, 5, 125])
@pytest.mark.parametrize("size", [2, 8])
def test_a_length_in_more_bytes_than_it_needs_is_the_same_length(connect, length, size):
    said(connect(), masked(FIN | TEXT, b"x" * length, size=size), (FIN | TEXT, b"x" * length))


@pytest.mark.parametrize("length", [125, 126, 127, 65_535, 65_536])
def test_a_message_of_any_length_comes_back_with_the_shortest_head(connect, length):
    said(connect(), masked(FIN | BINARY, b"x" * length), (FIN | BINARY, b"x" * length))


@pytest.mark.parametrize("length", [LIMIT + 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("deflate", [False, True])
def test_a_length_over_the_limit_fails_before_any_of_it_has_come(connect, length, opcode, deflate):
    head = FIN | opcode | (0x40 if deflate and length > 2 * LIMIT else 0)
    failed(connect(deflate), announced(head, length), 1009)


@pytest.mark.parametrize("length", [1, 2**63, 2**64 - 1])
def test_fragments_over_the_limit_fail_when_they_are_announced(connect, length):
    data = masked(BINARY, b"x" * (LIMIT - 1)) + masked(CONT, b"x") + announced(FIN | CONT, length)
    failed(connect(), data, 1009)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_message_over_the_limit_when_inflated_fails(connect, parts):
    squeezed = zlib.compressobj(wbits=-12)
    payload = squeezed.compress(bytes(LIMIT + 1)) + squeezed.flush(zlib.Z_SYNC_FLUSH)
    step = -(-(len(payload) - 4) // parts)
    cut = [payload[:-4][at : at + step] for at in range(0, len(payload) - 4, step)]
    heads = [0xC1] if parts == 1 else [0x41, *[0x00] * (parts - 2), 0x80]
    data = b"".join(map(masked, heads, cut))
    failed(connect(deflate=True), data, 1009)


def test_a_message_of_the_most_bytes_when_inflated_is_taken(connect):
    squeezed = zlib.compressobj(wbits=-12)
    payload = squeezed.compress(bytes(LIMIT)) + squeezed.flush(zlib.Z_SYNC_FLUSH)
    sock = connect(deflate=True)
    sock.sendall(masked(0xC2, payload[:-4]))
    head, payload = read_frame(sock)
    assert head == 0xC2
    assert zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff") == bytes(LIMIT)


# RFC 6455, section 7.4: close codes, and reasons.


VALID = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
INVALID = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 9999, 65_535]


def ended(sock, data, payload):
    sock.sendall(data)
    assert read_frame(sock) == (FIN | CLOSE, payload)
    assert raw.read_all(sock) == b""


@pytest.mark.parametrize("code", VALID)
def test_a_close_code_of_the_rfc_or_an_applications_is_repeated(connect, code):
    ended(connect(), close(code), code.to_bytes(2, "big"))


@pytest.mark.parametrize("code", INVALID)
def test_any_other_close_code_fails(connect, code):
    failed(connect(), close(code), 1002)


def test_a_close_without_a_code_is_answered_without_one(connect):
    ended(connect(), masked(FIN | CLOSE), b"")


def test_a_close_code_of_one_byte_fails(connect):
    failed(connect(), masked(FIN | CLOSE, b"\x03"), 1002)


@pytest.mark.parametrize("reason", ["x", "grüß", "€" * 41, "x" * 123])
def test_a_close_reason_is_text_of_up_to_123_bytes(connect, reason):
    sock = connect()
    sock.sendall(close(1000, reason.encode()))
    head, payload = read_frame(sock)
    assert (head, payload[:2]) == (FIN | CLOSE, b"\x03\xe8")
    assert raw.read_all(sock) == b""


@pytest.mark.parametrize("reason", [b"\xff", b"x\xc3", b"\xed\xa0\x80", "€".encode()[:2]])
def test_a_close_reason_that_is_not_utf8_fails(connect, reason):
    failed(connect(), close(1000, reason), 1007)


def test_nothing_behind_a_close_is_looked_at(connect):
    ended(connect(), close(1000) + masked(FIN | TEXT, b"x") + b"\xff" * 100, b"\x03\xe8")


# RFC 6455, section 8.1: text.


#: The first and the last of each length, and what surrounds the surrogates.
CHARACTERS = ["00", "7f", "c280", "dfbf", "e0a080", "ed9fbf", "ee8080", "efbfbd", "efbfbf",
              "f0908080", "f48fbfbf"]  # fmt: skip

#: Alone: continuations, overlong forms, surrogates, beyond U+10FFFF, and half characters.
NO_UTF8 = ["80", "bf", "c0af", "c1bf", "e0809f", "e09fbf", "eda080", "edbfbf", "eda080edb080",
           "f08fbfbf", "f4908080", "f5808080", "f888808080", "fc8480808080", "fe", "ff",
           "c2", "e282", "f09f98", "c241", "e28241", "f09f9841"]  # fmt: skip


@pytest.mark.parametrize("character", CHARACTERS)
def test_text_may_have_any_character_cut_anywhere(connect, character):
    text = b"x" + bytes.fromhex(character) + b"y"
    whole = [masked(FIN | TEXT, text)]
    whole += [masked(TEXT, text[:at]) + masked(FIN | CONT, text[at:]) for at in range(len(text))]
    whole += [masked(TEXT) + b"".join(masked(CONT, b"%c" % c) for c in text) + masked(FIN | CONT)]
    said(connect(), b"".join(whole), *[(FIN | TEXT, text)] * len(whole))


@pytest.mark.parametrize("text", NO_UTF8)
def test_text_that_is_not_utf8_fails(connect, text):
    bad = bytes.fromhex(text)
    failed(connect(), masked(FIN | TEXT, b"x" + bad), 1007)
    failed(connect(), masked(TEXT, b"x" + bad[:1]) + masked(FIN | CONT, bad[1:]), 1007)


@pytest.mark.parametrize("text", NO_UTF8)
def test_binary_data_may_be_anything(connect, text):
    message = bytes.fromhex(text)
    said(connect(), masked(FIN | BINARY, message), (FIN | BINARY, message))


def test_a_frame_may_come_byte_by_byte(connect):
    sock = connect()
    for byte in masked(FIN | TEXT, "grüß €".encode()):
        sock.sendall(b"%c" % byte)
    said(sock, b"", (FIN | TEXT, "grüß €".encode()))


# As early as can be, and where the library under it has it in another way.


@pytest.mark.parametrize("text", [text for text in NO_UTF8 if text not in ("c2", "e282", "f09f98")])
@pytest.mark.parametrize("opcode", [TEXT, FIN | TEXT])
def test_text_that_is_not_utf8_fails_with_the_first_bytes_that_show_it(connect, text, opcode):
    failed(connect(), masked(opcode, b"x" + bytes.fromhex(text) + b"yyyyyyyy")[:-4], 1007)


def test_a_character_that_the_next_fragment_makes_impossible_fails_before_its_end(connect):
    start = masked(TEXT, b"\xf4") + masked(FIN | PING, b"p")
    sock = connect()
    sock.sendall(start)
    assert read_frame(sock) == (FIN | PONG, b"p")
    failed(sock, masked(FIN | CONT, b"\x90xxxxxxxx")[:-4], 1007)


@pytest.mark.parametrize(
    "head",
    [b"\x83\x85", b"\x8b\x80", b"\xc1\x85", b"\x81\x05", b"\x89\xfe", b"\x09\x80", b"\x80\x80"],
)
def test_what_two_bytes_show_fails_before_the_rest_has_come(connect, head):
    failed(connect(), head, 1002)


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
@pytest.mark.parametrize("size", [2, 8])
def test_a_control_frame_has_its_length_in_the_short_form(connect, opcode, size):
    failed(connect(), masked(FIN | opcode, b"\x03\xe8", size=size), 1002)


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x0f\xa0bye"])
def test_a_close_between_fragments_is_a_close(connect, payload):
    """Autobahn's case 7.1.5."""
    sock = connect()
    sock.sendall(masked(TEXT, b"Hel") + masked(FIN | CLOSE, payload))
    head, answer = read_frame(sock)
    assert (head, answer[:2]) == (FIN | CLOSE, payload[:2])
    assert raw.read_all(sock) == b""


def test_a_ping_between_fragments_is_no_part_of_the_message(connect):
    data = masked(BINARY, b"x" * LIMIT) + masked(FIN | PING, b"y" * 125) + masked(FIN | CONT)
    said(connect(), data, (FIN | PONG, b"y" * 125), (FIN | BINARY, b"x" * LIMIT))


def test_the_limit_is_that_of_the_message_and_not_of_what_compression_makes_of_it(connect):
    """Bytes that cannot be compressed get a little longer."""
    message = random.Random(7).randbytes(LIMIT)
    squeezed = zlib.compressobj(wbits=-12)
    payload = squeezed.compress(message) + squeezed.flush(zlib.Z_SYNC_FLUSH)
    assert len(payload) > LIMIT
    sock = connect(deflate=True)
    sock.sendall(masked(0xC2, payload[:-4]))
    head, payload = read_frame(sock)
    assert head == 0xC2
    assert zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff") == message
