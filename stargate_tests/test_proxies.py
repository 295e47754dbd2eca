import pytest

from stargate.proxies import HEADERS, proxy_names, trusted

PROXY, INNER = "10.0.0.1", "10.0.0.2"


def client(value, header="X-Forwarded-For", peer=PROXY, names=("10.0.0.0/8", "fd00::/8")):
    environ = {} if value is None else {"HTTP_" + header.upper().replace("-", "_"): value}
    return trusted(names, header).client(peer, environ)


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
        ('for="192.0.2.9', PROXY),
    ],
)
def test_forwarded_is_read_from_its_end(value, found):
    assert client(value, "Forwarded") == found


@pytest.mark.parametrize(
    ("value", "found"), [("192.0.2.1", "192.0.2.1"), ("x", PROXY), (None, PROXY)]
)
def test_x_real_ip_is_one_address(value, found):
    assert client(value, "X-Real-IP") == found


def test_who_is_not_trusted_is_who_it_is():
    assert client("192.0.2.1", peer="192.0.2.66") == "192.0.2.66"
    assert client("192.0.2.1", peer="fe80::1%eth0") == "fe80::1%eth0"


def test_only_the_header_that_was_named_counts():
    environ = {"HTTP_X_REAL_IP": "192.0.2.1", "HTTP_FORWARDED": "for=192.0.2.1"}
    assert trusted(["10.0.0.1"], "X-Forwarded-For").client(PROXY, environ) == PROXY


def test_the_unix_socket_is_trusted_by_its_name_alone():
    assert client("192.0.2.1", peer="unix", names=("unix",)) == "192.0.2.1"
    assert client("192.0.2.1", peer="unix", names=("0.0.0.0/0",)) == "unix"
    assert client("192.0.2.1", peer=PROXY, names=("unix",)) == PROXY


def test_an_ipv4_proxy_on_an_ipv6_socket_is_the_same_proxy():
    assert client("192.0.2.1", peer="::ffff:10.0.0.1") == "192.0.2.1"


def test_nobody_is_trusted_where_nobody_is_named():
    assert not trusted((), HEADERS[0])
    assert trusted(("unix",), HEADERS[0]) and trusted(("::1",), HEADERS[0])


def test_names_are_addresses_networks_and_unix():
    names = "127.0.0.1 unix\n 10.0.0.0/8 2001:db8::/32"
    assert proxy_names(names) == ("127.0.0.1", "unix", "10.0.0.0/8", "2001:db8::/32")


@pytest.mark.parametrize("name", ["localhost", "*", "10.0.0.1/8", "10.0.0.0/40"])
def test_any_other_name_is_an_error_that_says_which(name):
    with pytest.raises(ValueError, match="it must be addresses, networks or 'unix'") as caught:
        proxy_names(f"127.0.0.1 {name}")
    assert name in str(caught.value)
