"""The servers that are measured: how each is started and where it serves; no measuring is here."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

SERVERS = Path(__file__).parent / "servers"


@dataclass(frozen=True)
class Subject:
    """One server to be measured. In ``command``, ``{port}`` and ``{floor}`` are filled in."""

    name: str
    title: str
    command: tuple[str, ...]
    #: The modules that it needs besides stargate and the standard library.
    needs: tuple[str, ...] = ()
    profile: str = "raw"
    sub: str = "/sub"
    pub: str = "/pub"
    echo: str = "/echo"
    #: Options of the load generator, whatever it does with this server.
    load: tuple[str, ...] = ()
    #: So slow that it gets less to do.
    heavy: bool = False

    def lacks(self) -> list[str]:
        """The modules that it needs and that are not installed."""
        return [name for name in self.needs if find_spec(name) is None]


def _python(script: str, *options: str) -> tuple[str, ...]:
    return (sys.executable, str(SERVERS / script), "{port}", *options)


def _socketio(role: str) -> str:
    return f"/socket.io/?EIO=4&transport=websocket&role={role}"


UVICORN = (sys.executable, "-m", "uvicorn", "--app-dir", str(SERVERS), "starlette_app:app")

CATALOGUE = {
    subject.name: subject
    for subject in (
        Subject("floor", "the floor (C)", ("{floor}", "{port}")),
        Subject("stargate", "stargate", _python("stargate_app.py")),
        Subject(
            "stargate-handler",
            "stargate, blocking handler",
            _python("stargate_app.py", "--view", "handler"),
        ),
        Subject(
            "stargate-events",
            "stargate, on_message and on_close",
            _python("stargate_app.py"),
            sub="/kept",
        ),
        Subject(
            "stargate-deflate",
            "stargate, compressing",
            _python("stargate_app.py", "--compression", "deflate"),
            load=("--deflate",),
        ),
        Subject("pyraw", "bare Python loop", _python("pyraw.py")),
        Subject("websockets", "websockets", _python("websockets_app.py"), needs=("websockets",)),
        Subject(
            "uvicorn",
            "uvicorn + Starlette",
            (
                *UVICORN,
                *("--port", "{port}", "--loop", "uvloop", "--log-level", "warning"),
                *("--backlog", "1024", "--ws-per-message-deflate", "false"),
            ),
            needs=("uvicorn", "uvloop", "httptools", "starlette"),
        ),
        Subject(
            "socketio",
            "python-socketio on eventlet",
            _python("socketio_app.py"),
            needs=("socketio", "simple_websocket"),
            profile="sio",
            sub=_socketio("sub"),
            pub=_socketio("pub"),
            echo=_socketio("echo"),
            heavy=True,
        ),
        Subject("eventlet", "eventlet's own WebSocket", _python("eventlet_bare.py")),
    )
}

FLOOR = "floor"
