import ssl

import pytest

from stargate.backplane.redis.address import OURS, BadUrl, parse
from stargate_tests.certificates import certificate
from stargate_tests.redis_relay import Relay

SECRET = "hunter2"


def options(url):
    return parse(url).options


@pytest.mark.parametrize(
    "url, hosts",
    [
        ("redis://", [("localhost", 6379)]),
        ("redis://h", [("h", 6379)]),
        ("redis://h:7000/3", [("h", 7000)]),
        ("rediss://h:7000", [("h", 7000)]),
        ("redis://[::1]:7000/0", [("::1", 7000)]),
        ("redis://10.0.0.1/", [("10.0.0.1", 6379)]),
        ("unix:///run/redis.sock", []),
        ("redis+sentinel://a,b:7000,[::1],[::2]:7001/shop/2",
         [("a", 26379), ("b", 7000), ("::1", 26379), ("::2", 7001)]),
        ("redis+cluster://a,b:7000", [("a", 6379), ("b", 7000)]),
        ("rediss+cluster://a/0", [("a", 6379)]),
        ("redis+cluster://a?client_name=x", [("a", 6379)]),
    ],
)  # fmt: skip
def test_every_form_says_where(url, hosts):
    assert list(parse(url).hosts) == hosts


@pytest.mark.parametrize(
    "url, kind, service, database",
    [
        ("redis://h/3", "", "", 3),
        ("redis://h", "", "", None),
        ("unix:///run/redis.sock?db=2", "", "", 2),
        ("redis+sentinel://h/my%20shop/5", "sentinel", "my shop", 5),
        ("redis+sentinel://h/shop", "sentinel", "shop", None),
        ("redis+cluster://h", "cluster", "", None),
    ],
)
def test_every_form_says_what_it_is(url, kind, service, database):
    found = parse(url)
    assert (found.kind, found.service, found.options.get("db")) == (kind, service, database)


@pytest.mark.parametrize(
    "url",
    [
        "redis://bob:a%2Fb%40c%3A@h:7000/0",
        "unix://bob:a%2Fb%40c%3A@/run/redis.sock",
        "redis+sentinel://bob:a%2Fb%40c%3A@h,i/shop",
        "redis+cluster://bob:a%2Fb%40c%3A@h,i",
    ],
)
def test_a_login_is_quoted(url):
    found = options(url)
    assert (found["username"], found["password"]) == ("bob", "a/b@c:")


def test_sentinels_have_a_login_of_their_own():
    url = "redis+sentinel://bob:one@h/shop?sentinel_username=eve&sentinel_password=two"
    found = parse(url)
    assert found.options == {"username": "bob", "password": "one"}
    assert found.sentinel_options == {"username": "eve", "password": "two"}


def test_tls_is_for_sentinels_too():
    found = parse("rediss+sentinel://h/shop?ssl_ca_certs=/ca.pem")
    assert found.options == found.sentinel_options == {"ssl_ca_certs": "/ca.pem"}
    assert type(found.sentinel(1.0, "h", 1)._plain) is type(found.connection(1.0, "h", 1)._plain)
    assert found.sentinel(1.0, "other", 7)._plain.port == 7


@pytest.mark.parametrize(
    "url",
    [
        f"redis:/:{SECRET}@h",
        f"redis:{SECRET}",
        "redis",
        f"{SECRET}",
        f"http://:{SECRET}@h",
        f"unix+cluster://:{SECRET}@/run/redis.sock",
        f"redis+other://:{SECRET}@h",
        f"redis://:{SECRET}@h:port",
        f"redis://:{SECRET}@h:99999999",
        f"redis://:12/{SECRET}@h:6379",
        f"redis://h/{SECRET}",
        f"redis://:{SECRET}@h?no_such=1",
        f"redis://:{SECRET}@h?socket_keepalive=maybe&health_check_interval=x",
        f"redis+sentinel://:{SECRET}@h",
        f"redis+sentinel://:{SECRET}@h/shop/{SECRET}",
        f"redis+cluster://:{SECRET}@h/1",
        f"redis+cluster://:{SECRET}@h,",
        f"redis+cluster://:{SECRET}@h:0",
        f"redis+cluster://:{SECRET}@h:²",
        f"redis+cluster://:{SECRET}@::1",
        f"redis+cluster://:{SECRET}@[]",
    ],
)
def test_what_is_no_url_is_refused_and_not_shown(url):
    with pytest.raises(BadUrl) as caught:
        parse(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_slash_in_a_password_is_explained():
    with pytest.raises(BadUrl, match="a slash in a password is written %2F"):
        parse(f"redis://:12/{SECRET}@h:6379")


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("base", ["redis://h", "redis+cluster://h", "redis+sentinel://h/s"])
def test_what_is_ours_is_not_for_the_url_to_say(base, name):
    with pytest.raises(BadUrl, match=f"{name} is not for the URL"):
        parse(f"{base}?{name}=1")


@pytest.mark.parametrize(
    "url, shown",
    [
        (f"redis://bob:{SECRET}@h:7000/3", "h:7000"),
        (f"redis://:{SECRET}@[::1]", "[::1]:6379"),
        (f"unix://:{SECRET}@/run/redis.sock", "/run/redis.sock"),
        (f"redis+sentinel://:{SECRET}@a,b/shop?sentinel_password={SECRET}",
         "a:26379,b:26379 (sentinel shop)"),
        (f"redis+cluster://:{SECRET}@a", "a:6379 (cluster)"),
    ],
)  # fmt: skip
def test_a_password_is_never_shown(url, shown):
    found = parse(url)
    assert str(found) == shown
    assert SECRET not in repr(found)
    assert SECRET not in repr(found.connection(1.0))


def test_a_connection_is_to_the_server_or_to_another_one():
    found = parse("redis://:x@h:7000/3")
    for connection, host, port in (
        (found.connection(1.5), "h", 7000),
        (found.connection(1.5, "i", 7), "i", 7),
    ):
        plain = connection._plain
        assert (plain.host, plain.port, plain.db, plain.password) == (host, port, 3, "x")
        assert plain.socket_timeout == plain.socket_connect_timeout == 1.5


def test_it_goes_to_the_right_database_over_every_transport(redis_server):
    for url in (redis_server.url.removesuffix("/0") + "/5", redis_server.unix_url[:-1] + "5"):
        connection = parse(url).connection(10.0)
        connection.connect()
        connection.send_command("CLIENT", "INFO")
        assert b" db=5 " in connection.read(Forever)
        connection.disconnect()


class Forever:
    @staticmethod
    def left():
        return 10.0


def test_tls_is_checked(own_redis):
    server = own_redis(tls=True, requirepass=SECRET)
    trusting = parse(f"{server.url}?ssl_ca_certs={certificate().authority}").connection(10.0)
    trusting.connect()
    assert isinstance(trusting._sock, ssl.SSLSocket)
    assert trusting.is_open()
    trusting.disconnect()
    with pytest.raises(Exception, match="not to be trusted") as caught:
        parse(server.url).connection(10.0).connect()
    assert SECRET not in str(caught.value)


def test_nothing_is_sent_that_nobody_asked_for(redis_server):
    with Relay(redis_server) as relay:
        connection = parse(relay.url).connection(10.0)
        connection.connect()
        connection.send_command("PING")
        assert connection.read(Forever) == b"PONG"
        connection.disconnect()
        assert relay.passed["up"] == len(connection.pack_command("PING"))
