"""Handshakes, and what is none: an answer comes whatever was sent, and 101 for the right ones only.

What is right is said twice here, from both sides: what must get a 101, and what must not.
"""

from __future__ import annotations

import re
import socket
from base64 import b64decode
from contextlib import suppress

from hypothesis import strategies as st

from stargate_tests import raw

PATH = b"/a/@@echo"

BASE = (
    (b"Host", b"localhost"),
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Key", raw.KEY.encode()),
    (b"Sec-WebSocket-Version", b"13"),
)

OTHERS = (
    b"Origin",
    b"Sec-WebSocket-Protocol",
    b"Sec-WebSocket-Extensions",
    b"Content-Length",
    b"Transfer-Encoding",
    b"Expect",
    b"Cookie",
    b"Accept",
    b"X-Any",
    b"X_Any",
    b"X Any",
    b"\xe9",
    b"",
)

VALUES = (
    b"",
    b"localhost",
    b"websocket",
    b"WebSocket, h2c",
    b"keep-alive, Upgrade",
    b"close",
    raw.KEY.encode(),
    b"short",
    b"A" * 24,
    b"13",
    b"8",
    b"13, 8",
    b"null",
    b"http://localhost",
    b"http://evil",
    b"http://[",
    b"permessage-deflate; client_max_window_bits",
    b"permessage-deflate; server_max_window_bits=99",
    b"0",
    b"5",
    b"-1",
    b"chunked",
    b"100-continue",
    b"*/*;q=x",
    b"a" * 5000,
    b"a\r\n b",
    b"a\rb",
    b"a\x00b",
    b"\xff\xfe",
)

#: Behind a request: nothing, a frame, half of one, a request, a close frame, anything.
BEHIND = (
    b"",
    raw.frame("hello"),
    raw.frame("hello")[:5],
    b"GET /a/@@page HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x88\x82\0\0\0\0\x03\xe8",
)


def one_in(times, strange, plain):
    """``plain`` for the most part."""
    return st.one_of(*[plain] * (times - 1), strange)


def written(method, target, version, headers, end, behind):
    lines = [b" ".join((method, target, version)), *(b": ".join(pair) for pair in headers), b""]
    return end.join(lines) + end + behind


def changed(data, changes):
    """``data`` with a few bytes taken out and others put in."""
    for where, out, put in changes:
        at = where % (len(data) + 1)
        data = data[:at] + put + data[at + out :]
    return data


methods = one_in(
    6, st.sampled_from([b"POST", b"HEAD", b"get", b"OPTIONS", b"G(T"]), st.just(b"GET")
)
targets = one_in(
    4,
    st.one_of(
        st.sampled_from(
            [b"/", b"/a", b"/a/@@page", b"/%ff", b"/\xe9", b"*", b"", b"http://b/a", b"//a"]
        ),
        st.binary(max_size=6).map(b"/".__add__),
    ),
    st.just(PATH),
)
versions = one_in(
    6,
    st.sampled_from([b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"", b"x"]),
    st.just(b"HTTP/1.1"),
)
names = st.sampled_from([*OTHERS, *(name for name, _value in BASE)])
cased = st.tuples(names, st.sampled_from([bytes, bytes.lower, bytes.upper])).map(
    lambda both: both[1](both[0])
)
values = st.one_of(st.sampled_from(VALUES), st.binary(max_size=8))


@st.composite
def header_lists(draw):
    """Those of a handshake: some left out, some given another value, others among them."""
    headers = list(BASE)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        at = draw(st.integers(0, len(headers) - 1))
        headers[at : at + 1] = draw(
            st.sampled_from([(), ((headers[at][0], draw(values)),), (headers[at],) * 2])
        )
    headers += draw(st.lists(st.tuples(cased, values), max_size=2))
    return draw(st.permutations(headers))


ends = one_in(8, st.sampled_from([b"\n", b"\r", b"\r\n\r\n"]), st.just(b"\r\n"))
behind = st.one_of(st.sampled_from(BEHIND), st.binary(max_size=20))
whole = st.builds(written, methods, targets, versions, header_lists(), ends, behind)
changes = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=3
)
harmless = st.tuples(st.sampled_from([b"Cookie", b"x-any", b"ACCEPT"]), st.sampled_from(VALUES[:9]))
good = st.builds(
    written,
    st.just(b"GET"),
    st.just(PATH),
    st.just(b"HTTP/1.1"),
    st.lists(harmless, max_size=3).flatmap(lambda more: st.permutations([*BASE, *more])),
    st.just(b"\r\n"),
    behind,
)
anything = st.one_of(
    good,
    st.builds(changed, good, changes),
    whole,
    st.builds(changed, whole, changes),
    st.lists(whole, min_size=2, max_size=3).map(b"".join),
    st.binary(max_size=60),
)
#: What is sent, and where it is cut.
cases = st.tuples(anything, st.lists(st.integers(0, 300), max_size=2))


# What is right.

LINE = re.compile(rb"GET /a/@@echo HTTP/1\.[1-9]").fullmatch
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\x20-\x7e\x80-\xff]*)").fullmatch
HARMLESS = (b"cookie", b"accept", b"x-any", b"x_any", b"expect")


def tokens(value):
    return [token.strip(b" \t").lower() for token in value.split(b",")]


def is_key(value):
    if not re.fullmatch(rb"[A-Za-z0-9+/]{22}==", value):
        return False
    return len(b64decode(value)) == 16


def must_be_accepted(data):
    """Whether it is a handshake without any doubt: every line and every header is known."""
    head, end, _rest = data.partition(b"\r\n\r\n")
    line, *lines = head.split(b"\r\n")
    fields = [FIELD(each) for each in lines]
    if not end or not LINE(line) or not all(fields):
        return False
    headers = [(field[1].lower(), field[2].strip(b" ")) for field in fields]
    known = {name.lower() for name, _value in BASE}
    wanted = sorted(pair for pair in headers if pair[0] in known)
    others = {name for name, _value in headers} - known
    return wanted == sorted((name.lower(), value) for name, value in BASE) and others <= set(
        HARMLESS
    )


def may_be_accepted(data):
    """Whether, read as kindly as can be, it is a handshake; what is not must not get a 101."""
    line, *lines = [each.strip(b" \t\r") for each in data.lstrip(b"\r\n").split(b"\n")]
    words = line.split()
    if len(words) != 3 or words[0] != b"GET" or not re.fullmatch(rb"HTTP/1\.[1-9]", words[2]):
        return False
    found = {}
    for each in lines:
        if not each:
            break
        name, _, value = each.partition(b":")
        found.setdefault(name.strip(b" \t").lower(), []).append(value.strip(b" \t"))
    keys, versions = found.get(b"sec-websocket-key", []), found.get(b"sec-websocket-version", [])
    return (
        b"websocket" in tokens(b",".join(found.get(b"upgrade", [])))
        and b"upgrade" in tokens(b",".join(found.get(b"connection", [])))
        and (len(keys), len(found.get(b"host", []))) == (1, 1)
        and is_key(keys[0])
        and versions == [b"13"]
        and all(origin == b"http://localhost" for origin in found.get(b"origin", []))
        and all(length in (b"", b"0") for length in found.get(b"content-length", []))
        and b"transfer-encoding" not in found
    )


STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [ -~]+").fullmatch
OK_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([\x20-\x7e\x80-\xff]*)").fullmatch


def statuses(answer, no_bodies):
    """The statuses of the answers in ``answer``, every one of which has to be well-formed.

    ``no_bodies``: there may have been a HEAD among the questions.
    """
    found = []
    while answer:
        head, end, answer = answer.partition(b"\r\n\r\n")
        assert end, f"it ends in a head: {head!r}"
        line, *lines = head.split(b"\r\n")
        status, fields = STATUS(line), [OK_FIELD(each) for each in lines]
        assert status and all(fields), f"no well-formed answer: {head!r}"
        found.append(int(status[1]))
        headers = {field[1].lower(): field[2] for field in fields}
        assert len(headers) == len(fields), f"a header twice: {head!r}"
        if found[-1] == 101:
            check_frames(answer)
            return found
        length = int(headers[b"content-length"])
        if len(answer) < length or (no_bodies and answer.startswith(b"HTTP/1.1 ")):
            assert no_bodies, f"a body too short: {head!r} {answer!r}"
            length = 0
        assert length or no_bodies, f"no word: {head!r}"
        answer = answer[length:]
        if b"close" in tokens(headers.get(b"connection", b"")):
            assert not answer, "an answer behind one that closes"
    return found


def check_frames(rest):
    """What comes behind a 101 is whole frames of a server."""
    while rest:
        assert rest[0] in (0x81, 0x82, 0x88, 0x8A) and rest[1] < 126, f"no frame: {rest!r}"
        assert len(rest) >= 2 + rest[1], f"half a frame: {rest!r}"
        rest = rest[2 + rest[1] :]


def exchange(server, pieces):
    """What the server says to ``pieces``, behind which the peer says that it is done."""
    with raw.dial(server.url) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):  # It may have had enough.
            for piece in pieces:
                sock.sendall(piece)
            sock.shutdown(socket.SHUT_WR)
        return raw.read_all(sock)


def check(target, case):
    """Send it, and judge the answer."""
    data, cuts = case
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    answer = exchange(target.plain, pieces)
    found = statuses(answer, b"HEAD" in data)
    assert not [each for each in found if each >= 500 and each not in (501, 505)], found
    assert found or not data.strip(b"\r\n"), "no answer"
    if must_be_accepted(data):
        assert found == [101], found
    elif not may_be_accepted(data):
        assert found[:1] != [101], found
    target.check_log()
