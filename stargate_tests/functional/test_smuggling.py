"""One request is one request, and one answer one answer: on our server and the gunicorn worker."""

import pytest

from stargate.testing import LiveServer
from stargate_tests import raw
from stargate_tests.gunicorns import Gunicorn
from stargate_tests.waiting import wait_until

#: What an application may not answer: status, headers, and what the error says.
WRONG = {
    "NUL": ("200 OK", [("X-A", "a\0b")], "the header 'X-A'"),
    "CR": ("200 OK", [("X-A", "a\rX-B: b")], "the header 'X-A'"),
    "LF": ("200 OK", [("X-A", "a\nX-B: b")], "the header 'X-A'"),
    "CRLF": ("200 OK", [("X-A", "a\r\n\r\nbody")], "the header 'X-A'"),
    "not-latin-1": ("200 OK", [("X-A", "\u20ac")], "the header 'X-A'"),
    "LF-in-a-name": ("200 OK", [("X-A\nX-B", "b")], r"the header 'X-A\nX-B'"),
    "NUL-in-a-name": ("200 OK", [("X-A\0", "b")], r"the header 'X-A\x00'"),
    "colon-in-a-name": ("200 OK", [("X-A: b, X", "c")], "the header 'X-A: b, X'"),
    "space-in-a-name": ("200 OK", [("Content-Length ", "3")], "the header 'Content-Length '"),
    "no-name": ("200 OK", [("", "a")], "the header ''"),
    "two-lengths": ("200 OK", [("Content-Length", "4"), ("content-length", "2")], "a second"),
    "below-0": ("200 OK", [("Content-Length", "-2")], "the header 'Content-Length'"),
    "a-sign": ("200 OK", [("Content-Length", "+4")], "the header 'Content-Length'"),
    "underscore": ("200 OK", [("Content-Length", "0_4")], "the header 'Content-Length'"),
    "LF-in-a-status": ("200 OK\nX-A: b", [], r"'200 OK\nX-A: b' is no status"),
    "NUL-in-a-status": ("200 O\0K", [], r"'200 O\x00K' is no status"),
    "four-digits": ("2000 OK", [], "'2000 OK' is no status"),
    "two-digits": ("20", [], "'20' is no status"),
}


def application(environ, start_response):
    path = environ["PATH_INFO"].strip("/")
    if path in WRONG:
        status, headers, _ = WRONG[path]
        start_response(status, headers)
        return [b"body"]
    if path == "coded":
        start_response("200 OK", [("Transfer-Encoding", "chunked")])
        return [b"body"]
    if path == "late":
        return late(environ, start_response)
    read = environ["wsgi.input"].read()
    start_response("200 OK", [("X-Host", environ.get("HTTP_HOST", ""))])
    return [b"read " + read]


def late(environ, start_response):
    start_response("200 OK", [])
    yield b"begun"
    yield environ["wsgi.input"].read()


@pytest.fixture(scope="module", params=["stargate", "gunicorn"])
def server(request, tmp_path_factory):
    if request.param == "stargate":
        with LiveServer(application) as server:
            yield server
    else:
        folder = tmp_path_factory.mktemp("smuggling")
        with Gunicorn(folder, f"{__name__}:application") as gunicorn:
            yield gunicorn


def asked(server, data):
    """Everything that is answered to ``data``, when the server has closed."""
    with raw.dial(server.url) as sock:
        sock.sendall(data)
        return raw.read_all(sock)


def request(*lines, line="POST /first HTTP/1.1", host="Host: localhost"):
    return "\r\n".join((line, *filter(None, (host,)), *lines, "", "")).encode("latin-1")


#: What somebody else would take for the next request, or for a body.
NEXT = request("Connection: close", line="GET /next HTTP/1.1")

CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"

REFUSED = {
    "coding behind a no-break space": (request("Transfer-Encoding: \xa0chunked") + CHUNKS, 501),
    "coding before one": (request("Transfer-Encoding: chunked\xa0") + CHUNKS, 501),
    "coding behind a next line": (request("Transfer-Encoding: \x85chunked") + CHUNKS, 501),
    "another coding": (request("Transfer-Encoding: xchunked") + CHUNKS, 501),
    "coding and a comma": (request("Transfer-Encoding: chunked,") + CHUNKS, 501),
    "coding twice": (request(*["Transfer-Encoding: chunked"] * 2) + CHUNKS, 501),
    "coding and length": (request("Content-Length: 5", "Transfer-Encoding: chunked") + CHUNKS, 400),
    "coding in HTTP/1.0": (
        request("Transfer-Encoding: chunked", line="POST / HTTP/1.0") + CHUNKS,
        400,
    ),
    "length before a no-break space": (request("Content-Length: 5\xa0") + b"hello", 400),
    "length behind a next line": (request("Content-Length: \x855") + b"hello", 400),
    "length with an underscore": (request("Content-Length: 0_5") + b"hello", 400),
    "length with a sign": (request("Content-Length: +5") + b"hello", 400),
    "equal lengths": (request(*["Content-Length: 5"] * 2) + b"hello", 400),
    "no host": (request(line="GET / HTTP/1.1", host=""), 400),
    "no host, with a body": (request("Content-Length: 5", host="") + b"hello", 400),
    "two hosts": (request("Host: other", line="GET / HTTP/1.1"), 400),
    "two hosts, with a body": (request("host: other", "Content-Length: 5") + b"hello", 400),
    "two hosts in HTTP/1.0": (request("Host: other", line="GET / HTTP/1.0"), 400),
    "a list of hosts": (request(line="GET / HTTP/1.1", host="Host: a, b"), 400),
    "a host with a path": (request(line="GET / HTTP/1.1", host="Host: a/b"), 400),
    "a host with a user": (request(line="GET / HTTP/1.1", host="Host: a@b"), 400),
    "CONNECT to a path": (request(line="CONNECT /a HTTP/1.1"), 400),
    "CONNECT to a URL": (request(line="CONNECT http://localhost/ HTTP/1.1"), 400),
    "LF behind a size": (request("Transfer-Encoding: chunked") + b"5\nhello\r\n0\r\n\r\n", 400),
    "LF behind an extension": (
        request("Transfer-Encoding: chunked") + b"5;a\nhello\r\n0\r\n\r\n",
        400,
    ),
    "LF behind a chunk": (request("Transfer-Encoding: chunked") + b"5\r\nhello\n0\r\n\r\n", 400),
    "LF at the end": (request("Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\n", 400),
    "LF behind a trailer": (request("Transfer-Encoding: chunked") + b"0\r\nX: y\n\r\n", 400),
    "no trailer": (request("Transfer-Encoding: chunked") + b"0\r\nGET / HTTP/1.1\r\n\r\n", 400),
    "a trailer with NUL": (request("Transfer-Encoding: chunked") + b"0\r\nX: \0\r\n\r\n", 400),
    "a space behind a size": (request("Transfer-Encoding: chunked") + b"5 \r\nhello\r\n", 400),
    "a sign before a size": (request("Transfer-Encoding: chunked") + b"+5\r\nhello\r\n", 400),
    "an underscore in a size": (request("Transfer-Encoding: chunked") + b"0_5\r\nhello\r\n", 400),
    "an endless size": (request("Transfer-Encoding: chunked") + b"0" * 5000, 400),
    "an endless extension": (request("Transfer-Encoding: chunked") + b"5;" + b"a" * 5000, 400),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_two_may_take_for_two_things_is_refused_and_nothing_behind_it_served(server, name):
    data, status = REFUSED[name]
    answered = asked(server, data + NEXT)
    assert answered.startswith(b"HTTP/1.1 %d " % status)
    assert b"200 OK" not in answered and b"read" not in answered


SERVED = {
    "an empty host": (request(line="GET / HTTP/1.1", host="Host:"), b""),
    "HTTP/1.0 with no host": (
        request("Connection: keep-alive", line="GET / HTTP/1.0", host=""),
        b"",
    ),
    "an IPv6 host": (request(line="GET / HTTP/1.1", host="Host: [::1]:80"), b""),
    "underscores for a body": (request("Content_Length: 5", "Transfer_Encoding: chunked"), b""),
    "a tab before a coding": (request("Transfer-Encoding:\tchunked") + CHUNKS, b"hello"),
    "an extension": (
        request("Transfer-Encoding: chunked") + b'5 ; a="b"\r\nhello\r\n0\r\n\r\n',
        b"hello",
    ),
    "a trailer": (
        request("Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\nX: y\r\n\r\n",
        b"hello",
    ),
}


@pytest.mark.parametrize("name", SERVED)
def test_what_is_one_thing_to_all_is_served_and_so_is_what_comes_behind_it(server, name):
    data, body = SERVED[name]
    answered = asked(server, data + NEXT)
    assert answered.count(b"HTTP/1.1 200 OK\r\n") == answered.count(b"HTTP/1.1 ") == 2
    assert b"\r\n\r\nread " + body + b"HTTP/1.1 200" in answered


@pytest.mark.parametrize("name", WRONG)
def test_what_would_split_an_answer_is_an_error_that_names_it(server, name, caplog):
    head, _, body = asked(server, request(line=f"GET /{name} HTTP/1.1")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500 ") and b"X-B" not in head
    assert body == b"500 Internal Server Error\n"
    log = caplog if isinstance(server, LiveServer) else server
    wait_until(lambda: WRONG[name][2] in getattr(log, "text", getattr(log, "log", "")))


def test_how_a_body_is_sent_is_not_the_applications_to_say(server):
    answered = asked(server, request("Connection: close", line="GET /coded HTTP/1.1"))
    assert b"Transfer-Encoding" not in answered
    assert b"Content-Length: 4\r\n" in answered and answered.endswith(b"\r\n\r\nbody")


def test_no_body_is_asked_for_in_the_midst_of_an_answer(server):
    asks = request("Expect: 100-continue", "Content-Length: 3", line="POST /late HTTP/1.1")
    with raw.dial(server.url) as sock:
        sock.sendall(asks)
        assert raw.read_head(sock).startswith(b"HTTP/1.1 200 ")
        assert raw._exactly(sock, 10) == b"5\r\nbegun\r\n"
        sock.sendall(b"abc")
        assert raw.read_all(sock) == b"3\r\nabc\r\n0\r\n\r\n"
