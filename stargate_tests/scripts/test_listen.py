"""``stargate listen`` at a real server, in a process of its own and in this one."""

import os
import re
import signal
import subprocess
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from stargate import WebSocketView
from stargate.scripts.listen import with_since
from stargate_tests.functional.tree import Listen, Node, make_app
from stargate_tests.scripts.conftest import DEADLINE, STARGATE, unmeasured
from stargate_tests.waiting import wait_until


class Kept(Node):
    history_size = 10


class Said(WebSocketView):
    """Says what the handshake was like, and ends with the code in the URL, if any."""

    def handler(self, websocket):
        headers = self.request.headers
        websocket.send(f"{headers.get('Origin')} {headers.get('X-A')} {websocket.subprotocol}")
        code = int(self.request.GET.get("code", 0))
        websocket.close(code, "as you said") if code else websocket.wait()


def configure(config):
    config.add_websocket_view(Listen, context=Node, name="ids", ids=True)
    config.add_websocket_view(Said, context=Node, name="said", allowed_origins="*")
    config.add_websocket_view(
        Said, context=Node, name="two", subprotocols=["two"], allowed_origins="*"
    )


@pytest.fixture
def server(live_server):
    return live_server(make_app(configure, Kept()))


class Listener:
    """``stargate listen`` in a process of its own."""

    def __init__(self, *words):
        self.process = subprocess.Popen(
            [STARGATE, "listen", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def line(self):
        """The id and the message of the next line."""
        return tuple(self.process.stdout.readline().rstrip("\n").split(" ", 2)[1:])

    def told(self):
        return self.process.stderr.readline().rstrip("\n")

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(DEADLINE)
        self.process.stdout.close()
        self.process.stderr.close()


@pytest.fixture
def listen():
    with ExitStack() as stack:
        yield lambda *words: stack.enter_context(Listener(*words))


def joined(server, path, count=1):
    wait_until(lambda: len(server.gate.listeners(path)) == count)


def close_all(server, path, code):
    for websocket in server.gate.listeners(path):
        websocket.close(code)


def test_each_message_is_a_line_with_time_and_id(server, listen):
    listener = listen(server.websocket_url("/a/@@ids"))
    joined(server, "/a")
    ids = [
        server.gate.send(server.application.root["a"], "grün\n"),
        server.gate.send_json(server.application.root["a"], {"b": 1}),
        server.gate.send(server.application.root["a"], b"\x00"),
    ]
    assert [listener.line() for _ in ids] == [
        (ids[0], r"grün\n"),
        (ids[1], '{"b": 1}'),
        (ids[2], "base64:AA=="),
    ]


def test_a_view_without_ids_is_spoken_to_plainly(server, listen):
    listener = listen(server.websocket_url("/a"))
    joined(server, "/a")
    server.gate.send("/a", "on")
    server.gate.send("/a", b"\x00")
    assert [listener.line(), listener.line()] == [("-", "on"), ("-", "base64:AA==")]


def test_after_an_interruption_it_goes_on_where_it_was(server, listen):
    node = server.application.root["a"]
    listener = listen(server.websocket_url("/a/@@ids"))
    joined(server, "/a")
    server.gate.send(node, "one")
    assert listener.line()[1] == "one"
    close_all(server, "/a", 1012)
    server.gate.send(node, "two")  # While nobody listens.
    assert [listener.line()[1]] == ["two"]
    joined(server, "/a")
    server.gate.send(node, "three")
    assert listener.line()[1] == "three"
    assert re.fullmatch(r"stargate: the connection has ended with 1012: again in 0.\d s",
                        listener.told())  # fmt: skip
    assert listener.told() == "stargate: connected again"


def test_what_is_gone_is_told(server, listen):
    node = server.application.root["a"]
    listener = listen(server.websocket_url("/a/@@ids"))
    joined(server, "/a")
    server.gate.send(node, "one")
    assert listener.line()[1] == "one"
    close_all(server, "/a", 1012)
    for number in range(30):
        server.gate.send(node, str(number))
    assert "ended with 1012" in listener.told()
    assert listener.told() == "stargate: connected again"
    assert listener.told() == "stargate: something that was sent in the meantime is gone"
    server.gate.send(node, "two")
    assert listener.line()[1] == "two"


def test_without_ids_it_can_not_be_sure_and_says_so(server, listen):
    listener = listen(server.websocket_url("/a"))
    joined(server, "/a")
    close_all(server, "/a", 1001)
    assert "ended with 1001" in listener.told()
    assert listener.told() == "stargate: connected again, and something may have been missed"
    joined(server, "/a")
    server.gate.send("/a", "on")
    assert listener.line() == ("-", "on")


def test_a_server_that_was_away_is_found_again(live_server, listen):
    first = live_server(make_app(configure, Kept()))
    listener = listen(first.websocket_url("/a"))
    joined(first, "/a")
    port = int(first.url.rpartition(":")[2])
    first.stop()
    assert "the connection has ended with 1001" in listener.told()
    assert (
        "no connection: Connection refused: nothing listens at the host and port of the URL: again"
        in listener.told()
    )
    second = live_server(make_app(configure, Kept()), listen=f"127.0.0.1:{port}")
    joined(second, "/a")
    second.gate.send("/a", "back")
    assert listener.line() == ("-", "back")


def test_ctrl_c_ends_it_quietly(server, listen):
    listener = listen(server.websocket_url("/a"))
    joined(server, "/a")
    listener.process.send_signal(signal.SIGINT)
    assert listener.process.wait(DEADLINE) == 0
    assert (listener.process.stdout.read(), listener.process.stderr.read()) == ("", "")
    joined(server, "/a", 0)


def test_a_closed_pipe_ends_it_quietly(server, listen):
    listener = listen(server.websocket_url("/a"))
    joined(server, "/a")
    listener.process.stdout.close()
    server.gate.send("/a", "on")
    assert listener.process.wait(DEADLINE) == 141
    assert listener.process.stderr.read() == ""


def test_it_may_end_after_a_number_of_messages(server, listen):
    listener = listen(server.websocket_url("/a"), "--count", "2")
    joined(server, "/a")
    for number in range(3):
        server.gate.send("/a", str(number))
    assert listener.process.wait(DEADLINE) == 0
    assert [listener.line()[1], listener.line()[1], listener.line()] == ["0", "1", ()]


def test_the_handshake_has_what_was_given(server, command):
    words = (
        "--origin", "https://example.com", "--header", "X-A: b c",
        "--subprotocol", "one", "--subprotocol", "two", "--count", "1",
    )  # fmt: skip
    code, out, _ = command("listen", server.websocket_url("/a/@@two"), *words)
    assert code == 0 and out.endswith(" - https://example.com b c two\n")


def test_who_reads_too_slowly_is_told_what_was_missed(scripted, command):
    code, out, err = command("listen", scripted('{"missed": 3}', '{"of a later version": 1}'))
    assert (code, out) == (0, "")
    assert err == "stargate: 3 message(s) missed: they came faster than they were read\n"


@pytest.mark.parametrize(
    "text", ["nothing", "[1]", '{"a": NaN}', '{"encoding": "base64", "data": 1}']
)
def test_a_server_that_breaks_its_word_is_1(scripted, command, text):
    code, _, err = command("listen", scripted(text))
    assert (code, err) == (1, f"stargate: what has come is no stargate.v1: {text!r}\n")


def test_when_all_has_been_said_it_ends(server, command):
    code, out, err = command("listen", server.websocket_url("/a/@@said?code=1000"))
    assert (code, err) == (0, "") and out.endswith(" - None None None\n")


def test_a_code_that_another_try_does_not_change_is_6(server, command):
    code, _, err = command("listen", server.websocket_url("/a/@@said?code=1008"))
    assert (code, err) == (6, "stargate: the connection has ended with 1008 (as you said)\n")


def test_a_refusal_is_6(server, command):
    code, out, err = command("listen", server.websocket_url("/a/@@page"))
    assert (code, out) == (6, "") and re.match(r"stargate: no connection: the answer was \d+", err)


def test_a_server_that_is_not_there_at_first_is_1(command):
    code, _, err = command("listen", "ws://127.0.0.1:1/")
    assert code == 1 and "no connection: Connection refused" in err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("http://localhost/",), "must begin with ws:// or wss://"),
        (("ws://",), "must begin with ws:// or wss://, a host"),
        (("ws://localhost:x/",), "must begin with ws:// or wss://, a host, and a port"),
        (("ws://[/",), "must begin with ws:// or wss://, a host"),
        (("ws://localhost/\udcff",), "URL: 'utf-8' codec can't encode"),
        (("ws://localhost/#a",), "isn't a valid"),
        (("ws://localhost/", "--count", "0"), "--count must be at least 1"),
        (("ws://localhost/", "--header", "nothing"), "is not as in 'Cookie: a=b'"),
        (("ws://localhost/", "--origin", "*"), "is no origin of one page"),
        (("ws://localhost/", "--origin", "a b"), "a b"),
        (("ws://localhost/", "--subprotocol", "a b"), "is no name of one subprotocol"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_2(command, words, why):
    code, out, err = command("listen", *words)
    assert (code, out) == (2, "") and why in err


@pytest.mark.parametrize(
    ("url", "last", "found"),
    [
        ("ws://h/a", None, "ws://h/a"),
        ("ws://h/a?since=x", None, "ws://h/a?since=x"),
        ("ws://h/a", "i-1-t", "ws://h/a?since=i-1-t"),
        ("ws://h/a?b=1&since=last&c=", "i-1-t", "ws://h/a?b=1&c=&since=i-1-t"),
        ("ws://h/a", "\ud800\n", "ws://h/a?since=%3F%0A"),
    ],
)
def test_the_url_says_where_to_go_on(url, last, found):
    assert with_since(url, last) == found


def test_a_proxy_that_makes_no_sense_is_2(command, monkeypatch):
    for name in ("http_proxy", "https_proxy", "socks_proxy", "no_proxy"):
        monkeypatch.setenv(name, "" if name == "no_proxy" else "nonsense://h")
    code, _, err = command("listen", "ws://h.invalid/")
    assert code == 2 and "nonsense://h isn't a valid proxy" in err


@pytest.mark.parametrize(
    ("scheme", "why", "status"),
    [("http", "proxy rejected connection: HTTP 400", 6), ("socks5", "requires python-socks", 1)],
)
def test_a_proxy_that_does_not_let_through_is_told_from_the_server(
    server, command, monkeypatch, scheme, why, status
):
    monkeypatch.setenv("no_proxy", "")
    port = urlsplit(server.url).port
    monkeypatch.setenv("ws_proxy", f"{scheme}://u:sesame@127.0.0.1:{port}")
    code, _, err = command("listen", "ws://example.invalid/")
    said = f"{why}, by the proxy {scheme}://***@127.0.0.1:{port} of the environment; no_proxy = ex"
    assert code == status and said in err and "sesame" not in err


def test_a_signal_that_is_ignored_stays_so(scripted, command):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert command("listen", scripted('{"data": "on"}'), "--origin", "null")[0] == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# What comes is printed before it counts.


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_a_full_disk_has_not_taken_is_not_lost(
    server, listen, tmp_path, monkeypatch, unbuffered
):
    """The disk is a limit of some hundred bytes for a file: the line at its end is torn."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    path, url = tmp_path / "out", server.websocket_url("/a/@@ids")
    node = server.application.root["a"]
    process = subprocess.Popen(
        ["sh", "-c", 'ulimit -f 1; exec "$@" > "$OUT"', "sh", STARGATE, "listen", url],
        env={**unmeasured(), "OUT": str(path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    joined(server, "/a")
    sent = [server.gate.send(node, str(number) * 200) for number in range(8)]
    _, told = process.communicate(timeout=DEADLINE)
    found = re.fullmatch(
        r"stargate: standard output: File too large; \?since=(\S+) goes .*\n", told
    )
    assert process.returncode == 4 and found, told
    *whole, torn = path.read_text().split("\n")
    assert torn and len(torn.split(" ")[-1]) < 200
    printed = [each.split(" ")[1] for each in whole]
    assert printed == sent[: len(printed)] and found[1] == printed[-1]
    rest = listen(f"{url}?since={found[1]}")
    assert [rest.line()[0] for _ in sent[len(printed) :]] == sent[len(printed) :]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_terminal_that_is_gone_is_an_error_of_the_output(server, monkeypatch, unbuffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [STARGATE, "listen", server.websocket_url("/a")],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    os.close(theirs)
    joined(server, "/a")
    os.close(ours)
    server.gate.send("/a", "on")
    _, told = process.communicate(timeout=DEADLINE)
    assert (process.returncode, told) == (4, "stargate: standard output: Input/output error\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_where_the_errors_go_there_as_well_the_status_says_it(server, monkeypatch, unbuffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [STARGATE, "listen", server.websocket_url("/a")],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    joined(server, "/a")
    os.close(ours)
    server.gate.send("/a", "on")
    assert process.wait(DEADLINE) == 4


# What the other side says.

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("value", [DEEP, "9" * 5000, "1e999", "NaN"])
@pytest.mark.parametrize(("head", "id"), [('"id":"i-1-t",', "i-1-t"), ("", "-")])
def test_what_python_can_not_take_apart_is_printed_as_it_came(scripted, command, value, head, id):
    url = scripted(f'{{{head}"data":{value}}}', '{"id":"i-2-t","data":"next"}')
    code, out, err = command("listen", url)
    assert (code, err) == (0, "")
    found = [each.split(" ", 2)[1:] for each in out.splitlines()]
    assert found == [[id, value], ["i-2-t", "next"]]


def test_nothing_that_the_server_says_ends_a_line_or_gives_orders(scripted, command):
    url = scripted(
        r'{"id": "a\n\u001b[2J", "data": "\u202eb\ud800"}',
        r'{"id": {}, "data": "on"}',
        r'{"missed": "\u001b[2J\nstargate: all is well"}',
        code=1008,
        reason="\x1b]0;x\x07\nstargate: well",
    )
    code, out, err = command("listen", url)
    first, second = (each.split(" ", 1)[1] for each in out.splitlines())
    assert (code, first, second) == (6, r"a\n\x1b[2J \u202eb\ud800", "- on")
    assert err == (
        r"stargate: \x1b[2J\nstargate: all is well message(s) missed: "
        "they came faster than they were read\n"
        r"stargate: the connection has ended with 1008 (\x1b]0;x\x07\nstargate: well)"
        "\n"
    )


def answering(status, phrase, where=None, after=0):
    """Answers handshakes with ``status``, and ``where`` to go; those at first are let through."""
    left = [after]

    def answer(connection, request):
        if left[0]:
            left[0] -= 1
            return None
        if request.path.startswith("/login"):
            return connection.respond(200, "<form>")
        response = connection.respond(status, "<a>")
        response.reason_phrase = phrase
        if where is not None:
            response.headers["Location"] = where
        return response

    return answer


HOW = " (who you are is told with --header, as in --header 'Cookie: a=b')"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((302, "Found", "http://h/login"), f"302 Found, to http://h/login{HOW}"),
        ((303, "See Other", "/login?a"), f"200 OK{HOW}"),
        ((307, "Again", "/"), "more than 10 redirects"),
        ((401, "Unauthorized"), f"401 Unauthorized{HOW}"),
        ((403, "Forbidden\t!"), rf"403 Forbidden\t!{HOW}"),
        ((404, "Not Found"), "404 Not Found"),
    ],
)
@pytest.mark.parametrize("after", [0, 1])
def test_an_answer_that_another_try_does_not_change_is_6(
    scripted, command, monkeypatch, answer, told, after
):
    monkeypatch.setattr("stargate.scripts.listen.FIRST", 0.01)
    url = scripted(answer=answering(*answer, after=after), code=1012)
    code, out, err = command("listen", url)
    assert (code, out) == (6, "")
    assert len(err.splitlines()) == 1 + after
    assert err.startswith("stargate: ") and err.endswith(told + "\n")


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_is_busy_at_first_is_1(scripted, command, status):
    code, _, err = command("listen", scripted(answer=answering(status, "Later")))
    assert (code, err) == (1, f"stargate: no connection: the answer was {status} Later\n")
