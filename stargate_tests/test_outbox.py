import pytest

from stargate.outbox import GATHER_BUFFERS, GATHER_BYTES, Outbox


def drained(outbox):
    return b"".join(bytes(buffer) for buffer in outbox.gather())


def filled(*buffers, sent=0):
    outbox = Outbox()
    for number, buffer in enumerate(buffers):
        outbox.append(buffer, 0 if number else sent)
    return outbox


def test_an_empty_outbox_has_nothing_to_send():
    assert (Outbox().size, Outbox().gather()) == (0, [])


def test_buffers_leave_in_their_order():
    assert drained(filled(b"one", b"two", b"three")) == b"onetwothree"


def test_the_size_is_the_sum_of_the_bytes():
    assert filled(b"one", b"three").size == 8


def test_of_a_buffer_that_left_in_part_the_rest_is_sent():
    outbox = filled(b"hello", b"!", sent=2)
    assert (drained(outbox), outbox.size) == (b"llo!", 4)


@pytest.mark.parametrize("sent", range(10))
def test_what_the_kernel_took_is_forgotten_wherever_it_ends(sent):
    outbox = filled(b"one", b"", b"two", b"abc")
    outbox.advance(sent)
    assert drained(outbox) == b"onetwoabc"[sent:]
    assert outbox.size == 9 - sent


def test_bytes_can_leave_one_by_one():
    outbox, seen = filled(b"ab", b"cd"), b""
    while outbox.size:
        seen += drained(outbox)[:1]
        outbox.advance(1)
    assert seen == b"abcd"


def test_gathering_shares_the_buffer_and_copies_nothing():
    buffer = b"shared by all"
    assert filled(buffer).gather()[0] is buffer


def test_one_gathering_is_bounded_in_buffers():
    assert len(filled(*[b"x"] * (GATHER_BUFFERS + 5)).gather()) == GATHER_BUFFERS


def test_one_gathering_is_bounded_in_bytes_but_for_its_last_buffer():
    big = b"x" * GATHER_BYTES
    assert len(filled(b"small", big, b"behind").gather()) == 2


def test_a_buffer_longer_than_a_gathering_is_gathered_whole():
    assert len(drained(filled(b"x" * (GATHER_BYTES * 2), b"y"))) == GATHER_BYTES * 2


def test_keeping_what_has_started_keeps_the_frame_under_way():
    outbox = filled(b"hello", b"dropped", sent=2)
    outbox.keep_started()
    assert (drained(outbox), outbox.size) == (b"llo", 3)


def test_keeping_what_has_started_drops_all_when_nothing_has():
    outbox = filled(b"hello", b"dropped")
    outbox.keep_started()
    assert (outbox.gather(), outbox.size) == ([], 0)


def test_after_dropping_what_follows_comes_behind_the_frame_under_way():
    outbox = filled(b"hello", b"dropped", sent=4)
    outbox.keep_started()
    outbox.append(b"close")
    assert (drained(outbox), outbox.size) == (b"oclose", 6)
    outbox.advance(6)
    assert outbox.size == 0
