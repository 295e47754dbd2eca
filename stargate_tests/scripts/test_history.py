import json

import pytest

import stargate


@pytest.fixture
def ids(publisher, keep):
    keep("/a")
    return [
        publisher.send("/a", "grün"),
        publisher.send_json("/a", {"a": 1}),
        publisher.send("/a", b"\x00"),
    ]


def test_each_message_is_a_line(command, target, ids):
    code, out, err = command("history", *target, "/a")
    assert (code, err) == (0, "")
    assert [each.split(" ", 2)[1:] for each in out.splitlines()] == [
        [ids[0], "grün"],
        [ids[1], '{"a": 1}'],
        [ids[2], "base64:AA=="],
    ]


def test_it_may_begin_behind_an_id_and_end_early(command, target, ids):
    _, out, _ = command("history", *target, "/a", "--since", ids[0], "--limit", "1")
    assert out.split()[1:2] == [ids[1]] and len(out.splitlines()) == 1
    assert ids[2] in command("history", *target, "/a", "--limit", "1")[1]


def test_as_json_nothing_is_lost(command, target, ids, publisher):
    _, out, _ = command("history", *target, "/a", "--json")
    got = [json.loads(each) for each in out.splitlines()]
    times = [each.time for each in publisher.history("/a")]
    assert got == [
        {"id": ids[0], "time": times[0], "data": "grün"},
        {"id": ids[1], "time": times[1], "data": {"a": 1}},
        {"id": ids[2], "time": times[2], "data": "AA==", "encoding": "base64"},
    ]


def test_nothing_kept_is_nothing_printed(command, target):
    assert command("history", *target, "/b") == (0, "", "")


def test_what_is_gone_is_1(command, target, ids):
    code, out, err = command("history", *target, "/a", "--since", "0123456789ab-1-0123456789ab")
    assert (code, out) == (1, "") and "is gone" in err


@pytest.mark.parametrize("limit", ["0", "x"])
def test_a_limit_that_is_none_is_2(command, target, limit):
    code, _, err = command("history", *target, "/a", "--limit", limit)
    assert code == 2 and f"invalid number of messages value: '{limit}'" in err


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("text", [DEEP, "1e999", "9" * 5000])
def test_json_that_python_can_not_take_apart_is_there_as_text(
    command, redis_server, namespace, target, keep, text
):
    keep("/a")
    with stargate.connect(redis_server.url, namespace, json=lambda value: text) as publisher:
        id = publisher.send_json("/a", None)
    code, out, err = command("history", *target, "/a", "--json")
    assert (code, err) == (0, "")
    got = json.loads(out, parse_constant=pytest.fail)
    del got["time"]
    assert got == {"id": id, "data": text, "encoding": "json"}
    assert command("history", *target, "/a")[1].endswith(f" {id} {text}\n")


NASTY = "a\nb\r\x1b[2J\x9b\u2028\u202e\0"


def test_nothing_in_a_message_ends_a_line_or_gives_orders(command, target, publisher, keep):
    keep("/a")
    publisher.send("/a", NASTY)
    publisher.send_json("/a", {NASTY: "\ud800"})
    _, out, _ = command("history", *target, "/a")
    first, second = (each.split(" ", 2)[2] for each in out.splitlines())
    assert first == r"a\nb\r\x1b[2J\x9b\u2028\u202e\x00"
    assert json.loads(second) == {NASTY: "\ud800"}
    _, out, _ = command("history", *target, "/a", "--json")
    assert out.isascii() and out.removesuffix("\n").count("\n") == 1
    found = [json.loads(each)["data"] for each in out.splitlines()]
    assert found == [NASTY, {NASTY: "\ud800"}]
