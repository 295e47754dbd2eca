"""HTTP on real sockets: heads in one go and in pieces, bodies, silence, and what goes along."""

import json
import socket
import struct
from contextlib import contextmanager

import pytest
from websockets.frames import Opcode

from stargate.engine import current_engine
from stargate_tests import raw, transports
from stargate_tests.functional.test_handoff import live_greenlets
from stargate_tests.functional.tree import Echo, EchoHandler, Node, make_app
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


def heard(server):
    """Wait until ``server`` has heard the beginning of a head, or reads what is behind one."""
    http = server.server.http
    wait_until(lambda: http._heads or (http and not http._young))


@contextmanager
def line_by_line():
    """Have every head read with the care that odd ones need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stargate.engine.wsgi.read_head", lambda *_args: None)
        yield


@pytest.fixture
def live_server(live_server, request, tmp_path):
    return transports.over(getattr(request, "param", "tcp"), live_server, tmp_path)


#: With TLS the bytes come from elsewhere: what depends on how they come is tried with it, too.
both = pytest.mark.parametrize("live_server", ["tcp", "tls"], indirect=True)


@pytest.fixture
def sock(live_server):
    with raw.dial(live_server(application).url) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


HEADERS = [
    (),
    ("X-Twice: 1", "X-Twice: 2", "Content-Type: a/b"),
    ("Cookie: a=b; c=d", "Accept: */*", "X-Spaces:   padded   "),
    ("X-Latin: caf\xe9",),
    ("X-Odd-Latin: a\xa0b\xad",),
    ("X-Tab: a\tb", "X-Tabs:\tc\t"),
    ("X-Empty:", "X-Colon: a:b", "x-lower: 1", "X-UPPER: 2", "X-1!#$%&'*+.^`|~: 3"),
    ("X_Under: not for the application", "X-Fine: 1"),
    ("Connection: close",),
    ("Connection: Keep-Alive",),
]


TARGETS = [
    "/",
    "/?",
    "/a?b?c",
    "/a#b",
    "/%00%E4%c3%a4%zz",
    "/caf\xe9?caf\xe9",
    "//a//b",
    "http://localhost/a?b",
    "http://localhost:8080",
]


@pytest.mark.parametrize(
    ("method", "target", "lines"),
    [("GET", "/a%20b?c=d", lines) for lines in HEADERS]
    + [("GET", target, ()) for target in TARGETS]
    + [("DELETE", "/", ()), ("M-SEARCH", "/", ())],
)
def test_a_head_means_the_same_however_it_comes_and_is_read(live_server, method, target, lines):
    server = live_server(application)
    whole = request(method, target, *lines)
    found = [
        asked(server, whole),
        asked(server, whole, 10),
        asked(server, whole, len(whole) - 1),
        asked(server, whole, before=request("GET", "/first")),
    ]
    with line_by_line():
        found.append(asked(server, whole))
    assert all(each == found[0] for each in found)


def asked(server, whole, cut=0, before=b""):
    """The headers of the answer to ``whole``, and its environ; it comes in two parts."""
    with raw.dial(server.url) as sock:
        if before:
            sock.sendall(before)
            answer(sock)
        if cut:
            sock.sendall(whole[:cut])
            heard(server)
        sock.sendall(whole[cut:])
        head = raw.read_head(sock).decode()
        fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
        environ = json.loads(raw._exactly(sock, int(fields.pop("X-Body"))))["environ"]
        environ.pop("REMOTE_PORT")
        fields.pop("Date")
    wait_until(lambda: not server.server.http)
    return fields, environ


def test_a_head_in_one_packet_is_read_in_one_go(live_server, monkeypatch):
    """Else the tests above compare one way of reading with itself."""
    monkeypatch.setattr("stargate.engine.wsgi.HttpProtocol.parse_request", None)
    with raw.dial(live_server(application).url) as sock:
        sock.sendall(request())
        assert answer(sock)["environ"]["PATH_INFO"] == "/a b"


@both
def test_a_head_may_come_byte_by_byte(sock):
    for byte in request():
        sock.sendall(bytes((byte,)))
    assert answer(sock)["environ"]["PATH_INFO"] == "/a b"


@both
def test_requests_in_one_packet_are_answered_in_order(sock):
    sock.sendall(request("GET", "/1") + request("GET", "/2") + request("GET", "/3"))
    assert [answer(sock)["environ"]["PATH_INFO"] for _ in range(3)] == ["/1", "/2", "/3"]


def test_between_requests_in_one_packet_everybody_else_has_a_turn(live_server):
    turns, seen = [], []

    def turn():
        turns.append(1)
        if len(seen) < 30:
            server.server.engine.call_soon(turn)

    def counting(environ, start_response):
        if not seen:
            turn()
        seen.append(len(turns))
        return application(environ, start_response)

    server = live_server(counting)
    with raw.dial(server.url) as sock:
        sock.sendall(request("GET", "/") * 30)
        for _ in range(30):
            answer(sock)
    assert len(set(seen)) == 30


@both
def test_requests_in_one_packet_that_is_longer_than_a_read_are_answered_in_order(sock):
    paths = [f"/{number}" for number in range(5)]
    sock.sendall(b"".join(request("GET", path, "X-Long: " + "y" * 7_000) for path in paths))
    assert [answer(sock)["environ"]["PATH_INFO"] for _ in paths] == paths


@both
@pytest.mark.parametrize("size", [0, 1, 16_384, 70_000])
def test_a_body_is_read_whole_whether_it_comes_with_the_head_or_after_it(sock, size):
    body = (b"x" * size)[:-3] + b"end" if size > 3 else b"x" * size
    for cut in (0, len(body) // 2, len(body)):
        sock.sendall(request("POST", "/", f"Content-Length: {size}") + body[:cut])
        sock.sendall(body[cut:])
        found = answer(sock)
        assert (found["size"], found["end"]) == (size, body[-8:].decode())


@both
@pytest.mark.parametrize("size", [3, 16_385, 70_000])
@pytest.mark.parametrize("with_head", [0, 2, 20_000, 70_000])
def test_the_body_of_a_first_request_is_read_whole(live_server, size, with_head):
    server = live_server(application)
    body = b"x" * (size - 3) + b"end"
    with raw.dial(server.url) as sock:
        head = request("POST", "/", f"Content-Length: {size}")
        sock.sendall(head + body[:with_head])
        heard(server)
        sock.sendall(body[with_head:] + request("GET", "/next"))
        found = answer(sock)
        assert (found["size"], found["end"]) == (size, body[-8:].decode())
        assert answer(sock)["environ"]["PATH_INFO"] == "/next"


@pytest.mark.parametrize(
    ("line", "body"),
    [("Content-Length: 3", b"abc"), ("Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n")],
)
def test_a_first_request_for_a_page_may_have_a_body(sock, line, body):
    sock.sendall(request("GET", "/1", line, body=body) + request("GET", "/2"))
    assert answer(sock)["end"] == "abc"
    assert answer(sock)["environ"]["PATH_INFO"] == "/2"


@both
def test_a_page_a_form_and_a_websocket_on_one_connection(live_server):
    server = live_server(make_app())
    with raw.dial(server.url) as sock:
        for method, body in (("GET", b""), ("POST", b"a=b")):
            sock.sendall(request(method, "/a/@@page", f"Content-Length: {len(body)}", body=body))
            assert raw.read_head(sock).startswith(b"HTTP/1.1 200 ")
            assert raw._exactly(sock, 14) == b"the page of /a"
        sock.sendall(raw.handshake("localhost", "/a/@@echo") + raw.frame("hello"))
        assert raw.read_head(sock).startswith(b"HTTP/1.1 101 ")
        assert raw.read_frame(sock) == (Opcode.TEXT, b"hello")
        sock.sendall(raw.frame("again"))
        assert raw.read_frame(sock) == (Opcode.TEXT, b"again")


def test_the_answer_to_head_has_no_body(live_server):
    with raw.dial(live_server(make_app()).url) as sock:
        sock.sendall(request("HEAD", "/a/@@page") + request("GET", "/a/@@page"))
        for _ in range(2):
            head = raw.read_head(sock)
            assert head.startswith(b"HTTP/1.1 200 ") and b"Content-Length: 14\r\n" in head
        assert raw._exactly(sock, 14) == b"the page of /a"


@both
@pytest.mark.parametrize("pieces", [1, 2])
def test_http_1_0_gets_an_answer_and_a_close(live_server, pieces):
    server = live_server(application)
    whole = request().replace(b"HTTP/1.1", b"HTTP/1.0")
    with raw.dial(server.url) as sock:
        if pieces == 2:
            sock.sendall(whole[:20])
            heard(server)
        sock.sendall(whole[0 if pieces == 1 else 20 :])
        answered = raw.read_all(sock)
    assert answered.startswith(b"HTTP/1.1 200 ") and b"Connection: close\r\n" in answered
    assert b'"SERVER_PROTOCOL": "HTTP/1.0"' in answered


def test_http_1_0_is_kept_open_when_the_peer_asks_for_it(sock):
    whole = request("GET", "/", "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
    for _ in range(2):
        sock.sendall(whole)
        assert answer(sock)["environ"]["SERVER_PROTOCOL"] == "HTTP/1.0"


@both
def test_a_connection_is_closed_behind_the_answer_when_the_peer_asks_for_it(sock):
    sock.sendall(request("GET", "/", "Connection: close") + request("GET", "/never"))
    answered = raw.read_all(sock)
    assert answered.count(b"HTTP/1.1 200 ") == 1 and b"Connection: close\r\n" in answered


@both
def test_an_answer_to_a_slow_reader_is_whole_and_keeps_nobody_waiting(live_server):
    size = 4_000_000

    def large(environ, start_response):
        start_response("200 OK", [("Content-Length", str(size))])
        return [b"x" * (size - 3) + b"end"]

    def either(environ, start_response):
        serve = large if environ["PATH_INFO"] == "/large" else application
        return serve(environ, start_response)

    server = live_server(either)
    with raw.dial(server.url, rcvbuf=4096) as slow, raw.dial(server.url) as other:
        slow.sendall(request("GET", "/large"))
        assert raw.read_head(slow).startswith(b"HTTP/1.1 200 ")
        other.sendall(request("GET", "/"))
        assert answer(other)["environ"]["PATH_INFO"] == "/"
        body = raw._exactly(slow, size)
        assert (len(body), body[-4:]) == (size, b"xend")


def test_a_connection_may_ask_in_every_way_one_after_the_other(sock):
    sock.sendall(request("GET", "/1"))
    assert answer(sock)["environ"]["REQUEST_METHOD"] == "GET"
    sock.sendall(request("POST", "/2", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n")
    assert answer(sock)["size"] == 3
    sock.sendall(request("GET", "/3", "X-Long: " + "y" * 20_000))
    assert len(answer(sock)["environ"]["HTTP_X_LONG"]) == 20_000


@both
def test_a_connection_that_says_nothing_is_closed_in_the_end(live_server):
    server = live_server(application, header_timeout="0.2")
    with raw.dial(server.url) as sock:
        assert raw.read_all(sock) == b""
    wait_until(lambda: not server.server.http)
    assert not server.server.http._young


@both
def test_connections_that_say_nothing_hold_no_greenlets(live_server):
    server = live_server(application)
    idle = server.server.engine._idle
    with raw.dial(server.url) as first:
        first.sendall(request())
        answer(first)
        before = live_greenlets() - len(idle)
        silent = [raw.dial(server.url) for _ in range(50)]
        wait_until(lambda: len(server.server.http) == 51)
        # And their turn has ended: what comes later has been answered.
        first.sendall(request())
        answer(first)
        assert live_greenlets() - len(idle) <= before
        for sock in silent:
            sock.close()


def test_one_that_speaks_late_is_served_and_the_silent_ones_beside_it_are_closed(live_server):
    server = live_server(application, header_timeout="2", keepalive_timeout="2")
    with raw.dial(server.url) as speaks, raw.dial(server.url) as silent:
        wait_until(lambda: len(server.server.http) == 2)
        speaks.sendall(request("GET", "/1"))
        assert answer(speaks)["environ"]["PATH_INFO"] == "/1"
        assert raw.read_all(silent) == b""
        assert raw.read_all(speaks) == b""  # It has been silent for as long, by then.


@both
@pytest.mark.parametrize("reset", [False, True])
def test_connections_that_are_closed_at_once_leave_nothing_behind(live_server, reset, caplog):
    server = live_server(application)
    for _ in range(50):
        with raw.dial(server.url) as sock:
            if reset:
                linger = struct.pack("ii", 1, 0)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    with raw.dial(server.url) as sock:
        sock.sendall(request("GET", "/"))
        answer(sock)
    wait_until(lambda: not server.server.http)
    assert not server.server.http._young
    assert server.server.engine.watched == 1  # The listening socket.
    assert not caplog.records


@both
def test_a_server_that_stops_closes_the_connections_that_have_said_nothing(live_server):
    server = live_server(application)
    with raw.dial(server.url) as sock:
        wait_until(lambda: len(server.server.http) == 1)
        server.stop()
        assert raw.read_all(sock) == b""


@both
@pytest.mark.parametrize("cookie", [0, 9_000, 20_000])
def test_frames_behind_a_handshake_of_any_length_are_not_lost(live_server, cookie):
    server = live_server(make_app())
    messages = ["m" * 9_000, "n" * 9_000, "o"]
    behind = b"".join(raw.frame(message) for message in messages)
    with raw.connect(server.url, "/a/@@echo", "Cookie: " + "c" * cookie, behind=behind) as sock:
        for message in messages:
            assert raw.read_frame(sock) == (Opcode.TEXT, message.encode())


@pytest.mark.parametrize("style", [Echo, EchoHandler])
def test_frames_behind_a_handshake_keep_their_order_when_the_view_waits_first(live_server, style):
    """For a database, say: the hub has gone on meanwhile."""

    class Waiting(style):
        def __init__(self, request):
            super().__init__(request)
            engine = current_engine()
            engine.call_later(0.01, engine.resume, engine.greenlet)
            engine.park()

    server = live_server(make_app(lambda c: c.add_websocket_view(Waiting, context=Node, name="w")))
    messages = ["m" * 9_000, "n" * 9_000, "o", "p" * 30_000, "q"]
    behind = b"".join(raw.frame(message) for message in messages)
    with raw.connect(server.url, "/a/@@w", behind=behind) as sock:
        for message in messages:
            assert raw.read_frame(sock) == (Opcode.TEXT, message.encode())


@both
@pytest.mark.parametrize("odd", ["X_Under: 1", "X-Tab: a\tb"])
def test_frames_behind_a_handshake_that_is_read_line_by_line_are_not_lost(live_server, odd):
    server = live_server(make_app())
    messages = ["m" * 6_000, "n" * 6_000, "o"]
    behind = b"".join(raw.frame(message) for message in messages)
    with raw.connect(server.url, "/a/@@echo", odd, behind=behind) as sock:
        for message in messages:
            assert raw.read_frame(sock) == (Opcode.TEXT, message.encode())


@both
def test_an_answer_that_nobody_reads_is_given_up_after_socket_timeout(live_server):
    def much(environ, start_response):
        start_response("200 OK", [("Content-Length", str(64 << 20))])
        return [bytes(1 << 20)] * 64

    server = live_server(much, socket_timeout="0.2")
    with raw.dial(server.url) as sock:
        sock.sendall(request())
        wait_until(lambda: len(server.server.http) == 1)
        wait_until(lambda: not server.server.http)


@both
def test_frames_behind_a_page_and_a_handshake_in_one_packet_are_not_lost(live_server):
    server = live_server(make_app())
    messages = ["m" * 6_000, "n" * 6_000, "o"]
    behind = b"".join(raw.frame(message) for message in messages)
    with raw.dial(server.url, timeout=20) as sock:
        page = request("GET", "/a/@@page")
        sock.sendall(page + raw.handshake("localhost", "/a/@@echo") + behind)
        assert raw.read_head(sock).startswith(b"HTTP/1.1 200 ")
        assert raw._exactly(sock, 14) == b"the page of /a"
        assert raw.read_head(sock).startswith(b"HTTP/1.1 101 ")
        for message in messages:
            assert raw.read_frame(sock) == (Opcode.TEXT, message.encode())


def status(server, whole):
    with raw.dial(server.url) as sock:
        sock.sendall(whole)
        return raw.read_head(sock).split()[1]


def test_as_many_headers_are_taken_in_one_go_as_line_by_line(live_server):
    server = live_server(application)
    for number in (97, 98, 99):  # And two more: up to 99 are taken.
        whole = request("GET", "/", *["X: 1"] * number, "Connection: close")
        at_once = status(server, whole)
        with line_by_line():
            assert status(server, whole) == at_once == (b"200" if number < 98 else b"431")


def test_of_two_content_types_the_same_is_taken_in_one_go_and_line_by_line(live_server):
    server = live_server(application)
    whole = request("GET", "/", "Content-Type: a/b", "Content-Type: c/d")
    _, at_once = asked(server, whole)
    with line_by_line():
        _, environ = asked(server, whole)
    assert environ["CONTENT_TYPE"] == at_once["CONTENT_TYPE"] == "a/b"
