import os
import socket
import stat

import pytest
from pyramid.exceptions import ConfigurationError

from stargate.server import describe, listening_sockets, read_settings, resolve, table

DEFAULTS = read_settings({})


def opened(**settings):
    return listening_sockets(read_settings(settings))


def ports(sockets):
    return {sock.getsockname()[1] for sock in sockets}


@pytest.fixture
def listening():
    """``listening(**settings)``: sockets that are closed at the end."""
    kept = []

    def listen(**settings):
        sockets = opened(**settings)
        kept.extend(sockets)
        return sockets

    yield listen
    for sock in kept:
        sock.close()


# Settings.


def test_the_defaults_are_these():
    assert (DEFAULTS.listen, DEFAULTS.host, DEFAULTS.port) == ((), "localhost", 6543)
    assert (DEFAULTS.unix_socket, DEFAULTS.unix_socket_perms) == ("", 0o600)
    assert (DEFAULTS.backlog, DEFAULTS.connection_limit) == (1024, 1000)
    assert (DEFAULTS.max_request_line, DEFAULTS.max_header_size) == (8192, 32768)
    assert (DEFAULTS.header_timeout, DEFAULTS.keepalive_timeout) == (10.0, 60.0)
    assert (DEFAULTS.socket_timeout, DEFAULTS.graceful_timeout) == (60.0, 30.0)
    assert DEFAULTS.access_log is True


def test_every_setting_has_a_reason_and_a_place():
    assert all(setting.reason for setting in table())
    assert {setting.name for setting in table()} == set(DEFAULTS.__dataclass_fields__)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("listen", "localhost:1 [::1]:2", ("localhost:1", "[::1]:2")),
        ("host", "0.0.0.0", "0.0.0.0"),
        ("port", "8080", 8080),
        ("unix_socket", "/run/a.sock", "/run/a.sock"),
        ("unix_socket_perms", "660", 0o660),
        ("unix_socket_perms", 0o660, 0o660),
        ("backlog", "1", 1),
        ("connection_limit", "5", 5),
        ("header_timeout", "0.5", 0.5),
        ("keepalive_timeout", "5", 5.0),
        ("socket_timeout", "5", 5.0),
        ("max_request_line", "64", 64),
        ("max_header_size", "64", 64),
        ("graceful_timeout", "0", 0.0),
        ("access_log", "false", False),
    ],
)
def test_a_good_value_is_read(name, text, value):
    assert getattr(read_settings({name: text}), name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "http"),
        ("port", "-1"),
        ("port", "65536"),
        ("unix_socket_perms", "999"),
        ("unix_socket_perms", "rw"),
        ("backlog", "0"),
        ("connection_limit", "0"),
        ("header_timeout", "0"),
        ("keepalive_timeout", "never"),
        ("socket_timeout", "0"),
        ("max_request_line", "10"),
        ("max_header_size", "10"),
        ("graceful_timeout", "-1"),
        ("access_log", "maybe"),
    ],
)
def test_a_bad_value_is_a_configuration_error_that_names_it(name, text):
    with pytest.raises(ConfigurationError, match=f"^{name} = '{text}': "):
        read_settings({name: text})


def test_an_unknown_setting_has_a_hint():
    with pytest.raises(ConfigurationError, match="did you mean unix_socket?"):
        read_settings({"unix_sockt": "x"})


@pytest.mark.parametrize(
    "settings",
    [
        {"listen": "localhost:1", "port": "2"},
        {"listen": "localhost:1", "host": "a"},
        {"listen": "localhost:1", "unix_socket": "/a"},
        {"host": "a", "port": "2", "unix_socket": "/a"},
    ],
)
def test_two_ways_to_say_where_are_a_configuration_error(settings):
    with pytest.raises(ConfigurationError, match="of the server say different things") as caught:
        read_settings(settings)
    assert all(name in str(caught.value) for name in settings)


def test_host_and_port_go_together():
    found = read_settings({"host": "127.0.0.1", "port": "0"})
    assert (found.host, found.port) == ("127.0.0.1", 0)


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

    monkeypatch.setattr("socket.getaddrinfo", fails)
    with pytest.raises(ConfigurationError, match="listen = 'nowhere:80': .*not known"):
        resolve("nowhere:80")


def test_an_address_is_listened_at_once(monkeypatch):
    twice = [(socket.AF_INET, 1, 6, "", ("127.0.0.1", 80))] * 2
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **options: twice)
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


def test_host_and_port_are_listened_on_when_listen_is_not_given(listening):
    (sock,) = listening(host="127.0.0.1", port="0")
    assert sock.getsockname()[0] == "127.0.0.1"


def test_several_addresses_are_listened_on(listening):
    assert len(listening(listen="127.0.0.1:0 127.0.0.2:0")) == 2


def test_two_free_ports_on_one_host_are_two_sockets(listening):
    assert len(listening(listen="127.0.0.1:0 127.0.0.1:0")) == 2


def test_localhost_0_is_one_port_on_all_its_addresses(monkeypatch, listening):
    both = [
        (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0)),
        (socket.AF_INET, 1, 6, "", ("127.0.0.2", 0)),
    ]
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **options: both)
    sockets = listening(listen="localhost:0")
    assert len(sockets) == 2 and len(ports(sockets)) == 1


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
        listening(unix_socket=path, unix_socket_perms="660")
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
