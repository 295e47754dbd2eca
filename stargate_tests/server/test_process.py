import pytest
from pyramid.exceptions import ConfigurationError

from stargate.settings.server import read_settings, table

DEFAULTS = read_settings({})


# Settings.


def test_the_defaults_are_these():
    assert (DEFAULTS.listen, DEFAULTS.host, DEFAULTS.port) == ((), "localhost", 6543)
    assert (DEFAULTS.unix_socket, DEFAULTS.unix_socket_perms) == ("", 0o600)
    assert (DEFAULTS.backlog, DEFAULTS.connection_limit) == (1024, 1000)
    assert (DEFAULTS.max_request_line, DEFAULTS.max_header_size) == (8192, 32768)
    assert (DEFAULTS.header_timeout, DEFAULTS.keepalive_timeout) == (10.0, 60.0)
    assert (DEFAULTS.socket_timeout, DEFAULTS.graceful_timeout) == (60.0, 5.0)
    assert DEFAULTS.access_log is True
    assert DEFAULTS.thread_limit == 20
    assert (DEFAULTS.trusted_proxy, DEFAULTS.trusted_proxy_headers) == ((), ("x-forwarded-for",))


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
        ("thread_limit", "1", 1),
        ("access_log", "false", False),
        ("trusted_proxy", "127.0.0.1 unix", ("127.0.0.1", "unix")),
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
        ("trusted_proxy", "localhost"),
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


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Forwarded", ("forwarded",)),
        ("X-Forwarded-For, x-forwarded-proto", ("x-forwarded-for", "x-forwarded-proto")),
        ("x-forwarded-port,x-forwarded-prefix", ("x-forwarded-port", "x-forwarded-prefix")),
        (["x-forwarded-host"], ("x-forwarded-host",)),
        ("", ("x-forwarded-for",)),
    ],
)
def test_the_headers_that_are_believed_are_named_with_blanks_or_commas(text, found):
    read = read_settings({"trusted_proxy": "unix", "trusted_proxy_headers": text})
    assert read.trusted_proxy_headers == found


def test_headers_without_a_proxy_make_no_sense():
    with pytest.raises(ConfigurationError, match="nobody is believed without a trusted_proxy"):
        read_settings({"trusted_proxy_headers": "x-forwarded-proto"})


def test_the_setting_of_one_header_names_the_setting_of_many():
    with pytest.raises(ConfigurationError, match=r"did you mean trusted_proxy_headers\?"):
        read_settings({"trusted_proxy": "unix", "trusted_proxy_header": "Forwarded"})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x-forwarded-for x-client", "'x-client' is none of x-forwarded-for"),
        ("'x-forwarded-for'", "without quotes"),
        ("forwarded x-forwarded-for", "believe it or them, not both"),
    ],
)
def test_headers_that_cannot_be_believed_are_refused(text, why):
    with pytest.raises(ConfigurationError, match=why) as caught:
        read_settings({"trusted_proxy": "unix", "trusted_proxy_headers": text})
    assert str(caught.value).startswith("trusted_proxy_headers = ")
