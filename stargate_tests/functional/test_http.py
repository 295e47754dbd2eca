"""HTTP on real sockets: heads in one go and in pieces, bodies, silence, and what goes along."""

import json
import socket

import pytest
from websockets.frames import Opcode

from stargate_tests import raw
from stargate_tests.functional.tree import make_app
from stargate_tests.waiting import wait_until


def application(environ, start_response):
    """Answers with its environ and its body."""
    body = environ["wsgi.input"].read()
    kept = {name: str(value) for name, value in environ.items() if value is None or plain(value)}
    answer = json.dumps({"environ": kept, "size": len(body), "end": body[-8:].decode()}).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Body", str(len(answer)))])
    return [answer]


def plain(value):
    return isinstance(value, str | int | tuple)


def request(method="GET", path="/a%20b?c=d", *lines, body=b""):
    head = "\r\n".join((f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""))
    return head.encode("latin-1") + body


def answer(sock):
    head = raw.read_head(sock)
    assert head.startswith(b"HTTP/1.1 200 "), head
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:] if line)
    return json.loads(raw._exactly(sock, int(fields["X-Body"])))


@pytest.fixture
def sock(live_server):
    with raw.dial(live_server(application).url) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("X-Twice: 1", "X-Twice: 2", "Content-Type: a/b"),
        ("Cookie: a=b; c=d", "Accept: */*", "X-Spaces:   padded   "),
        ("X-Latin: caf\xe9",),
        ("X_Under: not for the application", "X-Fine: 1"),
        ("Connection: close",),
    ],
)
def test_a_head_means_the_same_in_one_packet_and_on_a_connection_that_is_kept(live_server, lines):
    """The first head of a connection is read in one go, the second line by line."""
    server = live_server(application)
    keep = [line for line in lines if line != "Connection: close"]
    with raw.dial(server.url) as sock:
        sock.sendall(request("GET", "/a%20b?c=d", *lines))
        at_once = answer(sock)["environ"]
    with raw.dial(server.url) as sock:
        sock.sendall(request("GET", "/first", *keep))
        answer(sock)
        sock.sendall(request("GET", "/a%20b?c=d", *lines))
        by_line = answer(sock)["environ"]
    for each in (at_once, by_line):
        each.pop("REMOTE_PORT")
    assert at_once == by_line


def test_a_head_may_come_byte_by_byte(sock):
    for byte in request():
        sock.sendall(bytes((byte,)))
    assert answer(sock)["environ"]["PATH_INFO"] == "/a b"


def test_requests_in_one_packet_are_answered_in_order(sock):
    sock.sendall(request("GET", "/1") + request("GET", "/2") + request("GET", "/3"))
    assert [answer(sock)["environ"]["PATH_INFO"] for _ in range(3)] == ["/1", "/2", "/3"]


@pytest.mark.parametrize("size", [0, 1, 16_384, 70_000])
def test_a_body_is_read_whole_whether_it_comes_with_the_head_or_after_it(sock, size):
    body = (b"x" * size)[:-3] + b"end" if size > 3 else b"x" * size
    for cut in (0, len(body) // 2, len(body)):
        sock.sendall(request("POST", "/", f"Content-Length: {size}") + body[:cut])
        sock.sendall(body[cut:])
        found = answer(sock)
        assert (found["size"], found["end"]) == (size, body[-8:].decode())


def test_a_connection_may_ask_in_every_way_one_after_the_other(sock):
    sock.sendall(request("GET", "/1"))
    assert answer(sock)["environ"]["REQUEST_METHOD"] == "GET"
    sock.sendall(request("POST", "/2", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n")
    assert answer(sock)["size"] == 3
    sock.sendall(request("GET", "/3", "X-Long: " + "y" * 20_000))
    assert len(answer(sock)["environ"]["HTTP_X_LONG"]) == 20_000


def test_a_connection_that_says_nothing_is_closed_in_the_end_and_holds_no_greenlet(live_server):
    server = live_server(application, keepalive_timeout="0.2")
    with raw.dial(server.url) as sock:
        assert raw.read_all(sock) == b""
    wait_until(lambda: not server.server.http)
    assert server.server.http._silent == {}


def test_a_connection_that_is_closed_at_once_leaves_nothing_behind(live_server):
    server = live_server(application)
    for _ in range(50):
        raw.dial(server.url).close()
    with raw.dial(server.url) as sock:
        sock.sendall(request("GET", "/"))
        answer(sock)
    wait_until(lambda: not server.server.http)
    assert server.server.http._silent == {}


def test_a_server_that_stops_closes_the_connections_that_have_said_nothing(live_server):
    server = live_server(application)
    with raw.dial(server.url) as sock:
        wait_until(lambda: len(server.server.http) == 1)
        server.stop()
        assert raw.read_all(sock) == b""


@pytest.mark.parametrize("cookie", [0, 9_000, 20_000])
def test_frames_behind_a_handshake_of_any_length_are_not_lost(live_server, cookie):
    server = live_server(make_app())
    messages = ["m" * 9_000, "n" * 9_000, "o"]
    behind = b"".join(raw.frame(message) for message in messages)
    with raw.connect(server.url, "/a/@@echo", "Cookie: " + "c" * cookie, behind=behind) as sock:
        for message in messages:
            assert raw.read_frame(sock) == (Opcode.TEXT, message.encode())
