import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stargate.backplane.packet import NOBODY, TEXT, Packet
from stargate.backplane.redis import feed as module
from stargate.backplane.redis.feed import Feed
from stargate.backplane.redis.publisher import Page
from stargate.history import NO_TAG, MessageId

EPOCHS = [f"{number:012x}" for number in range(1, 20)]
EPOCH = EPOCHS[0]


def an_id(offset, epoch=EPOCH):
    return MessageId(epoch, offset, f"{offset:012x}" if offset else NO_TAG)


def packet(offset, epoch=EPOCH, payload=b"x"):
    id = str(an_id(offset, epoch)) if offset else ""
    return Packet(TEXT, id, 0, NOBODY, "k", payload)


def begun(offset=0, epoch=EPOCH):
    """A feed that flows from there."""
    feed = Feed()
    complete, packets = feed.fill(feed.lack(), Page(an_id(offset, epoch), True, []))
    assert complete and not list(packets)
    return feed


def taken(feed, *packets):
    return [MessageId.parse(each.id).offset for one in packets for each in feed.take(one)]


def filled(feed, page, lack=None):
    complete, packets = feed.fill(lack or feed.lack(), page)
    return complete, [MessageId.parse(each.id).offset for each in packets]


def page(first, last, holds=True, epoch=EPOCH):
    return Page(an_id(last, epoch), holds, [packet(n, epoch) for n in range(first, last + 1)])


def test_messages_in_order_go_out_as_they_come():
    assert taken(begun(), packet(1), packet(2), packet(3)) == [1, 2, 3]


def test_a_repeat_is_dropped():
    assert taken(begun(), packet(1), packet(2), packet(1), packet(2), packet(3)) == [1, 2, 3]


def test_a_gap_is_filled_before_what_is_behind_it_goes_out():
    feed = begun()
    assert taken(feed, packet(1), packet(3), packet(4)) == [1]
    assert not feed.flows
    assert filled(feed, page(2, 3)) == (True, [2, 3, 4])
    assert feed.flows and feed.position == an_id(4)


def test_a_gap_that_cannot_be_filled_is_told_and_what_is_there_goes_out():
    feed = begun()
    taken(feed, packet(1), packet(4), packet(5))
    assert filled(feed, Page(an_id(5), False, [])) == (False, [4, 5])


def test_a_gap_behind_what_can_be_read_is_another_one():
    feed = begun()
    taken(feed, packet(3))
    lack = feed.lack()
    taken(feed, packet(9))
    assert filled(feed, Page(an_id(5), False, []), lack) == (False, [3])
    assert not feed.flows and feed.position == an_id(3)
    assert filled(feed, page(4, 9)) == (True, [4, 5, 6, 7, 8, 9])


def test_what_is_read_for_another_gap_is_not_taken():
    feed = begun()
    taken(feed, packet(2))
    lack = feed.lack()
    filled(feed, page(1, 2))
    assert feed.fill(lack, page(1, 2)) is None


def test_a_page_may_come_while_it_flows():
    feed = begun()
    lack = feed.lack()
    assert taken(feed, packet(1), packet(2)) == [1, 2]
    assert filled(feed, page(1, 4), lack) == (True, [3, 4])
    assert taken(feed, packet(3), packet(4), packet(5)) == [5]


def test_a_page_that_fails_is_nothing_to_a_feed_that_has_flowed_beyond_it():
    feed = begun()
    lack = feed.lack()
    taken(feed, packet(1), packet(2), packet(3))
    assert filled(feed, Page(an_id(2), False, []), lack) == (True, [])
    assert taken(feed, packet(4)) == [4]


def test_a_page_that_fails_sets_a_feed_on_that_was_not_as_far():
    feed = begun()
    assert filled(feed, Page(an_id(7), False, [])) == (False, [])
    assert taken(feed, packet(8)) == [8]


def test_the_place_where_it_began_is_nothing_to_a_feed_that_has_begun():
    feed = Feed()
    list(feed.fill(feed.lack(), Page(None, True, []))[1])
    lack = feed.lack()
    taken(feed, packet(1), packet(2))
    assert filled(feed, Page(an_id(1), True, []), lack) == (True, [])
    assert feed.position == an_id(2)


def test_messages_that_are_not_kept_go_out_as_they_come_or_in_their_order():
    feed = begun()
    plain = packet(0)
    assert list(feed.take(plain)) == [plain]
    assert list(feed.take(packet(2))) == list(feed.take(plain)) == []
    _complete, packets = feed.fill(feed.lack(), page(1, 2))
    assert list(packets) == [packet(1), packet(2), plain]


def test_where_nothing_was_kept_the_first_message_that_is_is_number_one():
    feed = Feed()
    list(feed.fill(feed.lack(), Page(None, True, []))[1])
    assert feed.flows and feed.position is None
    assert taken(feed, packet(1), packet(2)) == [1, 2]
    feed = Feed()
    list(feed.fill(feed.lack(), Page(None, True, []))[1])
    assert taken(feed, packet(2)) == []
    assert feed.lack().position == MessageId(EPOCH, 0, NO_TAG)


def test_another_history_is_a_gap():
    feed = begun(7)
    assert taken(feed, packet(1, EPOCHS[1])) == []
    assert filled(feed, page(1, 1, False, EPOCHS[1])) == (False, [1])
    assert feed.position == an_id(1, EPOCHS[1])


def test_what_was_held_of_a_history_that_is_gone_does_not_hold_up_the_new_one():
    feed = begun()
    assert taken(feed, packet(1), packet(3)) == [1]
    taken(feed, packet(1, EPOCHS[1]))
    assert filled(feed, Page(an_id(1, EPOCHS[1]), False, [])) == (False, [1])
    assert feed.flows


def test_what_comes_of_a_newer_history_while_one_is_read_is_read_for():
    feed = begun()
    taken(feed, packet(2))
    lack = feed.lack()
    taken(feed, packet(1, EPOCHS[1]))
    assert filled(feed, page(1, 2), lack) == (True, [1, 2])
    assert not feed.flows
    assert filled(feed, Page(an_id(1, EPOCHS[1]), False, [])) == (False, [1])


def test_holding_twice_is_once():
    feed = begun()
    feed.hold()
    taken(feed, packet(1))
    feed.hold()
    assert filled(feed, page(1, 1)) == (True, [1])


def test_too_much_is_let_go_of_and_read(monkeypatch):
    monkeypatch.setattr(module, "HELD_BYTES", 3 * module.HELD_COST)
    feed = begun()
    taken(feed, packet(2), packet(3), packet(4), packet(5))
    assert filled(feed, page(1, 2)) == (True, [1, 2])
    assert not feed.flows, "what it has let go of is missing"
    assert filled(feed, page(3, 5)) == (True, [3, 4, 5])
    assert feed.flows


def test_what_it_has_let_go_of_is_missing_though_nothing_came_since(monkeypatch):
    monkeypatch.setattr(module, "HELD_BYTES", 3 * module.HELD_COST)
    feed = begun()
    taken(feed, packet(2), packet(3), packet(4))
    assert filled(feed, page(1, 2)) == (True, [1, 2])
    assert not feed.flows
    assert filled(feed, page(3, 4)) == (True, [3, 4])


def test_what_it_has_let_go_of_and_can_not_be_read_is_told(monkeypatch):
    monkeypatch.setattr(module, "HELD_BYTES", 2 * module.HELD_COST)
    feed = begun()
    for each in (packet(2), packet(0), packet(3)):
        assert not list(feed.take(each))
    assert filled(feed, page(1, 3)) == (False, [1, 2, 3])
    assert filled(feed, page(4, 3)) == (True, [])


class Model:
    """A Redis, one subscription whose messages get lost, and what has been given out and told."""

    def __init__(self):
        self.epochs = iter(EPOCHS)
        self.sent, self.wires, self.reads = [], [], []
        self.out, self.told = [], []
        self.wipe()
        self.feed = Feed()
        self.read()
        self.answer()

    def wipe(self):
        self.epoch, self.top, self.oldest = next(self.epochs), 0, 1

    def send(self):
        self.top += 1
        self.sent.append((self.epoch, self.top))
        self.wires.append(packet(self.top, self.epoch))

    def trim(self):
        self.oldest = max(self.oldest, self.top)

    def arrive(self):
        if self.wires:
            self.give(self.feed.take(self.wires.pop(0)))

    def again(self):
        if self.wires:
            self.give(self.feed.take(self.wires[0]))

    def lose(self):
        if self.wires:
            self.wires.pop(0)

    def cut(self):
        self.wires.clear()
        self.feed.hold()

    def read(self):
        lack = self.feed.lack()
        here = lack.position
        position = an_id(self.top, self.epoch)
        if here is None:
            self.reads.append((lack, Page(position, True, [])))
            return
        holds = here.epoch == self.epoch and here.offset + 1 >= self.oldest
        first = here.offset + 1 if holds else self.top + 1
        packets = [packet(n, self.epoch) for n in range(first, self.top + 1)]
        self.reads.append((lack, Page(position, holds, packets)))

    def answer(self):
        if self.reads:
            found = self.feed.fill(*self.reads.pop(0))
            if found is not None:
                complete, packets = found
                if not complete:
                    self.told.append(len(self.out))
                self.give(packets)

    def give(self, packets):
        for each in packets:
            id = MessageId.parse(each.id)
            self.out.append((id.epoch, id.offset))

    def settle(self):
        """Everything arrives, and what is lacking is read until nothing is."""
        for _ in range(4):
            self.send()
            while self.wires:
                self.arrive()
            for _ in range(30):
                if self.feed.flows and not self.reads:
                    break
                self.read()
                self.answer()


STEPS = ("send", "send", "send", "arrive", "arrive", "again", "lose", "cut")
STEPS += ("read", "answer", "trim", "wipe")


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=60), st.sampled_from((2, 4, 1000)))
def test_in_any_case_it_is_in_order_without_repeats_and_each_loss_is_told(steps, held):
    before, module.HELD_BYTES = module.HELD_BYTES, held * module.HELD_COST
    try:
        model = Model()
        for step in steps:
            if step != "wipe" or model.epoch != EPOCHS[-2]:
                getattr(model, step)()
        model.settle()
    finally:
        module.HELD_BYTES = before
    check(model)


def check(model):
    place = {each: number for number, each in enumerate(model.sent)}
    places = [place[each] for each in model.out]
    assert places == sorted(set(places))
    assert model.feed.flows and model.out[-1] == model.sent[-1]
    expected = 0
    for number, found in enumerate(places):
        assert found == expected or number in model.told, f"{model.sent[expected]} in silence"
        expected = found + 1


def test_the_model_finds_what_is_lost_in_silence():
    model = Model()
    model.settle()
    del model.out[1]
    with pytest.raises(AssertionError, match="in silence"):
        check(model)
