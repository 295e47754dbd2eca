"""The worker class for gunicorn: its processes and signals, stargate's server in each of them.

``gunicorn --paste production.ini -k stargate.gunicorn.EventletWorker -w 4``
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

from stargate.settings.server import GRACEFUL_TIMEOUT

if TYPE_CHECKING:
    from stargate.server.process import Server, ServerSettings

#: Settings of ``[server:main]`` that gunicorn has the say about, and what it calls them.
GUNICORNS = {
    "listen": "bind",
    "host": "bind",
    "port": "bind",
    "unix_socket": "bind",
    "unix_socket_perms": "umask",
    "backlog": "backlog",
    "certfile": "certfile",
    "keyfile": "keyfile",
    "graceful_timeout": "graceful_timeout",
}

#: gunicorn's names for ours: taken where they are set to something else than gunicorn's default.
SAME = {
    "worker_connections": "connection_limit",
    "keepalive": "keepalive_timeout",
    "limit_request_line": "max_request_line",
}

#: Settings of gunicorn that nothing here does: without them it would be less safe, or not work.
REFUSED = ("ca_certs", "cert_reqs", "ciphers", "ssl_context", "proxy_protocol", "http_protocols")

#: Others of them: the log says that they are not used.
UNUSED = (
    *("access_log_format", "limit_request_fields", "limit_request_field_size", "threads"),
    *("forwarded_allow_ips", "secure_scheme_headers", "pre_request", "post_request"),
)

#: Seconds between two looks at what gunicorn wants, and signs of life.
TICK = 0.5

#: Seconds of gunicorn's graceful_timeout that are left to it, or a quarter: then it kills.
MARGIN = 1.0

#: Seconds that a worker which can't serve waits for another one to say so.
PATIENCE = 10.0

#: Seconds between two looks at whether it has been told to end meanwhile.
GLANCE = 0.05


class EventletWorker(Worker):
    """Serves WebSockets and pages in one of gunicorn's processes.

    Who listens, TLS (``certfile``, ``keyfile``), ``graceful_timeout``, ``max_requests`` and where
    the access log goes are gunicorn's settings. ``worker_connections``, ``keepalive`` and
    ``limit_request_line`` are ``connection_limit``, ``keepalive_timeout`` and ``max_request_line``
    where they are set. Everything else of stargate's server is read from ``[server:main]`` of the
    ini file given with ``--paste``.

    ``TERM`` and ``HUP`` drain: every WebSocket gets 1001, or 1012 where gunicorn goes on listening.
    ``INT`` and ``QUIT`` cut. ``preload_app`` is refused: the standard library is patched in the
    worker, and the application must be loaded after that.
    """

    _server: Server | None = None
    _ending = False
    #: The descriptors that the arbiter has open, as a folder that can be listed.
    _arbiters: int | None = None

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Say what is set and not used; gunicorn calls this once, before it has workers."""
        unused = [name for name in UNUSED if _is_set(cfg, name)]
        if unused:
            log.warning("not used by stargate.gunicorn.EventletWorker: %s", ", ".join(unused))
        others = {name: GUNICORNS[name] for name in _of_ini(cfg) if name in GUNICORNS}
        if others:
            log.warning(
                "not used of [server:main]: %s. With gunicorn it is %s",
                ", ".join(others),
                ", ".join(dict.fromkeys(others.values())),
            )

    def init_process(self) -> None:
        """Patch the standard library, then load the application and serve it."""
        # gunicorn's own come later; until then a signal would be lost, and gunicorn wait for us.
        signal.signal(signal.SIGTERM, self.handle_exit)
        signal.signal(signal.SIGINT, self.handle_quit)
        signal.signal(signal.SIGQUIT, self.handle_quit)
        from stargate.engine.patching import patch

        self._check_gunicorn()
        self._check_ini()
        with suppress(OSError):
            # Now: it may be of a user that this process is not, soon.
            self._arbiters = os.open(f"/proc/{self.ppid}/fd", os.O_RDONLY)
        # A signal waits meanwhile: eventlet would catch the exception, and write its traceback.
        ends = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)
        try:
            patch()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)
        super().init_process()

    def run(self) -> None:
        """Serve until gunicorn says stop."""
        self._check_backplane()
        from pyramid.exceptions import ConfigurationError

        from stargate.server.process import Server

        listening = [each.sock for each in self.sockets]
        self._places = {str(sock.fileno()) for sock in listening}
        settings = self._settings()
        try:
            self._server = Server(self._serve, settings, listening)
        except ConfigurationError as error:  # A certificate that makes no sense.
            self._refuse(error)
        self._tick()
        if self.alive:
            self._server.serve(leave=True)

    # What is refused.

    def _refuse(self, why: object) -> NoReturn:
        """Have gunicorn end: one worker says why, and the others are ended by it.

        Of two that say so at once, the second one makes gunicorn stumble.
        """
        end = time.monotonic() + PATIENCE
        while self.alive and (self.age - 1) % self.cfg.workers and time.monotonic() < end:
            time.sleep(GLANCE)
        if not self.alive:
            # It has been told to end, and something that was being loaded has caught the exception.
            sys.exit(0)
        self.log.error("%s", why)
        sys.exit(Arbiter.APP_LOAD_ERROR)

    def _check_gunicorn(self) -> None:
        if self.cfg.preload_app:
            self._refuse(
                "preload_app: the application would be loaded before the standard library is "
                "patched. Leave it out with stargate.gunicorn.EventletWorker"
            )
        for name in REFUSED:
            if _is_set(self.cfg, name):
                self._refuse(
                    f"{name}: stargate.gunicorn.EventletWorker has no such thing. A proxy in front "
                    "of it may have; see the page about many workers in stargate's documentation"
                )

    def _check_ini(self) -> None:
        from pyramid.exceptions import ConfigurationError

        from stargate.settings.inifile import check_percents

        try:
            if self.cfg.paste:
                check_percents(_path_and_name(self.cfg)[0])
        except ConfigurationError as error:
            self._refuse(error)

    def _check_backplane(self) -> None:
        from stargate.application.gates import gates

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

    # Settings and logs.

    def _settings(self) -> ServerSettings:
        from pyramid.exceptions import ConfigurationError

        from stargate.server.process import read_settings

        ours, cfg = _of_ini(self.cfg), self.cfg
        given = {name: value for name, value in ours.items() if name not in GUNICORNS}
        for theirs, name in SAME.items():
            if _is_set(cfg, theirs):
                given[name] = cfg.settings[theirs].get()
        self._log(given)
        given |= {
            "certfile": cfg.certfile or "",
            "keyfile": cfg.keyfile or "",
            "graceful_timeout": self._graceful_timeout(),
        }
        try:
            return read_settings(given)
        except ConfigurationError as error:
            self._refuse(error)

    def _graceful_timeout(self) -> float:
        """Less than gunicorn's, or it kills; where that is not set, as with any other server."""
        theirs = self.cfg.graceful_timeout
        ours = theirs - min(MARGIN, theirs / 4)
        return ours if _is_set(self.cfg, "graceful_timeout") else min(ours, GRACEFUL_TIMEOUT)

    def _log(self, given: dict[str, Any]) -> None:
        """Log where gunicorn does, if nothing else is said."""
        if logging.getLogger("gunicorn.access").handlers:
            _log_as("stargate.access", "gunicorn.access")
            given["access_log"] = True
        elif not self.cfg.logconfig:
            given["access_log"] = False
        if not logging.getLogger("stargate").hasHandlers():
            _log_as("stargate", "gunicorn.error")

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Any:
        """The application, which is served so many times."""
        environ["wsgi.multiprocess"] = self.cfg.workers > 1
        self.nr += 1
        if self.nr == self.max_requests:
            self._end("Autorestarting worker after current request.", restarts=True)
        return self.wsgi(environ, start_response)

    # What gunicorn wants.

    def _tick(self) -> None:
        """Say that this process is alive; see whether it should be."""
        assert self._server is not None
        self.notify()
        if self.ppid != os.getppid():
            self._end("Parent changed, shutting down", restarts=False)
        elif not self.alive:
            self._end("The application has changed", restarts=True)  # The reloader says so.
        self._server.engine.call_later(TICK, self._tick)

    def _end(self, why: str, *, restarts: bool) -> None:
        if self._ending or self._server is None:
            return
        self._ending = True
        server = self._server

        def end() -> None:
            self.log.info("%s: %s", why.rstrip("."), self)
            server.stop(restarts=restarts)

        server.engine.spawn(end)

    def _others_take_over(self) -> bool:
        """Whether gunicorn goes on listening: this process ends, and not all of them.

        Its descriptors of the listening sockets have the numbers that they have here.
        """
        if self._arbiters is None or self.cfg.reuse_port:
            return False
        with suppress(OSError):
            return not self._places.isdisjoint(os.listdir(self._arbiters))
        return False

    def init_signals(self) -> None:
        """Signals are handled on the hub, between two turns of it."""
        super().init_signals()
        signal.set_wakeup_fd(-1)

    def handle_exit(self, sig: int, frame: object) -> None:
        """``TERM``: drain."""
        server = self._server
        if server is None:
            self._leave()
        server.engine.interrupt(
            server.engine.spawn, lambda: server.stop(restarts=self._others_take_over())
        )

    def handle_quit(self, sig: int, frame: object) -> None:
        """``INT`` and ``QUIT``: end at once."""
        self.cfg.worker_int(self)
        server = self._server
        if server is None:
            self._leave()
        server.engine.interrupt(server.engine.spawn, server.cut)

    def _leave(self) -> NoReturn:
        """End before there is anything to serve."""
        self.alive = False  # Whatever is being loaded may take the exception for one of its own.
        sys.exit(0)

    def handle_usr1(self, sig: int, frame: object) -> None:
        """``USR1``: open the log files anew."""
        server = self._server
        if server is not None:  # Else they are new.
            server.engine.interrupt(server.engine.spawn, self.log.reopen_files)

    # Whatever measures what is run ends with the process.
    def handle_abort(self, sig: int, frame: object) -> None:  # pragma: no cover
        """``ABRT``: no sign of life came in time; the hub is stuck, so nothing can be drained."""
        self.cfg.worker_abort(self)
        os._exit(1)


def _is_set(cfg: Any, name: str) -> bool:
    """Whether a setting of gunicorn has another value than its default."""
    setting = cfg.settings.get(name)
    return setting is not None and setting.get() != type(setting)().get()


def _of_ini(cfg: Any) -> dict[str, Any]:
    """What ``[server:main]`` of the ini file says, where it is about stargate's server."""
    from stargate.server.process import server_factory

    if not cfg.paste:
        return {}
    from paste.deploy.loadwsgi import SERVER, loadcontext

    path, name = _path_and_name(cfg)
    for section in dict.fromkeys((name or "main", "main")):
        with suppress(LookupError):
            context = loadcontext(
                SERVER, f"config:{path}", name=section, global_conf=cfg.paste_global_conf
            )
            return dict(context.local_conf) if context.object is server_factory else {}
    return {}


def _path_and_name(cfg: Any) -> tuple[str, str]:
    """The ini file of ``--paste``, and which application is meant."""
    path, _, name = os.path.abspath(cfg.paste.removeprefix("config:")).partition("#")
    return path, name


def _log_as(ours: str, theirs: str) -> None:
    """Have what is logged as ``ours`` written where gunicorn writes ``theirs``."""
    logger, model = logging.getLogger(ours), logging.getLogger(theirs)
    logger.handlers, logger.propagate = list(model.handlers), model.propagate
    logger.setLevel(model.level or logging.INFO)
