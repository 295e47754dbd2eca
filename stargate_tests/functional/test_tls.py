"""TLS on real sockets, beyond what has to hold on every transport."""

import json
import logging
import random
import socket
import ssl
import urllib.request

import pytest
from pyramid.exceptions import ConfigurationError
from pyramid.response import Response
from websockets.exceptions import InvalidStatus

from stargate.engine import conversation
from stargate.engine.tls import TlsSocket
from stargate_tests import raw
from stargate_tests.certificates import certificate, trust
from stargate_tests.functional.program import pserve
from stargate_tests.functional.test_handoff import live_greenlets
from stargate_tests.functional.tree import Node, make_app
from stargate_tests.transports import connect
from stargate_tests.waiting import wait_until


def facts(context, request):
    names = ("wsgi.url_scheme", "HTTPS", "SERVER_PORT")
    return Response(json.dumps([request.environ[name] for name in names]))


def configure(config):
    config.add_view(facts, context=Node, name="facts")


@pytest.fixture
def server(live_server):
    return live_server(make_app(configure), **certificate().settings)


def get(server, path):
    with urllib.request.urlopen(server.url + path, timeout=20, context=trust()) as answer:
        return answer.read().decode()


def refused(server, count=1):
    wait_until(lambda: server.server.engine.refusals.get("tls") == count)
    wait_until(lambda: not server.server.http)


def test_a_page_says_that_it_is_https(server):
    scheme, https, port = json.loads(get(server, "/a/@@facts"))
    assert (scheme, https) == ("https", "on")
    assert server.url == f"https://127.0.0.1:{port}"


def test_several_requests_on_one_connection(server):
    with raw.dial(server.url) as sock:
        for _ in range(3):
            sock.sendall(b"GET /a/@@page HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert raw.read_head(sock).startswith(b"HTTP/1.1 200 ")
            assert sock.recv(100) == b"the page of /a"


def test_the_origin_of_an_https_page_is_its_own_and_of_an_http_page_is_not(server):
    with connect(server, "/a", origin=server.url):
        pass
    with pytest.raises(InvalidStatus) as found:
        connect(server, "/a", origin="https://127.0.0.1")
    assert found.value.response.status_code == 403


def test_a_parked_websocket_needs_no_greenlet(server):
    engine = server.server.engine
    with connect(server, "/a") as one:
        one.ping().wait(20)
        before = live_greenlets() - len(engine._idle)
        peers = [raw.connect(server.url, "/a") for _ in range(20)]
        wait_until(lambda: len(engine.connections) == 21 and not server.server.http)
        wait_until(lambda: live_greenlets() - len(engine._idle) <= before)
        for peer in peers:
            peer.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("path", ["/a/@@echo", "/a/@@handler"])
def test_a_long_message_goes_both_ways_in_either_version(server, version, path):
    message = random.Random(6).randbytes(1_000_000)
    context = ssl.create_default_context(cafile=certificate().authority)
    context.minimum_version = context.maximum_version = version
    plain = socket.create_connection(server.server._listening[0].getsockname(), timeout=20)
    with context.wrap_socket(plain, server_hostname="localhost") as sock:
        sock.sendall(raw.handshake("localhost", path) + raw.frame(message))
        assert raw.read_head(sock).startswith(b"HTTP/1.1 101 ")
        assert raw.read_frame(sock) == (2, message)
        assert sock.version() == version.name.replace("_", ".")


def test_a_long_frame_behind_a_handshake_that_comes_in_two_packets_is_read_whole(server):
    # One record, of which the buffer for a request that is read line by line holds a part only.
    message, head = "x" * 12_000, raw.handshake("localhost", "/a/@@echo")
    with raw.dial(server.url) as sock:
        sock.sendall(head[:40])
        wait_until(lambda: server.server.http._heads)
        sock.sendall(head[40:] + raw.frame(message))
        assert raw.read_head(sock).startswith(b"HTTP/1.1 101 ")
        assert raw.read_frame(sock) == (1, message.encode())


def test_a_listener_that_is_slow_for_a_while_gets_every_message_in_order(server):
    with raw.connect(server.url, "/a", rcvbuf=4096) as slow:
        wait_until(lambda: len(server.gate.listeners("/a")) == 1)
        (websocket,) = server.gate.listeners("/a")
        count = 0
        while websocket.buffered < 300_000:
            server.gate.send("/a", f"{count} ".ljust(5000 + count % 7, "x"))
            count += 1
        for number in range(count):
            expected = f"{number} ".ljust(5000 + number % 7, "x").encode()
            assert raw.read_frame(slow) == (1, expected)
    assert count > 50


def test_the_newest_message_follows_what_had_begun(server):
    with raw.connect(server.url, "/x", rcvbuf=4096) as slow:
        wait_until(lambda: len(server.gate.listeners("/x")) == 1)
        (websocket,) = server.gate.listeners("/x")
        server.gate.add_listener("/a", websocket, when_slow="latest")
        count = 0
        while websocket.missed < 50:
            for _ in range(7):  # Seven leave together, in one buffer.
                server.gate.send("/a", f"{count} ".ljust(1_000 + count % 7, "x"))
                count += 1
        seen = []
        while not seen or seen[-1] < count - 1:
            opcode, payload = raw.read_frame(slow)
            number = int(payload.split()[0])
            assert (opcode, len(payload)) == (1, 1_000 + number % 7)
            seen.append(number)
    assert seen == sorted(set(seen))
    assert len(seen) + websocket.missed == count


def test_one_that_never_reads_is_closed_with_1013_behind_a_whole_frame(live_server):
    settings = {"stargate.outbox_size": "100000", "stargate.max_send_size": "100000"}
    server = live_server(make_app(**settings), **certificate().settings)
    with raw.connect(server.url, "/a", rcvbuf=4096) as slow:
        wait_until(lambda: len(server.gate.listeners("/a")) == 1)
        (websocket,) = server.gate.listeners("/a")
        while not websocket.closed:
            server.gate.send("/a", "y" * 3000)
        opcode, payload = raw.read_frame(slow)
        while opcode == 1:
            assert payload == b"y" * 3000
            opcode, payload = raw.read_frame(slow)
        assert (opcode, payload[:2]) == (8, (1013).to_bytes(2, "big"))


def test_the_end_is_said_in_tls_as_well(server):
    with raw.connect(server.url, "/a") as sock:
        sock.sendall(raw.frame(b"\x03\xe8", 8))
        assert raw.read_frame(sock)[0] == 8
        # Without a close_notify this would be an error: the peer could have been cut off.
        assert sock.recv(100) == b""
    wait_until(lambda: not server.server.engine.connections)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        bytes(range(256)),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 600,
        b"\x16\x03",
    ],
    ids=["plain HTTP", "garbage", "a broken hello", "half a hello"],
)
def test_who_speaks_no_tls_is_refused_and_the_log_has_no_traceback(server, said, caplog):
    caplog.set_level(logging.INFO, "stargate.server")
    address = server.server._listening[0].getsockname()
    with socket.create_connection(address, timeout=20) as sock:
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
        assert b"HTTP" not in raw.read_all(sock)
    refused(server)
    wait_until(lambda: "refused: TLS: " in caplog.text)
    assert "Traceback" not in caplog.text
    assert get(server, "/a/@@page") == "the page of /a"


def test_who_connects_and_leaves_has_not_been_refused(server, caplog):
    caplog.set_level(logging.INFO, "stargate.server")
    address = server.server._listening[0].getsockname()
    for _ in range(3):
        socket.create_connection(address, timeout=20).close()
    get(server, "/a/@@page")
    wait_until(lambda: not server.server.http)
    assert "refused" not in caplog.text
    assert not server.server.engine.refusals


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"], ids=["nothing", "a few bytes"])
def test_a_handshake_has_to_be_over_in_time(live_server, said):
    server = live_server(make_app(), header_timeout="0.3", **certificate().settings)
    address = server.server._listening[0].getsockname()
    with socket.create_connection(address, timeout=20) as sock:
        sock.sendall(said)
        assert raw.read_all(sock) == b""
    refused(server)


def test_behind_the_handshake_headers_have_their_own_time(live_server):
    server = live_server(make_app(), header_timeout="0.3", **certificate().settings)
    with raw.dial(server.url) as sock:
        sock.sendall(b"GET /a HTTP/1.1\r\nHost: local")
        assert raw.read_all(sock).startswith(b"HTTP/1.1 408 ")


def test_a_handshake_holds_no_greenlet(server):
    engine = server.server.engine
    get(server, "/a/@@page")
    wait_until(lambda: not server.server.http)
    before = live_greenlets() - len(engine._idle)
    address = server.server._listening[0].getsockname()
    socks = [socket.create_connection(address, timeout=20) for _ in range(20)]
    for sock in socks:
        sock.sendall(b"\x16\x03\x01")
    wait_until(lambda: len(server.server.http) == 20)
    assert live_greenlets() - len(engine._idle) <= before
    for sock in socks:
        sock.close()
    wait_until(lambda: not server.server.http)


def test_an_answer_to_a_handshake_that_the_kernel_does_not_take_at_once_follows(
    server, monkeypatch
):
    refused = []

    class Full(TlsSocket):
        """One whose socket takes nothing at first."""

        def _flush(self):
            if not refused:
                refused.append(1)
                raise BlockingIOError
            super()._flush()

    monkeypatch.setattr(conversation, "TlsSocket", Full)
    assert get(server, "/a/@@page") == "the page of /a"
    assert refused


def test_a_server_that_stops_cuts_handshakes_that_are_under_way(server):
    address = server.server._listening[0].getsockname()
    with socket.create_connection(address, timeout=20) as sock:
        sock.sendall(b"\x16\x03\x01")
        wait_until(lambda: len(server.server.http) == 1)
        server.stop()
        assert raw.read_all(sock) == b""


def test_files_that_make_no_sense_end_the_start(live_server):
    with pytest.raises(ConfigurationError, match="certfile = '/no/such/file': No such file"):
        live_server(make_app(), certfile="/no/such/file")
    with pytest.raises(ConfigurationError, match="keyfile = '/a': it is the key of a certfile"):
        live_server(make_app(), keyfile="/a")
    with pytest.raises(ConfigurationError, match="certfile = '/a': a UNIX socket has no TLS"):
        live_server(make_app(), certfile="/a", unix_socket="/b")


def test_pserve_serves_it_and_takes_both_out_of_one_file(tmp_path):
    settings = f"listen = 127.0.0.1:0\ncertfile = {certificate().both}"
    with pserve(tmp_path, server=settings) as program:
        assert program.url.startswith("https://127.0.0.1:")
        assert get(program, "/a/@@patched") == "True"
        with raw.connect(program.url, "/a") as sock:
            sock.sendall(raw.frame("x"))
            assert raw.read_frame(sock) == (1, b"x")
            program.process.terminate()
            assert raw.read_frame(sock) == (8, b"\x03\xe9the server is stopping")
            sock.sendall(raw.frame(b"\x03\xe9", 8))
            assert sock.recv(100) == b""
        assert program.wait() == 0
    assert "Traceback" not in program.log
