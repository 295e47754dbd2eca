"""A sample of what ``make fuzz`` does, the same each time; and whether it would find anything."""

import logging

import pytest
from hypothesis import HealthCheck, example, given, settings

from stargate_tests import raw
from stargate_tests.fuzzing import __main__, frames, handshakes
from stargate_tests.fuzzing.frames import CLOSE, CONT, FIN, PING, RSV1, TEXT, Verdict, frame
from stargate_tests.fuzzing.target import LIMIT, Target

GOOD = raw.handshake("localhost", "/a/@@echo")

HELLO = frame(FIN | TEXT, b"Hello")


@pytest.fixture(scope="module")
def target():
    with Target() as target:
        yield target


def sample(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@sample(150)
@given(case=frames.cases)
@example(case=(HELLO * 200, [1, 7, 600], False, 0))
@example(case=(frame(FIN | PING, b"p") * 200 + HELLO, [], False, 1))
@example(case=(HELLO + frame(TEXT, b"H") + frame(FIN | CLOSE, b"\x03\xe8"), [], False, 0))
@example(case=(frame(FIN | TEXT, b"\xed\xa0" + b"x" * 50)[:10], [], False, 0))
@example(case=(frame(TEXT, b"x" * LIMIT) + frame(FIN | PING, b"p"), [], False, 1))
@example(case=(frame(FIN | RSV1 | TEXT, frames.deflated(b"b" * 5000)), [], True, 1))
def test_a_view_is_given_what_the_rfcs_say_however_it_is_cut(target, case):
    frames.check(target, case)


@sample(400)
@given(case=handshakes.cases)
@example(case=(GOOD + raw.frame("hello"), [20]))
@example(case=(b"\r\n" + GOOD, []))
@example(case=(GOOD[:-2], [60]))
@example(case=(GOOD.replace(b"/a/", b"/%ff/"), []))
@example(case=(GOOD.replace(b"Upgrade: ", b"X\r\nUpgrade: "), []))
@example(case=(b"\x16\x03\x01\x00\xff", []))
def test_whatever_is_sent_gets_an_answer_and_101_only_what_should(target, case):
    handshakes.check(target, case)


def test_after_it_all_both_servers_serve(target):
    for server in (target.plain, target.deflating):
        with raw.connect(server.url, "/a/@@echo", behind=raw.frame("hello")) as sock:
            assert raw.read_frame(sock) == (TEXT, b"hello")
        assert not target.check_log()


# Whether the judges know right from wrong.


VERDICTS = {
    "a message": (HELLO, ["Hello"], [], (1006,)),
    "half a message": (HELLO[:-1], [], [], (1006,)),
    "fragments": (frame(TEXT, b"Hel") + frame(FIN | CONT, b"lo"), ["Hello"], [], (1006,)),
    "a ping between": (
        frame(TEXT, b"Hel") + frame(FIN | PING, b"p") + frame(FIN | CONT, b"lo"),
        ["Hello"], [b"p"], (1006,),
    ),
    "a close": (HELLO + frame(FIN | CLOSE, b"\x0f\xa0bye") + HELLO, ["Hello"], [], (4000,)),
    "a close between": (frame(TEXT, b"Hel") + frame(FIN | CLOSE, b""), [], [], (1005,)),
    "no mask": (HELLO + frame(FIN | TEXT, b"Hello", masked=False), ["Hello"], [], (1002,)),
    "no UTF-8": (HELLO + frame(FIN | TEXT, b"\xff"), ["Hello"], [], (1007,)),
    "no UTF-8, early": (frame(FIN | TEXT, b"\xff--")[:-1], [], [], (1007,)),
    "too long": (frame(FIN | TEXT, b"x" * (LIMIT + 1)), [], [], (1009,)),
    "too many fragments": (frame(TEXT, b"") + frame(CONT, b"") * 3, [], [], (1009,)),
    "a code": (frame(FIN | CLOSE, b"\x03\xee"), [], [], (1002,)),
}  # fmt: skip


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict_on_frames(name):
    stream, messages, pongs, codes = VERDICTS[name]
    verdict = Verdict(stream, deflates=False)
    assert (verdict.messages, verdict.pongs, verdict.codes) == (messages, pongs, codes)


def test_the_verdict_on_compressed_frames():
    payload = frames.deflated(b"Hello")
    assert Verdict(frame(FIN | RSV1 | TEXT, payload), deflates=True).messages == ["Hello"]
    assert Verdict(frame(FIN | RSV1 | TEXT, payload), deflates=False).codes == (1002,)
    bomb = frame(FIN | RSV1 | TEXT, frames.deflated(b"b" * 5000))
    assert Verdict(bomb, deflates=True).codes == (1009,)


@pytest.mark.parametrize(
    ("data", "must", "may"),
    [
        (GOOD, True, True),
        (GOOD.replace(b"\r\n", b"\n"), False, True),
        (GOOD.replace(b"websocket", b"h2c, websocket"), False, True),
        (GOOD.replace(b"GET", b"POST"), False, False),
        (GOOD.replace(b"13", b"8"), False, False),
        (GOOD.replace(raw.KEY.encode(), b"short"), False, False),
        (GOOD.replace(b"Host: ", b"X: "), False, False),
        (GOOD.replace(b"Connection: Upgrade", b"Connection: close"), False, False),
        (GOOD.replace(b"Host: ", b"Origin: http://evil\r\nHost: "), False, False),
        (GOOD.replace(b"Host: ", b"Content-Length: 5\r\nHost: "), False, False),
    ],
)
def test_the_verdict_on_handshakes(data, must, may):
    assert (handshakes.must_be_accepted(data), handshakes.may_be_accepted(data)) == (must, may)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nxHTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nHTTP/1.1 500 \r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x88\x02\x03",
        b"HTTP/1.1 200 OK\r\n",
    ],
)
def test_an_answer_that_is_not_well_formed_is_no_answer(answer):
    with pytest.raises(AssertionError):
        handshakes.statuses(answer, no_bodies=False)


def test_what_is_logged_as_an_error_fails_the_case(target):
    logging.getLogger("stargate").error("a view that fails")
    with pytest.raises(AssertionError, match="a view that fails"):
        handshakes.check(target, (GOOD, []))


def test_the_long_run_ends_in_time_and_says_what_repeats_it(capsys):
    class Fails:
        cases = handshakes.cases

        @staticmethod
        def check(_target, case):
            assert b"GET" not in case[0]

    few = ((frames, 5), (handshakes, 5))
    assert __main__.fuzz(0, 7, few) == 0
    assert "nothing found with the seeds from 7 to 7" in capsys.readouterr().out
    assert __main__.fuzz(0, 7, ((Fails, 50),)) == 1
    found = capsys.readouterr()
    assert "make fuzz SECONDS=0 SEED=7" in found.out
    assert "case=(" in found.err
