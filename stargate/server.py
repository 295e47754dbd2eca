"""The server: its settings, its listening sockets, and how it ends; HTTP itself is the engine's.

``pserve`` calls :func:`server_factory` before it loads the application, so that the standard
library is patched early enough. Nothing here may import Pyramid before that.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stargate.drain import Drain
    from stargate.engine.accept import HttpServer
    from stargate.settings import Setting

log = logging.getLogger(__name__)

Application = Callable[..., Any]

#: Seconds between the last connection that a server accepts, where others go on accepting, and its
#: first good-bye: a handshake is on its way there, and would be cut.
HAND_OVER = 0.25

#: Seconds. With a ``backplane_timeout`` to say good-bye to a Redis it is less than the 10 s after
#: which Docker kills.
GRACEFUL_TIMEOUT = 5.0


@dataclass(frozen=True)
class ServerSettings:
    """The values of ``[server:main]``; ``docs/settings.rst`` says what each is for."""

    listen: tuple[str, ...]
    host: str
    port: int
    unix_socket: str
    unix_socket_perms: int
    backlog: int
    connection_limit: int
    header_timeout: float
    keepalive_timeout: float
    socket_timeout: float
    max_request_line: int
    max_header_size: int
    graceful_timeout: float
    access_log: bool
    certfile: str
    keyfile: str
    trusted_proxy: tuple[str, ...]
    trusted_proxy_headers: tuple[str, ...]


def table() -> tuple[Setting, ...]:
    """The settings of the server, with their defaults, units and reasons."""
    from stargate.parsers import (
        addresses,
        at_least,
        flag,
        host_name,
        permissions,
        seconds,
        socket_path,
        text,
    )
    from stargate.proxies import DEFAULT, header_names, proxy_names
    from stargate.settings import Setting

    return (
        Setting(
            "listen",
            (),
            addresses,
            "addresses",
            "Where to listen: `host:port`, several with white space or commas between; "
            "`[::1]:6543` for IPv6, `*:6543` for every interface.",
        ),
        Setting("host", "localhost", host_name, "", "Where to listen when `listen` is not given."),
        Setting(
            "port", 6543, at_least(0, most=65535), "", "The port for `host`; 0 takes a free one."
        ),
        Setting(
            "unix_socket",
            "",
            socket_path,
            "path",
            "Listen on this UNIX socket, for a proxy on the same machine, instead of on a port.",
        ),
        Setting(
            "unix_socket_perms",
            0o600,
            permissions,
            "octal",
            "Who may connect to the UNIX socket: by default its owner alone.",
        ),
        Setting(
            "backlog",
            1024,
            at_least(1),
            "connections",
            "How many connections the kernel keeps waiting: a restart brings all browsers back "
            "in one second.",
        ),
        Setting(
            "connection_limit",
            1000,
            at_least(1),
            "requests",
            "How many requests are read or answered at a time. More wait for their turn, at most "
            "`header_timeout`; then 503. Connections that have no whole request hold no place, nor "
            "do open WebSockets. When descriptors run short, idle connections are closed first.",
        ),
        Setting(
            "header_timeout",
            10.0,
            seconds(0.1),
            "seconds",
            "How long a request's line and headers may take as a whole; then 408. A new connection "
            "that sends nothing is closed after this time.",
        ),
        Setting(
            "keepalive_timeout",
            60.0,
            seconds(0.1),
            "seconds",
            "How long a connection may be silent between two requests.",
        ),
        Setting(
            "socket_timeout",
            60.0,
            seconds(0.1),
            "seconds",
            "How long one read of a request's body or one write of an answer may wait. WebSockets "
            "are not bound by it.",
        ),
        Setting(
            "max_request_line",
            8192,
            at_least(64),
            "bytes",
            "The longest request line; a longer one gets 414.",
        ),
        Setting(
            "max_header_size",
            32_768,
            at_least(64),
            "bytes",
            "The most that a request's headers may have together; more gets 431.",
        ),
        Setting(
            "graceful_timeout",
            GRACEFUL_TIMEOUT,
            seconds(0),
            "seconds",
            "After SIGTERM or SIGINT, how long requests and close handshakes may take before they "
            "are cut. A second signal cuts them at once. `docker stop` kills after 10 s: where "
            "this is longer, whoever starts the process must wait longer too.",
        ),
        Setting("access_log", True, flag, "", "A line a request, to the logger `stargate.access`."),
        Setting(
            "certfile",
            "",
            text,
            "path",
            "Speak TLS (1.2 or 1.3), with the certificate in this PEM file; its chain follows it, "
            "and its key too where there is no `keyfile`. A handshake has `header_timeout`.",
        ),
        Setting(
            "keyfile",
            "",
            text,
            "path",
            "The key of `certfile`, in PEM, not encrypted: nobody is there to type a password.",
        ),
        Setting(
            "trusted_proxy",
            (),
            proxy_names,
            "addresses",
            "The proxies whose word counts about who is behind them: addresses, networks as in "
            "`10.0.0.0/8`, and `unix` for whoever connects to the UNIX socket. What they say is in "
            "`trusted_proxy_headers`, which are taken out of everybody else's requests.",
        ),
        Setting(
            "trusted_proxy_headers",
            DEFAULT,
            header_names,
            "headers",
            "The headers that are believed of `trusted_proxy`: some of `x-forwarded-for`, "
            "`x-forwarded-host`, `x-forwarded-proto`, `x-forwarded-port` and "
            "`x-forwarded-prefix`, or `forwarded` (RFC 7239). The proxy has to set each of them in "
            "every request, or a client can. The others are taken out of all requests.",
        ),
    )


def server_factory(global_conf: dict[str, str], **settings: Any) -> Callable[[Application], None]:
    """The server of ``use = egg:stargate#eventlet``: a function that serves an application.

    Patches the standard library, since it is called before the application is loaded. Raises
    ``ConfigurationError`` for a setting that makes no sense.
    """
    from stargate.engine.patching import patch

    patch()
    read = read_settings(settings)
    return lambda application: run(application, read)


def serve(application: Application | str, listen: str = "localhost:6543", **settings: Any) -> None:
    """Serve ``application`` (or its dotted name) until SIGTERM or SIGINT, without an ini file.

    ``settings`` are those of ``[server:main]``. Call :func:`stargate.patch` in the first line of
    the program, or let the dotted name be imported here, after the patching.
    """
    from stargate.engine.patching import patch

    patch()
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO)
    if not settings.get("unix_socket"):
        settings["listen"] = listen
    found: Any = application
    if isinstance(found, str):
        from pyramid.path import DottedNameResolver

        found = DottedNameResolver().resolve(found)
    run(found, read_settings(settings))


def read_settings(settings: dict[str, Any]) -> ServerSettings:
    """``settings`` as the values of the server's table; raises ``ConfigurationError``."""
    from pyramid.exceptions import ConfigurationError

    from stargate.settings import read

    both = [name for name in ("listen", "host", "port", "unix_socket") if settings.get(name)]
    if len(both) > 1 and both != ["host", "port"]:
        raise ConfigurationError(
            f"{' and '.join(both)} of the server say different things: give listen, or host and "
            "port, or unix_socket"
        )
    if settings.get("trusted_proxy_headers") and not settings.get("trusted_proxy"):
        raise ConfigurationError(
            f"trusted_proxy_headers = {settings['trusted_proxy_headers']!r}: nobody is believed "
            "without a trusted_proxy, the address of the proxy that sends them"
        )
    if settings.get("keyfile") and not settings.get("certfile"):
        raise ConfigurationError(
            f"keyfile = {settings['keyfile']!r}: it is the key of a certfile, and there is none"
        )
    if settings.get("unix_socket") and settings.get("certfile"):
        raise ConfigurationError(
            f"certfile = {settings['certfile']!r}: a UNIX socket has no TLS. It is for a proxy on "
            "this machine, which has the certificate"
        )
    return ServerSettings(**read(table(), settings))


def run(application: Application, settings: ServerSettings) -> None:
    """Serve ``application`` until SIGTERM or SIGINT, then drain, and return: the process ends."""
    Server(application, settings).run()


class Server:
    """One serving of an application: from listening to the last connection's end."""

    def __init__(
        self,
        application: Application,
        settings: ServerSettings,
        listening: list[Any] | None = None,
    ) -> None:
        """Listen as ``settings`` say, or take sockets that are ``listening`` already."""
        from stargate.engine.accept import HttpServer
        from stargate.engine.patching import repair_threadlocals
        from stargate.listening import listening_sockets

        repair_threadlocals()
        self.settings = settings
        tls = None
        if settings.certfile:
            from stargate.engine.tls import server_context

            tls = server_context(settings.certfile, settings.keyfile)
        self._scheme = "http" if tls is None else "https"
        if listening is None:
            listening = listening_sockets(
                settings.listen or (f"{settings.host}:{settings.port}",),
                unix_socket=settings.unix_socket,
                unix_socket_perms=settings.unix_socket_perms,
                backlog=settings.backlog,
            )
        self._listening = listening
        self.http: HttpServer = HttpServer(application, self._listening, settings, tls)
        self.engine = self.http.engine
        self._unix_socket = os.stat(settings.unix_socket).st_ino if settings.unix_socket else None
        self._main, self._deadline, self._next_look = None, None, None  # type: Any, Any, Any
        self._signalled = self._stopping = False
        self._stopped_at = 0.0
        self._drain: Drain | None = None
        self._left: tuple[int, int, int] | None = None

    @property
    def urls(self) -> list[str]:
        """Where it listens: ``http://host:port``, or ``unix:`` and the path of a UNIX socket.

        With TLS it is ``https://``.
        """
        from stargate.listening import describe

        return [describe(sock.getsockname(), self._scheme) for sock in self._listening]

    def run(self) -> None:
        """Serve until a signal says stop; returns when all is ended or cut."""
        before = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            for address in self.urls:
                log.info("serving on %s", address)
            self.serve()
            self.leave()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def serve(self) -> None:
        """Serve until :meth:`stop`; returns when all is ended or cut."""
        with self.engine.contained():
            self._serve()

    def _serve(self) -> None:
        from stargate.listening import remove_unix_socket

        self.http.start()
        self._main = self.engine.greenlet
        try:
            self.engine.park()
        finally:
            for task in (self._deadline, self._next_look, self._drain):
                if task is not None:
                    task.cancel()
            self.http.stop()
            if self._unix_socket is not None:
                remove_unix_socket(self.settings.unix_socket, self._unix_socket)
            self.engine.end()
        if self._left is not None:
            log.warning(
                "cut %d request(s), %d WebSocket(s) and %d view(s): graceful_timeout is %s s",
                *self._left,
                self.settings.graceful_timeout,
            )
        log.info("stopped")

    def leave(self) -> None:
        """Have the process end in what is left of ``graceful_timeout``, whatever holds it up."""
        from stargate.leaving import leave_within

        leave_within(self._stopped_at + self.settings.graceful_timeout - monotonic())

    def stop(self, *, restarts: bool = False) -> None:
        """Accept no more, say 1001 to every WebSocket, and end when all have gone.

        In a greenlet of the server's. The closes are spread over ``stargate.drain_period``. Where
        others go on accepting at the same place (``restarts``) it is 1012.
        """
        if self._stopping:
            return
        self._stopping, self._stopped_at = True, monotonic()
        self._deadline = self.engine.call_later(self.settings.graceful_timeout, self._cut)
        if restarts:
            self.http.listen_no_more()
            pause = min(HAND_OVER, self.settings.graceful_timeout / 4)
            self._next_look = self.engine.call_later(
                pause, self.engine.spawn, self._say_good_bye, True
            )
        else:
            self._say_good_bye(False)

    def _say_good_bye(self, restarts: bool) -> None:
        from stargate.drain import Drain

        self.http.stop()
        self._drain = Drain(self.engine, self.settings.graceful_timeout, restarts=restarts)
        self._drain.start()
        self._look()

    def _on_signal(self, number: int, _frame: object) -> None:
        if self._signalled or self._stopping:
            os._exit(128 + number)  # pragma: no cover - whatever measures this ends here as well
        self._signalled = True
        self.engine.interrupt(self.engine.spawn, self.stop)

    def _look(self) -> None:
        """End when nothing is left; else look again soon."""
        if not (self.http or self.engine.connections or self.engine.running):
            self.engine.resume(self._main)
        else:
            self._next_look = self.engine.call_later(0.02, self._look)

    def cut(self) -> None:
        """End at once, whatever is going on; in a greenlet of the server's."""
        self._stopping = True
        self.http.stop()
        self._cut()
        self._left = None  # That was asked for.

    def _cut(self) -> None:
        self._left = len(self.http), len(self.engine.connections), self.engine.running
        self.http.cut()
        for websocket in list(self.engine.connections):
            websocket._abort()
        self.engine.resume(self._main)
