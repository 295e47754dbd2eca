"""Pages of packaged applications, and of what is below a domain, on real sockets."""

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync import client

from stargate_tests import transports
from stargate_tests.functional.program import pserve
from stargate_tests.functional.tree import make_app
from stargate_tests.gunicorns import Gunicorn

ALLOWED = "https://a.example, capacitor://localhost,ionic://localhost tauri://localhost \
app://., chrome-extension://abcdefgh, https://*.example.com"

GOOD = [
    "https://a.example",
    "capacitor://localhost",
    "ionic://localhost",
    "tauri://localhost",
    "app://.",
    "chrome-extension://abcdefgh",
    "https://a.b.example.com",
]

BAD = [
    "https://b.example",
    "https://example.com",
    "capacitor://other",
    "chrome-extension://other",
    "moz-extension://abcdefgh",
    "null",
]


def check(connect):
    """Who may come in by ``connect(origin=...)``, and who may not."""
    for origin in GOOD:
        with connect(origin=origin):
            pass
    for origin in BAD:
        with pytest.raises(InvalidStatus) as found:
            connect(origin=origin)
        assert found.value.response.status_code == 403


@pytest.mark.parametrize("transport", transports.ALL)
def test_pages_of_any_scheme_may_be_allowed(transport, live_server, tmp_path):
    start = transports.over(transport, live_server, tmp_path)
    server = start(make_app(**{"stargate.allowed_origins": ALLOWED}))
    check(lambda **options: transports.connect(server, "/a", **options))


def test_they_are_as_an_ini_file_of_pserve_has_them(tmp_path):
    with pserve(tmp_path, app=f"stargate.allowed_origins = {ALLOWED}") as program:
        check(lambda **options: client.connect(program.websocket_url("/a"), **options))


def test_they_are_as_an_ini_file_of_gunicorn_has_them(tmp_path):
    (tmp_path / "test.ini").write_text(
        "[app:main]\nuse = call:stargate_tests.workers_app:main\n"
        f"stargate.allowed_origins = {ALLOWED}\n\n"
        "[server:main]\nuse = egg:stargate#eventlet\n"
    )
    with Gunicorn(tmp_path, "--paste", "test.ini") as program:
        check(lambda **options: client.connect(program.websocket_url("/a"), **options))


@pytest.mark.parametrize("transport", transports.ALL)
def test_a_trusted_host_may_have_more_than_ascii(transport, live_server, tmp_path):
    start = transports.over(transport, live_server, tmp_path)
    server = start(make_app(**{"pyramid.csrf_trusted_origins": "b\u00fccher.example"}))
    with transports.connect(server, "/a", origin="https://xn--bcher-kva.example"):
        pass
