"""Handshakes that are none: each gets an answer that says why, is counted, and harms nobody."""

import logging
import socket
import struct
from collections import Counter

import pytest
from pyramid.response import Response
from websockets.frames import Opcode
from websockets.sync.client import connect

from stargate.testing import LiveServer
from stargate_tests import raw
from stargate_tests.functional.test_http import application, heard
from stargate_tests.functional.tree import Node, make_app
from stargate_tests.waiting import wait_until

GOOD = raw.handshake("localhost", "/a/@@echo")
KEY = raw.KEY.encode()


@pytest.fixture(scope="module")
def server():
    """One for all: what one peer does is nothing to the next."""
    app = make_app(**{"stargate.ping_interval": "0"})
    with LiveServer(app, header_timeout="0.5") as server:
        with connect(server.websocket_url("/a")):
            pass  # From here on its gate knows of the server, and what that refuses.
        yield server


def with_(*lines):
    """A handshake that is good but for ``lines`` behind it."""
    return raw.handshake("localhost", "/a/@@echo", *lines)


def but(old, new):
    """A handshake that is good but for ``new`` in the place of ``old``."""
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def asked(server, data):
    """Status, headers and text of the answer to ``data``, behind which the connection ends."""
    with raw.dial(server.url) as sock:
        sock.sendall(data)
        head, _, body = raw.read_all(sock).partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    version, status, _phrase = line.split(" ", 2)
    assert version == "HTTP/1.1"
    headers = dict(line.split(": ", 1) for line in lines)
    assert headers["Connection"] == "close"
    assert int(headers["Content-Length"]) == len(body)
    return int(status), headers, body.decode()


def refusals(server):
    return Counter(server.gate.stats().refusals)


REFUSED = {
    # The request line.
    "no request": (b"\x00\xff\xfe", 400, "malformed", "this is not HTTP"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400, "malformed", "not TLS"),
    "a word": (b"hello\r\n\r\n", 400, "malformed", "no method, target and version"),
    "HTTP 0.9": (b"GET /a/@@echo\r\n\r\n", 400, "malformed", "no method, target and version"),
    "no HTTP": (but(b"HTTP/1.1", b"XTTP/1.1"), 400, "malformed", "no method, target and version"),
    "odd version": (but(b"HTTP/1.1", b"HTTP/1.1.1"), 400, "malformed", "target and version"),
    "odd method": (but(b"GET", b"G\x00T"), 400, "malformed", "no method, target and version"),
    "odd target": (but(b"/a/@@", b"/a /@@"), 400, "malformed", "no method, target and version"),
    "two spaces": (but(b"GET ", b"GET  "), 400, "malformed", "no method, target and version"),
    "no path": (but(b"/a/@@echo", b"a"), 400, "malformed", "'a' is no path"),
    "a star": (but(b"/a/@@echo", b"*"), 400, "malformed", "'*' is no path"),
    "a user": (but(b"/a/", b"http://me@localhost/"), 400, "malformed", "is no path"),
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 400, "malformed", "'a:80' is no"),
    "path not UTF-8": (but(b"/a/", b"/%ff/"), 400, "malformed", "the path is not UTF-8"),
    "raw path not UTF-8": (but(b"/a/", b"/\xe9/"), 400, "malformed", "the path is not UTF-8"),
    "HTTP 2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "version", "Invalid HTTP version (2.0)"),
    "HTTP 1.0": (but(b"HTTP/1.1", b"HTTP/1.0"), 426, "version", "needs HTTP/1.1"),
    "long line": (but(b"/a/", b"/a" * 5000), 414, "too_long", "longer than 8192 bytes"),
    "endless line": (b"G" * 70_000, 414, "too_long", "longer than 8192 bytes"),
    # Headers.
    "no colon": (but(b"Upgrade: web", b"Upgrade\r\nX: web"), 400, "malformed", "b'Upgrade\\r\\n'"),
    "no name": (with_(": x"), 400, "malformed", "no header: b': x\\r\\n'"),
    "odd name": (with_("X-\xe9: x"), 400, "malformed", "no header: b'X-\\xe9: x\\r\\n'"),
    "space in a name": (with_("Host : evil"), 400, "malformed", "no header: b'Host : evil"),
    "NUL": (with_("X: a\x00b"), 400, "malformed", "no header: b'X: a\\x00b"),
    "bare CR": (with_("X: a\rOrigin: b"), 400, "malformed", "no header: b'X: a\\rOrigin"),
    "folded": (with_("X: a", " b"), 400, "malformed", "a header in two lines: b' b\\r\\n'"),
    "many": (with_(*["X: y"] * 120), 431, "too_long", "got more than 100 headers"),
    "long": (with_("X: " + "y" * 40_000), 431, "too_long", "longer than 32768 bytes"),
    "endless": (GOOD[:-2] + b"x" * 70_000, 431, "too_long", "longer than 32768 bytes"),
    # A body.
    "a body": (with_("Content-Length: 4") + b"body", 400, "malformed", "has no body"),
    "chunks": (with_("Transfer-Encoding: chunked") + b"0\r\n\r\n", 400, "malformed", "no body"),
    "no length": (with_("Content-Length: x"), 400, "malformed", "of digits alone"),
    "below 0": (with_("Content-Length: -1"), 400, "malformed", "of digits alone"),
    "a sign": (with_("Content-Length: +4") + b"body", 400, "malformed", "of digits alone"),
    "huge": (with_("Content-Length: " + "9" * 5000), 400, "malformed", "of digits alone"),
    "two lengths": (with_("Content-Length: 0", "Content-Length: 4"), 400, "malformed", "one Con"),
    "a list": (with_("Content-Length: 0, 4"), 400, "malformed", "one Content-Length"),
    "both": (with_("Transfer-Encoding: chunked", "Content-Length: 4"), 400, "malformed", "without"),
    "coding": (with_("Transfer-Encoding: gzip"), 501, "malformed", "chunked is the only"),
    "two codings": (with_("Transfer-Encoding: gzip, chunked"), 501, "malformed", "the only"),
    # The handshake itself.
    "no upgrade": (but(b"Connection: Upgrade", b"Connection: close"), 426, "upgrade", "WebSockets"),
    "no key": (but(KEY, b""), 400, "malformed", "Sec-WebSocket-Key"),
    "15 bytes": (but(KEY, b"A" * 20), 400, "malformed", "Sec-WebSocket-Key header: AAAA"),
    "17 bytes": (but(KEY, b"A" * 23 + b"="), 400, "malformed", "Sec-WebSocket-Key header: AAAA"),
    "no base64": (but(KEY, b"!" * 24), 400, "malformed", "Sec-WebSocket-Key header: !!!!"),
    "URL base64": (but(KEY, b"_-" + KEY[2:]), 400, "malformed", "Sec-WebSocket-Key header: _-"),
    "two keys": (with_("Sec-WebSocket-Key: " + raw.KEY), 400, "malformed", "multiple values"),
    "version 8": (but(b"Version: 13", b"Version: 8"), 426, "version", "13 is"),
    "version 013": (but(b"Version: 13", b"Version: 013"), 426, "version", "13 is"),
    "no version": (but(b"Version: 13", b"Vers: 13"), 400, "malformed", "Sec-WebSocket-Version"),
    "no host": (but(b"Host: ", b"X: "), 400, "malformed", "one Host header is needed, not 0"),
    "no host but in the target": (
        but(b"/a/", b"http://a/").replace(b"Host: ", b"X: "),
        400,
        "malformed",
        "not 0",
    ),
    "two hosts": (with_("Host: localhost"), 400, "malformed", "one Host header is needed, not 2"),
    "odd host": (but(b"Host: ", b"Host: \xff/"), 400, "malformed", "no host of ours"),
    "two origins": (with_("Origin: http://a", "Origin: http://b"), 400, "malformed", "one Origin"),
    "an origin": (with_("Origin: http://evil"), 403, "origin", "a page of http://evil may not"),
    "odd origin": (with_("Origin: \xff\xfe"), 403, "origin", "may not open"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_malformed_handshake_is_refused_with_a_reason_and_counted(server, name, caplog):
    data, status, cause, words = REFUSED[name]
    before = refusals(server)
    with caplog.at_level(logging.ERROR):
        found, headers, text = asked(server, data)
    assert (found, headers["Content-Type"]) == (status, "text/plain; charset=UTF-8")
    assert words in text and text.startswith(f"{status} ")
    assert refusals(server) - before == {cause: 1}
    assert not caplog.records


def test_a_426_says_what_to_ask_for(server):
    _status, headers, _text = asked(server, but(b"Version: 13", b"Version: 12"))
    assert headers["Upgrade"] == "websocket"
    assert {name.lower(): value for name, value in headers.items()}["sec-websocket-version"] == "13"


def test_what_is_refused_is_told_to_nobody_as_a_page(server):
    """What a peer has sent is in the answer, and must not be read as HTML."""
    key = b"Sec-WebSocket-Key: <script>"
    data = but(b"Sec-WebSocket-Key: " + KEY, key + b"\r\nAccept: text/html")
    _status, headers, text = asked(server, data)
    assert headers["Content-Type"].startswith("text/html")
    assert "<script>" not in text and "&lt;script&gt;" in text


@pytest.mark.parametrize(("method", "status"), [("POST", 404), ("HEAD", 426), ("get", 404)])
def test_another_method_is_no_handshake(server, method, status):
    with raw.dial(server.url) as sock:
        sock.sendall(but(b"GET", method.encode()))
        head, _, text = raw.read_all(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert text.startswith(b"404 Not Found") if method != "HEAD" else text == b""


def test_a_refused_head_has_no_body(server):
    with raw.dial(server.url) as sock:
        sock.sendall(b"HEAD / HTTP/1.1\r\nContent-Length: x\r\n\r\n")
        answer = raw.read_all(sock)
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.endswith(b"\r\n\r\n")


def test_what_is_refused_behind_a_head_is_told_why(server):
    with raw.dial(server.url) as sock:
        sock.sendall(b"HEAD /a/@@page HTTP/1.1\r\nHost: localhost\r\n\r\nhello\r\n\r\n")
        answer = raw.read_all(sock)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"the request line is no method, target and version of HTTP\n")


@pytest.mark.parametrize("data", [GOOD[:10], GOOD[:-2], b"GET", b"\r\nGET"])
def test_a_handshake_that_does_not_go_on_gets_408(server, data):
    before = refusals(server)
    with raw.dial(server.url) as sock:
        sock.sendall(data)
        answer = raw.read_all(sock)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(b"the request line and headers took longer than 0.5 s\n")
    assert refusals(server) - before == {"slow": 1}


@pytest.mark.parametrize("data", [GOOD[:10], GOOD[:60], GOOD[: GOOD.index(b"\nHost") + 1]])
def test_a_request_of_which_the_end_is_missing_is_not_served(server, data):
    """Half of it may mean something else than the whole."""
    with raw.dial(server.url) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert raw.read_all(sock).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("cut", [10, 50])
def test_a_peer_that_resets_in_the_middle_of_its_head_leaves_no_traceback(live_server, cut, caplog):
    caplog.set_level(logging.INFO)
    server = live_server(make_app())
    with raw.dial(server.url) as sock:
        sock.sendall(GOOD[:cut])
        heard(server)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: "has gone in the middle of a request: [Errno 104]" in caplog.text)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


SERVED = {
    "in lower case": GOOD.replace(b"Connection: Upgrade", b"connection: upgrade"),
    "in upper case": GOOD.replace(b"Connection: Upgrade", b"CONNECTION: UPGRADE"),
    "a list": but(b"Connection: Upgrade", b"Connection: keep-alive, Upgrade"),
    "several headers": but(b"Connection: ", b"Connection: keep-alive\r\nConnection: "),
    "several upgrades": but(b"Upgrade: websocket", b"Upgrade: h2c, WebSocket"),
    "upgrades in several headers": but(b"Upgrade: web", b"Upgrade: h2c\r\nUpgrade: web"),
    "no spaces": GOOD.replace(b": ", b":"),
    "many spaces": GOOD.replace(b": ", b":  \t").replace(b"\r\n", b" \t\r\n").replace(
        b"1.1 \t", b"1.1"
    ).replace(b"\r\n \t\r\n", b"\r\n\r\n"),
    "no CR": GOOD.replace(b"\r\n", b"\n"),
    "an empty line before it": b"\r\n" + GOOD,
    "empty lines before it": b"\r\n\n\r\n" + GOOD,
    "HTTP 1.2": but(b"HTTP/1.1", b"HTTP/1.2"),
    "no body": with_("Content-Length: 0"),
    "Expect": with_("Expect: 100-continue"),
    "bytes that are no ASCII": with_("X: \xff\xfe\x85\xa0", "Cookie: \xe9=\xe9"),
    "an underscore": with_("Sec_WebSocket_Key: x", "Origin_: x"),
    "a query of any bytes": but(b"@@echo ", b"@@echo?\xff=%ff&%zz "),
    "a proxy's target": but(b"GET /", b"GET HTTP://localhost/"),
    "an offer of anything": with_("Sec-WebSocket-Extensions: foo; bar=1, baz"),
    "30 KiB": with_(*["X: " + "y" * 1000] * 30),
}  # fmt: skip


@pytest.mark.parametrize("cut", [None, 40])
@pytest.mark.parametrize("name", SERVED)
def test_what_is_unusual_and_within_the_rules_is_served(server, name, cut):
    data = SERVED[name] + raw.frame("hello")
    with raw.dial(server.url) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(data[:cut])
        if cut:
            sock.sendall(data[cut:])
        head = raw.read_head(sock)
        assert head.startswith(b"HTTP/1.1 101 "), head
        assert f"Sec-WebSocket-Accept: {raw.ACCEPT}\r\n".encode() in head
        assert raw.read_frame(sock) == (Opcode.TEXT, b"hello")


def test_garbage_behind_a_handshake_is_a_bad_frame_and_no_request(server):
    with raw.dial(server.url) as sock:
        sock.sendall(GOOD + b"GET /a/@@page HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert raw.read_head(sock).startswith(b"HTTP/1.1 101 ")
        opcode, payload = raw.read_frame(sock)
        assert (opcode, payload[:2]) == (Opcode.CLOSE, (1002).to_bytes(2, "big"))
        assert raw.read_all(sock) == b""


@pytest.mark.parametrize("first", [b"", b"GET /a/@@page HTTP/1.1\r\nHost: localhost\r\n\r\n"])
@pytest.mark.parametrize("name", ["two lengths", "no colon", "coding", "no key", "an origin"])
def test_nothing_behind_a_refused_handshake_is_a_request(server, name, first):
    page = b"GET /a/@@page HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with raw.dial(server.url) as sock:
        sock.sendall(first + REFUSED[name][0] + page)
        answer = raw.read_all(sock)
    assert answer.count(b"HTTP/1.1 200 ") == (1 if first else 0)
    assert answer.count(b"HTTP/1.1 ") == (2 if first else 1)


def test_the_host_of_a_proxys_target_is_the_one_that_counts(live_server):
    """RFC 9112, section 3.2.2; and for the Origin as well."""
    with raw.dial(live_server(application).url) as sock:
        sock.sendall(
            b"GET http://real:81//a?b HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n"
        )
        answer = raw.read_all(sock)
    assert b'"HTTP_HOST": "real:81"' in answer
    assert b'"PATH_INFO": "/a"' in answer and b'"QUERY_STRING": "b"' in answer


@pytest.mark.parametrize("view", ["page", "body"])
@pytest.mark.parametrize(
    "body",
    [
        "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        "Transfer-Encoding: chunked\r\n\r\n" + "f" * 10_000,
        "Content-Length: 5\r\n\r\nab",
        "Content-Length: 999999999999999999\r\n\r\nab",
    ],
)
def test_a_body_that_is_none_is_the_peers_fault_and_no_error_of_ours(
    live_server, view, body, caplog
):
    def read(context, request):
        return Response(request.body)

    server = live_server(make_app(lambda c: c.add_view(read, context=Node, name="body")))
    head = f"POST /a/@@{view} HTTP/1.1\r\nHost: localhost\r\n{body}"
    with raw.dial(server.url) as sock:
        sock.sendall(head.encode())
        sock.shutdown(socket.SHUT_WR)
        assert raw.read_all(sock).startswith(b"HTTP/1.1 ")
    wait_until(lambda: not server.server.http)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_after_all_this_the_server_serves(server):
    with connect(server.websocket_url("/a/@@echo")) as peer:
        peer.send("hello")
        assert peer.recv(timeout=20) == "hello"
    assert not server.server.http
