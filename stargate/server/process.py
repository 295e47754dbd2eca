"""The server: its listening sockets, what it serves, and how it ends; HTTP itself is the engine's.

Its settings are in ``settings/server.py``.

``pserve`` calls :func:`server_factory` before it loads the application, so that the standard
library is patched early enough. Nothing here may import Pyramid before that.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from stargate.settings.server import ServerSettings as ServerSettings
from stargate.settings.server import read_settings as read_settings

if TYPE_CHECKING:
    from stargate.engine.accept import HttpServer
    from stargate.server.drain import Drain

log = logging.getLogger("stargate.server")

Application = Callable[..., Any]

#: Seconds between the last connection that a server accepts, where others go on accepting, and its
#: first good-bye: a handshake is on its way there, and would be cut.
HAND_OVER = 0.25

#: Seconds for the good-bye to a backplane that does not answer.
ENDING = 3.0


def server_factory(global_conf: dict[str, str], **settings: Any) -> Callable[[Application], None]:
    """The server of ``use = egg:stargate#eventlet``: a function that serves an application.

    Patches the standard library, since it is called before the application is loaded. Raises
    ``ConfigurationError`` for a setting that makes no sense.
    """
    from stargate.engine.patching import patch

    patch()
    from stargate.settings.inifile import check_percents

    check_percents(global_conf.get("__file__", ""))
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
    from pyramid.path import DottedNameResolver

    run(DottedNameResolver().maybe_resolve(application), read_settings(settings))


def run(application: Application, settings: ServerSettings) -> None:
    """Serve ``application`` until SIGTERM or SIGINT, then drain, and return: the process ends."""
    from stargate.server.activation import activated

    Server(application, settings, activated(tls=bool(settings.certfile))).run()


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
        from stargate.server.listening import listening_sockets

        repair_threadlocals()
        self.settings = settings
        tls = None
        if settings.certfile:
            from stargate.engine.tls import server_context

            tls = server_context(settings.certfile, settings.keyfile)
        self._scheme = "http" if tls is None else "https"
        path = settings.unix_socket if listening is None else ""  # Theirs is not ours to remove.
        if listening is None:
            listening = listening_sockets(
                settings.listen or (f"{settings.host}:{settings.port}",),
                unix_socket=settings.unix_socket,
                unix_socket_perms=settings.unix_socket_perms,
                backlog=settings.backlog,
                setting="listen" if settings.listen else "host:port",
            )
        self._listening = listening
        self.http: HttpServer = HttpServer(application, self._listening, settings, tls)
        self.engine = self.http.engine
        self.engine.threads.limit = settings.thread_limit
        self._unix_socket = os.stat(path).st_ino if path else None
        self._main, self._deadline, self._next_look = None, None, None  # type: Any, Any, Any
        self._signalled = self._stopping = False
        self._stopped_at = 0.0
        self._drain: Drain | None = None
        self._left: tuple[int, int, int] | None = None

    @property
    def urls(self) -> list[str]:
        """Where it listens: ``http[s]://host:port``, or ``unix:`` and the path of a socket."""
        from stargate.server.listening import describe

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
            self.serve(leave=True)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def serve(self, *, leave: bool = False) -> None:
        """Serve until :meth:`stop`; returns when all is ended or cut.

        With ``leave`` the process ends in what is left of ``graceful_timeout``, whatever holds it
        up: the log may be the first that does.
        """
        with self.engine.contained():
            self._serve(leave)

    def _serve(self, leave: bool) -> None:
        from stargate.server.leaving import leave_within
        from stargate.server.listening import remove_unix_socket

        self.http.start()
        self._main = self.engine.greenlet
        try:
            self.engine.park()
            if leave:
                leave_within(self._time_left() + ENDING)
        finally:
            for task in (self._deadline, self._next_look, self._drain):
                if task is not None:
                    task.cancel()
            self.http.stop()
            if self._unix_socket is not None:
                remove_unix_socket(self.settings.unix_socket, self._unix_socket)
            self.engine.end()
        if leave:
            leave_within(self._time_left())
        if self._left is not None:
            log.warning(
                "cut %d request(s), %d WebSocket(s) and %d view(s): graceful_timeout is %s s",
                *self._left,
                self.settings.graceful_timeout,
            )
        log.info("stopped")

    def _time_left(self) -> float:
        return self._stopped_at + self.settings.graceful_timeout - monotonic()

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
        from stargate.server.drain import Drain

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
