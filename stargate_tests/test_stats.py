from dataclasses import FrozenInstanceError, fields

import pytest
from websockets.sync.client import connect

from stargate.interfaces import IGate
from stargate.stats import Counters, Stats, count_refusal
from stargate_tests import raw
from stargate_tests.functional.tree import make_app
from stargate_tests.waiting import wait_until


def test_a_refusal_is_counted_for_its_cause():
    counters = Counters()
    counters.refuse("origin")
    counters.refuse("origin")
    counters.refuse("version")
    assert counters.refusals == {"origin": 2, "version": 1}


def test_refusals_of_a_server_are_counted_in_the_same_way():
    refusals = {}
    count_refusal(refusals, "descriptors")
    assert refusals == {"descriptors": 1}


def listened(server, path, count):
    wait_until(lambda: len(server.gate.listeners(path)) == count)


def test_connections_and_messages_are_counted(live_server):
    server = live_server(make_app())
    with (
        connect(server.websocket_url("/a")) as one,
        connect(server.websocket_url("/a/@@echo")) as two,
    ):
        listened(server, "/a", 1)
        two.send("12345")
        assert two.recv(timeout=20) == "12345"
        for _ in range(3):
            server.gate.send("/a", "abc")
            assert one.recv(timeout=20) == "abc"
        server.gate.send("/nobody", "x")
        stats = server.gate.stats()
    assert (stats.connections, stats.opened) == (2, 2)
    # A frame of the peer's has six bytes besides the message, one of ours two.
    assert (stats.messages_in, stats.bytes_in) == (1, 5 + 6)
    assert (stats.messages_out, stats.bytes_out) == (4, 5 + 2 + 3 * (3 + 2))
    assert (stats.walks, stats.queued_bytes, stats.drops, stats.slow_closes) == (3, 0, 0, 0)
    wait_until(lambda: server.gate.stats().connections == 0)
    assert server.gate.stats().opened == 2


def test_a_message_is_counted_for_each_listener_but_not_for_the_excluded(live_server):
    server = live_server(make_app())
    with connect(server.websocket_url("/a")) as one, connect(server.websocket_url("/a")) as two:
        listened(server, "/a", 2)
        (first, _second) = server.gate.listeners("/a")
        server.gate.send("/a", "for both")
        server.gate.send("/a", "for one", exclude=first)
        for peer in (one, two):
            assert peer.recv(timeout=20) == "for both"
        wait_until(lambda: server.gate.stats().messages_out == 3)
        assert server.gate.stats().bytes_out == 2 * (8 + 2) + 7 + 2


def test_compressed_bytes_are_counted_as_they_leave(live_server):
    server = live_server(make_app(**{"stargate.compression": "deflate"}))
    with connect(server.websocket_url("/a")) as peer:
        listened(server, "/a", 1)
        server.gate.send("/a", "x" * 10_000)
        assert peer.recv(timeout=20) == "x" * 10_000
    assert server.gate.stats().messages_out == 1
    assert 0 < server.gate.stats().bytes_out < 200


def test_messages_that_leave_together_are_one_walk(live_server):
    server = live_server(make_app())

    def burst():
        for number in range(10):
            server.gate.send("/a", str(number))

    with connect(server.websocket_url("/a")) as peer:
        listened(server, "/a", 1)
        server.server.engine.ask_from_thread(burst)
        assert [peer.recv(timeout=20) for _ in range(10)] == [str(n) for n in range(10)]
    assert (server.gate.stats().walks, server.gate.stats().messages_out) == (1, 10)


def test_what_waits_is_counted_while_it_waits(live_server):
    server = live_server(make_app())
    with raw.connect(server.url, "/a", rcvbuf=4096):
        listened(server, "/a", 1)
        while not server.gate.stats().queued_bytes:
            server.gate.send("/a", "x" * 100_000)
        (websocket,) = server.gate.listeners("/a")
        assert server.gate.stats().queued_bytes == websocket.buffered
    wait_until(lambda: server.gate.stats().queued_bytes == 0)


def test_a_refused_handshake_is_counted_by_its_reason(live_server):
    server = live_server(make_app())
    for headers in (["Origin: https://other.example"], ["Origin: null"], ["Sec-WebSocket-Key: 2"]):
        with raw.dial(server.url) as sock:
            sock.sendall(raw.handshake("localhost", "/a", *headers))
            assert raw.read_all(sock).startswith(b"HTTP/1.1 40")
    with raw.dial(server.url) as sock:
        sock.sendall(raw.handshake("localhost", "/a", version="12"))
        assert raw.read_all(sock).startswith(b"HTTP/1.1 426")
    assert server.gate.stats().refusals == {"origin": 2, "malformed": 1, "version": 1}


def test_what_was_refused_before_there_was_an_application_counts_too(live_server):
    server = live_server(make_app())
    with connect(server.websocket_url("/a")):
        count_refusal(server.server.engine.refusals, "descriptors")
        server.gate.counters.refuse("descriptors")
        assert server.gate.stats().refusals == {"descriptors": 2}


def test_two_applications_of_one_process_are_counted_apart(live_server):
    one, two = live_server(make_app()), live_server(make_app())
    with connect(one.websocket_url("/a")), connect(two.websocket_url("/a")) as peer:
        listened(two, "/a", 1)
        two.gate.send("/a", "x")
        assert peer.recv(timeout=20) == "x"
        assert (one.gate.stats().messages_out, two.gate.stats().messages_out) == (0, 1)
        assert (one.gate.stats().connections, two.gate.stats().connections) == (1, 1)


def test_stats_are_a_value_that_does_not_change(live_server):
    server = live_server(make_app())
    before = server.gate.stats()
    with connect(server.websocket_url("/a")):
        assert server.gate.stats().opened == 1
        assert before.opened == 0
    with pytest.raises(FrozenInstanceError):
        before.opened = 7


def test_an_application_that_nobody_serves_has_stats_as_well():
    assert make_app().registry.getUtility(IGate).stats().opened == 0


def test_every_counter_is_in_the_stats():
    names = {field.name for field in fields(Stats)}
    assert names == {*Counters.__slots__, "queued_bytes"}


def test_what_was_counted_between_processes_is_in_the_stats():
    gate = make_app().registry.getUtility(IGate)
    gate.counters.gaps, gate.counters.lag = 3, 0.25
    assert (gate.stats().gaps, gate.stats().lag, gate.stats().published) == (3, 0.25, 0)
