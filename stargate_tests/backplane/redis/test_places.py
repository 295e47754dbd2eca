from stargate.backplane.redis.places import NAMES_AT_ONCE, Batch, Item, Place, decode, encode
from stargate.backplane.redis.presence_scripts import ANY


def confirmed(place, serial=1, settled=True):
    batch = place.next(serial, settled)
    place.confirm()
    return batch


def test_absolute_numbers_are_told_after_what_was_told_before():
    place = Place("/a")
    place.change("ann", 1, 0.0)
    place.change(None, 1, 0.0)
    place.change("ann", 1, 0.0)
    assert confirmed(place) == Batch("", "1", True, (Item("ann", 2, False), Item(None, 1, False)))
    place.change("ann", -1, 0.0)
    assert confirmed(place, 5) == Batch("1", "5", True, (Item("ann", 1, False),))
    assert place.next(6, True) is None


def test_what_is_pending_stays_as_it_is_whatever_changes():
    place = Place("/a")
    place.change("ann", 1, 0.0)
    first = place.next(1, True)
    place.change("ann", -1, 0.0)
    place.doubtful = True
    assert place.next(2, False) is first


def test_what_was_lost_is_told_again_as_a_whole():
    place = Place("/a")
    for who in ("ann", "bob"):
        place.change(who, 1, 0.0)
    confirmed(place)
    place.change("bob", -1, 0.0)
    place.change("cid", 1, 0.0)
    place.next(2, True)
    place.lose()
    batch = confirmed(place, 3)
    assert batch.before == ANY
    assert set(batch.items) == {
        Item("ann", 1, True),
        Item("bob", 0, True),
        Item("cid", 1, False),
    }
    assert not place.waits


def test_who_could_not_be_told_of_is_told_again_when_all_is_settled():
    place = Place("/a")
    place.change("ann", 1, 0.0)
    place.change(None, 1, 0.0)
    confirmed(place, 1, settled=False)
    assert not place.waits
    assert place.settle()
    assert confirmed(place, 2).items == (Item("ann", 1, False),)
    assert not place.settle()


def test_a_place_is_empty_when_nobody_is_there_and_the_redis_knows():
    place = Place("/a")
    place.change("ann", 1, 0.0)
    confirmed(place)
    assert not place.empty
    place.change("ann", -1, 7.0)
    assert not place.empty
    confirmed(place, 2)
    assert place.empty
    assert place.changed_at == 7.0


def test_after_it_was_called_gone_all_who_are_here_are_new():
    place = Place("/a")
    place.change("ann", 1, 0.0)
    place.change("bob", 1, 0.0)
    confirmed(place)
    place.change("bob", -1, 0.0)
    place.begin_anew()
    assert confirmed(place, 1) == Batch("", "1", True, (Item("ann", 1, False),))


def test_many_names_are_told_some_at_a_time():
    place = Place("/a")
    for who in range(NAMES_AT_ONCE + 1):
        place.change(who, 1, 0.0)
    assert len(confirmed(place).items) == NAMES_AT_ONCE
    assert len(confirmed(place, 2).items) == 1


def test_a_name_is_what_it_was():
    for who in (None, "", "ann", 7, "7", '"', "☃"):
        assert decode(encode(who)) == who
        assert type(decode(encode(who))) is type(who)
