"""A server as its users start it: ``pserve`` with an ini file, in a process of its own."""

import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEADLINE = 60

INI = """\
[app:main]
use = call:stargate_tests.functional.{module}:main
{app}

[server:main]
use = egg:stargate#{name}
{server}

[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = plain
[logger_root]
level = INFO
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
level = NOTSET
formatter = plain
[formatter_plain]
format = %(levelname)s %(name)s %(message)s
"""


class Program:
    """A process that serves, its log as it comes, and its end."""

    def __init__(self, command, path=(), *, stdout=subprocess.DEVNULL, unbuffered="1", **options):
        path = os.pathsep.join(map(str, (ROOT, *path)))
        environ = dict(os.environ, PYTHONPATH=path, PYTHONUNBUFFERED=unbuffered)
        self.process = subprocess.Popen(
            command, **options, env=environ, stderr=subprocess.PIPE, stdout=stdout
        )
        self.log = ""
        self.url = None

    def websocket_url(self, path):
        """As that of a ``LiveServer``."""
        return "ws" + self.url.removeprefix("http") + path

    def expect(self, pattern, after=0):
        """Read the log until ``pattern`` is in it ``after`` so many characters."""
        seen = after
        while True:
            found = re.search(pattern, self.log[seen:])
            if found:
                return found
            ready, _, _ = select.select([self.process.stderr], [], [], DEADLINE)
            data = os.read(self.process.stderr.fileno(), 65536) if ready else b""
            assert data, f"{pattern!r} is not in the log:\n{self.log}"
            self.log += data.decode()

    def stop(self, number=signal.SIGTERM):
        """Send a signal; returns the exit code when the process has ended."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self):
        """The exit code, when the process has ended; the rest of its log is read."""
        _, rest = self.process.communicate(timeout=DEADLINE)
        self.log += rest.decode()
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.communicate(timeout=DEADLINE)
        finally:
            self.process.kill()


def pserve(
    tmp_path,
    *arguments,
    name="eventlet",
    server="listen = 127.0.0.1:0",
    app="",
    module="program_app",
    path=(),
    prefix=(),
    **options,
):
    """``pserve`` on a free port; its ``url`` is known once it listens."""
    ini = tmp_path / "test.ini"
    ini.write_text(INI.format(name=name, server=server, app=app, module=module))
    command = [*prefix, sys.executable, "-m", "pyramid.scripts.pserve", str(ini), *arguments]
    program = Program(command, path, **options)
    try:
        program.url = program.expect(r"serving on (\S+)").group(1)
    except BaseException:
        program.__exit__()
        raise
    return program
