import threading
from contextlib import ExitStack

import pytest

from stargate.backplane.packet import BINARY, JSON, TEXT
from stargate.backplane.redis import publisher as module
from stargate.backplane.redis.address import parse
from stargate.backplane.redis.commands import Commands
from stargate.backplane.redis.publisher import Publisher, Sent
from stargate.backplane.redis.scripts import POSITION_SECONDS
from stargate.history import LAST, NOT_KEPT, Keep, MessageId
from stargate_tests.waiting import wait_until

KEEP = Keep(10)


@pytest.fixture
def publisher(redis_server, namespace):
    found = Publisher(Commands(parse(redis_server.url), 10.0), namespace)
    yield found
    found.close()


def send(publisher, *payloads, keep=KEEP, topic="/a", **options):
    return [publisher.publish(topic, TEXT, each.encode(), (), keep, **options) for each in payloads]


def texts(page):
    return [each.message for each in page.packets]


def keys(redis_server, namespace):
    return redis_server.ask("KEYS", f"stargate:{{{namespace}:*")


def test_ids_count_from_one_and_each_has_a_tag_of_its_own(publisher):
    ids = [MessageId.parse(each) for each in send(publisher, "a", "b", "c")]
    assert [each.offset for each in ids] == [1, 2, 3]
    assert len({each.epoch for each in ids}) == 1 and len({each.tag for each in ids}) == 3


def test_what_is_sent_is_what_is_kept(publisher):
    for kind, payload in ((TEXT, "ü".encode()), (JSON, b"[1]"), (BINARY, b"\xff\n")):
        publisher.publish("/a", kind, payload, ["0" * 32], KEEP)
    found = publisher.history("/a")
    assert [(each.message, each.json) for each in found] == [
        ("ü", False),
        ("[1]", True),
        (b"\xff\n", False),
    ]
    assert publisher.read("/a", None, 1).packets[0].excluded == {"0" * 32}


def test_a_repeat_gets_the_id_of_the_first_and_is_no_second(publisher):
    assert len({*send(publisher, "a", "a", "a", key="k")}) == 1
    assert texts(publisher.read("/a", None, 9)) == ["a"]
    assert send(publisher, "b", keep=NOT_KEPT, topic="/b", key="k") == [None]


@pytest.mark.parametrize("keep", [KEEP, NOT_KEPT, None])
def test_who_sends_gets_to_know_how_many_listen(publisher, redis_server, keep):
    with ExitStack() as stack:
        for count in range(3):
            sent = publisher.send("/a", TEXT, b"x", keep=keep, key=f"k{count}")
            assert (sent.processes, sent.repeated) == (count, False)
            assert (sent.id is not None) == (keep is KEEP)
            heard = stack.enter_context(redis_server.client().pubsub())
            heard.subscribe(publisher.keys("/a").channel)
            assert heard.get_message(timeout=30)["type"] == "subscribe"
        assert publisher.send("/a", TEXT, b"x", keep=keep, key="k1") == Sent(
            publisher.publish("/a", TEXT, b"x", keep=keep, key="k1"), 0, True
        )


def test_every_key_goes_by_itself(publisher, redis_server, namespace):
    """So however many addresses there are: what nobody uses is gone in the end."""
    keep = Keep(10, ttl=5.0)
    for number in range(50):
        send(publisher, "x", "y", keep=keep, topic=f"/kept/{number}")
        send(publisher, "x", keep=NOT_KEPT, topic=f"/plain/{number}")
        publisher.touch(f"/touched/{number}", keep)
    found = keys(redis_server, namespace)
    assert len(found) == 50 * (2 + 2) + 50 + 50
    lives = {key: redis_server.ask("PTTL", key) for key in found}
    assert all(0 < life <= (POSITION_SECONDS + 5) * 1000 for life in lives.values()), lives
    once = [life for key, life in lives.items() if ":once:" in key]
    assert len(once) == 150 and max(once) <= module.REPEAT_MS


def test_a_size_is_kept_to_and_one_more_to_tell_it_by(publisher, redis_server):
    ids = send(publisher, *"abcdef", keep=Keep(3))
    assert texts(publisher.read("/a", None, 100)) == ["d", "e", "f"]
    assert redis_server.ask("XLEN", publisher.keys("/a").history) == 4
    page = publisher.behind("/a", MessageId.parse(ids[2]), 1000)
    assert page.holds and texts(page) == ["d", "e", "f"]
    assert not publisher.behind("/a", MessageId.parse(ids[1]), 1000).holds


def test_messages_go_when_they_are_too_old(publisher, redis_server):
    keep = Keep(100, ttl=0.3)
    first, *_ = send(publisher, "a", "b", keep=keep)
    wait_until(lambda: not publisher.history("/a"))
    ids = send(publisher, "c", keep=keep)
    assert redis_server.ask("XLEN", publisher.keys("/a").history) == 1
    assert MessageId.parse(ids[0]).offset == 3
    assert not publisher.behind("/a", MessageId.parse(first), 1000).holds


def test_what_is_not_known_is_taken_as_it_is(publisher):
    assert send(publisher, "a", keep=None) == [None]
    publisher.touch("/a", KEEP)
    assert all(send(publisher, "b", keep=None))
    assert texts(publisher.read("/a", None, 9)) == ["b"]


def test_many_are_touched_at_once_and_one_that_fails_is_none(publisher, redis_server):
    redis_server.ask("SET", publisher.keys("/b").meta, "no hash")
    found = publisher.touch_all([(topic, KEEP) for topic in ("/a", "/b", "/c")])
    assert [each and each.offset for each in found] == [0, None, 0]


def test_an_address_has_another_epoch_when_it_was_forgotten(publisher, redis_server):
    first = publisher.touch("/a", KEEP)
    assert publisher.touch("/a", KEEP) == first
    send(publisher, "x")
    redis_server.ask("DEL", publisher.keys("/a").meta)
    second = publisher.touch("/a", KEEP)
    assert second.epoch != first.epoch and second.offset == 0
    assert publisher.history("/a") == [], "what is left of it is of another history"


@pytest.mark.parametrize("size", [1, 30_000])
def test_a_history_is_read_in_parts_while_it_is_written(publisher, monkeypatch, size):
    monkeypatch.setattr(module, "PAGE", 7)
    start = publisher.touch("/a", Keep(100_000))
    payload = "x" * size
    send(publisher, *[f"{number} {payload}" for number in range(40)], keep=Keep(100_000))
    ended = threading.Event()

    def write():
        number = 40
        while not ended.is_set():
            send(publisher, f"{number} {payload}", keep=Keep(100_000))
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(5):
            page = publisher.behind("/a", start, 1_000_000_000)
            assert page.holds and len(page.packets) == page.position.offset >= 40
            numbers = [int(each.message.partition(" ")[0]) for each in page.packets]
            assert numbers == list(range(len(numbers)))
    finally:
        ended.set()
        thread.join()


def test_what_is_trimmed_while_it_is_read_is_not_complete(publisher, monkeypatch):
    monkeypatch.setattr(module, "PAGE", 5)
    start = publisher.touch("/a", Keep(20))
    send(publisher, *map(str, range(20)), keep=Keep(20))
    read = publisher.read

    def slow(*args):
        found = read(*args)
        send(publisher, *map(str, range(30)), keep=Keep(20))
        return found

    monkeypatch.setattr(publisher, "read", slow)
    page = publisher.behind("/a", start, 1000)
    assert (page.holds, page.packets) == (False, [])


def test_a_history_past_the_limit_is_not_read(publisher):
    start = publisher.touch("/a", KEEP)
    send(publisher, "x" * 100, "x" * 100)
    assert len(publisher.behind("/a", start, 200).packets) == 2
    page = publisher.behind("/a", start, 199)
    assert (page.holds, page.packets) == (False, [])


def test_a_count_ends_it(publisher, monkeypatch):
    monkeypatch.setattr(module, "PAGE", 2)
    start = publisher.touch("/a", KEEP)
    send(publisher, *"abcdef")
    assert texts(publisher.behind("/a", start, 1000, 3)) == ["a", "b", "c"]
    assert texts(publisher.behind("/a", start, 1000, 6)) == list("abcdef")


def test_a_hole_in_a_history_is_not_complete(publisher, redis_server):
    start = publisher.touch("/a", KEEP)
    send(publisher, *"abc")
    redis_server.ask("XDEL", publisher.keys("/a").history, "2-0")
    assert not publisher.behind("/a", start, 1000).holds
    redis_server.ask("XDEL", publisher.keys("/a").history, "1-0")
    assert not publisher.behind("/a", start, 1000).holds


def test_messages_that_are_gone_from_behind_are_not_complete(publisher, redis_server):
    first, *_ = send(publisher, *"ab")
    redis_server.ask("XDEL", publisher.keys("/a").history, "2-0")
    assert not publisher.behind("/a", MessageId.parse(first), 1000).holds


def test_the_newest_is_had_by_name(publisher):
    send(publisher, *"ab")
    assert [each.message for each in publisher.history("/a", LAST)] == ["b"]
    first = publisher.history("/a")[0].id
    assert publisher.history("/a", first, 0).complete is True
    assert publisher.history("/a", "nothing").complete is False
    assert publisher.history("/none", LAST).complete is False
    assert publisher.history("/none").complete is True
    assert publisher.history("/a", limit=0) == []


def test_a_bad_key_is_refused_before_anything_is_sent(publisher):
    with pytest.raises(ValueError, match="key = 'a b'"):
        send(publisher, "x", key="a b")
