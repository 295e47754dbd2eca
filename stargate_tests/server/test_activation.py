import os
import socket

import pytest
from pyramid.exceptions import ConfigurationError

from stargate.server import activation
from stargate.server.activation import activated


@pytest.fixture
def passed(monkeypatch):
    """Passes the descriptor of a socket to this process, or says so."""

    def give(sock=None, count=1):
        if sock is not None:
            monkeypatch.setattr(activation, "FIRST", sock.detach())
        for name, value in (("PID", os.getpid()), ("FDS", count), ("FDNAMES", "a")):
            monkeypatch.setenv(f"LISTEN_{name}", str(value))

    return give


def listening(family=socket.AF_INET, address=("127.0.0.1", 0)):
    sock = socket.socket(family)
    sock.bind(address)
    sock.listen()
    return sock


def test_a_socket_is_taken_once_and_does_not_block(passed):
    passed(listening())
    [sock] = activated()
    with sock:
        assert not sock.getblocking() and not sock.get_inheritable()
        assert activated() is None
        assert not [name for name in os.environ if name.startswith("LISTEN_")]


def test_none_at_all_is_none(passed):
    passed(count=0)
    assert activated() is None


@pytest.mark.parametrize(("pid", "said"), [("1", 1), ("", 1), (None, 0)])
def test_what_is_for_another_process_is_left_and_that_is_said(
    passed, monkeypatch, caplog, pid, said
):
    passed(listening())
    monkeypatch.delenv("LISTEN_PID") if pid is None else monkeypatch.setenv("LISTEN_PID", pid)
    if pid is None:
        monkeypatch.delenv("LISTEN_FDS")
    assert activated() is None and os.environ.get("LISTEN_PID") == pid
    assert caplog.text.count(f"LISTEN_PID = {pid!r}, and this process is {os.getpid()}.") == said
    socket.socket(fileno=activation.FIRST).close()


@pytest.mark.parametrize("count", ["", "x", "-1", "1.5", "\u0663"])
def test_a_number_that_is_none_is_a_configuration_error(passed, count):
    passed(count=count)
    with pytest.raises(ConfigurationError, match=f"LISTEN_FDS = '{count}': it must be how many"):
        activated()


@pytest.mark.parametrize(
    ("make", "tls", "why"),
    [
        (lambda: socket.socket(type=socket.SOCK_DGRAM), False, "it must be a stream socket"),
        (socket.socket, False, "it does not listen: the socket unit must have Accept=no"),
        (lambda: listening(socket.AF_UNIX, ""), True, "a UNIX socket has no TLS"),
    ],
)
def test_what_no_server_can_accept_on_is_a_configuration_error(passed, make, tls, why):
    passed(make())
    with pytest.raises(ConfigurationError, match=f"^descriptor {activation.FIRST}, .*: {why}"):
        activated(tls=tls)


def test_a_family_without_addresses_of_ours_is_refused():
    class Vsock:
        type, family = socket.SOCK_STREAM, socket.AF_VSOCK

        def getsockopt(self, level, name):
            return 1

    assert "IPv4, IPv6 or UNIX, and not" in activation._unfit(Vsock(), False)


def test_what_is_no_socket_is_a_configuration_error(passed, monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setattr(activation, "FIRST", reader)
    passed()
    try:
        with pytest.raises(ConfigurationError, match="it is no socket: Socket operation on non-so"):
            activated()
    finally:
        os.close(reader)
        os.close(writer)
