"""Real Redis servers for tests, trials and benchmarks, to be ended and started again."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from stargate_tests.waiting import wait_until

#: Seconds: generous, since only a test that fails waits for it.
DEADLINE = 30.0

NAMES = ("redis-server", "valkey-server")

#: Below the ports that a kernel gives to those who connect: a server that has been ended finds
#: its port free, and nobody who dials it meanwhile is connected to itself.
PORTS = range(10_000, 32_000)

#: How these servers are known to these tests where the default user has a password, or none may in.
OVERSEER = "overseer"


def executable() -> str | None:
    """The path of a Redis server, or ``None``: see .ci/redis."""
    return os.environ.get("REDIS_SERVER") or next(filter(None, map(shutil.which, NAMES)), None)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody had a moment ago."""
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port on 127.0.0.1")


def ping(client: redis.Redis) -> bool:
    """Whether there is an answer to PING."""
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError, redis.exceptions.BusyLoadingError):
        return False


class RedisServer:
    """A Redis of its own, on a free port of 127.0.0.1 and on a UNIX socket; ``with`` ends it.

    ``config`` is what redis.conf takes, with ``_`` for ``-``: a value, or a list where the name
    comes more than once (``user=["worker on >word ~* &* +@all"]``). It keeps nothing on a disk but
    for :meth:`stop`, or with ``appendonly="yes"``. ``tls=True``: its port speaks TLS alone.
    """

    #: Whether what it writes into its configuration outlives a restart.
    keeps_config = False

    def __init__(self, *, tls: bool = False, start: bool = True, **config: object) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self.data = self.folder / "data"
        self.data.mkdir()
        self.tls = tls
        self.config = config
        self.port = 0
        self.socket = str(self.folder / "redis.sock")
        self.process: subprocess.Popen[bytes] | None = None
        self._secret = getattr(self, "_secret", secrets.token_hex(16))
        self._clients: list[redis.Redis] = []
        self._asking: redis.Redis | None = None
        if start:
            try:
                self.start()
            except BaseException:
                self.close()
                raise

    # Where it is

    @property
    def password(self) -> str | None:
        """What ``requirepass`` says."""
        found = self.config.get("requirepass")
        return None if found is None else str(found)

    @property
    def url(self) -> str:
        """Its address as ``redis://127.0.0.1:12345/0``."""
        login = f":{self.password}@" if self.password else ""
        return f"redis{'s' if self.tls else ''}://{login}127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        """The same over its UNIX socket."""
        login = f":{self.password}@" if self.password else ""
        return f"unix://{login}{self.socket}?db=0"

    @property
    def log(self) -> str:
        """What it has written so far."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def client(self, **options: object) -> redis.Redis:
        """One that may do everything, for the test itself; closed with the server.

        It tries nothing twice, comes in by the UNIX socket, and decodes replies.
        """
        found = redis.Redis(
            **{  # type: ignore[arg-type]
                "unix_socket_path": self.socket,
                "username": OVERSEER,
                "password": self._secret,
                "decode_responses": True,
                "socket_timeout": DEADLINE,
                "retry": Retry(NoBackoff(), 0),
                **options,
            }
        )
        self._clients.append(found)
        return found

    def ask(self, *words: object) -> Any:
        """The server's plain answer to a command, as the one who may do everything."""
        if self._asking is None:
            self._asking = self.client(protocol=2)
            self._asking.response_callbacks.clear()
        return self._asking.execute_command(*words)

    def info(self, section: str) -> dict[str, str]:
        """What INFO says."""
        try:
            lines = str(self.ask("INFO", section)).splitlines()
        except redis.ConnectionError:  # A Sentinel cuts all connections of one that it demotes.
            lines = str(self.ask("INFO", section)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    # Its life

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it with what it has on its disk, on the port that it had before, if any."""
        assert not self.running, "this Redis runs"
        end = time.monotonic() + DEADLINE
        fresh = not self.port
        while True:
            if fresh:
                self._take_ports()
            self._spawn(fresh)
            if self._answers(end):
                return
            self._end()
            # Another may have taken the port in the meantime.
            if "in use" not in self.log or time.monotonic() > end:
                raise AssertionError(f"this Redis does not start:\n{self.log}")

    def stop(self) -> None:
        """End it in good order: when it is started again, it has all that it had."""
        assert self.process is not None and self.running, "this Redis does not run"
        self._shut_down()
        self.process.wait(DEADLINE)

    def kill(self) -> None:
        """End it as a loss of power would."""
        assert self.running, "this Redis does not run"
        self._end()

    def restart(self) -> None:
        """:meth:`stop` and :meth:`start`."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it stand still: connections stay, and nothing is answered."""
        assert self.process is not None and self.running
        self.process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self.process.pid}/stat")
        wait_until(
            lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "T"
        )

    def resume(self) -> None:
        """Let it go on."""
        assert self.process is not None and self.running
        self.process.send_signal(signal.SIGCONT)

    def snapshot(self) -> Path:
        """What it has now, for :meth:`restore`."""
        self.ask("SAVE")
        copy = Path(tempfile.mkdtemp(prefix="snapshot-", dir=self.folder))
        shutil.copytree(self.data, copy, dirs_exist_ok=True)
        return copy

    def restore(self, snapshot: Path) -> None:
        """Kill it, and start it with what it had at the time of ``snapshot``."""
        self._replace(snapshot)

    def wipe(self) -> None:
        """Kill it, and start it with nothing."""
        self._replace(None)

    def close(self) -> None:
        """End it, and remove all that it has left."""
        for client in self._clients:
            client.close()
        self._end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # Inside

    def _take_ports(self) -> None:
        self.port = free_port()

    def _settings(self) -> dict[str, object]:
        port = f"{'tls-' if self.tls else ''}port"
        found: dict[str, object] = {
            "bind": "127.0.0.1",
            "port": 0,
            port: self.port,
            "unixsocket": self.socket,
            "dir": self.data,
            "logfile": self.folder / "log",
            "daemonize": "no",
            # Should it become a replica of another, or another one of it.
            "masteruser": OVERSEER,
            "masterauth": self._secret,
            "save": '""',
            "appendfsync": "always",
            "enable-debug-command": "local",
            "repl-diskless-sync-delay": 0,
        }
        if self.tls:
            from stargate_tests.certificates import certificate  # Benchmarks have no trustme.

            found |= {
                "tls-cert-file": certificate().certfile,
                "tls-key-file": certificate().keyfile,
                "tls-ca-cert-file": certificate().authority,
                "tls-auth-clients": "no",
            }
        found |= {name.replace("_", "-"): value for name, value in self.config.items()}
        users = found.get("user", [])
        assert isinstance(users, list), "user=[...]"
        found["user"] = [*users, f"{OVERSEER} on >{self._secret} ~* &* +@all"]
        return found

    def _arguments(self) -> list[str]:
        return []

    def _write(self, path: Path) -> None:
        lines = []
        for name, value in self._settings().items():
            values = value if isinstance(value, list) else [value]
            lines += [f"{name} {each}" for each in values]
        path.write_text("\n".join([*lines, ""]))

    def _spawn(self, fresh: bool) -> None:
        found = executable()
        assert found, "no Redis here: see .ci/redis"
        path = self.folder / "redis.conf"
        if fresh or not self.keeps_config:
            self._write(path)
        (self.folder / "log").write_text("")
        # What it says of its configuration it says before it has a log.
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [found, path, *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _answers(self, end: float) -> bool:
        """Whether it comes to answer before ``end``; by its UNIX socket, which nobody else has."""
        with redis.Redis(
            unix_socket_path=self.socket,
            username=OVERSEER,
            password=self._secret,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=DEADLINE,
        ) as trial:
            wait_until(lambda: not self.running or ping(trial), end - time.monotonic())
        return self.running

    def _shut_down(self) -> None:
        with contextlib.suppress(redis.ConnectionError):  # Its answer to this is none.
            self.ask("SHUTDOWN", "SAVE")

    def _end(self) -> None:
        if self.process is not None:
            self.process.kill()  # Nothing, where it has ended.
            self.process.wait()

    def _replace(self, snapshot: Path | None) -> None:
        self._end()
        shutil.rmtree(self.data)
        if snapshot is None:
            self.data.mkdir()
        else:
            shutil.copytree(snapshot, self.data)
        self.start()
