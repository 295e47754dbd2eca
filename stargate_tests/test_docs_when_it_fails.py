"""Each line of the tables in docs/topics/when-it-fails.rst is brought about, and compared."""

import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from stargate.scripts.main import main
from stargate_tests.certificates import certificate, issue
from stargate_tests.failures import LISTEN, REDIS, SECRET
from stargate_tests.functional.program import INI, Program
from stargate_tests.gunicorns import Gunicorn

PAGE = Path(__file__).parents[1] / "docs" / "topics" / "when-it-fails.rst"

ROWS = {
    cause: (sentence, status)
    for cause, sentence, status in re.findall(
        r"^   \* - (.+)\n     - ``(.+)``\n     - (.+)$", PAGE.read_text(), re.MULTILINE
    )
}

URLS = [cause for cause in ROWS if "://" in cause and cause.startswith("``")]


def is_said(cause, text):
    """Assert that ``text`` has the sentence of the page; ``…`` in it is anything on one line."""
    pattern = ".+".join(map(re.escape, ROWS[cause][0].split("…")))
    assert re.search(pattern, text), f"not as the page has it:\n{ROWS[cause][0]}\n{text}"
    assert SECRET not in text


def stargate(capfd, *words):
    """Exit status and standard error of the command."""
    try:
        status = main(words)
    except SystemExit as ended:  # argparse's own.
        status = ended.code
    return status, capfd.readouterr().err


def as_nobody(function):
    """What ``function`` returns, called by a user who may do little."""
    me = os.geteuid()
    if me:
        return function()
    os.seteuid(65534)
    try:
        return function()
    finally:
        os.seteuid(me)


def test_every_line_of_the_page_is_tested():
    assert set(ROWS) == {*REDIS, *LISTEN, *URLS, *STARTS}
    assert len(URLS) == 11


@pytest.mark.parametrize("cause", REDIS)
def test_a_redis_that_fails(cause, redis_path, capfd):
    with REDIS[cause]() as urls:
        for url in [urls] if isinstance(urls, str) else urls:
            words = ("send", "--timeout", "2", "--namespace", "x", url, "/a", "b")
            if cause == "the UNIX socket may not be opened":
                status, err = as_nobody(lambda words=words: stargate(capfd, *words))
            else:
                status, err = stargate(capfd, *words)
            is_said(cause, err)
            assert err.startswith("stargate: ") and err.count("\n") == 1
            assert status == int(ROWS[cause][1])


@pytest.mark.parametrize("cause", LISTEN)
def test_a_server_that_cannot_be_listened_to(cause, redis_path, capfd, monkeypatch):
    monkeypatch.setattr("stargate.scripts.listen.OPENING", 1)
    with LISTEN[cause]() as urls:
        for url in [urls] if isinstance(urls, str) else urls:
            status, err = stargate(capfd, "listen", url)
            is_said(cause, err)
            assert "Traceback" not in err and status == int(ROWS[cause][1])


@pytest.mark.parametrize("cause", URLS)
def test_a_url_that_is_wrong(cause, capfd):
    words = ("--namespace", "x", cause.strip("`"), "/a", "b")
    status, err = stargate(capfd, "send", *words)
    is_said(cause, err)
    assert status == int(ROWS[cause][1])


# The start of a server.


def with_tls(certfile, keyfile):
    """What goes into ``[server:main]``; gunicorn has the same by its command line."""
    return "", f"certfile = {certfile}\nkeyfile = {keyfile}"


def encrypted(folder):
    path = folder / "encrypted.key"
    subprocess.run(
        ["openssl", "pkey", "-in", certificate().keyfile, "-out", path, "-aes256"]
        + ["-passout", f"pass:{SECRET}"],
        check=True,
    )
    return path


def taken(folder):
    listening = socket.create_server(("127.0.0.1", 0))
    HELD.append(listening)
    return "", f"listen = 127.0.0.1:{listening.getsockname()[1]}"


def precious(folder):
    (folder / "precious").touch()
    return "", f"unix_socket = {folder}/precious"


HELD = []

BACKPLANE = f"stargate.backplane = redis://:{SECRET}@localhost/0"


def say(app, server=""):
    return lambda folder: (app, server)


#: What stands in ``[app:main]`` and in ``[server:main]``.
STARTS = {
    "``%2F`` in a password, in an ini file": say(
        f"stargate.namespace = a\nstargate.backplane = redis://:a%2F{SECRET}@localhost/0"
    ),
    "a setting of the application is misspelled": say("stargate.alowed_origins = *"),
    "the word before its dot is misspelled": say("stargat.allowed_origins = *"),
    "an origin that browsers write otherwise": say(
        "stargate.allowed_origins = https://stra\u00dfe.example"
    ),
    "a Redis, and no namespace": say(BACKPLANE),
    "a setting is there twice": say(f"{BACKPLANE}\nstargate.namespace = a\nstargate.namespace = b"),
    "a line is neither a section nor a setting": say(f"{BACKPLANE}\n{SECRET}"),
    "a setting of the server is misspelled": say("", "keepalive_timout = 3"),
    "a setting of the application among those of the server": say("", "stargate.namespace = a"),
    "the certificate is missing": lambda folder: with_tls(folder / "none.pem", folder / "a"),
    "the certificate is none": lambda folder: with_tls(__file__, certificate().keyfile),
    "the key is that of another certificate": lambda folder: with_tls(
        certificate().certfile, issue("localhost", stem="another").keyfile
    ),
    "the key is encrypted": lambda folder: with_tls(certificate().certfile, encrypted(folder)),
    "the port is in use": taken,
    "the address is not of this machine": say("", "listen = 203.0.113.1:6543"),
    "the host to listen on is unknown": say("", "listen = no-such-host.invalid:6543"),
    "an address of IPv6 that is none": say("", "listen = [fe80::zz]:6543"),
    "the folder of the UNIX socket is missing": lambda folder: (
        "",
        f"unix_socket = {folder}/none/a",
    ),
    "the path of the UNIX socket to listen on is too long": say(
        "", f"unix_socket = /tmp/{'x' * 120}"
    ),
    "something that is no socket has the path": precious,
}


def each(program):
    """Those that the page says something of with ``program``."""
    found = {
        cause: re.search(rf"{program} (\d)", ROWS[cause][1]) for cause in STARTS if cause in ROWS
    }
    return [(cause, int(status[1])) for cause, status in found.items() if status]


@pytest.fixture
def ini(tmp_path):
    """``ini(cause)``: the path of the ini file that brings it about, or names a Redis."""

    def write(cause):
        of_url = f"stargate.namespace = a\nstargate.backplane = {cause}"
        app, server = STARTS.get(cause, say(of_url))(tmp_path)
        if not re.search("^(listen|unix_socket)", server):
            server = f"{server}\nlisten = 127.0.0.1:0".strip()
        path = tmp_path / "test.ini"
        text = INI.format(name="eventlet", module="program_app", app=app, server=server)
        path.write_text(text, encoding="utf-8")
        return path

    yield write
    while HELD:
        HELD.pop().close()


@pytest.mark.parametrize(("cause", "status"), each("pserve"))
def test_pserve_does_not_start(cause, status, ini):
    with Program([sys.executable, "-m", "pyramid.scripts.pserve", str(ini(cause))]) as program:
        assert program.wait() == status
    is_said(cause, program.log.splitlines()[-1])
    assert SECRET not in program.log or cause == "a Redis, and no namespace"


@pytest.mark.parametrize(("cause", "status"), each("gunicorn"))
def test_gunicorn_does_not_start(cause, status, ini, tmp_path):
    path = ini(cause)
    tls = re.findall(r"^(certfile|keyfile) = (.+)$", path.read_text(), re.MULTILINE)
    words = [word for name, value in tls for word in (f"--{name}", value)]
    with Gunicorn(tmp_path, "--paste", path, *words) as server:
        assert server.wait() == status
        is_said(cause, server.log)


def fails(url):
    """Assert that the page at ``url`` is told to come later; returns when that is said."""
    with pytest.raises(urllib.error.HTTPError) as found:
        urllib.request.urlopen(f"{url}/@@send?message=x", timeout=60)
    assert found.value.code == 503
    found.value.close()


@pytest.mark.parametrize("name", ["pserve", "gunicorn"])
def test_a_server_without_its_password_says_so(name, own_redis, ini, tmp_path):
    cause = "a password is needed, and the URL has none"
    server = own_redis(requirepass=SECRET)
    path = ini(f"redis://127.0.0.1:{server.port}/0")
    if name == "pserve":
        command = [sys.executable, "-m", "pyramid.scripts.pserve", str(path)]
        with Program(command) as program:
            fails(program.expect(r"serving on (\S+)")[1])
            program.expect("failed: not sent: ")
            program.stop()
            log = program.log
    else:
        with Gunicorn(tmp_path, "--paste", path) as program:
            fails(program.url)
            program.expect("failed: not sent: ")
            log = program.log
    is_said(cause, log)


def test_gunicorn_without_the_worker_is_told_to_set_it(ini, tmp_path):
    path = ini("redis://localhost/0")
    with Gunicorn(tmp_path, "--paste", path, "-k", "sync") as server:
        with pytest.raises(InvalidStatus) as found:
            connect(server.websocket_url("/"), open_timeout=60)
    assert "Start it with `-k stargate.gunicorn.EventletWorker`" in PAGE.read_text()
    body = found.value.response.body.decode()
    assert "Start it with `-k stargate.gunicorn.EventletWorker`" in body
    assert "[server:main]" not in body


@pytest.mark.parametrize(("cause", "status"), each("stargate"))
def test_the_command_cannot_read_the_ini_file(cause, status, ini, capfd):
    path = ini(cause)
    found, err = stargate(capfd, "send", str(path), "/a", "b")
    is_said(cause, err)
    assert found == status and err.count("\n") == 1 and err.count(str(path)) == 1
