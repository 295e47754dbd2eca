"""Frames, fragments and text, as they come in; any stream at all is in test_incoming_streams.py."""

import zlib

import pytest
from websockets.frames import Frame, Opcode

from stargate.handshake.upgrade import _deflate
from stargate.message.incoming import WORK, Fragments, Incoming, Rate, Violation, decode, fault
from stargate.settings.application import Limits
from stargate_tests import raw

LIMIT = 1000


@pytest.fixture
def incoming():
    return Incoming(Limits(max_message_size=LIMIT, max_fragments=3), [])


def close_sent(incoming):
    """Code and reason of the close frame with which it fails, or answers; ``None`` without any."""
    close = incoming.protocol.close_sent
    return None if close is None else (int(close.code), close.reason)


def kept(incoming):
    """How many bytes it holds on to, its protocol's included."""
    partial = incoming._partial
    buffered = len(partial._buffer) if partial is not None else 0
    return buffered + len(incoming.rest) + len(incoming.protocol.reader.buffer)


# Frames.


def test_a_frame_may_come_byte_by_byte(incoming):
    *first, last = (bytes((byte,)) for byte in raw.frame("ä" * 100))
    assert [incoming.receive(byte) for byte in first] == [[]] * len(first)
    assert incoming.receive(last) == ["ä" * 100]


def test_two_frames_and_a_half_are_two_messages_and_later_the_third(incoming):
    third = raw.frame("three")
    assert incoming.receive(raw.frame("one") + raw.frame(b"two") + third[:8]) == ["one", b"two"]
    assert incoming.receive(third[8:] + raw.frame("four")) == ["three", "four"]


@pytest.mark.parametrize("length", [0, 125, 126, LIMIT])
def test_a_frame_may_be_cut_anywhere_in_its_head(length):
    frame = raw.frame(b"x" * length)
    for cut in range(1, min(14, len(frame))):
        incoming = Incoming(Limits(max_message_size=LIMIT), [])
        assert incoming.receive(frame[:cut]) == []
        assert incoming.receive(frame[cut:]) == [b"x" * length]


def test_a_binary_message_is_bytes_of_its_own(incoming):
    first, second = incoming.receive(raw.frame(b"a") + raw.frame(b"b"))
    assert type(first) is type(second) is bytes


TOO_LONG = [b"\x82\xfe\x03\xe9", b"\x82\xff" + bytes(6) + b"\x03\xe9", b"\x82\xff\xff" + bytes(7)]


@pytest.mark.parametrize("head", TOO_LONG)
def test_a_size_over_the_limit_fails_when_it_is_announced(incoming, head):
    assert incoming.receive(head) == []
    assert close_sent(incoming)[0] == 1009


@pytest.mark.parametrize("head", TOO_LONG)
def test_a_size_over_the_limit_that_comes_byte_by_byte_fails_before_the_payload(incoming, head):
    for byte in head + bytes(4):
        assert incoming.receive(bytes((byte,))) == []
    assert close_sent(incoming)[0] == 1009


def test_a_fragment_over_what_is_left_fails_as_soon_as_it_is_announced(incoming):
    incoming.receive(raw.frame(b"x" * 900, fin=False))
    incoming.receive(b"\x80\xe5")  # 101 bytes.
    assert close_sent(incoming)[0] == 1009


def test_a_message_of_the_most_bytes_is_taken_in_one_frame_and_in_two(incoming):
    assert incoming.receive(raw.frame(b"x" * LIMIT)) == [b"x" * LIMIT]
    first, second = raw.frame(b"x" * LIMIT, fin=False), raw.frame(b"", Opcode.CONT)
    assert incoming.receive(first + second) == [b"x" * LIMIT]


def test_a_frame_that_is_not_masked_fails_with_its_second_byte(incoming):
    assert incoming.receive(b"\x81") == [] and close_sent(incoming) is None
    assert incoming.receive(b"\x05") == []
    assert close_sent(incoming) == (1002, "incorrect masking")


def test_text_that_is_not_utf8_fails_and_says_where(incoming):
    assert incoming.receive(raw.frame(b"ok\xff", Opcode.TEXT)) == []
    assert close_sent(incoming) == (1007, "invalid start byte at position 2")


def test_fragments_that_are_not_utf8_fail_and_say_where_in_the_message(incoming):
    incoming.receive(raw.frame("fine", fin=False))
    assert incoming.receive(raw.frame(b"ok\xff", Opcode.CONT)) == []
    assert close_sent(incoming) == (1007, "invalid start byte at position 6")


def test_a_message_amid_the_fragments_of_another_fails(incoming):
    assert incoming.receive(raw.frame("a", fin=False) + raw.frame("b")) == []
    assert close_sent(incoming) == (1002, "expected a continuation frame")


def test_whole_messages_are_read_here_again_behind_one_in_fragments(incoming, monkeypatch):
    incoming.receive(raw.frame("on", fin=False))
    assert incoming.receive(raw.frame("e", Opcode.CONT)) == ["one"]
    monkeypatch.setattr(Incoming, "_leave_to_protocol", None)
    assert incoming.receive(raw.frame("two")) == ["two"]


def test_more_fragments_than_allowed_fail(incoming):
    incoming.receive(raw.frame("", fin=False) + raw.frame("", Opcode.CONT, fin=False))
    assert close_sent(incoming) is None
    incoming.receive(raw.frame("", Opcode.CONT, fin=False))
    assert close_sent(incoming) == (1009, "over 3 fragments")


def test_a_message_before_the_bad_frame_in_one_read_is_delivered(incoming):
    assert incoming.receive(raw.frame("good") + raw.frame(b"\xff", Opcode.TEXT)) == ["good"]
    assert close_sent(incoming)[0] == 1007


BAD = [
    raw.frame(b"\xff", Opcode.TEXT),  # Found here.
    b"\x81\x01x",  # Found by the protocol.
    raw.frame("", fin=False) + raw.frame("", Opcode.CONT, fin=False) * 2,
]


@pytest.mark.parametrize("bad", BAD, ids=["text", "not masked", "fragments"])
@pytest.mark.parametrize("reads", [1, 2])
def test_after_a_failure_nothing_is_delivered_or_answered_or_kept(incoming, bad, reads):
    behind = raw.frame("more") + raw.frame(b"ping", Opcode.PING) + raw.frame(b"x" * 500)[:-1]
    alone = Incoming(Limits(max_message_size=LIMIT, max_fragments=3), [])
    alone.receive(bad)
    for piece in [bad + behind] if reads == 1 else [bad, behind]:
        assert incoming.receive(piece) == []
    assert incoming.receive(b"x") == []
    assert incoming.protocol.data_to_send() == alone.protocol.data_to_send()
    assert kept(incoming) == 0


@pytest.mark.parametrize("reads", [1, 2])
def test_what_comes_behind_a_close_frame_is_ignored(incoming, reads):
    close = raw.frame(b"\x03\xe8", Opcode.CLOSE)
    behind = raw.frame("more") + raw.frame(b"ping", Opcode.PING) + raw.frame(b"x" * 500)[:-1]
    for piece in [close + behind] if reads == 1 else [close, behind]:
        assert incoming.receive(piece) == []
    assert incoming.protocol.data_to_send() == [b"\x88\x02\x03\xe8", b""]
    assert kept(incoming) == 0


def test_a_frame_that_is_under_way_when_we_close_is_no_message(incoming):
    frame = raw.frame("late")
    incoming.receive(frame[:5])
    incoming.protocol.send_close(1001)
    assert incoming.receive(frame[5:] + raw.frame("later")) == []
    assert incoming.receive(raw.frame(b"\x03\xe9", Opcode.CLOSE)) == []
    assert int(incoming.protocol.close_rcvd.code) == 1001


@pytest.mark.parametrize("step", [1, 7, 400])
def test_no_more_is_kept_than_a_frame_of_the_most_bytes(incoming, step):
    longest = b"\x82\xff" + LIMIT.to_bytes(8, "big") + bytes(4) + bytes(LIMIT)
    stream = longest * 3
    most = 0
    for start in range(0, len(stream), step):
        incoming.receive(stream[start : start + step])
        most = max(most, kept(incoming))
    assert LIMIT - step < most < LIMIT + 14
    assert kept(incoming) == 0


# What they are made of.


def test_a_binary_payload_is_bytes():
    message = decode(Opcode.BINARY, bytearray(b"\xff"))
    assert message == b"\xff" and type(message) is bytes


def test_a_text_payload_is_str():
    assert decode(Opcode.TEXT, "äö".encode()) == "äö"


def test_text_that_is_not_utf8_is_no_message():
    with pytest.raises(UnicodeDecodeError):
        decode(Opcode.TEXT, b"ok\xff")


def test_fragments_are_one_message_when_the_last_has_come():
    fragments = Fragments(Frame(Opcode.TEXT, b"on", fin=False), Limits(max_fragments=10))
    assert fragments.add(Frame(Opcode.CONT, b"", fin=False)) is None
    assert fragments.add(Frame(Opcode.CONT, b"e", fin=True)) == "one"


def test_a_character_may_be_cut_in_two_by_fragments():
    fragments = Fragments(Frame(Opcode.TEXT, "ä".encode()[:1], fin=False), Limits(max_fragments=10))
    assert fragments.add(Frame(Opcode.CONT, "ä".encode()[1:], fin=True)) == "ä"


def test_more_fragments_than_allowed_are_a_violation():
    fragments = Fragments(Frame(Opcode.BINARY, b"", fin=False), Limits(max_fragments=3))
    fragments.add(Frame(Opcode.CONT, b"", fin=False))
    with pytest.raises(Violation) as caught:
        fragments.add(Frame(Opcode.CONT, b"", fin=False))
    assert caught.value.code == 1009


def test_as_many_fragments_as_allowed_are_a_message():
    fragments = Fragments(Frame(Opcode.BINARY, b"a", fin=False), Limits(max_fragments=3))
    fragments.add(Frame(Opcode.CONT, b"b", fin=False))
    assert fragments.add(Frame(Opcode.CONT, b"c", fin=True)) == b"abc"


@pytest.mark.parametrize("head", [b"\x83\x85", b"\x8f\xfe\x03\xe8"])
def test_an_opcode_that_there_is_not_fails_without_the_payload(incoming, head):
    incoming.receive(head)
    assert close_sent(incoming) is not None


@pytest.mark.parametrize("head", [b"\x82\xfe\x03\xe9", b"\x82\xff" + bytes(6) + b"\x03\xe9"])
def test_a_size_over_the_limit_that_comes_byte_by_byte_fails_with_its_last_byte(incoming, head):
    for byte in head:
        incoming.receive(bytes((byte,)))
    assert close_sent(incoming) is not None


# Text, as early as it can be seen.


@pytest.mark.parametrize("fin", [True, False], ids=["whole", "a fragment"])
def test_bad_text_fails_with_the_byte_that_shows_it(incoming, fin):
    frame = raw.frame("ok \xe4".encode() + b"\xff" + b"x" * 900, Opcode.TEXT, fin)
    bad = 8 + len("ok \xe4".encode())
    for number, byte in enumerate(frame):
        assert close_sent(incoming) is None, number
        incoming.receive(bytes((byte,)))
        if close_sent(incoming) is not None:
            break
    assert number == bad
    assert close_sent(incoming)[0] == 1007


def test_bad_text_fails_in_its_fragment_and_not_with_the_last(incoming):
    incoming.receive(raw.frame(b"\xce\xba", Opcode.TEXT, fin=False))
    incoming.receive(raw.frame(b"\xf4\x90", Opcode.CONT, fin=False))
    assert close_sent(incoming)[0] == 1007


def test_a_character_cut_by_frames_and_by_reads_is_none_the_worse(incoming):
    stream = raw.frame(b"\xf0\x9f", Opcode.TEXT, fin=False) + raw.frame(b"\x92\xa9", Opcode.CONT)
    found = [message for byte in stream for message in incoming.receive(bytes((byte,)))]
    assert found == ["\U0001f4a9"]


def test_binary_data_is_not_looked_at(incoming):
    incoming.receive(raw.frame(b"\xff" * 900)[:100])
    incoming.receive(raw.frame(b"\xff" * 900)[100:] + raw.frame(b"\xff", Opcode.BINARY, fin=False))
    assert incoming.receive(raw.frame(b"\xff", Opcode.CONT)) == [b"\xff\xff"]
    assert close_sent(incoming) is None


def test_text_that_is_compressed_is_looked_at_when_it_is_inflated():
    _, extension = _deflate().process_request_params([("client_max_window_bits", None)], [])
    incoming = Incoming(Limits(), [extension])
    squeezed = zlib.compressobj(wbits=-15)
    data = squeezed.compress(b"\xff" * 5000) + squeezed.flush(zlib.Z_SYNC_FLUSH)
    frame = bytearray(raw.frame(data[:-4], Opcode.TEXT))
    frame[0] |= 0x40
    incoming.receive(bytes(frame[:-1]))
    assert close_sent(incoming) is None
    incoming.receive(bytes(frame[-1:]))
    assert close_sent(incoming)[0] == 1007


# Frames that are wrong by their first two bytes.


@pytest.mark.parametrize(
    ("head", "second", "deflates", "amid", "why"),
    [
        (0x81, 0x80, False, False, ""),
        (0x83, 0x80, False, False, "invalid opcode"),
        (0x8B, 0x80, False, False, "invalid opcode"),
        (0x81, 0x00, False, False, "incorrect masking"),
        (0xC1, 0x80, False, False, "reserved bits must be 0"),
        (0xC1, 0x80, True, False, ""),
        (0xA1, 0x80, True, False, "reserved bits must be 0"),
        (0xC9, 0x80, True, False, "reserved bits must be 0"),
        (0x40, 0x80, True, True, "reserved bits must be 0"),
        (0x89, 0xFD, False, False, ""),
        (0x89, 0xFE, False, False, "control frame too long"),
        (0x09, 0x80, False, False, "fragmented control frame"),
        (0x89, 0x80, False, True, ""),
        (0x81, 0x80, False, True, "expected a continuation frame"),
        (0x80, 0x80, False, True, ""),
        (0x80, 0x80, False, False, "unexpected continuation frame"),
    ],
)
def test_two_bytes_say_what_is_wrong_with_a_frame(head, second, deflates, amid, why):
    assert fault(head, second, deflates, amid) == why


def test_a_close_frame_amid_fragments_is_answered_as_any(incoming):
    """Case 7.1.5 of the Autobahn|Testsuite; RFC 6455, section 5.4."""
    incoming.receive(raw.frame(b"first", Opcode.TEXT, fin=False))
    assert incoming.receive(raw.frame(b"\x03\xe8", Opcode.CLOSE)) == []
    assert close_sent(incoming) == (1000, "")


# A bound on the work of one call, and on the messages of a second.


def test_more_work_than_for_one_call_waits_for_the_next(incoming):
    stream = raw.frame("x") * (WORK * 2)
    found = len(incoming.receive(stream))
    assert found == WORK and incoming.rest
    found += len(incoming.receive(b""))
    assert found == WORK * 2 and not incoming.rest


def test_a_call_ends_when_there_is_no_more_room(incoming):
    assert incoming.receive(raw.frame("x") * 5, 2) == ["x", "x"]
    assert incoming.receive(raw.frame("y"), 9) == ["x", "x", "x", "y"]


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("stargate.message.incoming.monotonic", lambda: clock.now)
    return clock


def test_a_bucket_holds_the_messages_of_one_second(clock):
    rate = Rate(10)
    assert rate.take(10) == 0
    assert rate.take(1) == 1
    clock.now += 0.5
    assert rate.take(3) == 0
    clock.now += 3600
    assert rate.take(10) == 0
    assert rate.take(3) == 3


def test_messages_faster_than_allowed_fail_and_the_rest_is_delivered(clock):
    incoming = Incoming(Limits(max_message_rate=3), [])
    assert incoming.receive(raw.frame("x") * 5) == ["x"] * 3
    assert close_sent(incoming) == (1008, "over 3 messages a second")
    assert incoming.too_fast


def test_messages_as_fast_as_allowed_are_taken_for_ever(clock):
    incoming = Incoming(Limits(max_message_rate=4), [])
    for _ in range(100):
        assert incoming.receive(raw.frame("x")) == ["x"]
        clock.now += 0.25
    assert close_sent(incoming) is None


def test_pings_are_messages_to_a_bound_on_the_rate(clock):
    incoming = Incoming(Limits(max_message_rate=3), [])
    incoming.receive(raw.frame(b"", Opcode.PING) * 4)
    assert close_sent(incoming)[0] == 1008
