"""What people type into the settings that are names or lists: each is right, or refused.

None is ignored: a value that could not be meant is an error that says what would be right.
"""

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError

from stargate.scripts.main import make_parser
from stargate.server.process import read_settings
from stargate.settings.application import read_application

SERVER = [
    ("listen", "localhost:1, localhost:2", ("localhost:1", "localhost:2")),
    ("listen", "localhost:1,localhost:2", ("localhost:1", "localhost:2")),
    ("listen", " [::1]:1\n *:2 :3 ", ("[::1]:1", "*:2", ":3")),
    ("listen", ["a:1"], ("a:1",)),
    ("listen", "LOCALHOST:1", ("LOCALHOST:1",)),
    ("host", " 127.0.0.1 ", "127.0.0.1"),
    ("host", "::1", "[::1]"),
    ("host", "[::1]", "[::1]"),
    ("port", " 6543 ", 6543),
    ("unix_socket", " /run/a.sock ", "/run/a.sock"),
    ("unix_socket_perms", "0660", 0o660),
    ("unix_socket_perms", "0o660", 0o660),
    ("certfile", " cert.pem ", "cert.pem"),
    ("trusted_proxy", "127.0.0.1, 10.0.0.0/8,unix", ("127.0.0.1", "10.0.0.0/8", "unix")),
    ("trusted_proxy", "2001:DB8::/32", ("2001:DB8::/32",)),
]

NO_SERVER = [
    ("listen", "", "must be host:port"),
    ("listen", "http://localhost:6543", "as in localhost:6543; here that is localhost:6543"),
    ("listen", "http://localhost:6543/", "as in localhost:6543; here that is localhost:6543"),
    ("listen", "localhost:6543/", "as in localhost:6543; here that is localhost:6543"),
    ("listen", "unix:///run/a.sock", "unix_socket = /run/a.sock"),
    ("listen", "unix:/run/a.sock", "unix_socket = /run/a.sock"),
    ("listen", "localhost", "must be host:port"),
    ("listen", "localhost:\u00b2", "must be host:port"),
    ("listen", "localhost:70000", "must be host:port"),
    ("listen", "::1:6543:", "must be host:port"),
    ("listen", "[::1:6543", "must be a name or an address"),
    ("listen", "a:b:80", "must be a name or an address"),
    ("listen", "http://a:80:80", "must be host:port"),
    ("listen", "localhost:1,", "an entry is empty"),
    ("listen", "'localhost:1'", "without quotes"),
    ("host", "", "* for every interface"),
    ("host", " ", "* for every interface"),
    ("host", "localhost:6543", "must be a name or an address"),
    ("host", "http://localhost", "* for every interface; here that is localhost"),
    ("host", "localhost/", "* for every interface; here that is localhost"),
    ("host", "a, b", "must be a name or an address"),
    ("host", '"localhost"', "without quotes"),
    ("port", '"6543"', "a whole number"),
    ("port", "6543,", "a whole number"),
    ("port", "", "a whole number"),
    ("unix_socket", "unix:/run/a.sock", "the path alone: /run/a.sock"),
    ("unix_socket", "unix:///run/a.sock", "the path alone: /run/a.sock"),
    ("unix_socket", "'/run/a.sock'", "without quotes"),
    ("unix_socket", "/run/a.sock\n/run/b.sock", "one line"),
    ("unix_socket", "/" + "x" * 107, "at most 107 bytes"),
    ("unix_socket_perms", "rw-rw----", "octal, as in 660"),
    ("unix_socket_perms", "-1", "octal, as in 660"),
    ("unix_socket_perms", "1777", "octal, as in 660"),
    ("unix_socket_perms", 660, "octal, as in 660"),
    ("certfile", '"cert.pem"', "without quotes"),
    ("trusted_proxy", "127.0.0.1,", "an entry is empty"),
    ("trusted_proxy", "'127.0.0.1'", "without quotes"),
    ("trusted_proxy", "http://127.0.0.1", "no names, ports or schemes"),
    ("trusted_proxy", "127.0.0.1:80", "no names, ports or schemes"),
    ("trusted_proxy", "[::1]", "no names, ports or schemes"),
    ("trusted_proxy", "127.0.0.1/", "no names, ports or schemes"),
    ("trusted_proxy", "::ffff:10.0.0.1", "written as one"),
]

APPLICATION = [
    ("compression", " Deflate ", "deflate"),
    ("backplane_on_error", "LOCAL", "local"),
    ("namespace", " Shop ", "Shop"),
    ("backplane", " redis://localhost:6379/ ", "redis://localhost:6379/"),
]

NO_APPLICATION = [
    ("backplane", '"redis://localhost"', "a URL as in redis://"),
    ("backplane", "http://localhost:6379", "no backplane for http:// is installed"),
    ("backplane", "localhost:6379", "a URL as in redis://"),
    ("backplane", "redis://a redis://b", "a URL as in redis://"),
    ("backplane", "redis://a, redis://b", "a URL as in redis://"),
    ("backplane", "MEMORY", "a URL as in redis://"),
    ("namespace", '"shop"', "1 to 64 letters"),
    ("namespace", "shop, other", "1 to 64 letters"),
    ("namespace", "shop/", "1 to 64 letters"),
    ("namespace", "http://shop", "1 to 64 letters"),
]


@pytest.mark.parametrize(("name", "typed", "meant"), SERVER)
def test_what_the_server_understands(name, typed, meant):
    assert getattr(read_settings({name: typed}), name) == meant


@pytest.mark.parametrize(("name", "typed", "meant"), NO_SERVER)
def test_what_the_server_refuses(name, typed, meant):
    with pytest.raises(ConfigurationError) as caught:
        read_settings({name: typed})
    assert str(caught.value).startswith(f"{name} = {typed!r}: ")
    assert meant in str(caught.value)


@pytest.mark.parametrize(("name", "typed", "meant"), APPLICATION)
def test_what_the_application_understands(name, typed, meant):
    given = {"stargate.namespace": "shop", f"stargate.{name}": typed}
    assert read_application(given)[name] == meant


@pytest.mark.parametrize(("name", "typed", "meant"), NO_APPLICATION)
def test_what_the_application_refuses(name, typed, meant):
    given = {"stargate.namespace": "shop", f"stargate.{name}": typed}
    with pytest.raises(ConfigurationError) as caught:
        read_application(given)
    assert str(caught.value).startswith(f"stargate.{name} = {typed!r}: ")
    assert meant in str(caught.value)


@pytest.mark.parametrize(
    "typed",
    [
        "redis://a,",
        "redis://a,b:2",
        "redis://a:1,b:2",
        "redis://a:1,",
        "redis://a/x",
        "redis://a/0/",
        "unix://?db=0",
        "unix://run/redis.sock",
        "redis+cluster://a,",
        "redis+sentinel://a,,b/main",
    ],
)
def test_a_url_of_no_redis_is_refused_when_the_application_is_configured(typed):
    given = {"stargate.namespace": "shop", "stargate.backplane": typed}
    with pytest.raises(ConfigurationError, match="^stargate.backplane = .* as in redis://host"):
        Configurator(settings=given).include("stargate")


def viewed(**options):
    config = Configurator(settings={})
    config.include("stargate")
    config.add_websocket_view(**options)
    config.commit()


@pytest.mark.parametrize("typed", ["a, b", "a,b", "a b", ["a", "b"], ("v12.STOMP",), "", ()])
def test_subprotocols_that_are_understood(typed):
    viewed(subprotocols=typed)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("a,,b", "an entry is empty"),
        (["a,"], "an entry is empty"),
        ('"a"', "without quotes"),
        ("http://a", "'http://a' must be letters"),
        ("a/", "'a/' must be letters"),
        ("b\u00e4", "must be letters"),
        (5, "must be words"),
    ],
)
def test_subprotocols_that_are_refused(typed, meant):
    with pytest.raises(ConfigurationError) as caught:
        viewed(subprotocols=typed)
    assert f"subprotocols = {typed!r}: " in str(caught.value)
    assert meant in str(caught.value)


@pytest.mark.parametrize("typed", ["https://a.com, app://.", ["https://*.a.com"], "*", ()])
def test_origins_of_a_view_that_are_understood(typed):
    viewed(allowed_origins=typed)


@pytest.mark.parametrize("typed", ["https://a.com/", ["https://a.com,"], "a.com"])
def test_origins_of_a_view_that_are_refused(typed):
    with pytest.raises(ConfigurationError) as caught:
        viewed(allowed_origins=typed)
    assert f"allowed_origins = {typed!r}: " in str(caught.value)


def listens(*options):
    return make_parser().parse_args(["listen", "ws://localhost/", *options])


def test_options_of_the_command_that_are_understood():
    found = listens("--origin", "HTTPS://A.com:443", "--subprotocol", "a", "--header", "X-A: b c")
    assert (found.origin, found.subprotocol, found.header) == (
        "https://a.com",
        ["a"],
        [("X-A", "b c")],
    )
    assert listens("--origin", "null").origin == "null"


@pytest.mark.parametrize(
    ("option", "typed", "meant"),
    [
        ("--origin", "a.com", "has no scheme"),
        ("--origin", "https://a.com/", "it must be https://a.com"),
        ("--origin", "https://*.a.com", "no origin of one page"),
        ("--subprotocol", "a, b", "no name of one subprotocol"),
        ("--subprotocol", '"a"', "no name of one subprotocol"),
        ("--subprotocol", "", "no name of one subprotocol"),
        ("--header", "X A: b", "is not as in"),
        ("--header", "X-A: b\nY: c", "is not as in"),
    ],
)
def test_options_of_the_command_that_are_refused(option, typed, meant, capsys):
    with pytest.raises(SystemExit) as caught:
        listens(option, typed)
    assert caught.value.code == 2
    assert meant in capsys.readouterr().err
