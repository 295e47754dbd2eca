"""Where the output of the commands goes, and does not, in a shell: each with every command."""

import io
import json
import os
import subprocess
import sys

import pytest

from stargate.scripts.output import Unwritten, escaped, json_line, message_line, put, tell
from stargate_tests.scripts.conftest import DEADLINE, STARGATE, unmeasured

#: A hundred of these do not go into a pipe.
LONG = "ü" * 2000


@pytest.fixture(params=["send", "history", "presence", "listen"])
def words(request, target, publisher, keep, here, scripted):
    """A command that prints ``grün``, or an id, and tells nothing; its words."""
    keep("/a")
    if request.param == "listen":
        return "listen", scripted(r'{"data": "gr\u00fcn"}')
    if request.param == "send":
        return "send", *target, "/a", "grün", "-q"
    if request.param == "history":
        publisher.send("/a", "grün")
    else:
        here("grün")
    return request.param, *target, "/a"


def shown(words, text):
    return [] if words[0] == "send" else [text]


def printed(out):
    return [each.split(" ")[-1] for each in out.splitlines() if not each.isascii() or "gr" in each]


def test_a_full_disk_is_4(shell, words):
    status, _, err = shell('"$@" > /dev/full', *words)
    assert (status, err.count("\n")) == (4, 1)
    assert err.startswith("stargate: standard output: No space left on device")


def test_a_full_disk_is_4_without_a_buffer(shell, words):
    status, _, err = shell('"$@" > /dev/full', *words, PYTHONUNBUFFERED="1")
    assert (status, err.count("\n")) == (4, 1)


def test_standard_output_that_is_closed_is_4(shell, words):
    status, _, err = shell('"$@" >&-', *words)
    assert (status, err.count("\n")) == (4, 1)
    assert err.startswith("stargate: standard output is closed")


@pytest.mark.parametrize("where", ["2>&-", "2> /dev/full", "2>&- <&-"])
def test_without_standard_error_the_output_is_what_it_was(shell, words, where):
    status, out, err = shell(f'"$@" {where}', *words)
    assert (status, err, out.count("\n")) == (0, "", 1)
    assert printed(out) == shown(words, "grün")


def test_with_neither_the_status_says_it(shell, words):
    assert shell('"$@" >&- 2>&-', *words) == (4, "", "")
    assert shell('"$@" > /dev/full 2> /dev/full', *words) == (4, "", "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_ends_it_quietly_with_141(words, monkeypatch, unbuffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    process = subprocess.Popen(
        [STARGATE, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(DEADLINE) == 141


@pytest.mark.parametrize(
    "environ",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "ascii:ignore"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_what_the_encoding_can_not_say_is_escaped(shell, words, environ):
    if words[0] == "send":
        words = (*words[:-2], r'"gr\u00fcn"', "--json", "-q")
    status, out, err = shell('"$@"', *words, **environ)
    assert (status, err, out.count("\n")) == (0, "", 1)
    assert printed(out) == shown(words, r"gr\xfcn")


def test_the_locale_of_c_changes_nothing(shell, words, publisher):
    status, out, err = shell('"$@"', *words, LC_ALL="C")
    assert (status, err) == (0, "")
    assert printed(out) == shown(words, "grün")
    if words[0] == "send":
        assert publisher.history("/a")[-1].message == "grün"


def test_as_json_the_encoding_takes_nothing_away(shell, target, publisher, keep):
    keep("/a")
    publisher.send("/a", "grün 🚪")
    for environ in ({}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}):
        status, out, _ = shell('"$@"', "history", *target, "/a", "--json", **environ)
        assert (status, json.loads(out)["data"]) == (0, "grün 🚪")
        assert ("grün 🚪" in out) == (not environ)


def test_head_has_what_it_wants(shell, target, publisher, keep):
    keep("/a")
    for _ in range(100):
        publisher.send("/a", LONG)
    script = '{ "$@"; echo $? >&2; } | head -n 1'
    status, out, err = shell(script, "history", *target, "/a")
    assert (status, err, out.count("\n")) == (0, "141\n", 1)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_file_that_may_not_grow_has_all_that_it_can_have(
    shell, target, publisher, keep, tmp_path, unbuffered
):
    keep("/a")
    for number in range(30):
        publisher.send("/a", str(number) * 100)
    script = f'ulimit -f 1; "$@" > {tmp_path}/out'
    words = ("history", *target, "/a")
    status, _, err = shell(script, *words, base=unmeasured(), PYTHONUNBUFFERED=unbuffered)
    assert (status, err) == (4, "stargate: standard output: File too large\n")
    assert (tmp_path / "out").stat().st_size in (512, 1024)


# The parser's own output.


def test_help_that_can_not_be_printed_is_4(shell):
    for script in ('"$@" > /dev/full', '"$@" >&-'):
        for words in (("--help",), ("listen", "--help")):
            status, _, err = shell(script, *words)
            assert (status, err.count("\n")) == (4, 1)


def test_what_is_not_understood_is_2_wherever_that_is_told(shell):
    for script in ('"$@" 2>&-', '"$@" 2> /dev/full'):
        assert shell(script, "nothing") == (2, "", "")


def test_a_command_line_says_nothing_in_another_name(command):
    code, out, err = command("history", "x.ini", "/a", "more\nstargate: done\x1b[2J")
    assert (code, out) == (2, "")
    assert err.endswith("unrecognized arguments: more\\nstargate: done\\x1b[2J\n")


def test_the_second_line_of_an_error_is_no_first_one(command, tmp_path):
    code, _, err = command("send", f"{tmp_path}/x\nstargate: done", "/a", "on")
    assert code == 1
    assert err.splitlines()[1:] == ["    stargate: done"]


# In this process.


def test_a_line_has_the_time_the_id_and_the_message():
    time, id, message = message_line(1_700_000_000.5, "the-id", "grün und blau").split(" ", 2)
    assert time[10] == "T" and "20.500" in time
    assert (id, message) == ("the-id", "grün und blau")
    assert message_line(0, None, b"\x00\xff").endswith(" - base64:AP8=")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b[2J\x9b\x7f\0", r"\x1b[2J\x9b\x7f\x00"),
        ("\u2028\u202e\u2066\ud800", r"\u2028\u202e\u2066\ud800"),
        ("grün 🚪 שלום \\n", "grün 🚪 שלום \\n"),
    ],
)
def test_nothing_in_a_text_gives_orders_to_a_terminal(text, found):
    assert escaped(text) == escaped(escaped(text)) == found


def test_what_is_no_json_is_no_line():
    with pytest.raises(ValueError, match="JSON"):
        json_line({"a": float("nan")})


def test_a_terminal_that_does_not_wait_is_said_to_be_busy(monkeypatch):
    """Another program may have set it so, and it is shared."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(writing, "wb", buffering=0) as raw:
        stream = io.TextIOWrapper(raw, "utf-8", write_through=True)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            with pytest.raises(Unwritten, match="temporarily unavailable"):
                put("x" * 1_000_000)
        stream.detach()
    os.close(reading)


def test_where_there_is_no_standard_error_nothing_is_said(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    tell("something")
    assert capsys.readouterr() == ("", "")
