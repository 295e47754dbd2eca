"""A server reached over TCP, over TLS and over a UNIX socket, for what has to hold on each."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPResponse
from itertools import count
from pathlib import Path

from websockets.sync import client

from stargate_tests import raw
from stargate_tests.certificates import certificate, trust_in_threads

ALL = ["tcp", "tls", "unix"]

_numbers = count()


def settings(transport: str, tmp_path: Path) -> dict[str, str]:
    """What a server on ``transport`` has in ``[server:main]``, but for a port."""
    if transport == "tls":
        return certificate().settings
    if transport == "unix":
        return {"unix_socket": str(tmp_path / f"{next(_numbers)}.sock")}
    return {}


def ini(transport: str, tmp_path: Path, **more: object) -> str:
    """The same with ``more`` as lines of an ini file, with a free port where one is needed."""
    where = {} if transport == "unix" else {"listen": "127.0.0.1:0"}
    found = {**where, **settings(transport, tmp_path), **more}
    return "\n".join(f"{name} = {value}" for name, value in found.items())


def over(transport: str, live_server, tmp_path: Path):
    """``live_server`` with every server on ``transport``."""

    def start(application, **more):
        return live_server(application, **settings(transport, tmp_path), **more)

    return start


def connect(server, path: str = "/", **options):
    """A WebSocket of the ``websockets`` library to a ``LiveServer``."""
    if server.url.startswith("unix:"):
        return client.unix_connect(
            server.url.removeprefix("unix:"), f"ws://localhost{path}", **options
        )
    if server.url.startswith("https:"):
        options["ssl"] = trust_in_threads()
    return client.connect(server.websocket_url(path), **options)


def get(server, path: str = "/") -> HTTPResponse:
    """The answer to a GET, read whole: its ``body`` is in the attribute of that name."""
    connection = HTTPConnection("localhost")
    connection.sock = raw.dial(server.url)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.body = answer.read()
    finally:
        connection.close()
    return answer
