"""The worker class for gunicorn: its processes and signals, stargate's server in each of them.

``gunicorn --paste production.ini -k stargate.gunicorn.EventletWorker -w 4``
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

if TYPE_CHECKING:
    from stargate.server import Server, ServerSettings

log = logging.getLogger("stargate.server")

#: Settings of ``[server:main]`` that gunicorn has the say about.
GUNICORNS = frozenset(
    (
        *("listen", "host", "port", "unix_socket", "unix_socket_perms", "backlog"),
        *("certfile", "keyfile", "graceful_timeout", "access_log"),
    )
)

#: gunicorn's names for ours: taken where they were set to something else than gunicorn's default.
SAME = {
    "worker_connections": "connection_limit",
    "keepalive": "keepalive_timeout",
    "limit_request_line": "max_request_line",
}

#: Seconds between two looks at what gunicorn wants, and signs of life.
TICK = 0.5

#: Seconds of gunicorn's graceful_timeout that are left to it: then it kills.
MARGIN = 1.0


class EventletWorker(Worker):
    """Serves WebSockets and pages in one of gunicorn's processes.

    Who listens, TLS (``certfile``, ``keyfile``), ``graceful_timeout``, ``max_requests`` and where
    the access log goes are gunicorn's settings. ``worker_connections``, ``keepalive`` and
    ``limit_request_line`` are ``connection_limit``, ``keepalive_timeout`` and ``max_request_line``
    where they are set. Everything else of stargate's server is read from ``[server:main]`` of the
    ini file given with ``--paste``.

    ``TERM`` and ``HUP`` drain: every WebSocket gets 1001, or 1012 where other workers have taken
    over already. ``INT`` and ``QUIT`` cut. ``preload_app`` is refused: the standard library is
    patched in the worker, and the application must be loaded after that.
    """

    _server: Server | None = None

    def init_process(self) -> None:
        """Patch the standard library, then load the application and serve it."""
        from stargate.engine.patching import patch

        if self.cfg.preload_app:
            self._refuse(
                "preload_app: the application would be loaded before the standard library is "
                "patched. Leave it out with stargate.gunicorn.EventletWorker"
            )
        patch()
        super().init_process()

    def run(self) -> None:
        """Serve until gunicorn says stop."""
        self._check_backplane()
        from stargate.server import Server

        listening = [each.sock for each in self.sockets]
        for sock in listening:
            sock.setblocking(False)
        self._places = {os.fstat(sock.fileno()).st_ino for sock in listening}
        self._server = Server(self._counted, self._settings(), listening)
        self._tick()
        if self.alive:
            self._server.serve()

    def _refuse(self, why: str) -> None:
        self.log.error(why)
        sys.exit(Arbiter.APP_LOAD_ERROR)

    def _check_backplane(self) -> None:
        from stargate.application import gates

        if self.cfg.workers < 2:
            return
        for each in gates():
            settings = each.settings or {}
            memory = settings.get("backplane") == "memory"
            if memory and not settings.get("memory_in_many_workers"):
                self._refuse(
                    f"stargate.backplane = memory carries a message to the browsers of one worker, "
                    f"and gunicorn has {self.cfg.workers}: set stargate.backplane = "
                    "redis://localhost:6379/0 and stargate.namespace = a name of your own, or "
                    "stargate.memory_in_many_workers = true if that is meant"
                )

    def _settings(self) -> ServerSettings:
        from stargate.server import read_settings

        given = dict(_of_ini(self.cfg.paste) if self.cfg.paste else {})
        for theirs, ours in SAME.items():
            setting = self.cfg.settings[theirs]
            if setting.get() != setting.default:
                given[ours] = setting.get()
        logs = bool(self.cfg.accesslog or self.cfg.logconfig or self.cfg.logconfig_dict)
        if self.cfg.accesslog:
            _log_as("stargate.access", "gunicorn.access")
        return read_settings(
            {
                **given,
                "access_log": logs,
                "certfile": self.cfg.certfile or "",
                "keyfile": self.cfg.keyfile or "",
                "graceful_timeout": max(0.0, self.cfg.graceful_timeout - MARGIN),
            }
        )

    def _counted(self, environ: dict[str, Any], start_response: Any) -> Any:
        """The application, which is served so many times."""
        self.nr += 1
        if self.nr == self.max_requests:
            self.log.info("Autorestarting worker after current request.")
            self._stop(restarts=True)
        return self.wsgi(environ, start_response)

    # What gunicorn wants.

    def _tick(self) -> None:
        """Say that this process is alive; see whether it should be."""
        server = self._server
        assert server is not None
        self.notify()
        if self.ppid != os.getppid():
            self.log.info("Parent changed, shutting down: %s", self)
            self._stop(restarts=False)
        elif not self.alive:
            self._stop(restarts=True)  # The reloader says so.
        server.engine.call_later(TICK, self._tick)

    def _stop(self, *, restarts: bool) -> None:
        server = self._server
        if server is not None:
            server.engine.spawn(lambda: server.stop(restarts=restarts))

    def _others_take_over(self) -> bool:
        """Whether gunicorn goes on listening: this process ends, and not all of them."""
        with suppress(OSError):
            # As another user it can't be seen; then it is said that the server ends.
            folder = f"/proc/{self.ppid}/fd"
            for name in os.listdir(folder):
                with suppress(OSError):
                    if os.stat(f"{folder}/{name}").st_ino in self._places:
                        return True
        return False

    def init_signals(self) -> None:
        """Signals are handled on the hub, between two turns of it."""
        super().init_signals()
        signal.set_wakeup_fd(-1)

    def handle_exit(self, sig: int, frame: object) -> None:
        """``TERM``: drain."""
        server = self._server
        if server is None:
            sys.exit(0)
        server.engine.interrupt(
            server.engine.spawn, lambda: server.stop(restarts=self._others_take_over())
        )

    def handle_quit(self, sig: int, frame: object) -> None:
        """``INT`` and ``QUIT``: end at once."""
        server = self._server
        if server is None:
            sys.exit(0)
        self.cfg.worker_int(self)
        server.engine.interrupt(server.engine.spawn, server.cut)

    def handle_abort(self, sig: int, frame: object) -> None:
        """``ABRT``: no sign of life came in time; the hub is stuck, so nothing can be drained."""
        self.cfg.worker_abort(self)
        os._exit(1)


def _of_ini(uri: str) -> dict[str, Any]:
    """What ``[server:main]`` says of stargate's server, and not of gunicorn."""
    import plaster

    from stargate.server import table

    known = {setting.name for setting in table()} - GUNICORNS
    path, _, name = uri.removeprefix("config:").partition("#")
    found = plaster.get_settings(path, f"server:{name or 'main'}")
    return {key: value for key, value in found.items() if key in known}


def _log_as(ours: str, theirs: str) -> None:
    """Have what is logged as ``ours`` written where gunicorn writes ``theirs``."""
    logger, model = logging.getLogger(ours), logging.getLogger(theirs)
    logger.handlers, logger.propagate = list(model.handlers), model.propagate
    logger.setLevel(logging.INFO)
