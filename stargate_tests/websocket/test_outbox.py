import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stargate.message.message import BINARY, FIN, PONG, TEXT, frame
from stargate.websocket.outbox import BOOKKEEPING, GATHER_BUFFERS, GATHER_BYTES, Outbox, Total

ONE, TWO, THREE = (frame(FIN | TEXT, text) for text in (b"one", b"twotwo", b"three"))


def drained(outbox):
    return b"".join(bytes(buffer) for buffer in outbox.gather())


def filled(*buffers, sent=0):
    outbox = Outbox(Total())
    for number, buffer in enumerate(buffers):
        outbox.append(buffer, 0 if number else sent)
    return outbox


def test_an_empty_outbox_has_nothing_to_send():
    outbox = Outbox(Total())
    assert (outbox.size, outbox.gather(), outbox.cost) == (0, [], 0)


def test_buffers_leave_in_their_order():
    assert drained(filled(b"one", b"two", b"three")) == b"onetwothree"


def test_the_size_is_the_sum_of_the_bytes():
    assert filled(b"one", b"three").size == 8


def test_the_cost_is_the_size_and_the_bookkeeping():
    assert filled(b"one", b"three").cost == 8 + 2 * BOOKKEEPING


def test_of_a_buffer_that_left_in_part_the_rest_is_sent():
    outbox = filled(b"hello", b"!", sent=2)
    assert (drained(outbox), outbox.size) == (b"llo!", 4)


@pytest.mark.parametrize("sent", range(10))
def test_what_the_kernel_took_is_forgotten_wherever_it_ends(sent):
    outbox = filled(b"one", b"", b"two", b"abc")
    outbox.advance(sent)
    assert drained(outbox) == b"onetwoabc"[sent:]
    assert (outbox.size, outbox.taken) == (9 - sent, sent)


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
    outbox = filled(ONE, TWO, sent=2)
    assert outbox.keep_started() == 1
    assert (drained(outbox), outbox.size, outbox.messages) == (ONE[2:], 3, 1)


def test_keeping_what_has_started_drops_all_when_nothing_has():
    outbox = filled(ONE, TWO)
    assert outbox.keep_started() == 2
    assert (outbox.gather(), outbox.size, outbox.cost) == ([], 0, 0)


@pytest.mark.parametrize(
    ("sent", "kept", "missed"),
    [
        (1, ONE[1:], 2),
        (4, ONE[4:], 2),
        (5, b"", 2),  # Between two frames: nothing has begun.
        (6, TWO[1:], 1),
        (12, TWO[7:], 1),
        (13, b"", 1),
        (14, THREE[1:], 0),
    ],
)
def test_of_messages_in_one_buffer_the_one_under_way_is_kept(sent, kept, missed):
    outbox = Outbox(Total())
    outbox.append(ONE + TWO + THREE, sent, messages=3)
    assert outbox.keep_started() == missed
    assert drained(outbox) == kept


@pytest.mark.parametrize("size", [125, 126, 65_535, 65_536])
def test_the_frame_under_way_is_found_whatever_its_length(size):
    long = frame(FIN | BINARY, bytes(size))
    outbox = Outbox(Total())
    outbox.append(long + ONE, len(long) - 1, messages=2)
    assert outbox.keep_started() == 1
    assert drained(outbox) == long[-1:]


def test_a_control_frame_is_no_message():
    outbox = filled(ONE)
    outbox.append(frame(FIN | PONG, b"x"), messages=0)
    assert (outbox.messages, outbox.keep_started()) == (1, 1)


def test_the_answer_to_the_handshake_is_never_dropped():
    outbox = Outbox(Total())
    outbox.append(b"HTTP/1.1 101 ...\r\n\r\n", messages=0)
    outbox.append(ONE)
    assert outbox.keep_started() == 1
    assert drained(outbox) == b"HTTP/1.1 101 ...\r\n\r\n"


def test_after_dropping_what_follows_comes_behind_the_frame_under_way():
    outbox = filled(ONE, TWO, sent=4)
    outbox.keep_started()
    outbox.append(b"close", messages=0)
    assert (drained(outbox), outbox.size) == (ONE[4:] + b"close", 6)
    outbox.advance(6)
    assert (outbox.size, outbox.messages, outbox.cost) == (0, 0, 0)


def test_the_oldest_of_a_topic_are_dropped_and_no_others():
    outbox = filled(b"mine")
    for topic, buffer in (("a", b"a1"), ("b", b"b1"), ("a", b"a2"), ("b", b"b2")):
        outbox.append_droppable(topic, buffer)
    assert outbox.drop("a", outbox.cost) == 1
    assert drained(outbox) == b"mineb1a2b2"
    assert outbox.drop("a") == 1
    assert drained(outbox) == b"mineb1b2"
    assert outbox.drop("nobody's") == 0


def test_all_that_may_be_dropped_can_be_dropped_at_once():
    outbox = filled(b"mine")
    for topic, buffer in (("a", b"a1"), ("b", b"b1"), ("a", b"a2")):
        outbox.append_droppable(topic, buffer)
    assert outbox.drop_all() == 3
    assert (drained(outbox), outbox.messages) == (b"mine", 1)


def test_what_has_begun_to_leave_is_not_dropped():
    outbox = Outbox(Total())
    outbox.append_droppable("a", b"a1")
    outbox.append_droppable("a", b"a2")
    outbox.advance(1)
    assert outbox.drop("a") == 1
    assert drained(outbox) == b"1"


def test_dropping_leaves_no_memory_behind():
    outbox = Outbox(Total())
    outbox.append(b"first")
    for _ in range(10_000):
        outbox.drop("a")
        outbox.append_droppable("a", b"x")
    assert len(outbox._entries) < 1_000


def test_what_a_view_streams_counts_for_memory_and_not_against_its_listener():
    total = Total()
    outbox = Outbox(total)
    outbox.append(b"x" * 1000, streamed=True)
    assert (outbox.size, outbox.cost, total.cost) == (1000, BOOKKEEPING, 1000 + BOOKKEEPING)
    outbox.append(b"y" * 10)
    outbox.advance(600)
    assert (outbox.size, outbox.cost) == (410, 10 + 2 * BOOKKEEPING)
    outbox.advance(405)
    assert (outbox.size, outbox.cost) == (5, 5 + BOOKKEEPING)


def test_a_total_is_the_sum_of_its_outboxes():
    total = Total()
    one, two = Outbox(total), Outbox(total)
    one.append(b"12345")
    two.append(b"123")
    two.append_droppable("a", b"12")
    assert total.cost == 10 + 3 * BOOKKEEPING
    one.advance(5)
    two.drop("a")
    assert total.cost == 3 + 2 * BOOKKEEPING  # Its place is given back a little later.
    one.clear()
    two.clear()
    assert total.cost == 0


def test_an_outbox_was_filled_at_once_if_little_waited_when_the_turn_began():
    outbox = Outbox(Total(), turn=7)
    outbox.look(7)
    outbox.append(b"x" * 100)
    outbox.look(7)
    assert outbox.filled_at_once(7, 100)
    assert not outbox.filled_at_once(8, 100)
    outbox.look(8)
    assert not outbox.filled_at_once(8, 100)
    assert outbox.filled_at_once(8, 1000)


class AnyOutbox(RuleBasedStateMachine):
    """An outbox beside a list of what has to leave, whatever is done in whatever order."""

    def __init__(self):
        super().__init__()
        self.total = Total()
        self.outbox = Outbox(self.total)
        #: Buffer, topic if it may be dropped, whether it is streamed.
        self.waits = []
        self.cut = 0

    @rule(size=st.integers(0, 30), messages=st.integers(0, 3), streamed=st.booleans())
    def append(self, size, messages, streamed):
        buffer = frame(FIN | BINARY, bytes(size))
        self.outbox.append(buffer, messages=messages, streamed=streamed)
        self.waits.append((buffer, None, streamed, messages))

    @rule(size=st.integers(0, 30), topic=st.sampled_from("ab"))
    def append_droppable(self, size, topic):
        buffer = frame(FIN | TEXT, b"x" * size)
        self.outbox.append_droppable(topic, buffer)
        self.waits.append((buffer, topic, False, 1))

    @rule(share=st.floats(0, 1))
    def advance(self, share):
        sent = int(sum(len(buffer) for buffer in self.outbox.gather()) * share)
        self.outbox.advance(sent)
        self.cut += sent
        while self.waits and self.cut >= len(self.waits[0][0]):
            self.cut -= len(self.waits.pop(0)[0])
        if self.cut:
            buffer, _topic, streamed, messages = self.waits[0]
            self.waits[0] = buffer, None, streamed, messages

    @rule(topic=st.sampled_from("ab"))
    def drop(self, topic):
        kept = [entry for entry in self.waits if entry[1] != topic]
        assert self.outbox.drop(topic) == len(self.waits) - len(kept)
        self.waits = kept

    @rule(topic=st.sampled_from("ab"), bound=st.integers(0, 500))
    def drop_to(self, topic, bound):
        count = self.outbox.drop(topic, bound)
        for _ in range(count):
            self.waits.remove(next(entry for entry in self.waits if entry[1] == topic))
        if any(entry[1] == topic for entry in self.waits):
            assert self.outbox.cost < bound

    @precondition(lambda self: self.waits)
    @rule()
    def drop_all(self):
        kept = [entry for entry in self.waits if entry[1] is None]
        assert self.outbox.drop_all() == len(self.waits) - len(kept)
        self.waits = kept

    @invariant()
    def they_agree(self):
        waits = b"".join(entry[0] for entry in self.waits)[self.cut :]
        streamed = sum(len(entry[0]) for entry in self.waits if entry[2])
        if self.waits and self.waits[0][2]:
            streamed -= self.cut
        assert waits.startswith(drained(self.outbox))
        assert self.outbox.size == len(waits)
        assert self.outbox.streamed == streamed
        assert self.outbox.messages == sum(entry[3] for entry in self.waits)
        assert self.outbox.cost == len(waits) - streamed + BOOKKEEPING * len(self.waits)
        assert self.total.cost >= self.outbox.cost


TestAnyOutbox = AnyOutbox.TestCase
