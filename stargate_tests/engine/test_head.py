"""Heads that are read in one go, and those that are left to be read with more care."""

import pytest

from stargate.engine.head import (
    Malformed,
    check_beginning,
    check_body,
    check_field,
    check_line,
    environ_key,
    host_and_port,
    is_whole,
    read_head,
    split_target,
)

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


# What is read with more care, and may still be refused: RFC 9112.


def why(check, *args):
    """Status and reason of the refusal; ``None`` for what may be served."""
    try:
        check(*args)
    except Malformed as malformed:
        return malformed.status, malformed.reason
    return None


@pytest.mark.parametrize("data", [b"GET", b"g", b"!", b"\r\n", b"\n"])
def test_a_request_begins_with_a_token_or_behind_an_empty_line(data):
    assert why(check_beginning, data) is None


@pytest.mark.parametrize("data", [b" GET", b"\x00", b"\x80", b"\xff", b"(", b"/", b"\x7f", b"\t"])
def test_what_begins_in_another_way_is_no_request(data):
    assert why(check_beginning, data) == (400, "this is not HTTP")


def test_who_speaks_tls_to_a_plain_port_is_told_so():
    assert why(check_beginning, b"\x16\x03\x01") == (400, "HTTP is spoken here, not TLS")


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\n",
        b"M-SEARCH * HTTP/1.0\r\n",
        b"a \xe9\xff HTTP/9.9\n",
    ],
)
def test_a_request_line_is_method_target_and_version(line):
    assert why(check_line, line) is None


@pytest.mark.parametrize(
    "line",
    [b"", b"\r\n", b"GET / HTTP/1.1", b"GET /\r\n", b"GET / HTTP/1.1 \r\n", b"GET / HTTP/1.1\r\r\n",
     b"GET  / HTTP/1.1\r\n", b"GET\t/\tHTTP/1.1\r\n", b"GET / b HTTP/1.1\r\n",
     b"G@T / HTTP/1.1\r\n", b"GET /\x00 HTTP/1.1\r\n", b"GET /\x7f HTTP/1.1\r\n",
     b"GET / HTTP/1.10\r\n",
     b"GET / HTTP/11\r\n", b"GET / http/1.1\r\n", b" / HTTP/1.1\r\n", b"GET  HTTP/1.1\r\n"],
)  # fmt: skip
def test_any_other_line_is_refused(line):
    assert why(check_line, line) == (
        400, "the request line is no method, target and version of HTTP"
    )  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [b"A:\r\n", b"A: b\r\n", b"A: b\n", b"a-b_c!:\t\xe9 \xff\t\r\n", b"\r\n", b"\n", b"A::\r\n"],
)
def test_a_header_is_a_name_and_a_value(line):
    assert why(check_field, line) is None


@pytest.mark.parametrize(
    "line",
    [b"A\r\n", b": b\r\n", b"A : b\r\n", b"A B: c\r\n", b"\xe9: b\r\n", b"A: b\rc\r\n",
     b"A: b\x00\r\n", b"A: b\x1b\r\n", b"A: b\x7f\r\n", b"A: b\r\r\n", b"\r\r\n", b'"A": b\r\n'],
)  # fmt: skip
def test_a_line_that_is_no_header_would_hide_those_behind_it(line):
    assert why(check_field, line) == (400, f"no header: {line!r}")


@pytest.mark.parametrize("line", [b" b\r\n", b"\tb\r\n", b" \r\n", b" A: b\r\n"])
def test_a_header_in_two_lines_is_refused(line):
    assert why(check_field, line) == (400, f"a header in two lines: {line!r}")


@pytest.mark.parametrize("line", [b"", b"A: b", b"A", b" "])
def test_headers_that_do_not_end_are_refused(line):
    assert why(check_field, line) == (400, "the headers do not end")


def test_a_reason_is_short_however_long_the_line():
    assert len(why(check_field, b"A" * 5000 + b"\n")[1]) < 120


@pytest.mark.parametrize(
    ("lengths", "codings"),
    [
        ([], []),
        (["0"], []),
        (["9" * 18], []),
        ([" 4 "], []),
        ([], ["chunked"]),
        ([], [" Chunked "]),
    ],
)
def test_a_body_has_one_length_or_comes_in_chunks(lengths, codings):
    assert why(check_body, "HTTP/1.1", lengths, codings) is None


@pytest.mark.parametrize(
    "lengths",
    [["4", "4"], ["4", "5"], ["4, 4"], [""], ["-1"], ["+1"], ["1_0"], ["0x1"], ["1.0"], ["\xb2"],
     ["9" * 19]],
)  # fmt: skip
def test_a_length_that_two_might_read_in_two_ways_is_refused(lengths):
    assert why(check_body, "HTTP/1.1", lengths, []) == (
        400, "one Content-Length is allowed, of digits alone"
    )  # fmt: skip


@pytest.mark.parametrize(
    "codings",
    [["gzip"], ["gzip, chunked"], ["chunked", "chunked"], [""], ["xchunked"], ["identity"]],
)
def test_another_coding_than_chunked_is_501(codings):
    status, reason = why(check_body, "HTTP/1.1", [], codings)
    assert (status, reason) == (
        501, "chunked is the only Transfer-Encoding that is understood here"
    )  # fmt: skip


@pytest.mark.parametrize(("version", "lengths"), [("HTTP/1.1", ["4"]), ("HTTP/1.0", [])])
def test_chunks_go_with_no_length_and_no_older_version(version, lengths):
    assert why(check_body, version, lengths, ["chunked"])[0] == 400


@pytest.mark.parametrize(
    ("method", "target", "path", "host"),
    [
        ("GET", "/", "/", None),
        ("GET", "/a?b", "/a?b", None),
        ("OPTIONS", "*", "*", None),
        ("GET", "http://a", "/", "a"),
        ("GET", "http://a:1/b?c", "/b?c", "a:1"),
        ("GET", "HTTPS://[::1]:1?c", "/?c", "[::1]:1"),
        ("GET", "http://a//b", "/b", "a"),
    ],
)
def test_a_target_is_a_path_that_may_have_a_host_before_it(method, target, path, host):
    assert split_target(method, target) == (path, host)


@pytest.mark.parametrize(
    "target", ["*", "a", "", "a:80", "ftp://a/", "http:///a", "http://me@a/", "http:a", "?a"]
)
def test_a_target_that_is_no_path_is_refused(target):
    assert why(split_target, "GET", target) == (400, f"{target!r} is no path")


def test_what_has_been_looked_at_is_not_looked_at_again():
    """A head that comes byte by byte would cost the square of its length."""
    seen = b"GET / HTTP/1.1\r\n\r\n"
    assert is_whole(seen, 0, 100, 100)
    assert not is_whole(seen + b"X: y", len(seen) + 2, 100, 100)
