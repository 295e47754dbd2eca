"""Heads that are read in one go, and those that are left to be read with more care."""

import pytest

from stargate.engine.head import environ_key, host_and_port, read_head

HANDSHAKE = (
    b"GET /jobs/d%C3%A4mo?since=4 HTTP/1.1\r\nHost: localhost:6543\r\nUpgrade: websocket\r\n"
    b"Connection:Upgrade \r\nCookie: a=1\r\nX-Many: 1\r\nx-many: 2\r\nX_Under: no\r\n\r\n"
)
PLAIN = HANDSHAKE.replace(b"X_Under: no\r\n", b"")


def read(data, max_line=8192, max_headers=32_768):
    return read_head(data, max_line, max_headers)


def test_a_head_becomes_its_part_of_the_environ():
    head = read(PLAIN + b"early frames")
    assert head.size == len(PLAIN)
    assert (head.method, head.target, head.version) == (
        "GET",
        "/jobs/d%C3%A4mo?since=4",
        "HTTP/1.1",
    )
    assert head.line == "GET /jobs/d%C3%A4mo?since=4 HTTP/1.1"
    assert head.environ == {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "GATEWAY_INTERFACE": "CGI/1.1",
        "RAW_PATH_INFO": "/jobs/d%C3%A4mo",
        "PATH_INFO": "/jobs/d\xc3\xa4mo",  # Bytes as latin-1, as WSGI has them.
        "QUERY_STRING": "since=4",
        "CONTENT_TYPE": "text/plain",
        "HTTP_HOST": "localhost:6543",
        "HTTP_UPGRADE": "websocket",
        "HTTP_CONNECTION": "Upgrade",
        "HTTP_COOKIE": "a=1",
        "HTTP_X_MANY": "1,2",
    }


def test_headers_are_kept_one_by_one():
    head = read(PLAIN)
    assert head.headers[-2:] == (("X-Many", "1"), ("x-many", "2"))
    assert head.get("x-MANY") == "1"
    assert head.get("absent") is None and head.get("absent", "") == ""


@pytest.mark.parametrize(("value", "closes"), [(b"close", True), (b"Close", True), (b"x", False)])
def test_a_connection_may_be_closed_behind_the_answer(value, closes):
    head = read(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: " + value + b"\r\n\r\n")
    assert head.closes is closes


def test_a_content_type_has_no_prefix():
    head = read(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Type: a/b\r\n\r\n")
    assert head.environ["CONTENT_TYPE"] == "a/b"


@pytest.mark.parametrize(
    "odd",
    [
        HANDSHAKE,  # An underscore in a name.
        PLAIN[:-1],
        PLAIN.replace(b"GET", b"POST"),
        PLAIN.replace(b"GET", b"get"),
        PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
        PLAIN.replace(b"HTTP/1.1", b"HTTP/1.1 "),
        PLAIN.replace(b"/jobs", b"//jobs"),
        PLAIN.replace(b"/jobs", b"http://a/jobs"),
        PLAIN.replace(b"/jobs", b"/jo bs"),
        PLAIN.replace(b"/jobs", b"/jo\x00bs"),
        PLAIN.replace(b"Cookie: ", b"Cookie : "),
        PLAIN.replace(b"Cookie: ", b"Cookie "),
        PLAIN.replace(b"Cookie: ", b": "),
        PLAIN.replace(b"Cookie: ", b" folded: "),
        PLAIN.replace(b"a=1", b"a=\x001"),
        PLAIN.replace(b"a=1", b"a=\n1"),
        PLAIN.replace(b"a=1", b"a=\r1"),
        PLAIN.replace(b"a=1", b"a=\t1"),
        PLAIN.replace(b"a=1", b"a=\x7f1"),
        PLAIN.replace(b"Cookie: a=1", b"Content-Length: 0"),
        PLAIN.replace(b"Cookie: a=1", b"Transfer-Encoding: chunked"),
        PLAIN.replace(b"Cookie: a=1", b"Expect: 100-continue"),
        PLAIN.replace(b"Cookie: a=1", b"\r\n".join([b"X: 1"] * 95)),
        b"GET /\r\n\r\n",
        b"",
    ],
)
def test_what_is_odd_is_left_to_be_read_with_more_care(odd):
    assert read(PLAIN) is not None
    assert read(odd) is None


def test_limits_are_those_of_the_server():
    line, headers = PLAIN.split(b"\r\n", 1)
    assert read(PLAIN, max_line=len(line) + 3) is not None
    assert read(PLAIN, max_line=len(line) + 2) is None
    assert read(PLAIN, max_headers=len(headers)) is not None
    assert read(PLAIN, max_headers=len(headers) - 1) is None


def test_a_key_is_one_string_for_all_requests():
    assert environ_key("X-Frame") == "HTTP_X_FRAME"
    assert environ_key("X-Frame") is environ_key("X-Frame")
    assert environ_key("X_Frame") is None and environ_key("") is None


def test_an_address_is_host_and_port():
    assert host_and_port(("::1", 6543, 0, 0)) == ("::1", "6543")
    assert host_and_port("/run/stargate.sock") == ("unix", "")
