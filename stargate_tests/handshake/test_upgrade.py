import logging

import pytest

from stargate.handshake.upgrade import (
    Accepted,
    Negotiator,
    Refused,
    asks_for_websocket,
    is_websocket,
)
from stargate.settings.origins import OriginPolicy, split_host

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, section 1.3
SAME = OriginPolicy()


def environ(*remove, raw=None, **changes):
    """A handshake as a WSGI server hands it over, but for ``changes`` and without ``remove``."""
    found = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/jobs/demo",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "example.com",
        "HTTP_UPGRADE": "websocket",
        "HTTP_CONNECTION": "Upgrade",
        "HTTP_SEC_WEBSOCKET_KEY": KEY,
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
    }
    found.update(changes)
    for name in remove:
        del found[name]
    if raw is not None:
        names = [name for name, _value in raw]
        found["headers_raw"] = tuple(
            (name[5:].replace("_", "-").title(), value)
            for name, value in found.items()
            if name.startswith("HTTP_") and name[5:].replace("_", "-").title() not in names
        ) + tuple(raw)
    return found


def judged(*remove, origins=SAME, subprotocols=(), compression=False, **changes):
    negotiator = Negotiator(origins=origins, subprotocols=subprotocols, compression=compression)
    return negotiator.judge(environ(*remove, **changes))


# Whether it asks for a WebSocket at all.


@pytest.mark.parametrize(
    "connection",
    ["Upgrade", "upgrade", "UPGRADE", "keep-alive, Upgrade", "Upgrade, keep-alive",
     "keep-alive,upgrade", "keep-alive ,\tUpgrade", "a, b, c, uPgRaDe, d", ",, Upgrade,"],
)  # fmt: skip
@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "WEBSOCKET"])
def test_tokens_are_found_in_any_case_and_order(connection, upgrade):
    asked = environ(HTTP_CONNECTION=connection, HTTP_UPGRADE=upgrade)
    assert asks_for_websocket(asked)
    assert isinstance(Negotiator(origins=SAME).judge(asked), Accepted)


@pytest.mark.parametrize(
    "changes",
    [
        {"HTTP_CONNECTION": "keep-alive"},
        {"HTTP_CONNECTION": ""},
        {"HTTP_CONNECTION": "upgraded"},
        {"HTTP_CONNECTION": "not-upgrade"},
        {"HTTP_CONNECTION": "\x00"},
        {"HTTP_UPGRADE": "h2c"},
        {"HTTP_UPGRADE": ""},
        {"HTTP_UPGRADE": "websockets"},
        {"HTTP_UPGRADE": "websocket; q=1"},
        {"HTTP_UPGRADE": "\xff\xfe"},
        {"REQUEST_METHOD": "POST"},
        {"REQUEST_METHOD": "HEAD"},
    ],
)
def test_anything_else_is_no_handshake(changes):
    assert asks_for_websocket(environ(**changes)) is False


@pytest.mark.parametrize("name", ["HTTP_UPGRADE", "HTTP_CONNECTION"])
def test_both_headers_are_needed(name):
    assert asks_for_websocket(environ(name)) is False


def test_it_is_a_predicate_of_context_and_request():
    class Request:
        environ = environ()

    assert is_websocket(None, Request()) is True
    Request.environ = environ("HTTP_UPGRADE")
    assert is_websocket(object(), Request()) is False


# Acceptance.


def test_the_accept_header_is_that_of_the_rfc():
    headers = dict(judged().headers)
    assert headers["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert (headers["Upgrade"], headers["Connection"]) == ("websocket", "Upgrade")


def test_raw_headers_are_preferred_to_what_was_joined():
    found = judged(raw=[], HTTP_SEC_WEBSOCKET_KEY=KEY)
    assert isinstance(found, Accepted)


@pytest.mark.parametrize("name", ["Sec-Websocket-Key", "SEC-WEBSOCKET-KEY", "sec-websocket-key"])
def test_raw_headers_are_found_in_any_case(name):
    found = judged("HTTP_SEC_WEBSOCKET_KEY", raw=[(name, KEY)])
    assert isinstance(found, Accepted)


def test_a_connection_header_may_be_given_twice():
    found = judged("HTTP_CONNECTION", raw=[("Connection", "keep-alive"), ("Connection", "Upgrade")])
    assert isinstance(found, Accepted)


def test_an_empty_path_is_accepted():
    assert isinstance(judged(PATH_INFO=""), Accepted)


def test_what_was_agreed_on_is_told():
    found = judged(HTTP_ORIGIN="http://example.com")
    assert (found.origin, found.subprotocol, found.extensions) == ("http://example.com", None, [])


# Refusal.


@pytest.mark.parametrize("version", ["0", "8", "12", "14", "x", "13, 8", "12, 13", ""])
def test_another_version_is_426_and_says_which_is_spoken(version):
    found = judged(HTTP_SEC_WEBSOCKET_VERSION=version)
    assert isinstance(found, Refused)
    assert found.status == 426
    headers = dict(found.headers)
    assert headers == {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    assert "13 is" in found.reason


def test_no_version_at_all_is_refused():
    assert judged("HTTP_SEC_WEBSOCKET_VERSION").status in (400, 426)


def test_two_version_headers_are_refused():
    found = judged(
        "HTTP_SEC_WEBSOCKET_VERSION",
        raw=[("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Version", "13")],
    )
    assert found.status == 400


def test_two_versions_of_which_one_is_spoken_are_426():
    found = judged(
        "HTTP_SEC_WEBSOCKET_VERSION",
        raw=[("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Version", "8")],
    )
    assert (found.status, found.cause) == (426, "version")


@pytest.mark.parametrize(
    "key",
    ["", "short", KEY[:-4], KEY + "AAAA", "!" * 24, KEY.replace("d", "ä"), f"{KEY},{KEY}"],
)
def test_a_key_that_is_not_16_bytes_in_base64_is_400(key):
    assert judged(HTTP_SEC_WEBSOCKET_KEY=key).status == 400


def test_no_key_is_400():
    assert judged("HTTP_SEC_WEBSOCKET_KEY").status == 400


def test_two_keys_are_400():
    found = judged(
        "HTTP_SEC_WEBSOCKET_KEY", raw=[("Sec-WebSocket-Key", KEY), ("Sec-WebSocket-Key", KEY)]
    )
    assert found.status == 400


@pytest.mark.parametrize(
    "raw",
    [
        [("Upgrade", "h2c, websocket")],
        [("Upgrade", "WebSocket,h2c")],
        [("Upgrade", "h2c"), ("upgrade", "websocket")],
        [("Upgrade", "websocket"), ("Upgrade", "websocket")],
    ],
)
def test_websocket_may_be_one_of_several_upgrades(raw):
    """RFC 9110, section 7.8: a peer names all that it would take, and we choose."""
    assert isinstance(judged("HTTP_UPGRADE", raw=raw), Accepted)


def test_another_upgrade_is_426_which_names_the_one_to_ask_for():
    found = judged(HTTP_UPGRADE="h2c, websockets")
    assert found.status == 426
    # RFC 9110, section 15.5.22: a 426 MUST have an Upgrade header.
    assert ("Upgrade", "websocket") in found.headers


def test_no_host_is_400():
    assert judged("HTTP_HOST").status == 400


def test_two_hosts_are_400():
    found = judged("HTTP_HOST", raw=[("Host", "example.com"), ("Host", "example.com")])
    assert (found.status, found.reason) == (400, "one Host header is needed, not 2")


@pytest.mark.parametrize(
    "host", ["", "a b", "a/b", "a@b", "a?b", "a:b", "a:700000", "ä.x", "[", "<"]
)
def test_a_host_that_names_no_host_is_400(host):
    found = judged(HTTP_HOST=host)
    assert (found.status, found.reason) == (400, f"no host of ours: {host}")


@pytest.mark.parametrize("host", ["example.com", "my_host:80", "[::1]", "[::1]:80", "127.0.0.1:1"])
def test_a_host_may_be_a_name_or_an_address_with_a_port_or_without(host):
    assert isinstance(judged(HTTP_HOST=host), Accepted)


@pytest.mark.parametrize("length", ["1", "100", "-1", "x"])
def test_a_body_is_400(length):
    assert judged(CONTENT_LENGTH=length).reason == "a handshake has no body"


def test_a_chunked_body_is_400():
    assert judged(HTTP_TRANSFER_ENCODING="chunked").status == 400


@pytest.mark.parametrize("length", ["", "0"])
def test_a_body_of_no_length_is_none(length):
    assert isinstance(judged(CONTENT_LENGTH=length), Accepted)


def test_http_1_0_is_refused_where_the_server_tells_the_truth():
    found = judged(SERVER_PROTOCOL="HTTP/1.0", **{"stargate.take_over": lambda: None})
    assert (found.status, found.reason) == (426, "a WebSocket needs HTTP/1.1")


def test_http_1_0_says_nothing_on_eventlets_own_server():
    assert isinstance(judged(SERVER_PROTOCOL="HTTP/1.0"), Accepted)


def test_http_0_9_is_refused():
    assert judged(SERVER_PROTOCOL="HTTP/0.9").status == 426


@pytest.mark.parametrize(
    "name",
    ["HTTP_CONNECTION", "HTTP_UPGRADE", "HTTP_HOST", "HTTP_ORIGIN", "HTTP_SEC_WEBSOCKET_KEY",
     "HTTP_SEC_WEBSOCKET_VERSION", "HTTP_SEC_WEBSOCKET_PROTOCOL", "HTTP_SEC_WEBSOCKET_EXTENSIONS"],
)  # fmt: skip
@pytest.mark.parametrize("value", ["\xff\xe4", "a\xa0b", "[", "\x00", "²", "[::1", "a" * 5000])
def test_odd_bytes_in_a_header_never_raise(name, value):
    found = judged(subprotocols=("chat",), compression=True, **{name: value})
    if isinstance(found, Refused):
        assert 400 <= found.status < 500
    asks_for_websocket(environ(**{name: value}))


# Subprotocols and extensions.


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [
        ("chat", "chat"),
        ("other, chat", "chat"),
        ("superchat, chat", "chat"),
        ("superchat", "superchat"),
    ],
)
def test_the_best_subprotocol_that_both_speak_is_agreed_on(offered, agreed):
    found = judged(HTTP_SEC_WEBSOCKET_PROTOCOL=offered, subprotocols=("chat", "superchat"))
    assert found.subprotocol == agreed
    assert dict(found.headers)["Sec-WebSocket-Protocol"] == agreed


def test_a_peer_that_speaks_none_of_them_is_400():
    found = judged(HTTP_SEC_WEBSOCKET_PROTOCOL="other", subprotocols=("chat",))
    assert found.status == 400


def test_a_peer_that_offers_none_is_400_where_one_is_needed():
    assert judged(subprotocols=("chat",)).status == 400


def test_what_is_offered_is_ignored_where_none_is_spoken():
    found = judged(HTTP_SEC_WEBSOCKET_PROTOCOL="chat")
    assert found.subprotocol is None
    assert "Sec-WebSocket-Protocol" not in dict(found.headers)


OFFER = "permessage-deflate; client_max_window_bits"


def test_compression_is_agreed_on_when_it_is_on_and_offered():
    found = judged(HTTP_SEC_WEBSOCKET_EXTENSIONS=OFFER, compression=True)
    (extension,) = found.extensions
    assert extension.local_max_window_bits == 12
    answer = dict(found.headers)["Sec-WebSocket-Extensions"]
    assert "server_no_context_takeover" in answer and "client_no_context_takeover" in answer


def test_compression_is_off_unless_asked_for():
    assert judged(HTTP_SEC_WEBSOCKET_EXTENSIONS=OFFER).extensions == []


def test_compression_needs_an_offer():
    assert judged(compression=True).extensions == []


@pytest.mark.parametrize(
    "offer", ["permessage-deflate; server_max_window_bits=99", "permessage-deflate; what=1"]
)
def test_an_odd_offer_of_compression_is_not_taken_and_does_not_raise(offer):
    found = judged(HTTP_SEC_WEBSOCKET_EXTENSIONS=offer, compression=True)
    assert isinstance(found, Refused) or found.extensions == []


# One after the other.


def test_what_one_peer_agreed_on_is_nothing_to_the_next():
    negotiator = Negotiator(origins=SAME, compression=True)
    first = negotiator.judge(environ(HTTP_SEC_WEBSOCKET_EXTENSIONS=OFFER))
    second = negotiator.judge(environ())
    third = negotiator.judge(environ(HTTP_SEC_WEBSOCKET_EXTENSIONS=OFFER))
    assert (len(first.extensions), second.extensions, len(third.extensions)) == (1, [], 1)
    assert first.extensions[0] is not third.extensions[0]
    assert "Sec-WebSocket-Extensions" not in dict(second.headers)


def test_each_peer_gets_the_subprotocol_that_it_offers():
    negotiator = Negotiator(origins=SAME, subprotocols=("chat", "news"))
    offers = ["news", "chat", "other", "news"]
    found = [negotiator.judge(environ(HTTP_SEC_WEBSOCKET_PROTOCOL=offer)) for offer in offers]
    assert isinstance(found.pop(2), Refused)
    assert [each.subprotocol for each in found] == ["news", "chat", "news"]


def test_a_refusal_is_nothing_to_the_next():
    negotiator = Negotiator(origins=SAME)
    assert negotiator.judge(environ(HTTP_SEC_WEBSOCKET_KEY="short")).status == 400
    assert isinstance(negotiator.judge(environ()), Accepted)
    assert negotiator.judge(environ(HTTP_UPGRADE="other")).status == 426


# Origin.


def test_a_foreign_page_is_403_and_the_log_has_both_sides_and_the_setting(caplog):
    with caplog.at_level(logging.WARNING):
        found = judged(HTTP_ORIGIN="https://evil.com")
    assert found.status == 403
    (record,) = caplog.records
    for part in ("https://evil.com", "example.com", "/jobs/demo", "stargate.allowed_origins"):
        assert part in record.getMessage()


@pytest.mark.parametrize(
    ("origin", "hint"),
    [
        ("capacitor://localhost", "add its origin to stargate.allowed_origins"),
        ("file://", "add its origin to stargate.allowed_origins"),
        ("null", "No setting allows that origin but stargate.allowed_origins = *"),
        ("nonsense", "No setting allows that origin but stargate.allowed_origins = *"),
    ],
)
def test_the_log_says_what_allows_the_origin(caplog, origin, hint):
    with caplog.at_level(logging.WARNING):
        assert judged(HTTP_ORIGIN=origin).status == 403
    assert hint in caplog.text


def test_a_path_with_a_line_break_makes_no_second_line_in_the_log(caplog):
    with caplog.at_level(logging.WARNING):
        judged(PATH_INFO="/a\nforged", HTTP_ORIGIN="https://evil.com")
    assert len(caplog.records[0].getMessage().splitlines()) == 1


def test_what_a_peer_sends_at_length_is_not_told_at_length(caplog):
    long = "x" * 30_000
    with caplog.at_level(logging.INFO):
        for name in ("ORIGIN", "HOST", "SEC_WEBSOCKET_VERSION", "SEC_WEBSOCKET_KEY", "COOKIE"):
            value = f"http://{long}" if name == "ORIGIN" else f"\x01{long}"
            found = judged(**{f"HTTP_{name}": value})
            assert found.status in (400, 403, 426) and len(found.reason) < 400
    assert caplog.records and all(len(each.getMessage()) < 1000 for each in caplog.records)


@pytest.mark.parametrize(
    "name",
    ["HTTP_UPGRADE", "HTTP_CONNECTION", "HTTP_SEC_WEBSOCKET_PROTOCOL",
     "HTTP_SEC_WEBSOCKET_EXTENSIONS"],
)  # fmt: skip
def test_a_list_of_tokens_is_taken_apart_up_to_a_number_of_them(name):
    token = {"HTTP_UPGRADE": "websocket", "HTTP_CONNECTION": "Upgrade"}.get(name, "chat")
    most, more = (", ".join([token] + ["x"] * others) for others in (99, 100))
    assert asks_for_websocket(environ(**{name: most}))
    assert isinstance(judged(**{name: most}), Accepted)
    assert judged(**{name: more}).status == 400
    assert judged(**{name: token + "; x" * 100}).status == 400
    assert asks_for_websocket(environ(**{name: more})) is (name not in ASKS)


def test_a_token_may_be_as_long_as_somebodys_credentials():
    """There are peers that have no other header to put them into."""
    offered = f"chat, {'a' * 8000}"
    found = judged(HTTP_SEC_WEBSOCKET_PROTOCOL=offered, subprotocols=("chat",))
    assert found.subprotocol == "chat"


ASKS = ("HTTP_UPGRADE", "HTTP_CONNECTION")


def test_several_origin_headers_are_400():
    found = judged(raw=[("Origin", "http://example.com"), ("Origin", "http://example.com")])
    assert found.status == 400


def test_the_log_line_of_a_refusal_is_one_line(caplog):
    with caplog.at_level(logging.WARNING):
        Negotiator(origins=SAME).judge(environ(HTTP_ORIGIN="http://a\x85forged"))
    assert len(caplog.records[0].getMessage().splitlines()) == 1


def test_a_folded_header_is_400():
    """Design, section 6: folded lines and NUL are let through by eventlet.wsgi."""
    assert judged(HTTP_COOKIE="a=1\r\n b=2").status == 400


def test_a_host_is_split_as_the_scheme_has_it():
    assert split_host("example.com", "https") == ("example.com", 443)
    assert split_host("example.com:81", "https") == ("example.com", 81)
    assert split_host("a b:c", "http") is None
