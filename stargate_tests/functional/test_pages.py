"""The same raw requests for pages to stargate's server, to its gunicorn worker, and to waitress."""

import hashlib
import json
import logging
import socket
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from waitress.server import create_server

from stargate.engine import take_over
from stargate.engine.hub import threading
from stargate.testing import LiveServer
from stargate_tests import raw, transports
from stargate_tests.functional import pages_app
from stargate_tests.gunicorns import Gunicorn
from stargate_tests.waiting import wait_until

#: WebOb leaves the temporary file of a long body to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:.*unclosed file:ResourceWarning")

MIB = 1 << 20

#: Headers of answers that are compared.
TOLD = ("x-latin", "x-utf", "x-injected", "set-cookie", "content-range")

#: Bytes of a body that are told by their number and digest alone.
LONG = 200


def ask(method, target, *lines, body=b"", version="1.1"):
    head = "\r\n".join((f"{method} {target} HTTP/{version}", "Host: localhost", *lines, "", ""))
    return head.encode("latin-1") + body


def post(target, body, *lines):
    return ask("POST", target, f"Content-Length: {len(body)}", *lines, body=body)


def chunked(target, *pieces, lines=(), end=b"0\r\n\r\n"):
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end
    return ask("POST", target, "Transfer-Encoding: chunked", *lines, body=body)


def summary(body):
    return [len(body), hashlib.sha256(body).hexdigest()[:12]]


class Reader:
    """Reads answers off a socket as RFC 9112, section 6.3, has it; nothing is forgiven."""

    def __init__(self, sock):
        self._file = sock.makefile("rb")

    def answer(self, method):
        """Status, headers, body, and whether the body came to its end; ``None`` at the end."""
        line = self._file.readline()
        if not line:
            return None
        version, status, _ = line.split(b" ", 2)
        assert version in (b"HTTP/1.1", b"HTTP/1.0"), line
        headers = []
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").rstrip("\r\n").partition(": ")
            headers.append((name.lower(), value))
        code, fields = int(status), dict(headers)
        if code < 200 or code in (204, 304) or method == "HEAD":
            return code, headers, b"", True
        if fields.get("transfer-encoding") == "chunked":
            return code, headers, *self._chunks()
        if "content-length" in fields:
            size = int(fields["content-length"])
            body = self._file.read(size)
            return code, headers, body, len(body) == size
        return code, headers, self._file.read(), True

    def _chunks(self):
        found = []
        while line := self._file.readline():
            size = int(line, 16)
            found.append(self._file.read(size))
            if self._file.readline() != b"\r\n":
                break
            if not size:
                return b"".join(found), True
        return b"".join(found), False


class Server:
    """One of the three, and its log."""

    def __init__(self, name, url):
        self.name, self.url = name, url

    def seen(self, row):
        with raw.dial(self.url) as sock:
            sock.sendall(ask("GET", f"/seen?row={row}", "Connection: close"))
            return json.loads(Reader(sock).answer("GET")[2])

    def outcome(self, name, sent, methods):
        """What comes of a row: its answers, whether the connection stays, what the view saw."""
        row = name.replace(" ", "-").replace("%", "").replace(",", "")
        with raw.dial(self.url) as sock:
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader = Reader(sock)
            waits = False
            try:
                for piece in sent if isinstance(sent, list) else [sent]:
                    if piece is HALF:
                        sock.shutdown(socket.SHUT_WR)
                    elif piece is CONTINUE:
                        waits = reader.answer("GET")[0] == 100
                    else:
                        sock.sendall(piece.replace(b"ROW", row.encode()))
            except ConnectionError:
                pass  # It may answer and close before it has heard all.
            answers = []
            for method in methods.split():
                answers.append(self._shown(reader, method))
            stays = self._stays(sock, reader)
        seen = self.seen(row).get("body")
        return [*([100] if waits else []), *answers], stays, seen

    def _shown(self, reader, method):
        try:
            answer = reader.answer(method)
        except ConnectionError:
            return "reset"
        except (AssertionError, ValueError):
            return "garbage"
        if answer is None:
            return "closed"
        code, headers, body, whole = answer
        if code >= 400:
            body = b""  # Each says it in its own words.
        told = [f"{name}: {value}" for name, value in headers if name in TOLD]
        text = body.decode("latin-1") if len(body) < LONG else summary(body)
        return (code, text, *told, *([] if whole else ["cut"]))

    def _stays(self, sock, reader):
        try:
            sock.sendall(ask("GET", "/page"))
            answer = reader.answer("GET")
        except (ConnectionError, AssertionError, ValueError):
            return False
        return answer is not None and answer[2] == b"page"


HALF, CONTINUE = "no more will come", "wait for 100"

#: A file that is served, and comes in one piece or as a range.
TREE = Path(__file__).with_name("tree.py").read_bytes()

BIG = bytes(range(256)) * 256
HUGE = b"0123456789abcdef" * (4 * MIB)
ECHO, READ, IGNORE = "/echo?row=ROW", "/read?row=ROW", "/ignore?row=ROW"
EXPECT = "Expect: 100-continue"
FORM = "Content-Type: application/x-www-form-urlencoded"
NO_BODY = summary(b"")
PART = b'--x\r\nContent-Disposition: form-data; name="f"; filename="n"\r\n\r\nabc\r\n--x--\r\n'


def read(body):
    """What the view answers that has read ``body`` block by block."""
    return json.dumps(summary(body), separators=(",", ":"))


#: What is sent, the methods of the answers that are to come, and the outcome of it: the answers,
#: whether the connection stays, and what the view saw of the body.
ROWS = {
    # Bodies of requests.
    "no body": (ask("POST", ECHO), "POST", [(200, "")], True, NO_BODY),
    "length 0": (post(ECHO, b""), "POST", [(200, "")], True, NO_BODY),
    "length 1": (post(ECHO, b"x"), "POST", [(200, "x")], True, summary(b"x")),
    "length 64 KiB": (post(ECHO, BIG), "POST", [(200, summary(BIG))], True, summary(BIG)),
    "length 64 MiB": (post(READ, HUGE), "POST", [(200, read(HUGE))], True, summary(HUGE)),
    "GET with a body": (
        ask("GET", ECHO, "Content-Length: 3", body=b"abc"),
        "GET",
        [(200, "abc")],
        True,
        summary(b"abc"),
    ),
    "length, cut": (
        [ask("POST", ECHO, "Content-Length: 9", body=b"abc"), HALF],
        "POST",
        [(400, "")],
        False,
        "BadBody",
    ),
    "length, cut, read by blocks": (
        [ask("POST", READ, "Content-Length: 9", body=b"abc"), HALF],
        "POST",
        [(400, "")],
        False,
        None,
    ),
    "chunked": (
        chunked(ECHO, b"hello", b" world"),
        "POST",
        [(200, "hello world")],
        True,
        summary(b"hello world"),
    ),
    "chunked, one chunk": (
        chunked(ECHO, b"hello"),
        "POST",
        [(200, "hello")],
        True,
        summary(b"hello"),
    ),
    "chunked, of size 0": (chunked(ECHO), "POST", [(200, "")], True, NO_BODY),
    "chunked, 64 KiB": (chunked(ECHO, BIG), "POST", [(200, summary(BIG))], True, summary(BIG)),
    "chunked, 64 MiB": (
        chunked(READ, *[HUGE[:MIB]] * 64),
        "POST",
        [(200, read(HUGE))],
        True,
        summary(HUGE),
    ),
    "chunked, extensions": (
        chunked(ECHO, end=b'3;a;b="c"\r\nabc\r\n0;d=e\r\n\r\n'),
        "POST",
        [(200, "abc")],
        True,
        summary(b"abc"),
    ),
    "chunked, trailers": (
        chunked(ECHO, b"abc", end=b"0\r\nX-Sum: 1\r\nX-End: 2\r\n\r\n"),
        "POST",
        [(200, "abc")],
        True,
        summary(b"abc"),
    ),
    "chunked, a byte a packet": (
        [bytes((byte,)) for byte in chunked("/echo?row=chunked-a-byte-a-packet", b"hello", b"!")],
        "POST",
        [(200, "hello!")],
        True,
        summary(b"hello!"),
    ),
    "chunked, upper case": (
        ask("POST", ECHO, "Transfer-Encoding: CHUNKED", body=b"A\r\n0123456789\r\n00\r\n\r\n"),
        "POST",
        [(200, "0123456789")],
        True,
        summary(b"0123456789"),
    ),
    "chunked, a form": (
        chunked("/form?row=ROW", b"a=b&", b"c=d", lines=[FORM]),
        "POST",
        [(200, '[["a","b"],["c","d"]]')],
        True,
        [["a", "b"], ["c", "d"]],
    ),
    "chunked, a file": (
        chunked("/form?row=ROW", PART, lines=["Content-Type: multipart/form-data; boundary=x"]),
        "POST",
        [(200, '[["f",[3,"ba7816bf8f01"]]]')],
        True,
        [["f", summary(b"abc")]],
    ),
    "chunked, cut in a chunk": (
        [chunked(ECHO, b"abc", end=b"5\r\nde"), HALF],
        "POST",
        [(400, "")],
        False,
        "BadBody",
    ),
    "chunked, cut in a chunk, read by blocks": (
        [chunked(READ, b"abc", end=b"5\r\nde"), HALF],
        "POST",
        [(400, "")],
        False,
        None,
    ),
    "chunked, cut behind a chunk": (
        [chunked(ECHO, b"abc", end=b""), HALF],
        "POST",
        [(400, "")],
        False,
        "BadBody",
    ),
    "chunked, cut in a size": (
        [chunked(ECHO, b"abc", end=b"5"), HALF],
        "POST",
        [(400, "")],
        False,
        "BadBody",
    ),
    "chunked, no size": (
        chunked(ECHO, b"abc", end=b"zz\r\nab\r\n0\r\n\r\n"),
        "POST",
        [(400, "")],
        False,
        "BadBody",
    ),
    "chunked, a negative size": (
        chunked(ECHO, end=b"-3\r\nabc\r\n0\r\n\r\n"),
        "POST",
        [(400, "")],
        False,
        "BadBody",
    ),
    "chunked, 0x": (
        chunked(ECHO, end=b"0x3\r\nabc\r\n0\r\n\r\n"),
        "POST",
        [(400, "")],
        False,
        "BadBody",
    ),
    "chunked, longer than it says": (
        chunked(ECHO, end=b"3\r\nabcd\r\n0\r\n\r\n"),
        "POST",
        [(400, "")],
        False,
        "BadBody",
    ),
    "chunked and a length": (
        chunked(ECHO, b"abc", lines=["Content-Length: 3"]),
        "POST",
        [(400, "")],
        False,
        None,
    ),
    "chunked in HTTP/1.0": (
        ask(
            "POST", ECHO, "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n", version="1.0"
        ),
        "POST",
        [(400, "")],
        False,
        None,
    ),
    "two requests in chunks": (
        chunked(ECHO, b"one") + chunked(ECHO, b"two"),
        "POST POST",
        [(200, "one"), (200, "two")],
        True,
        summary(b"two"),
    ),
    # Expect.
    "Expect, read": (
        [ask("POST", ECHO, EXPECT, "Content-Length: 3"), CONTINUE, b"abc"],
        "POST",
        [100, (200, "abc")],
        True,
        summary(b"abc"),
    ),
    "Expect, chunked": (
        [
            ask("POST", ECHO, EXPECT, "Transfer-Encoding: chunked"),
            CONTINUE,
            b"3\r\nabc\r\n0\r\n\r\n",
        ],
        "POST",
        [100, (200, "abc")],
        True,
        summary(b"abc"),
    ),
    "Expect, unread": (
        ask("POST", IGNORE, EXPECT, "Content-Length: 3"),
        "POST",
        [(200, "unread")],
        False,
        "unread",
    ),
    "Expect, no body": (
        ask("POST", ECHO, EXPECT, "Content-Length: 0"),
        "POST",
        [(200, "")],
        True,
        NO_BODY,
    ),
    "Expect, HTTP/1.0": (
        ask("POST", ECHO, EXPECT, "Content-Length: 3", body=b"abc", version="1.0"),
        "POST",
        [(200, "abc")],
        False,
        summary(b"abc"),
    ),
    # Bodies that the view does not read.
    "unread": (post(IGNORE, b"abc"), "POST", [(200, "unread")], True, "unread"),
    "unread, chunked": (chunked(IGNORE, b"abc"), "POST", [(200, "unread")], True, "unread"),
    "unread, no chunks": (
        chunked(IGNORE, end=b"zz\r\n"),
        "POST",
        [(200, "unread")],
        False,
        "unread",
    ),
    "unread, 1 MiB, and close": (
        post(IGNORE, HUGE[:MIB], "Connection: close"),
        "POST",
        [(200, "unread")],
        False,
        "unread",
    ),
    "unread, 64 MiB": (post(IGNORE, HUGE), "POST", [(200, "unread")], True, "unread"),
    "unread, cut": (
        [ask("POST", IGNORE, "Content-Length: 9", body=b"abc"), HALF],
        "POST",
        [(200, "unread")],
        False,
        "unread",
    ),
    "unread, pipelined": (
        post(IGNORE, b"GET / HTTP/1.1\r\n\r\n") + ask("GET", "/page"),
        "POST GET",
        [(200, "unread"), (200, "page")],
        True,
        "unread",
    ),
    # Answers without a body.
    "HEAD": (ask("HEAD", "/page"), "HEAD", [(200, "")], True, None),
    "HEAD, a body": (
        ask("HEAD", "/body?code=200") + ask("GET", "/page"),
        "HEAD GET",
        [(200, ""), (200, "page")],
        True,
        None,
    ),
    "HEAD, pieces": (
        ask("HEAD", "/pieces") + ask("GET", "/page"),
        "HEAD GET",
        [(200, ""), (200, "page")],
        True,
        None,
    ),
    "204": (
        ask("GET", "/code?code=204") + ask("GET", "/page"),
        "GET GET",
        [(204, ""), (200, "page")],
        True,
        None,
    ),
    "204, a body": (
        ask("GET", "/body?code=204") + ask("GET", "/page"),
        "GET GET",
        [(204, ""), (200, "page")],
        True,
        None,
    ),
    "304": (
        ask("GET", "/code?code=304") + ask("GET", "/page"),
        "GET GET",
        [(304, ""), (200, "page")],
        True,
        None,
    ),
    "304, a body": (
        ask("GET", "/body?code=304") + ask("GET", "/page"),
        "GET GET",
        [(304, ""), (200, "page")],
        True,
        None,
    ),
    "103 of the application": (ask("GET", "/body?code=103"), "GET", [(500, "")], False, None),
    # Answers with one.
    "a page": (ask("GET", "/page"), "GET", [(200, "page")], True, None),
    "64 MiB": (
        ask("GET", f"/large?size={64 * MIB}"),
        "GET",
        [(200, summary(b"x" * (64 * MIB)))],
        True,
        None,
    ),
    "a static file": (ask("GET", "/static/__init__.py"), "GET", [(200, "")], True, None),
    "a range of a file": (
        ask("GET", "/file", "Range: bytes=3-9"),
        "GET",
        [(206, TREE[3:10].decode(), f"content-range: bytes 3-9/{len(TREE)}")],
        True,
        None,
    ),
    "a range beyond it": (
        ask("GET", "/file", "Range: bytes=999999-"),
        "GET",
        [(416, "", f"content-range: bytes */{len(TREE)}")],
        True,
        None,
    ),
    "file_wrapper": (ask("GET", "/wrapper"), "GET", [(200, summary(TREE))], True, None),
    "pieces": (ask("GET", "/pieces"), "GET", [(200, "one,two,three")], True, None),
    "pieces, HTTP/1.0": (
        ask("GET", "/pieces", version="1.0"),
        "GET",
        [(200, "one,two,three")],
        False,
        None,
    ),
    "no pieces": (ask("GET", "/empty"), "GET", [(200, "")], True, None),
    "write": (ask("GET", "/write"), "GET", [(200, "written,written,returned")], True, None),
    "pieces, then an error": (ask("GET", "/raises"), "GET", [(200, "one,", "cut")], False, None),
    "an error": (ask("GET", "/fails"), "GET", [(500, "")], False, None),
    "shorter than its length": (ask("GET", "/short"), "GET", [(200, "short", "cut")], False, None),
    "longer than its length": (ask("GET", "/long"), "GET", [(200, "long")], False, None),
    "a line break in a header": (ask("GET", "/early"), "GET", [(500, "")], False, None),
    "a header that is not latin-1": (ask("GET", "/bad_header"), "GET", [(500, "")], False, None),
    "a header that is not latin-1, pieces": (
        ask("GET", "/bad_pieces"),
        "GET",
        [(500, "")],
        False,
        None,
    ),
    # The connection.
    "Connection: close": (
        ask("GET", "/page", "Connection: close"),
        "GET",
        [(200, "page")],
        False,
        None,
    ),
    "Connection: close in a list": (
        ask("GET", "/page", "Connection: TE, Close"),
        "GET",
        [(200, "page")],
        False,
        None,
    ),
    "Connection: close of the application": (
        ask("GET", "/says_close"),
        "GET",
        [(200, "page")],
        False,
        None,
    ),
    "HTTP/1.0": (ask("GET", "/page", version="1.0"), "GET", [(200, "page")], False, None),
    "HTTP/1.0, kept": (
        ask("GET", "/page", "Connection: keep-alive", version="1.0"),
        "GET",
        [(200, "page")],
        True,
        None,
    ),
    "HTTP/1.0, kept, pieces": (
        ask("GET", "/pieces", "Connection: keep-alive", version="1.0"),
        "GET",
        [(200, "one,two,three")],
        False,
        None,
    ),
    "HTTP/1.0, kept, HEAD": (
        ask("HEAD", "/page", "Connection: keep-alive", version="1.0"),
        "HEAD",
        [(200, "")],
        True,
        None,
    ),
    "pipelined": (
        ask("GET", "/page") + post(ECHO, b"abc") + ask("GET", "/page"),
        "GET POST GET",
        [(200, "page"), (200, "abc"), (200, "page")],
        True,
        summary(b"abc"),
    ),
    "pipelined behind close": (
        ask("GET", "/page", "Connection: close") + ask("GET", "/page"),
        "GET GET",
        [(200, "page"), "closed"],
        False,
        None,
    ),
    # The request line.
    "an absolute target": (
        ask("GET", "http://other:81/path?row=ROW"),
        "GET",
        [(200, '["/path","GET"]')],
        True,
        ["/path", "row=an-absolute-target", "other:81"],
    ),
    "OPTIONS *": (ask("OPTIONS", "*"), "OPTIONS", [(404, "")], True, None),
    "an empty line before it": (b"\r\n" + ask("GET", "/page"), "GET", [(200, "page")], True, None),
    "three empty lines before it": (
        b"\r\n\n\r\n" + ask("GET", "/page"),
        "GET",
        [(200, "page")],
        True,
        None,
    ),
    "an empty line in a packet before it": (
        [b"\r\n", ask("GET", "/page")],
        "GET",
        [(200, "page")],
        True,
        None,
    ),
    "an empty line between": (
        post(ECHO, b"abc") + b"\r\n" + ask("GET", "/page"),
        "POST GET",
        [(200, "abc"), (200, "page")],
        True,
        summary(b"abc"),
    ),
    "an empty line in a packet between": (
        [post(ECHO, b"abc"), b"\r\n", ask("GET", "/page")],
        "POST GET",
        [(200, "abc"), (200, "page")],
        True,
        summary(b"abc"),
    ),
    "%2F": (
        ask("GET", "/path%2Fa?row=ROW&a=%2F"),
        "GET",
        [(200, '["/path/a","GET"]')],
        True,
        ["/path/a", "row=2F&a=%2F", "localhost"],
    ),
    "%00": (
        ask("GET", "/a%00b?row=ROW"),
        "GET",
        [(200, '["/a\\u0000b","GET"]')],
        True,
        ["/a\x00b", "row=00", "localhost"],
    ),
    "dots": (
        ask("GET", "/a/../b/./c?row=ROW"),
        "GET",
        [(200, '["/a/../b/./c","GET"]')],
        True,
        ["/a/../b/./c", "row=dots", "localhost"],
    ),
    "dots in a static path": (
        ask("GET", "/static/../../conftest.py"),
        "GET",
        [(404, "")],
        True,
        None,
    ),
    "encoded dots in a static path": (
        ask("GET", "/static/%2e%2e/conftest.py"),
        "GET",
        [(404, "")],
        True,
        None,
    ),
    "UTF-8 in a path": (
        ask("GET", "/caf%C3%A9?row=ROW"),
        "GET",
        [(200, '["/caf\\u00c3\\u00a9","GET"]')],
        True,
        ["/cafÃ©", "row=UTF-8-in-a-path", "localhost"],
    ),
    # Headers.
    "latin-1 and UTF-8": (
        ask("GET", "/headers?row=ROW", "X-Latin: caf\xe9", "X-Utf: \xe2\x82\xac"),
        "GET",
        [(200, "", "x-latin: café", "x-utf: â\x82¬")],
        True,
        ["café", "â\x82¬", None, None],
    ),
    "two cookies": (
        ask("GET", "/headers?row=ROW", "Cookie: a=1; b=2", "X-Twice: 1", "X-Twice: 2"),
        "GET",
        [(200, "", "x-latin: café", "x-utf: â\x82¬")],
        True,
        [None, None, "a=1; b=2", "1,2"],
    ),
    "two cookies set": (
        ask("GET", "/cookies"),
        "GET",
        [(200, "", "set-cookie: a=1; Path=/", "set-cookie: b=2; Path=/")],
        True,
        None,
    ),
    "two cookie headers": (
        ask("GET", "/headers?row=ROW", "Cookie: a=1", "Cookie: b=2"),
        "GET",
        [(200, "", "x-latin: café", "x-utf: â\x82¬")],
        True,
        [None, None, "a=1; b=2", None],
    ),
}

#: Where waitress does something else, its outcome, and why ours is another.
WAITRESS = {
    "length, cut": (
        ["closed"],
        False,
        None,
        "A body that is cut is no body (RFC 9112, section 8): waitress says nothing, we say 400.",
    ),
    "length, cut, read by blocks": (["closed"], False, None, "As above."),
    "chunked, cut in a chunk": (["closed"], False, None, "As above."),
    "chunked, cut in a chunk, read by blocks": (["closed"], False, None, "As above."),
    "chunked, cut behind a chunk": (
        ["closed"],
        False,
        None,
        "As above: the last chunk is what ends it.",
    ),
    "chunked, cut in a size": (["closed"], False, None, "As above."),
    "chunked, no size": (
        [(400, "")],
        False,
        None,
        "The answer is the same. We call the view before the body is there, and it gets an error.",
    ),
    "chunked, a negative size": ([(400, "")], False, None, "As above."),
    "chunked, 0x": ([(400, "")], False, None, "As above."),
    "chunked, longer than it says": ([(400, "")], False, None, "As above."),
    "chunked and a length": (
        [(200, "abc")],
        True,
        summary(b"abc"),
        "It may be smuggling, and may be refused (RFC 9112, section 6.3, rule 3).",
    ),
    "chunked in HTTP/1.0": (
        [(200, "")],
        False,
        NO_BODY,
        "Its framing is faulty (RFC 9112, section 6.1): waitress takes it for no body.",
    ),
    "Expect, unread": (
        [(100, "")],
        False,
        "unread",
        "A server may answer without asking for the body (RFC 9110, section 10.1.1).",
    ),
    "Expect, no body": (
        [(100, "")],
        True,
        None,
        "There is nothing to ask for (RFC 9110, section 10.1.1); an answer is final at once.",
    ),
    "unread, no chunks": (
        [(400, "")],
        False,
        None,
        "The answer is there before the body is looked at; the connection ends behind it.",
    ),
    "unread, cut": (["closed"], False, None, "As above."),
    "HEAD, a body": (
        [(200, ""), "garbage"],
        False,
        None,
        "No body follows the head of an answer to HEAD (RFC 9112, section 6.3, rule 1).",
    ),
    "HEAD, pieces": ([(200, ""), "garbage"], False, None, "As above."),
    "204": (
        [(204, ""), "closed"],
        False,
        None,
        "The answer ends behind its head (RFC 9112, section 6.3, rule 1): nothing to close for.",
    ),
    "204, a body": ([(204, ""), "closed"], False, None, "As above."),
    "304": ([(304, ""), "closed"], False, None, "As above."),
    "304, a body": ([(304, ""), "closed"], False, None, "As above."),
    "103 of the application": (
        [(103, "")],
        False,
        None,
        "Another answer has to follow it (RFC 9110, section 15.2), and none can.",
    ),
    "pieces": (
        [(200, "one,two,three")],
        False,
        None,
        "The last chunk is the end (RFC 9112, section 9.3): nothing to close for.",
    ),
    "no pieces": ([(200, "")], False, None, "As above, with a length of 0."),
    "write": ([(200, "written,written,returned")], False, None, "As above, in chunks."),
    "longer than its length": (
        [(200, "long")],
        True,
        None,
        "Something is wrong with it: better not to go on.",
    ),
    "Connection: close in a list": (
        [(200, "page")],
        True,
        None,
        "Connection is a list (RFC 9110, section 7.6.1; RFC 9112, section 9.6).",
    ),
    "Connection: close of the application": (
        [(500, "")],
        False,
        None,
        "PEP 3333 forbids it; Pyramid's users say it and mean it.",
    ),
    "an absolute target": (
        [(200, '["/path","GET"]')],
        True,
        ["/path", "row=an-absolute-target", "localhost"],
        "The host of the target counts (RFC 9112, section 3.2.2).",
    ),
    "two cookies": (
        [(200, "", "x-latin: café", "x-utf: â\x82¬")],
        True,
        [None, None, "a=1; b=2", "1, 2"],
        "Lines of a name are joined by a comma, and a space or not (RFC 9110, section 5.3).",
    ),
    "two cookie headers": (
        [(200, "", "x-latin: café", "x-utf: â\x82¬")],
        True,
        [None, None, "a=1, b=2", None],
        "A comma does not part cookies (RFC 6265, section 4.2.1): they would be one.",
    ),
}


class WaitressInAThread:
    """waitress in a thread."""

    def __init__(self, app):
        self._server = create_server(app, host="127.0.0.1", port=0, threads=8)
        self.url = f"http://127.0.0.1:{self._server.effective_port}"
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        with suppress(OSError):  # It is closed while it waits.
            self._server.run()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_error):
        self._server.trigger.pull_trigger(self._server.close)
        self._thread.join(30)
        self._server.task_dispatcher.shutdown()


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    app = "stargate_tests.functional.pages_app:made"
    with (
        Gunicorn(folder, app) as gunicorn,
        LiveServer(pages_app.main()) as live,
        WaitressInAThread(pages_app.main()) as waitress,
    ):
        yield {
            "stargate": Server("stargate", live.url),
            "gunicorn": Server("gunicorn", gunicorn.url),
            "waitress": Server("waitress", waitress.url),
        }


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("server", ["stargate", "gunicorn", "waitress"])
def test_a_page_is_the_same_on_every_server_or_there_is_a_reason(servers, server, name):
    sent, methods, *expected = ROWS[name]
    if server == "waitress" and name in WAITRESS:
        *expected, reason = WAITRESS[name]
        assert reason and expected != ROWS[name][2:]
    answers, stays, seen = expected
    found = servers[server].outcome(name, sent, methods)
    assert found == (answers, stays, seen)


@pytest.mark.parametrize("server", ["stargate", "gunicorn", "waitress"])
@pytest.mark.parametrize("reset", [False, True])
def test_an_answer_that_nobody_takes_any_more_is_closed(servers, server, reset):
    row = f"taken-{reset}"
    with raw.dial(servers[server].url, rcvbuf=4096) as sock:
        sock.sendall(ask("GET", f"/close?row={row}&pieces=100000"))
        raw.read_head(sock)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: servers[server].seen(row) == {"closed": True})


@pytest.mark.parametrize("server", ["stargate", "gunicorn", "waitress"])
def test_an_answer_that_is_taken_whole_is_closed(servers, server):
    with raw.dial(servers[server].url) as sock:
        sock.sendall(ask("GET", "/close?row=whole&pieces=3"))
        assert len(Reader(sock).answer("GET")[2]) == 30_000
    wait_until(lambda: servers[server].seen("whole") == {"closed": True})


# What is logged, and when: of the server in this process.


def logged(caplog):
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def errors(caplog):
    return [text for level, text in logged(caplog) if level not in ("DEBUG", "INFO")]


@pytest.fixture
def live(live_server, caplog):
    caplog.set_level(logging.INFO, "stargate")
    return lambda app=None, **settings: live_server(app or pages_app.main(), **settings)


def exchange(server, data, method="GET"):
    with raw.dial(server.url) as sock:
        sock.sendall(data)
        return Reader(sock).answer(method)


@pytest.mark.parametrize("sent", [b"5\r\nab", b""], ids=["in a chunk", "before one"])
@pytest.mark.parametrize("path", ["echo", "read", "ignore"])
def test_a_peer_that_goes_in_its_body_is_no_error_of_the_application(live, caplog, path, sent):
    server = live()
    with raw.dial(server.url) as sock:
        sock.sendall(chunked(f"/{path}?row=x", b"abc", end=sent))
        wait_until(lambda: any(each._state[1] for each in server.server.http._open))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: not server.server.http)
    assert errors(caplog) == []


@pytest.mark.parametrize("timeout", ["0.2", "60"])
def test_a_peer_that_goes_in_its_answer_or_does_not_read_it_is_a_line_of_log(live, caplog, timeout):
    server = live(socket_timeout=timeout)
    with raw.dial(server.url, rcvbuf=4096) as sock:
        sock.sendall(ask("GET", "/close?row=x&pieces=100000"))
        raw.read_head(sock)
        if timeout == "0.2":
            wait_until(lambda: not server.server.http)
    wait_until(lambda: not server.server.http)
    assert errors(caplog) == []
    assert sum("a peer has gone before its answer" in text for _, text in logged(caplog)) == 1


def test_a_body_that_does_not_go_on_is_408(live, caplog):
    server = live(socket_timeout="0.2")
    status, headers, _body, _ = exchange(server, chunked("/echo?row=x", b"abc", end=b""), "POST")
    assert (status, dict(headers)["connection"]) == (408, "close")
    assert errors(caplog) == []


def test_a_lost_connection_of_the_applications_is_an_error_of_the_applications(live, caplog):
    """To its database, say: not to be taken for the peer's."""
    assert exchange(live(), ask("GET", "/lost"))[0] == 500
    (error,) = errors(caplog)
    assert error.startswith("the application raised an exception\nTraceback")
    assert error.endswith("ConnectionResetError: of a database, say\n")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("short", "is 5 bytes shorter than its Content-Length"),
        ("long", "is 5 bytes longer than its Content-Length"),
        ("raises", "in the middle of an answer"),
        ("bad_header", "the header 'X-Euro' of an answer has what no header may have"),
        ("early", "the header 'X-Line' of an answer has what no header may have"),
        ("body?code=103", "is no answer"),
        ("silent", "the application has not called start_response"),
        ("twice", "start_response was called a second time"),
        ("closes", "when it is closed"),
    ],
)
def test_what_an_application_does_wrong_is_logged_once(live, caplog, path, words):
    server = live()
    exchange(server, ask("GET", f"/{path}"))
    wait_until(lambda: not server.server.http)  # Behind the answer, in part.
    (error,) = errors(caplog)
    assert words in error


@pytest.mark.parametrize(("path", "status"), [("recovers", 503), ("too_late", 200)])
def test_an_application_may_answer_something_else_until_its_head_is_sent(
    live, caplog, path, status
):
    answer = exchange(live(), ask("GET", f"/{path}"))
    assert (answer[0], answer[3]) == (status, status == 503)
    assert len(errors(caplog)) == (status == 200)


def test_an_error_is_said_in_words_of_a_known_length(live):
    for path in ("fails", "bad_header", "bad_pieces"):
        _, headers, body, whole = exchange(live(), ask("GET", f"/{path}"))
        assert (body, whole) == (b"500 Internal Server Error\n", True)
        assert dict(headers)["content-length"] == str(len(body))


def test_nothing_is_said_behind_a_hand_off(live, caplog):
    """Whatever a middleware does then: it would be said to a WebSocket."""
    taken = []

    def app(environ, start_response):
        taken.append(take_over(environ).socket)
        raise ValueError("behind a hand-off")

    server = live(app)
    with raw.dial(server.url) as sock:
        sock.sendall(ask("GET", "/"))
        wait_until(lambda: errors(caplog) and not server.server.http)
        taken[0].close()
        assert raw.read_all(sock) == b""


def test_trailers_do_not_go_on_for_ever(live):
    for end in (b"0\r\n" + b"X: 1\r\n" * 200 + b"\r\n", b"0\r\nX: " + b"1" * 5000):
        assert exchange(live(), chunked("/echo?row=x", b"abc", end=end), "POST")[0] == 400


def test_whoever_caught_the_error_of_a_body_gets_it_again(live):
    """A body that is cut is never a short one."""
    server = live()
    with raw.dial(server.url) as sock:
        sock.sendall(chunked("/again?row=x", b"abc", end=b"zz\r\n"))
        assert Reader(sock).answer("POST")[2] == b"3 errors"


def test_pieces_are_sent_as_they_come(live):
    """The next one may take its time."""
    go_on = threading.Event()

    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"first"
        assert go_on.wait(30)
        yield b"second"

    server = live(app)
    with raw.dial(server.url) as sock:
        sock.sendall(ask("GET", "/"))
        raw.read_head(sock)
        assert raw._exactly(sock, 10) == b"5\r\nfirst\r\n"
        go_on.set()
        assert raw._exactly(sock, 16) == b"6\r\nsecond\r\n0\r\n\r\n"


def test_long_answers_of_many_pieces_are_sent_with_their_length(live):
    def app(environ, start_response):
        start_response("200 OK", [])
        return [b"x" * 50_000, b"y" * 50_000]

    _, headers, body, whole = exchange(live(app), ask("GET", "/"))
    assert dict(headers)["content-length"] == "100000"
    assert whole and body == b"x" * 50_000 + b"y" * 50_000


@pytest.mark.parametrize(
    "sent",
    [
        ask("GET", "/page", "Connection: close"),
        ask("GET", "/page", version="1.0"),
        ask("GET", "/pieces", "Connection: keep-alive", version="1.0"),
        ask("GET", "/says_close"),
        ask("GET", "/fails"),
        ask("GET", "/bad_pieces"),
        ask("POST", IGNORE, EXPECT, "Content-Length: 3"),
    ],
)
def test_an_answer_says_that_the_connection_ends_behind_it(live, sent):
    headers = exchange(live(), sent)[1]
    assert [value for name, value in headers if name == "connection"] == ["close"]


def test_what_has_no_body_has_no_length(live):
    """RFC 9110, section 8.6."""

    def app(environ, start_response):
        start_response("204 No Content", [("Content-Length", "0")])
        return []

    assert "content-length" not in dict(exchange(live(app), ask("GET", "/"))[1])


def test_behind_an_answer_nothing_is_asked_for(live):
    with raw.dial(live().url) as sock:
        sock.sendall(ask("POST", IGNORE, EXPECT, "Content-Length: 3"))
        sock.shutdown(socket.SHUT_WR)
        answered = raw.read_all(sock)
    assert answered.endswith(b"\r\n\r\nunread") and answered.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_header_in_two_lines_is_one_list_however_the_head_is_read(live, method):
    """That of a POST is read line by line."""
    two = "Cookie: a=1", "Cookie: b=2", "Connection: TE", "Connection: close"
    server = live()
    with raw.dial(server.url) as sock:
        sock.sendall(ask(method, "/headers?row=x", *two))
        headers = Reader(sock).answer(method)[1]
    assert dict(headers)["connection"] == "close"
    assert Server("", server.url).seen("x")["body"][2] == "a=1; b=2"


def test_a_date_of_the_applications_is_the_only_one(live):
    def app(environ, start_response):
        start_response("200 OK", [("date", "Thu, 01 Jan 1970 00:00:00 GMT")])
        return []

    headers = exchange(live(app), ask("GET", "/"))[1]
    assert [value for name, value in headers if name == "date"] == ["Thu, 01 Jan 1970 00:00:00 GMT"]


def test_a_body_that_is_none_behind_the_beginning_of_an_answer_cuts_it(live, caplog):
    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"begun"
        yield environ["wsgi.input"].read()

    answer = exchange(live(app), chunked("/", b"abc", end=b"zz\r\n"), "POST")
    assert answer[2:] == (b"begun", False)
    assert errors(caplog) == []


def test_hooks_and_sockets_of_eventlets_are_there(live):
    called = []

    def app(environ, start_response):
        called.append(environ["eventlet.input"].get_socket().family)
        environ["eventlet.set_idle"]()
        environ["eventlet.posthooks"].append((lambda _environ, word: called.append(word), "x", {}))
        start_response("200 OK", [])
        return []

    exchange(live(app), ask("GET", "/"))
    wait_until(lambda: called == [socket.AF_INET, "x"])


@pytest.mark.parametrize("transport", ["tls", "unix"])
@pytest.mark.parametrize("name", ["chunked", "an empty line in a packet between", "pieces"])
def test_other_transports_carry_the_same(live_server, tmp_path, transport, name):
    server = transports.over(transport, live_server, tmp_path)(pages_app.main())
    sent, methods, answers, stays, seen = ROWS[name]
    assert Server(transport, server.url).outcome(name, sent, methods) == (answers, stays, seen)
