"""A real nginx in front, with the configuration that docs/howto/proxy.rst shows."""

import http.client
import re
import subprocess
from configparser import ConfigParser
from pathlib import Path
from urllib.parse import urlencode

import pytest
from pyramid.csrf import CookieCSRFStoragePolicy, get_csrf_token
from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response
from websockets.sync.client import connect

from stargate.engine.hub import socket, threading
from stargate_tests.certificates import certificate, trust, trust_in_threads
from stargate_tests.functional.tree import Node, make_app
from stargate_tests.redis_servers import free_port
from stargate_tests.test_docs import blocks
from stargate_tests.waiting import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "proxy.rst"

#: Whoever connects to nginx: 127.0.0.1 would be a trusted proxy itself.
CLIENT = "127.0.0.2"

#: Seconds after which this nginx cuts whoever is silent.
IDLE = 2

MAIN = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {page}
}}
"""


def who(context, request):
    return Response(f"{request.remote_addr} {request.scheme}", content_type="text/plain")


def form(context, request):
    response = Response(get_csrf_token(request), content_type="text/plain")
    response.set_cookie("kept", "x", secure=request.scheme == "https")
    return response


def take(context, request):
    return HTTPFound(request.resource_url(context, "@@who"))


def configure(config):
    config.set_csrf_storage_policy(CookieCSRFStoragePolicy())
    config.set_default_csrf_options(require_csrf=True)
    config.add_view(who, context=Node, name="who")
    config.add_view(form, context=Node, name="form", request_method="GET")
    config.add_view(take, context=Node, name="form", request_method="POST")


def server_settings():
    """The lines of ``[server:main]`` that the page shows first."""
    ini = ConfigParser()
    [(_, text), *_others] = blocks(PAGE, "ini")
    ini.read_string(text)
    return {name: ini["server:main"][name] for name in ("trusted_proxy", "trusted_proxy_headers")}


def nginx_text(upstream, port):
    """The text of the page, with the ports and files of this machine, and less patience."""
    [(_, text), *_others] = blocks(PAGE, "nginx")
    for old, new in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("/etc/ssl/www.example.com.pem", certificate().certfile),
        ("/etc/ssl/www.example.com.key", certificate().keyfile),
        ("http://127.0.0.1:6543", upstream),
        ("proxy_read_timeout 1h", f"proxy_read_timeout {IDLE}s"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.fixture
def nginx(nginx_path, tmp_path):
    """``nginx(upstream)``: the port of an nginx before it, with TLS; ended after the test."""
    started = []

    def start(upstream):
        port = free_port()
        (tmp_path / "nginx.conf").write_text(
            MAIN.format(folder=tmp_path, page=nginx_text(upstream, port))
        )
        process = subprocess.Popen(
            [nginx_path, "-p", str(tmp_path), "-c", "nginx.conf", "-e", "error.log"],
            stdin=subprocess.DEVNULL,
        )
        started.append(process)

        def listens():
            assert process.poll() is None, (tmp_path / "error.log").read_text()
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0

        wait_until(listens)
        return port

    yield start
    for process in started:
        process.terminate()
        process.wait(30)


@pytest.fixture(params=["tcp", "unix"])
def served(request, nginx, live_server, tmp_path):
    """The server and the port of the nginx in front of it."""

    def start(**application):
        where, settings = {}, server_settings()
        if request.param == "unix":
            where = {"unix_socket": str(tmp_path / "http.sock")}
            settings["trusted_proxy"] = "unix"
        server = live_server(make_app(configure, **application), **where, **settings)
        unix = request.param == "unix"
        return server, nginx(f"http://unix:{tmp_path}/http.sock" if unix else server.url)

    return start


def ask(port, method, path, body=None, **headers):
    connection = http.client.HTTPSConnection(
        "localhost", port, context=trust(), timeout=20, source_address=(CLIENT, 0)
    )
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.text = answer.read().decode()
    finally:
        connection.close()
    return answer


def test_pages_redirect_and_take_forms_as_behind_tls(served):
    _server, port = served()
    assert ask(port, "GET", "/a/@@who").text == f"{CLIENT} https"
    page = ask(port, "GET", "/a/@@form")
    cookies = page.headers.get_all("Set-Cookie")
    assert "secure" in next(each for each in cookies if each.startswith("kept=")).lower()
    cookie = re.match("csrf_token=[^;]+", next(c for c in cookies if c.startswith("csrf_")))[0]
    body = urlencode({"csrf_token": page.text})
    sent = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
    answer = ask(port, "POST", "/a/@@form", body, **sent, Referer=f"https://localhost:{port}/a")
    assert answer.status == 302
    assert answer.headers["Location"] == f"https://localhost:{port}/a/@@who"
    # The check of the Referer is on behind TLS only.
    assert ask(port, "POST", "/a/@@form", body, **sent).status == 400
    other = ask(port, "POST", "/a/@@form", body, **sent, Referer="https://other.example/")
    assert other.status == 400


def test_what_a_client_says_of_itself_does_not_get_through(served):
    _server, port = served()
    lies = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "http"}
    lies |= {"X-Forwarded-Host": "evil.example", "X-Forwarded-Prefix": "/evil"}
    assert ask(port, "GET", "/a/@@who", **lies).text == f"{CLIENT} https"


def test_a_websocket_that_is_pinged_outlasts_the_patience_of_nginx(served):
    server, port = served(**{"stargate.ping_interval": "0.5"})
    url = f"wss://localhost:{port}/a/@@echo"
    options = {"ping_interval": None, "ssl": trust_in_threads()}
    with connect(url, origin=f"https://localhost:{port}", **options) as peer:
        assert not threading.Event().wait(IDLE * 2)  # Silence is what is tried here.
        peer.send("still here")
        assert peer.recv(20) == "still here"


def test_one_that_is_not_pinged_is_cut(served):
    server, port = served(**{"stargate.ping_interval": "0"})
    url = f"wss://localhost:{port}/a/@@echo"
    options = {"ping_interval": None, "ssl": trust_in_threads()}
    with connect(url, origin=f"https://localhost:{port}", **options) as peer:
        wait_until(lambda: server.gate.stats().connections == 1)
        with pytest.raises(Exception, match="no close frame"):
            peer.recv(20)
