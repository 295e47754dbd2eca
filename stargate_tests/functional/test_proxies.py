"""What a trusted proxy says, on real sockets: pages and handshakes, on pserve and on gunicorn."""

import logging

import pytest
from pyramid.httpexceptions import HTTPFound

from stargate_tests import raw, transports
from stargate_tests.functional.tree import Node, make_app
from stargate_tests.gunicorns import Gunicorn
from stargate_tests.transports import ALL
from stargate_tests.waiting import wait_until

BELIEVED = "x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-prefix"

SAID = (
    "X-Forwarded-For: 192.0.2.1",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: www.example.com",
    "X-Forwarded-Prefix: /shop",
)

GUNICORN_INI = """\
[app:main]
use = call:stargate_tests.functional.test_proxies:main
[server:main]
use = egg:stargate#eventlet
trusted_proxy = 127.0.0.1 unix
trusted_proxy_headers = {}
"""


def away(context, request):
    return HTTPFound(request.resource_url(context), headers=[("X-Who", request.remote_addr)])


def main(_global_config=None, **settings):
    return make_app(lambda config: config.add_view(away, context=Node, name="away"), **settings)


def ask(url, *lines, cut=False):
    with raw.dial(url) as sock:
        sock.sendall(b"GET /a/@@away HTTP/1.1\r\n")
        if cut:
            cut()
        sock.sendall("\r\n".join(("Host: inner", "Connection: close", *lines, "", "")).encode())
        return raw.read_all(sock).decode()


def shake(url, origin):
    with raw.dial(url) as sock:
        sock.sendall(raw.handshake("inner", "/a", f"Origin: {origin}", *SAID))
        return raw.read_head(sock).split()[1]


@pytest.fixture(params=ALL)
def live_server(request, live_server, tmp_path):
    return transports.over(request.param, live_server, tmp_path)


def holds(url):
    answer = ask(url, *SAID)
    assert "\r\nLocation: https://www.example.com/shop/a/\r\n" in answer
    assert "\r\nX-Who: 192.0.2.1\r\n" in answer
    assert shake(url, "https://www.example.com") == b"101"
    assert shake(url, "https://inner") == b"403"
    refused = ask(url, "X-Forwarded-Proto: gopher")
    assert refused.startswith("HTTP/1.1 400 ") and "X-Forwarded-Proto is malformed" in refused


def test_pages_and_handshakes_are_what_the_proxy_says(live_server):
    holds(live_server(main(), trusted_proxy="127.0.0.1 unix", trusted_proxy_headers=BELIEVED).url)


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:g.sock"])
def test_so_they_are_in_a_worker_of_gunicorn(tmp_path, bind):
    (tmp_path / "g.ini").write_text(GUNICORN_INI.format(BELIEVED))
    with Gunicorn(tmp_path, "--paste", "g.ini", bind=bind) as gunicorn:
        where = gunicorn.url
        holds(f"unix:{tmp_path}/g.sock" if where.startswith("unix:") else where)


def test_what_anybody_else_says_reaches_nobody(live_server):
    server = live_server(main())
    answer = ask(server.url, *SAID)
    scheme = "https" if server.url.startswith("https") else "http"
    assert f"\r\nLocation: {scheme}://inner/a/\r\n" in answer
    assert "192.0.2.1" not in answer
    assert shake(server.url, "https://www.example.com") == b"403"
    assert shake(server.url, "https://inner") == b"101"


def test_a_head_in_pieces_says_the_same(live_server):
    server = live_server(main(), trusted_proxy="127.0.0.1 unix", trusted_proxy_headers=BELIEVED)
    answer = ask(server.url, *SAID, cut=lambda: wait_until(lambda: len(server.server.http) == 1))
    assert "\r\nLocation: https://www.example.com/shop/a/\r\n" in answer


def test_a_name_with_an_underscore_is_no_header_of_the_proxy(live_server):
    server = live_server(main(), trusted_proxy="127.0.0.1 unix", trusted_proxy_headers=BELIEVED)
    assert "www.example.com" not in ask(server.url, "X_Forwarded_Host: www.example.com")


@pytest.mark.parametrize(("proxy", "found"), [("127.0.0.1 unix", True), ("192.0.2.250", False)])
def test_the_access_log_has_the_address_that_is_believed(live_server, caplog, proxy, found):
    caplog.set_level(logging.INFO, "stargate.access")
    server = live_server(main(), trusted_proxy=proxy)
    ask(server.url, "X-Forwarded-For: 192.0.2.9, 192.0.2.1")
    wait_until(lambda: "GET /a/@@away" in caplog.text)
    assert ("192.0.2.1" in caplog.text) is found
    assert "192.0.2.9" not in caplog.text
