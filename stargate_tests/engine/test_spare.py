import errno
import logging
import os
import resource as rlimits
import select
import socket

import pytest

from stargate.engine.peerlog import peerlog
from stargate.engine.spare import UNAVAILABLE, Spare, turn_away
from stargate_tests import raw
from stargate_tests.waiting import turn

FULL = OSError(errno.EMFILE, "Too many open files")


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield sock


@pytest.fixture
def spare(engine):
    spare = Spare(engine)
    yield spare
    spare.close()


def dial(listening):
    sock = socket.create_connection(listening.getsockname(), timeout=20)
    select.select([listening], [], [], 20)  # It may take a moment to get there.
    return sock


def refuse(spare, listening):
    accepted, _address = spare.accept(listening)
    spare.refuse(accepted, FULL)


def test_who_waits_first_may_be_kept_where_room_was_made(spare, listening, engine):
    with dial(listening) as peer:
        accepted, address = spare.accept(listening)
        assert spare._fd is None and address == peer.getsockname()
        spare.take()
        assert os.fstat(spare._fd)
        accepted.close()
    assert not engine.refusals


def test_who_waits_first_is_told_503(spare, listening, engine):
    with dial(listening) as peer:
        refuse(spare, listening)
        assert raw.read_all(peer) == UNAVAILABLE
    assert engine.refusals == {"descriptors": 1}


def test_who_has_asked_already_is_told_so_too(spare, listening):
    with dial(listening) as peer:
        peer.sendall(raw.handshake())
        refuse(spare, listening)
        assert raw.read_all(peer) == UNAVAILABLE


def test_where_nothing_can_be_said_the_connection_is_closed(engine, listening):
    spare = Spare(engine, b"")
    with dial(listening) as peer:
        refuse(spare, listening)
        assert raw.read_all(peer) == b""
    spare.close()


def test_there_is_a_spare_one_again_whoever_waited(spare, listening, engine):
    with pytest.raises(BlockingIOError):
        refuse(spare, listening)
    assert os.fstat(spare._fd)
    with dial(listening):
        refuse(spare, listening)
    assert os.fstat(spare._fd)
    assert engine.refusals == {"descriptors": 1}


def test_it_is_given_up_at_the_end(spare):
    fd = spare._fd
    spare.close()
    spare.close()
    with pytest.raises(OSError):
        os.fstat(fd)


def test_where_somebody_was_faster_there_is_none_until_there_is_room(engine, listening):
    soft, hard = rlimits.getrlimit(rlimits.RLIMIT_NOFILE)
    with dial(listening) as one, dial(listening) as two:
        rlimits.setrlimit(rlimits.RLIMIT_NOFILE, (0, hard))
        try:
            spare = Spare(engine)
            with pytest.raises(OSError, match="Too many open files"):
                refuse(spare, listening)
        finally:
            rlimits.setrlimit(rlimits.RLIMIT_NOFILE, (soft, hard))
        refuse(spare, listening)
        refuse(spare, listening)
        spare.close()
        assert raw.read_all(one) == raw.read_all(two) == UNAVAILABLE


def test_the_log_has_one_line_and_then_counts_them(spare, listening, engine, caplog):
    for _ in range(4):
        with dial(listening):
            refuse(spare, listening)
    turn(engine)
    peerlog.tell_all()
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    one, others = (record.getMessage() for record in caplog.records)
    assert one == "no room for more connections: [Errno 24] Too many open files"
    assert others.startswith(f"{one} (the newest of 3 in")


def test_a_peer_that_has_gone_is_turned_away_as_well(listening):
    peer = dial(listening)
    accepted, _address = listening.accept()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    turn_away(accepted, UNAVAILABLE)
    assert accepted.fileno() == -1
