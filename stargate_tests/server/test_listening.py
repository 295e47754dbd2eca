import os
import socket
import stat
from pathlib import Path

import pytest
from pyramid.exceptions import ConfigurationError

from stargate.server.listening import describe, listening_sockets, resolve


def opened(listen="", unix_socket="", unix_socket_perms=0o600):
    return listening_sockets(
        listen.split(),
        unix_socket=unix_socket,
        unix_socket_perms=unix_socket_perms,
        backlog=5,
    )


def ports(sockets):
    return {sock.getsockname()[1] for sock in sockets}


@pytest.fixture
def listening():
    """``listening(...)``: sockets that are closed at the end."""
    kept = []

    def listen(*args, **options):
        sockets = opened(*args, **options)
        kept.extend(sockets)
        return sockets

    yield listen
    for sock in kept:
        sock.close()


# Addresses.


@pytest.mark.parametrize(
    ("name", "family", "address"),
    [
        ("127.0.0.1:80", socket.AF_INET, ("127.0.0.1", 80)),
        ("[::1]:80", socket.AF_INET6, ("::1", 80, 0, 0)),
        ("*:80", socket.AF_INET, ("0.0.0.0", 80)),
        (":80", socket.AF_INET, ("0.0.0.0", 80)),
    ],
)
def test_an_address_is_resolved(name, family, address):
    assert (family, address) in resolve(name)


@pytest.mark.parametrize(
    "name", ["localhost", "6543", "localhost:", "localhost:http", "localhost:99999", "localhost:-1"]
)
def test_what_is_no_address_is_a_configuration_error(name):
    with pytest.raises(ConfigurationError, match=f"listen = '{name}': it must be host:port"):
        resolve(name)


def test_a_host_that_is_not_there_is_a_configuration_error(monkeypatch):
    def fails(*args, **options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("stargate.server.listening.socket.getaddrinfo", fails)
    with pytest.raises(ConfigurationError, match="listen = 'nowhere:80': .*not known"):
        resolve("nowhere:80")


def test_an_address_is_listened_at_once(monkeypatch):
    twice = [(socket.AF_INET, 1, 6, "", ("127.0.0.1", 80))] * 2
    monkeypatch.setattr(
        "stargate.server.listening.socket.getaddrinfo", lambda *args, **options: twice
    )
    assert resolve("localhost:80") == [(socket.AF_INET, ("127.0.0.1", 80))]


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("127.0.0.1", 80), "http://127.0.0.1:80"),
        (("::1", 80, 0, 0), "http://[::1]:80"),
        ("/run/a.sock", "unix:/run/a.sock"),
    ],
)
def test_an_address_is_described_as_it_would_be_typed(address, text):
    assert describe(address) == text


# Listening.


def test_it_listens_on_a_free_port(listening):
    (sock,) = listening(listen="127.0.0.1:0")
    assert sock.getblocking() is False
    with socket.create_connection(sock.getsockname(), timeout=5):
        pass


def test_several_addresses_are_listened_on(listening):
    assert len(listening(listen="127.0.0.1:0 127.0.0.2:0")) == 2


def test_two_free_ports_on_one_host_are_two_sockets(listening):
    assert len(listening(listen="127.0.0.1:0 127.0.0.1:0")) == 2


def test_localhost_0_is_one_port_on_all_its_addresses(monkeypatch, listening):
    both = [
        (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0)),
        (socket.AF_INET, 1, 6, "", ("127.0.0.2", 0)),
    ]
    monkeypatch.setattr(
        "stargate.server.listening.socket.getaddrinfo", lambda *args, **options: both
    )
    sockets = listening(listen="localhost:0")
    assert len(sockets) == 2 and len(ports(sockets)) == 1


def test_an_address_that_this_machine_does_not_have_is_passed_over(monkeypatch, listening):
    both = [
        (socket.AF_INET, 1, 6, "", ("192.0.2.1", 0)),
        (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr("stargate.server.listening.socket.getaddrinfo", lambda *a, **o: both)
    (sock,) = listening("localhost:0")
    assert sock.getsockname()[0] == "127.0.0.1"


def test_when_this_machine_has_none_of_the_addresses_it_is_an_error(monkeypatch):
    none = [(socket.AF_INET, 1, 6, "", ("192.0.2.1", 0))]
    monkeypatch.setattr("stargate.server.listening.socket.getaddrinfo", lambda *a, **o: none)
    with pytest.raises(
        OSError, match="cannot listen on elsewhere:0: this machine has no such address"
    ):
        opened("elsewhere:0")


def test_ipv6_is_kept_to_itself(listening):
    try:
        (sock,) = listening(listen="[::1]:0")
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


def test_a_port_in_use_is_an_error_that_names_it(listening):
    (sock,) = listening(listen="127.0.0.1:0")
    port = sock.getsockname()[1]
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: it is in use"):
        opened(listen=f"127.0.0.1:{port}")


def test_when_one_address_cannot_be_had_the_others_are_let_go(listening):
    (sock,) = listening(listen="127.0.0.1:0")
    taken = sock.getsockname()[1]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(OSError):
        opened(listen=f"127.0.0.1:{port} 127.0.0.1:{taken}")
    listening(listen=f"127.0.0.1:{port}")


# UNIX sockets.


def test_a_unix_socket_is_its_owners_alone(tmp_path, listening):
    path = str(tmp_path / "a.sock")
    listening(unix_socket=path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_unix_socket_has_the_permissions_asked_for(tmp_path, listening):
    path = str(tmp_path / "a.sock")
    before = os.umask(0o077)
    try:
        listening(unix_socket=path, unix_socket_perms=0o660)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660


def test_a_socket_file_that_nobody_listens_on_is_replaced(tmp_path, listening):
    path = str(tmp_path / "a.sock")
    for sock in opened(unix_socket=path):
        sock.close()
    assert os.path.exists(path)
    listening(unix_socket=path)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path)


def test_a_socket_file_that_somebody_listens_on_is_left_alone(tmp_path, listening):
    path = str(tmp_path / "a.sock")
    listening(unix_socket=path)
    with pytest.raises(OSError, match="it is in use"):
        opened(unix_socket=path)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    path = tmp_path / "precious"
    path.write_text("kept")
    with pytest.raises(OSError, match="cannot listen on .*precious"):
        opened(unix_socket=str(path))
    assert path.read_text() == "kept"


def test_a_directory_that_is_not_there_is_an_error_that_names_the_path(tmp_path):
    with pytest.raises(OSError, match="cannot listen on .*: No such file"):
        opened(unix_socket=str(tmp_path / "nowhere" / "a.sock"))


def test_where_one_of_its_addresses_is_in_use_none_is_kept(monkeypatch):
    """``localhost`` may be two addresses; the one that could be had is let go again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = [(socket.AF_INET, ("127.0.0.2", port)), (socket.AF_INET, ("127.0.0.1", port))]
        monkeypatch.setattr("stargate.server.listening.resolve", lambda name, _setting: found)
        for _ in range(2):
            with pytest.raises(OSError, match="cannot listen on here: it is in use"):
                opened("here")


@pytest.fixture
def nobody():
    """Be a user who may do little, where that can be had."""
    me = os.geteuid()
    os.seteuid(me or 65534)
    yield
    os.seteuid(me)


def test_a_folder_that_may_not_be_written_is_named(request, tmp_path):
    tmp_path.chmod(0o500)
    request.getfixturevalue("nobody")
    with pytest.raises(OSError, match="must be able to write its folder"):
        opened(unix_socket=f"{tmp_path}/a")


def test_a_port_that_is_for_root_is_told_to_be(nobody):
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first < 2:
        pytest.skip("all ports are for everybody here")
    with pytest.raises(OSError, match="a port below 1024 is for root alone"):
        opened(listen="127.0.0.1:1")
