import pytest
import webob

from stargate.settings.proxies import HEADERS, MalformedProxyHeader, proxy_names, trusted

PROXY, INNER = "10.0.0.1", "10.0.0.2"


EACH = HEADERS[:-1]


def request(peer=PROXY, scheme="http", **headers):
    """An environ with ``x_forwarded_for=...`` in it."""
    environ = {"REMOTE_ADDR": peer, "REMOTE_PORT": "4711", "wsgi.url_scheme": scheme}
    environ |= {"SCRIPT_NAME": "", "SERVER_NAME": "inner", "SERVER_PORT": "6543"}
    headers = {"host": "inner:6543"} | headers
    environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    environ["headers_raw"] = tuple(
        (name.replace("_", "-").title(), value) for name, value in headers.items()
    )
    return environ


def rewritten(environ, believed=EACH, names=("10.0.0.0/8", "fd00::/8")):
    trusted(names, believed).rewrite(environ)
    return environ


def client(value, header="X-Forwarded-For", peer=PROXY, names=("10.0.0.0/8", "fd00::/8")):
    headers = {} if value is None else {header.lower().replace("-", "_"): value}
    return rewritten(request(peer, **headers), {header.lower()}, names)["REMOTE_ADDR"]


def url(environ):
    return webob.Request(environ).application_url


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.9, 192.0.2.1", "192.0.2.1"),  # The first is what the client says of itself.
        (f"192.0.2.9,192.0.2.1, {INNER}", "192.0.2.1"),
        (f"{INNER}", INNER),  # All are ours: the one that nobody vouches for.
        (f"10.0.0.3, {INNER}", "10.0.0.3"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:DB8::1]:4711", "2001:db8::1"),
        ("::1", "::1"),
        ("192.0.2.9, unknown", PROXY),
        (f"192.0.2.9, nonsense, {INNER}", INNER),
        ("", PROXY),
        (" , ", PROXY),
        (None, PROXY),
        ("192.0.2.1, [bad", PROXY),
        ("1.2.3", PROXY),
    ],
)
def test_x_forwarded_for_is_read_from_its_end(value, found):
    assert client(value) == found


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("for=192.0.2.1", "192.0.2.1"),
        ("for=192.0.2.9, For=192.0.2.1;proto=https;by=10.0.0.1", "192.0.2.1"),
        ('proto=https; for="[2001:db8::1]:4711"', "2001:db8::1"),
        ('for="192.0.2.1:4711"', "192.0.2.1"),
        (f"for=192.0.2.1, for={INNER}", "192.0.2.1"),
        ('for=192.0.2.9, for="a, for=192.0.2.8"', PROXY),  # A comma in quotes divides nothing.
        ('by="for=192.0.2.9"', PROXY),
        ("for=unknown", PROXY),
        ("for=_hidden", PROXY),
        ("proto=https", PROXY),
        ("", PROXY),
        (None, PROXY),
    ],
)
def test_forwarded_is_read_from_its_end(value, found):
    assert client(value, "Forwarded") == found


def test_who_is_not_trusted_is_who_it_is():
    assert client("192.0.2.1", peer="192.0.2.66") == "192.0.2.66"
    assert client("192.0.2.1", peer="fe80::1%eth0") == "fe80::1%eth0"


def test_only_the_headers_that_were_named_count_and_no_others_are_left():
    environ = rewritten(
        request(forwarded="for=192.0.2.1", x_forwarded_proto="https", x_forwarded_by="x"),
        {"x-forwarded-for"},
    )
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == (PROXY, "4711")
    assert url(environ) == "http://inner:6543"
    assert environ["headers_raw"] == (("Host", "inner:6543"),)
    assert [name for name in environ if name.startswith("HTTP_")] == ["HTTP_HOST"]


@pytest.mark.parametrize("names", [(), ("192.0.2.250", "unix")])
def test_nobody_else_says_anything(names):
    said = {name.replace("-", "_"): "x" for name in (*HEADERS, "x-forwarded-by")}
    environ = request("192.0.2.66", **said)
    assert rewritten(environ, names=names) == request("192.0.2.66")


def test_what_is_believed_is_left_as_far_as_it_was_vouched_for():
    environ = rewritten(request(x_forwarded_for=f"192.0.2.9, 192.0.2.1, {INNER}"))
    assert environ["HTTP_X_FORWARDED_FOR"] == f"192.0.2.1, {INNER}"
    assert "REMOTE_PORT" not in environ
    environ = rewritten(request(forwarded="for=192.0.2.9, for=192.0.2.1"), {"forwarded"})
    assert environ["HTTP_FORWARDED"] == "for=192.0.2.1"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"proto": "https", "host": "www.example.com"}, "https://www.example.com"),
        ({"proto": "HTTPS", "host": "www.example.com:8443"}, "https://www.example.com:8443"),
        ({"proto": "https"}, "https://inner:6543"),
        ({"proto": "wss", "host": "a"}, "https://a"),
        ({"proto": "ws", "host": "a"}, "http://a"),
        ({"host": "[2001:db8::1]", "port": "8080"}, "http://[2001:db8::1]:8080"),
        ({"host": "a", "proto": "https", "port": "443"}, "https://a"),
        ({"host": "a", "proto": "https", "port": "80"}, "https://a:80"),
        ({"host": "a:1", "port": "2"}, "http://a:1"),
        ({"port": "2"}, "http://inner:6543"),
        ({"host": "a", "prefix": "/shop"}, "http://a/shop"),
        ({"host": "a", "prefix": "/shop/caf%C3%A9/"}, "http://a/shop/caf%C3%A9"),
        ({"host": "a", "prefix": "/"}, "http://a"),
        ({"host": "", "proto": "", "port": "", "prefix": ""}, "http://inner:6543"),
    ],
)
def test_the_url_is_what_the_proxy_says(said, found):
    environ = rewritten(request(**{f"x_forwarded_{name}": said[name] for name in said}))
    assert url(environ) == found
    assert dict(environ["headers_raw"])["Host"] == environ["HTTP_HOST"]


def test_the_port_of_the_proxy_completes_a_host_that_has_none():
    assert url(rewritten(request(host="a", x_forwarded_port="8443"))) == "http://a:8443"


def test_https_in_the_environ_goes_with_the_scheme():
    assert rewritten(request(x_forwarded_proto="https"))["HTTPS"] == "on"
    environ = request(scheme="https", x_forwarded_proto="http") | {"HTTPS": "on"}
    assert "HTTPS" not in rewritten(environ)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("proto", "ftp"),
        ("proto", "http, https"),
        ("host", "evil.example/x"),
        ("host", "a, b"),
        ("host", "a b"),
        ("port", "0"),
        ("port", "65536"),
        ("port", "80, 443"),
        ("port", "x"),
        ("prefix", "shop"),
        ("prefix", "//evil.example"),
        ("prefix", "/%2Fevil.example"),
        ("prefix", "/a?b"),
        ("prefix", "/a\\b"),
        ("prefix", "/a%0d"),
    ],
)
def test_what_makes_no_sense_is_malformed(name, value):
    with pytest.raises(MalformedProxyHeader, match=f"X-Forwarded-{name.title()} is malformed"):
        rewritten(request(**{f"x_forwarded_{name}": value}))


@pytest.mark.parametrize(
    "value",
    ['for="192.0.2.9', "for", "for = 1.2.3.4", "for=1.2.3.4;for=1.2.3.5", 'for=a"b"', "proto=ftp"],
)
def test_what_is_no_forwarded_is_malformed(value):
    with pytest.raises(MalformedProxyHeader):
        rewritten(request(forwarded=value), {"forwarded"})


def test_forwarded_says_scheme_and_host_and_the_outermost_trusted_proxy_counts():
    value = f'for=1.2.3.4;host=evil, for=192.0.2.1;host="a:8443";proto=https, for={INNER};host=b'
    environ = rewritten(request(forwarded=value), {"forwarded"})
    assert url(environ) == "https://a:8443"
    assert url(rewritten(request(forwarded='host="a\\b"'), {"forwarded"})) == "http://ab"


def test_the_unix_socket_is_trusted_by_its_name_alone():
    assert client("192.0.2.1", peer="unix", names=("unix",)) == "192.0.2.1"
    assert client("192.0.2.1", peer="unix", names=("0.0.0.0/0",)) == "unix"
    assert client("192.0.2.1", peer=PROXY, names=("unix",)) == PROXY


def test_an_ipv4_proxy_on_an_ipv6_socket_is_the_same_proxy():
    assert client("192.0.2.1", peer="::ffff:10.0.0.1") == "192.0.2.1"


def test_nobody_is_trusted_where_nobody_is_named():
    assert not trusted(())
    assert trusted(("unix",)) and trusted(("::1",))


def test_names_are_addresses_networks_and_unix():
    names = "127.0.0.1 unix\n 10.0.0.0/8 2001:db8::/32"
    assert proxy_names(names) == ("127.0.0.1", "unix", "10.0.0.0/8", "2001:db8::/32")


@pytest.mark.parametrize("name", ["localhost", "*", "10.0.0.1/8", "10.0.0.0/40"])
def test_any_other_name_is_an_error_that_says_which(name):
    with pytest.raises(ValueError, match="it must be addresses, networks or 'unix'") as caught:
        proxy_names(f"127.0.0.1 {name}")
    assert name in str(caught.value)
