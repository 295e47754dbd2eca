import pytest

from stargate.application.gates import Gate
from stargate.engine.peerlog import peerlog
from stargate.handshake.admission import FULL, TOO_MANY, Admission, client_of
from stargate_tests.peers import reset
from stargate_tests.waiting import turn, turn_until

HERE = "192.0.2.1"  # What the peers of these tests are said to be.


def opened(wire, admission, remote_addr=HERE):
    websocket, peer = wire(gate=Gate(None))
    websocket.remote_addr = remote_addr
    admission.enter(websocket)
    return websocket, peer


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff"),
        ("fe80::1%eth0", "fe80::2%eth1"),
    ],
)
def test_these_are_one_client(one, other):
    assert client_of(one) == client_of(other) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [("192.0.2.1", "192.0.2.2"), ("2001:db8:0:1::1", "2001:db8:0:2::1"), ("::1", "0.0.0.1")],
)
def test_these_are_two_clients(one, other):
    assert client_of(one) != client_of(other)


@pytest.mark.parametrize("address", ["unix", "", None, "localhost", "192.0.2.1:4711"])
def test_what_is_no_address_is_nobody_in_particular(address):
    assert client_of(address) is None


def test_as_many_get_in_as_the_engine_may_have_open(engine, wire):
    admission = Admission(2, 0)
    first, _ = opened(wire, admission)
    assert admission.judge(engine, HERE) is None
    opened(wire, admission)
    assert admission.judge(engine, HERE) is FULL
    first._abort()
    assert admission.judge(engine, HERE) is None


def test_the_websockets_of_other_applications_count_for_the_process(engine, wire):
    wire(gate=Gate(None))
    assert Admission(1, 0).judge(engine, HERE) is FULL


def test_as_many_get_in_from_one_client_as_are_allowed(engine, wire):
    admission = Admission(0, 1)
    opened(wire, admission)
    assert admission.judge(engine, HERE) is TOO_MANY
    assert admission.judge(engine, "192.0.2.2") is None


def test_who_leaves_gives_back_one_place_and_no_more(engine, wire):
    admission = Admission(0, 2)
    first, _ = opened(wire, admission)
    opened(wire, admission)
    first._abort()
    opened(wire, admission)
    assert admission.judge(engine, HERE) is TOO_MANY


def test_who_has_no_address_is_not_counted(engine, wire):
    admission = Admission(0, 1)
    opened(wire, admission, "unix")
    opened(wire, admission, "unix")
    assert admission.judge(engine, "unix") is None


def test_0_bounds_nothing_and_counts_nothing(engine, wire):
    admission = Admission(0, 0)
    for _ in range(5):
        opened(wire, admission)
    assert admission.judge(engine, HERE) is None
    assert not admission._clients


@pytest.mark.parametrize("end", ["abort", "reset", "close"])
def test_whatever_the_end_a_place_is_given_back(engine, wire, end):
    admission = Admission(1, 1)
    websocket, peer = opened(wire, admission)
    if end == "abort":
        websocket._abort()
    elif end == "reset":
        reset(peer.sock)
    else:
        peer.say_close()
        turn_until(engine, lambda: (peer.read(), websocket.closed)[1])
        peer.sock.close()
    turn_until(engine, lambda: not engine.connections)
    assert admission.judge(engine, HERE) is None
    assert not admission._clients


def test_who_has_ended_at_once_takes_no_place(engine, wire):
    admission = Admission(0, 1)
    websocket, _peer = wire(gate=Gate(None))
    websocket._abort()
    admission.enter(websocket)
    assert not admission._clients


def test_a_crowd_that_is_refused_is_one_warning_until_they_are_counted(engine, wire, caplog):
    admission = Admission(1, 0)
    opened(wire, admission)
    for _ in range(10):
        assert admission.judge(engine, "192.0.2.7") is FULL
    turn(engine)
    [warning] = caplog.records
    assert warning.levelname == "WARNING"
    assert "192.0.2.7" in warning.message and "stargate.max_connections is 1" in warning.message
    peerlog.tell_all()
    assert "(the newest of 9 in " in caplog.records[1].message


def test_the_two_reasons_have_a_warning_each(engine, wire, caplog):
    full, one = Admission(1, 1), Admission(0, 1)
    opened(wire, full)
    opened(wire, one)
    assert full.judge(engine, HERE) is FULL
    assert one.judge(engine, HERE) is TOO_MANY
    turn(engine)
    assert "stargate.max_connections is 1" in caplog.text
    assert "stargate.max_connections_per_address is 1" in caplog.text
