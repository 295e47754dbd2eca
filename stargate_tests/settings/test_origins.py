import pytest
from pyramid.exceptions import ConfigurationError

from stargate.settings.application import read_application
from stargate.settings.origins import OriginPolicy, hosts, origins, split_origin

SAME = OriginPolicy()

# What a setting may say.


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        ("*", ("*",)),
        ("https://a.com https://b.com", ("https://a.com", "https://b.com")),
        ("https://a.com, https://b.com", ("https://a.com", "https://b.com")),
        ("https://a.com,https://b.com", ("https://a.com", "https://b.com")),
        ("\n  https://a.com,\n  https://b.com\n", ("https://a.com", "https://b.com")),
        (["https://a.com", "https://b.com"], ("https://a.com", "https://b.com")),
        ("HTTPS://Example.COM", ("https://example.com",)),
        ("https://a.com:443 http://a.com:80", ("https://a.com", "http://a.com")),
        ("https://a.com: https://a.com:80", ("https://a.com", "https://a.com:80")),
        ("http://localhost:3000", ("http://localhost:3000",)),
        ("http://192.0.2.1:81", ("http://192.0.2.1:81",)),
        ("http://[::1]:6543", ("http://[::1]:6543",)),
        ("http://[0:0:0:0:0:0:0:1]", ("http://[::1]",)),
        ("https://b\u00fccher.example", ("https://xn--bcher-kva.example",)),
        ("https://*.b\u00fccher.example", ("https://*.xn--bcher-kva.example",)),
        ("https://*.Example.com:8443", ("https://*.example.com:8443",)),
        ("http://*.localhost", ("http://*.localhost",)),
        ("capacitor://localhost", ("capacitor://localhost",)),
        ("chrome-extension://abcdefghij", ("chrome-extension://abcdefghij",)),
        ("moz-extension://0a1b-2c3d", ("moz-extension://0a1b-2c3d",)),
        ("safari-web-extension://0A1B-2C3D", ("safari-web-extension://0a1b-2c3d",)),
        ("app://. app://localhost:3000 file://", ("app://.", "app://localhost:3000", "file://")),
    ],
)
def test_an_origin_is_read_as_a_browser_writes_it(text, found):
    assert origins(text) == found


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("example.com", "'example.com' has no scheme: it must be as in https://example.com or"),
        ("localhost:3000", "'localhost:3000' has no scheme"),
        ("//example.com", "'example.com' has no scheme"),
        (".example.com", "'*.example.com' has no scheme"),
        ("*.example.com", "'*.example.com' has no scheme"),
        ("https:example.com", "has no scheme"),
        ("h\u00e4://a", "has no scheme"),
        ("null", "only * allows it"),
        ("NULL", "only * allows it"),
        ("https://a.com/", "it must be https://a.com"),
        ("https://A.com:443/app?x#y", "it must be https://a.com"),
        ("https://a.com?x", "it must be https://a.com"),
        ("https://a.com#x", "it must be https://a.com"),
        ("capacitor://localhost/", "it must be capacitor://localhost"),
        ("https://me:secret@a.com", "it must be https://a.com"),
        ("me:secret@a.com", "'a.com' has no scheme"),
        ("wss://a.com", "that of the page, https://"),
        ("ws://a.com", "that of the page, http://"),
        ("https://", "* alone for every page"),
        ("https://*", "* alone for every page"),
        ("https://*:8443", "* alone for every page"),
        ("https://.a.com", "it must be https://*.a.com"),
        ("https://a.*.com", "the whole of the leftmost label"),
        ("https://*example.com", "the whole of the leftmost label"),
        ("https://*.*.com", "the whole of the leftmost label"),
        ("https://a.com:*", "a port of at most 65535"),
        ("https://a.com:0", "a port of at most 65535"),
        ("https://a.com:99999", "a port of at most 65535"),
        ("https://[::1", "a port of at most 65535"),
        ("https://[zz]", "a port of at most 65535"),
        ("https://a..com", "'a..com' is no host"),
        ("https://a(b.com", "is no host"),
        ("https://127.1", "an address of four numbers"),
        ("https://*.168.1.10", "nothing is below an address"),
        ("https://stra\u00dfe.de", "in punycode: xn--"),
        ("https://\u00fc" + "x" * 70, "in punycode: xn--"),
        ("app://a,app://*.b", "is no host of a page with app://"),
        ('"https://a.com"', "without quotes"),
        ("'https://a.com'", "without quotes"),
        ('["https://a.com"]', "without quotes"),
        ("https://a.com,", "an entry is empty"),
        ("https://a.com,,https://b.com", "an entry is empty"),
        (",", "an entry is empty"),
        (5, "words with white space or commas"),
    ],
)
def test_what_no_browser_sends_is_refused_with_what_is_meant(text, meant):
    with pytest.raises(ConfigurationError) as caught:
        read_application({"stargate.allowed_origins": text})
    assert str(caught.value).startswith("stargate.allowed_origins = ")
    assert meant in str(caught.value)
    assert "secret" not in str(caught.value)


# Which pages may open a WebSocket.


def test_an_allowed_origin_is_compared_in_whole():
    policy = OriginPolicy(origins("capacitor://localhost, app://., file:// app://x:1"))
    for origin in ("capacitor://localhost", "app://.", "file://", "app://x:1"):
        assert policy.allows(origin, "example.org")
    for origin in ("ionic://localhost", "app://", "app://x", "capacitor://localhost:1", "null"):
        assert not policy.allows(origin, "example.org")


def test_a_client_that_says_wss_is_taken_for_a_page_over_https():
    """No browser does; some libraries do."""
    policy = OriginPolicy(origins("https://a.com"))
    assert policy.allows("wss://a.com", "b.org")
    assert not policy.allows("ws://a.com", "b.org")


def test_an_extension_may_be_allowed_whatever_the_case_of_its_id():
    assert OriginPolicy(origins("x-y://AbC")).allows("x-y://ABC", "example.org")


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://a.example.com", True),
        ("https://A.Example.com:443", True),
        ("https://a.b.c.example.com", True),
        ("https://example.com", False),
        ("https://.example.com", False),
        ("https://evilexample.com", False),
        ("https://a.example.com.evil.com", False),
        ("http://a.example.com", False),
        ("https://a.example.com:8443", False),
        ("app://a.example.com", False),
    ],
)
def test_a_wildcard_is_what_is_below_a_domain(origin, allowed):
    assert OriginPolicy(origins("https://*.example.com")).allows(origin, "b.org") is allowed


def test_a_page_of_another_scheme_is_never_of_the_same_host():
    for origin in ("capacitor://localhost", "app://localhost:80"):
        assert not SAME.allows(origin, "localhost")
        assert not SAME.allows(origin, "localhost:80")


def test_an_origin_that_could_be_named_has_parts_and_no_other():
    assert split_origin("tauri://localhost") == ("tauri", "localhost", None)
    for text in ("null", "app:x", "app://a b", "app://a,app://b", "app://a/", "http://"):
        assert split_origin(text) is None


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "example.com", True),
        ("http://example.com", "example.com", True),
        ("http://example.com:80", "example.com", True),
        ("http://example.com", "example.com:80", True),
        ("https://example.com", "example.com", True),
        ("https://example.com", "example.com:443", True),
        ("https://example.com:443", "example.com", True),
        ("http://example.com:8080", "example.com:8080", True),
        ("https://example.com:8443", "example.com:8443", True),
        ("HTTP://EXAMPLE.COM", "example.com", True),
        ("http://example.com", "EXAMPLE.com", True),
        ("http://[::1]:6543", "[::1]:6543", True),
        ("http://[::1]", "[::1]", True),
        ("http://[::1]:6543", "[::1]:6544", False),
        ("http://[::2]", "[::1]", False),
        ("http://example.com:8080", "example.com", False),
        ("http://example.com", "example.com:8080", False),
        ("http://example.com", "example.com:443", False),
        ("https://example.com", "example.com:80", False),
        ("http://evil.com", "example.com", False),
        ("http://example.com.evil.com", "example.com", False),
        ("http://evilexample.com", "example.com", False),
        ("http://sub.example.com", "example.com", False),
        ("http://example.com@evil.com", "example.com", False),
        ("http://evil.com@example.com", "example.com", False),
        ("http://example.com/", "example.com", False),
        ("http://example.com?x", "example.com", False),
        ("http://example.com#x", "example.com", False),
        ("null", "example.com", False),
        ("null", "null", False),
        ("", "", False),
        ("", "example.com", False),
        ("example.com", "example.com", False),
        ("//example.com", "example.com", False),
        ("http://", "", False),
        ("ftp://example.com", "example.com", False),
        ("file://", "", False),
        ("chrome-extension://abc", "abc", False),
        ("http://example.com:port", "example.com", False),
        ("http://example.com:99999", "example.com", False),
        ("http://example.com:99999", "example.com:99999", False),
        ("http://example.com:60000", "example.com:60000", True),
        ("http://example.com:0", "example.com", False),
        ("wss://example.com", "example.com", True),
        ("http://[::1", "[::1", False),
        ("http://example.com, http://example.com", "example.com", False),
        ("http://example.com", "example.com:port", False),
        ("http://example.com", "evil@example.com", False),
        ("http://example.com", "", False),
    ],
)
def test_by_default_a_page_of_the_same_host_and_port_is_allowed(origin, host, allowed):
    assert SAME.allows(origin, host) is allowed


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.com", True),
        ("https://app.example.com:443", True),
        ("http://other.example.com:8080", True),
        ("http://app.example.com", False),
        ("https://app.example.com:8443", False),
        ("https://sub.app.example.com", False),
        ("http://other.example.com", False),
        ("null", False),
    ],
)
def test_a_listed_origin_is_compared_exactly(origin, allowed):
    policy = OriginPolicy(("https://app.example.com", "http://other.example.com:8080"))
    assert policy.allows(origin, "example.org") is allowed


@pytest.mark.parametrize("origin", ["https://anything.example", "null", "", "nonsense", None])
def test_a_star_allows_any(origin):
    assert OriginPolicy(("*",)).allows(origin, "example.com")


@pytest.mark.parametrize(
    ("trusted", "origin", "allowed"),
    [
        ("trusted.com", "https://trusted.com", True),
        ("trusted.com", "https://trusted.com:443", True),
        ("trusted.com", "https://sub.trusted.com", False),
        ("trusted.com", "https://trusted.com:8443", False),
        ("trusted.com:8443", "https://trusted.com:8443", True),
        (".trusted.com", "https://trusted.com", True),
        (".trusted.com", "https://sub.trusted.com", True),
        (".trusted.com", "https://a.b.trusted.com", True),
        (".trusted.com", "https://eviltrusted.com", False),
        (".trusted.com", "null", False),
    ],
)
def test_csrf_trusted_origins_count_too(trusted, origin, allowed):
    assert OriginPolicy((), (trusted,)).allows(origin, "example.org") is allowed


def test_an_origin_is_split_with_its_port_filled_in():
    assert split_origin("https://Example.com") == ("https", "example.com", 443)
    assert split_origin("http://[::1]:6543") == ("http", "::1", 6543)


def test_trusted_hosts_are_as_browsers_send_them():
    found = hosts(["b\u00fccher.example", ".b\u00fccher.example:8443", "a.example"])
    assert found == ("xn--bcher-kva.example", ".xn--bcher-kva.example:8443", "a.example")
    policy = OriginPolicy((), found)
    assert policy.allows("https://xn--bcher-kva.example", "a.example")
    assert policy.allows("https://www.xn--bcher-kva.example:8443", "a.example")
    with pytest.raises(ValueError, match="in punycode: xn--strae-oqa.de"):
        hosts(["stra\u00dfe.de"])
