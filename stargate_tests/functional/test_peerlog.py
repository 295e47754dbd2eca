"""What hostile peers can have written into the log of a real server: a line of each kind, at INFO.

What would come in the minute after a flood comes when the server stops, so nobody waits for it.
"""

import re
import socket
import struct
from contextlib import ExitStack, suppress

import pytest
from websockets.frames import Opcode

from stargate_tests import raw, transports
from stargate_tests.functional.program import pserve

TIMES = 20

#: Bytes of what is written of all causes together in a minute, beyond the first lines.
MOST_A_MINUTE = 4096

#: What is behind a line that stands for others.
COUNTED = re.compile(r" \(the newest of (\d+) in \d+ s\)$")

SERVER = {"header_timeout": "0.3", "max_request_line": "2000", "max_header_size": "4000"}
SERVER["access_log"] = "false"

APP = "\n".join(
    (
        "stargate.max_message_rate = 50",
        "stargate.max_message_size = 1000",
        "stargate.outbox_size = 100000",
        "stargate.max_connections_per_address = 25",
        "stargate.close_timeout = 0.2",
    )
)

#: Requests that are refused, and handshakes.
REFUSED = {
    "no request": b"\x16\x03\x01 nothing of the kind\r\n\r\n",
    "a long line": b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\n\r\n",
    "long headers": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 5000 + b"\r\n\r\n",
    "another version": b"GET / HTTP/3.0\r\nHost: a\r\n\r\n",
    "a bad length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    "too slow": b"GET / HT",
    "a bad body": b"POST /a/@@send HTTP/1.1\r\nHost: a\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nno chunk\r\n",
    "an origin": raw.handshake("a", "/a", "Origin: https://evil.example"),
    "a long origin": raw.handshake("a", f"/{'x' * 900}", f"Origin: https://{'e' * 900}.example"),
    "a bad header": raw.handshake("a", "/a", "Origin: a", "Origin: b"),
    "no key": raw.handshake("a", "/a").replace(b"Sec-WebSocket-Key", b"X-Key"),
    "version 8": raw.handshake("a", "/a", version="8"),
    "no path": raw.handshake("a", "/%ff"),
}


def ask(url, data):
    with raw.dial(url) as sock, suppress(OSError):
        sock.sendall(data)
        return raw.read_all(sock)


def vanish(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def break_off(url, data):
    """Go in the middle of a request, or before its answer."""
    sock = raw.dial(url)
    sock.sendall(data)
    vanish(sock)


def break_rules(url):
    """Protocol errors: 1002, 1007, 1009, and 1008 for too many messages."""
    for frames, code in (
        (b"\xf1\x80\0\0\0\0", 1002),
        (raw.frame(b"\xff", Opcode.TEXT), 1007),
        (raw.frame("x" * 2000), 1009),
        (raw.frame("x") * 500, 1008),
    ):
        with raw.connect(url, "/a/@@listen", behind=frames) as sock:
            opcode, payload = raw.read_frame(sock)
            assert (opcode, int.from_bytes(payload[:2], "big")) == (Opcode.CLOSE, code)


def read_slowly(url):
    """Listeners who do not read, while 2 MB are sent to them."""
    with ExitStack() as stack:
        for _ in range(TIMES):
            stack.enter_context(raw.connect(url, "/slow", rcvbuf=4096))
        ask(url, b"GET /slow/@@many?count=8000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")


def too_many(url):
    with ExitStack() as stack:
        for _ in range(25):
            stack.enter_context(raw.connect(url, "/many"))
        for _ in range(TIMES):
            assert b" 429 " in ask(url, raw.handshake("a", "/many"))


def judge(program, *kinds):
    """Stop ``program``: there is a line of each of ``kinds``, and at most one more that counts."""
    assert program.stop() == 0
    lines = [
        line
        for line in program.log[program.log.index("serving on") :].splitlines(keepends=True)
        if " stargate" in line and "stargate_tests" not in line
    ]
    counted = [line for line in lines if COUNTED.search(line)]
    first = [line for line in lines if not COUNTED.search(line)]
    for kind in kinds:
        found = [line for line in first if re.search(kind, line)]
        assert len(found) == 1, (kind, found)
    assert len(counted) <= len(first)
    assert "Traceback" not in program.log
    assert 0 < sum(len(line.encode()) for line in counted) < MOST_A_MINUTE, counted
    assert max(map(len, counted)) < 250, "whatever a peer has sent"
    return sum(int(COUNTED.search(line).group(1)) for line in counted)


def test_a_flood_of_refused_peers_is_a_line_of_each_kind(tmp_path):
    server = transports.ini("tcp", tmp_path, **SERVER)
    with pserve(tmp_path, server=server, app=APP) as program:
        url = program.url
        for _ in range(TIMES):
            for name, data in REFUSED.items():
                assert re.match(rb"HTTP/1.1 [45]", ask(url, data)), name
            break_off(url, b"GET / HT")
            break_off(url, b"GET /a/@@slow?seconds=0.05 HTTP/1.1\r\nHost: a\r\n\r\n")
            break_rules(url)
        read_slowly(url)
        too_many(url)
        held = judge(
            program,
            r"refused: 400 ",
            r"refused: 408 ",
            r"refused: 414 |refused: 431 ",
            r"refused: 505 ",
            r"refused a WebSocket at '/a' from a page of 'https://evil.example'",
            r"refused a WebSocket at .* is allowed, not several",
            r"refused a WebSocket at .*version 8",
            r"a peer has gone before its answer",
            r"gone in the middle of a request",
            r"stargate.max_message_rate is 50",
            r"closing a slow WebSocket with 1013",
            r"stargate.max_connections_per_address is 25",
        )
        assert held > 10 * TIMES


def test_tls_that_is_none_is_a_line(tmp_path):
    server = transports.ini("tls", tmp_path, **SERVER)
    with pserve(tmp_path, server=server) as program:
        where = program.url.replace("https", "http")
        with ExitStack() as stack:
            for _ in range(TIMES):
                ask(where, b"nothing of the kind" * 50)
                ask(where, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                break_off(where, b"\x16\x03\x01")
                silent = stack.enter_context(raw.dial(where))
                silent.sendall(b"\x16\x03\x01")
            for _ in range(TIMES):
                assert raw.read_all(silent) == b""
        assert judge(program, "refused: TLS: ") >= 3 * TIMES - 1


@pytest.fixture
def nobody():
    """The address of a port at which nobody answers, and nobody will."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"


def test_joins_and_pages_that_fail_while_the_redis_is_away_are_a_line_each(tmp_path, nobody):
    app = f"stargate.backplane = redis://{nobody}\nstargate.namespace = nobody"
    server = transports.ini("tcp", tmp_path, **SERVER)
    with pserve(tmp_path, server=server, app=app) as program:
        for _ in range(TIMES):
            with raw.connect(program.url, "/a") as sock:
                opcode, payload = raw.read_frame(sock)
                assert (opcode, payload[:2]) == (Opcode.CLOSE, (1013).to_bytes(2, "big"))
            answer = ask(
                program.url,
                b"GET /a/@@send?message=x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            )
            assert b" 503 " in answer
        held = judge(program, r"Talk failed at /a ", r"GET /a/@@send failed: ")
        assert held >= 2 * TIMES - 2
