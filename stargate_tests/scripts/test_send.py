import io
import sys
from types import SimpleNamespace

import pytest


@pytest.fixture
def stdin(monkeypatch):
    def give(raw):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))

    return give


def kept(publisher):
    return [each.message for each in publisher.history("/a")]


def test_a_message_is_sent_and_its_id_printed(command, target, publisher, keep):
    keep("/a")
    code, out, err = command("send", *target, "/a", "grün")
    assert (code, err) == (0, "nobody listens there\n")
    [sent] = publisher.history("/a")
    assert (sent.id, sent.message, sent.json) == (out.strip(), "grün", False)


def test_without_a_history_nothing_is_printed(command, target):
    assert command("send", *target, "/a", "on") == (0, "", "nobody listens there\n")
    assert command("send", *target, "/a", "on", "-q") == (0, "", "")


@pytest.mark.parametrize(
    ("count", "said"), [(1, "1 process listens there\n"), (2, "2 processes listen there\n")]
)
@pytest.mark.parametrize("history", [False, True])
def test_how_many_processes_listen_is_told(command, target, keep, listeners, count, said, history):
    if history:
        keep("/a")
    listeners("/a", count)
    assert command("send", *target, "/a", "on")[::2] == (0, said)
    assert command("send", *target, "/a", "on", "--expect")[::2] == (0, said)
    assert command("send", *target, "/a", "on", "-q", "--expect")[::2] == (0, "")
    assert command("send", *target, "/b", "on", "-q", "--expect")[::2] == (3, "")


def test_it_is_3_where_somebody_is_expected_and_nobody_listens(command, target, publisher, keep):
    keep("/a")
    code, out, err = command("send", *target, "/a", "on", "--expect")
    assert (code, err) == (3, "nobody listens there\n")
    assert [each.id for each in publisher.history("/a")] == [out.strip()]


@pytest.mark.parametrize("path", ["jobs/demo", "acme/jobs", "/jobs/", "/a b", "", "/" + "x" * 8192])
def test_what_is_no_address_is_2_and_says_what_would_be_right(command, target, path):
    code, out, err = command("send", *target, path, "on")
    assert (code, out) == (2, "") and "it must be" in err or "more than 8192" in err
    assert len(err) < 1500


def test_an_address_with_a_scope(command, target, publisher, keep):
    keep("acme:/jobs/1")
    assert command("send", *target, "acme:/jobs/1", "on")[0] == 0
    assert [each.message for each in publisher.history("acme:/jobs/1")] == ["on"]


def test_a_message_that_begins_with_a_dash(command, target, publisher, keep):
    keep("/a")
    assert command("send", *target, "/a", "--", "-v")[0] == 0
    assert kept(publisher) == ["-v"]


def test_json_is_sent_as_json(command, target, publisher, keep):
    keep("/a")
    assert command("send", *target, "/a", "--json", '{"a":  [1, "ü"]}')[0] == 0
    [sent] = publisher.history("/a")
    assert (sent.message, sent.json) == ('{"a": [1, "\\u00fc"]}', True)


@pytest.mark.parametrize("text", ["{", "NaN", "on", "1e999", ""])
def test_what_is_no_json_is_2_and_not_sent(command, target, publisher, keep, text):
    keep("/a")
    code, out, err = command("send", *target, "/a", "--json", text)
    assert (code, out) == (2, "") and "MESSAGE" in err and "JSON" in err
    assert kept(publisher) == []


def test_a_repeat_of_a_key_is_sent_once(command, target, publisher, keep):
    keep("/a")
    words = ("send", *target, "/a", "on", "--key", "order-5")
    code, out, err = command(*words)
    assert (code, err) == (0, "nobody listens there\n")
    said = "nothing is sent: it was, with this key, within a minute\n"
    assert command(*words) == command(*words, "--expect") == (0, out, said)
    assert command(*words, "-q") == (0, out, "")
    assert kept(publisher) == ["on"]


def test_a_key_that_is_none_is_2(command, target):
    code, _, err = command("send", *target, "/a", "on", "--key", "a b")
    assert code == 2 and "key = 'a b'" in err


def test_a_message_that_is_too_long_is_1(command, target):
    code, _, err = command("send", *target, "/a", "x" * 1_048_577)
    assert code == 1 and "nothing has been sent" in err


def test_each_line_of_standard_input_is_a_message(command, target, publisher, keep, stdin):
    keep("/a")
    stdin("one\n\ngrün\r\nno end of line".encode())
    code, out, err = command("send", *target, "/a", "-")
    assert (code, err) == (0, "4 messages sent; nobody listens there\n")
    assert kept(publisher) == ["one", "", "grün", "no end of line"]
    assert out.split() == [each.id for each in publisher.history("/a")]


def test_of_many_lines_it_is_told_who_listened_to_the_last(command, target, listeners, stdin):
    listeners("/a", 1)
    stdin(b"one\ntwo\n")
    assert command("send", *target, "/a", "-", "--expect") == (
        0, "", "2 messages sent; 1 process listens there\n",
    )  # fmt: skip
    stdin(b"one\ntwo\n")
    assert command("send", *target, "/a", "-", "-q") == (0, "", "")
    stdin(b"")
    assert command("send", *target, "/b", "-", "--expect") == (0, "", "0 messages sent\n")


def test_one_line_that_nobody_listened_to_is_enough_for_3(command, target, listeners, monkeypatch):
    class Lines:
        def __iter__(self):
            yield b"one\n"
            listeners("/a", 1)
            yield b"two\n"

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Lines()))
    assert command("send", *target, "/a", "-", "--expect") == (
        3, "", "2 messages sent; 1 process listens there; nobody did for 1 of them\n",
    )  # fmt: skip


def test_a_line_that_is_no_json_ends_it_and_says_which(command, target, publisher, keep, stdin):
    keep("/a")
    stdin(b'{"a": 1}\nnothing\n2\n')
    code, _, err = command("send", *target, "/a", "-", "--json")
    assert code == 5 and "1 message sent; nobody" in err and "line 2 is no JSON" in err
    assert kept(publisher) == ['{"a": 1}']


def test_a_line_that_is_no_text_ends_it_and_says_which(command, target, stdin):
    stdin(b"one\n\xff\n")
    code, _, err = command("send", *target, "/a", "-")
    assert code == 5 and "1 message sent; nobody" in err and "line 2 is not UTF-8" in err


def test_a_key_for_many_lines_is_2(command, target, stdin):
    stdin(b"one\n")
    code, _, err = command("send", *target, "/a", "-", "--key", "k")
    assert code == 2 and "--key is for one message" in err


def test_a_redis_that_is_gone_ends_it(command, gone_redis, stdin):
    stdin(b"one\ntwo\n")
    code, out, err = command("send", gone_redis, "--namespace", "shop", "/a", "-")
    assert (code, out) == (1, "") and "0 messages sent\n" in err and "not sent: " in err


def test_who_does_not_know_whether_it_was_sent_is_told_how_to_repeat_it(command, own_redis):
    redis = own_redis()
    words = ("--namespace", "shop", redis.url, "/a", "on", "--timeout", "0.5")
    relayed = redis.client()
    # What writes is held up, and the connecting is not.
    relayed.client_pause(10_000, all=False)
    code, _, err = command("send", *words)
    assert code == 1 and err.startswith("stargate: unknown: ")
    assert "(to repeat it: --key " in err
    relayed.client_unpause()
    key = err.rpartition("--key ")[2].rstrip(")\n")
    assert command("send", *words, "--key", key)[::2] == (0, "nobody listens there\n")


def test_json_of_a_thousand_levels_is_told(command, target, publisher, keep, stdin):
    keep("/a")
    deep = "[" * 100_000 + "]" * 100_000
    code, out, err = command("send", *target, "/a", "--json", deep)
    assert (code, out) == (2, "") and "MESSAGE is JSON that is nested too deeply" in err
    stdin(f"1\n{deep}\n".encode())
    code, out, err = command("send", *target, "/a", "--json", "-", "-q")
    assert (code, err) == (5, "stargate: line 2 is JSON that is nested too deeply\n")
    assert kept(publisher) == ["1"] and len(out.splitlines()) == 1


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_message_that_is_no_text_is_2(command, target, publisher, keep, more):
    keep("/a")
    code, out, err = command("send", *target, "/a", '"\udcff"', *more)
    assert (code, out) == (2, "") and "MESSAGE is not UTF-8" in err
    assert kept(publisher) == []


def test_standard_input_that_is_closed_is_5(shell, target):
    status, out, err = shell('"$@" <&-', "send", *target, "/a", "-", "-q")
    assert (status, out, err) == (5, "", "stargate: standard input is closed\n")


def test_standard_input_that_can_not_be_read_is_5(shell, target):
    status, out, err = shell('"$@" 0> /dev/null', "send", *target, "/a", "-", "-q")
    assert (status, out, err) == (5, "", "stargate: standard input: Bad file descriptor\n")


@pytest.mark.parametrize("words", [("on",), ("-",)])
def test_what_has_been_sent_is_told_where_its_id_can_not_be_printed(
    shell, target, publisher, keep, words
):
    keep("/a")
    script = 'printf "one\ntwo\n" | "$@" > /dev/full'
    status, _, err = shell(script, "send", *target, "/a", *words)
    [sent] = publisher.history("/a")
    where = "MESSAGE" if words == ("on",) else "line 1"
    summary, told = err.splitlines()
    assert status == 4 and "nobody listens there" in summary
    assert told == (
        f"stargate: standard output: No space left on device; {where} has been sent, as {sent.id}"
    )
