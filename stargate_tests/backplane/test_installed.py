"""A backplane of somebody else, installed from a wheel, and what is said where none is found."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from urllib.request import urlopen
from zipfile import ZipFile

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from websockets.sync.client import connect

import stargate
from stargate.backplane import make_backplane
from stargate.backplane.memory import MemoryBackplane
from stargate.settings import backplanes
from stargate_tests.functional.program import INI, pserve
from stargate_tests.gunicorns import Gunicorn

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "examples" / "postbox"

#: Seconds within which a program has to end, and a message has to come.
DEADLINE = 60


def make_wheel(project, folder):
    """A wheel of ``project``, as setuptools makes it, which need not be here (PEP 427)."""
    said = tomllib.loads((project / "pyproject.toml").read_text())
    name, version = said["project"]["name"], said["project"]["version"]
    groups = said["project"].get("entry-points", {})
    points = [
        line
        for group, found in groups.items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in found.items()))
    ]
    info = f"{name}-{version}.dist-info"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "\n".join(points),
    }
    for module in said["tool"]["setuptools"]["py-modules"]:
        files[f"{module}.py"] = (project / f"{module}.py").read_text()
    record = "".join(f"{each},,\n" for each in (*files, f"{info}/RECORD"))
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with ZipFile(path, "w") as wheel:
        for each, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(each, text)
    return path


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A folder into which the wheel has been installed."""
    folder = tmp_path_factory.mktemp("installed")
    wheel, found = make_wheel(PROJECT, folder), folder / "target"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps")
    run(*pip, "--target", found, wheel)
    return found


def run(*command, path="", cwd=None):
    """Run ``command``; returns what it has written."""
    environ = dict(os.environ, PYTHONPATH=f"{ROOT}{os.pathsep}{path}")
    found = subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=DEADLINE
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout + found.stderr


def test_it_passes_the_suite_where_it_is_installed(target, tmp_path):
    shutil.copy(PROJECT / "test_postbox.py", tmp_path)
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_postbox.py")
    assert " passed, 3 skipped" in run(*command, path=target, cwd=tmp_path)


def served_by_pserve(folder, target):
    return pserve(folder, app=settings_of(folder), path=(target,))


def served_by_gunicorn(folder, target):
    app = INI.format(name="eventlet", module="program_app", server="", app=settings_of(folder))
    (folder / "test.ini").write_text(app)
    return Gunicorn(folder, "--paste", "test.ini", "--pythonpath", target)


def settings_of(folder):
    return f"stargate.backplane = postbox://{folder}/letters\nstargate.namespace = shop"


@pytest.mark.parametrize("serve", [served_by_pserve, served_by_gunicorn])
def test_an_application_and_the_command_find_it_by_its_scheme(serve, target, tmp_path):
    with serve(tmp_path, target) as program:
        with connect(program.websocket_url("/a/@@listen")) as peer:
            with urlopen(f"{program.url}/a/@@send?message=from+a+page", timeout=DEADLINE):
                assert peer.recv(timeout=DEADLINE) == "from a page"
            send = Path(sysconfig.get_path("scripts"), "stargate"), "send"
            where = f"postbox://{tmp_path}/letters", "/a", "from outside", "--namespace", "shop"
            assert run(*send, *where, path=target) == "1 process listens there\n"
            assert peer.recv(timeout=DEADLINE) == "from outside"
        assert program.stop() == 0
    assert "Traceback" not in program.log


# What is said.


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Installs a package: a module of its name, whose entry point is of the scheme given."""

    def install(name, code="", scheme=None, value=None):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        point = f"{scheme or name} = {value or name}"
        (info / "entry_points.txt").write_text(f"[stargate.backplanes]\n{point}\n")
        (tmp_path / f"{name}.py").write_text(code)
        installed.append(name)

    installed = []
    monkeypatch.syspath_prepend(tmp_path)
    backplanes._installed.cache_clear()
    yield install
    backplanes._installed.cache_clear()
    for name in installed:
        sys.modules.pop(name, None)


def refused(url):
    """The error with which an application refuses ``url``."""
    with pytest.raises(ConfigurationError) as caught:
        Configurator(settings={"stargate.backplane": url, "stargate.namespace": "shop"}).include(
            "stargate"
        )
    return str(caught.value)


def test_a_scheme_that_nothing_is_installed_for_says_what_there_is_and_what_to_do(packages):
    packages("pigeons", scheme="pigeon")
    assert refused("nats://me:secret@host") == (
        "stargate.backplane = 'nats://***@host': no backplane for nats:// is installed (there are: "
        "memory, pigeon, redis, redis+cluster, redis+sentinel, rediss, rediss+cluster, "
        f"rediss+sentinel, unix); pip install the package that brings it into {sys.prefix}"
    )
    assert "; did you mean pigeon? (there are: " in refused("Pigeons://host")
    with pytest.raises(ValueError, match="no backplane for nats:// is installed"):
        stargate.connect("nats://host", "shop")


def test_a_stargate_that_is_not_installed_says_so(monkeypatch):
    monkeypatch.setattr(backplanes, "_installed", dict)
    with pytest.raises(ValueError, match="there are: none, install stargate itself anew"):
        backplanes.entry_point("memory")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import nowhere", "cannot be loaded: ModuleNotFoundError: No module named 'nowhere'"),
        ("1 +", "cannot be loaded: SyntaxError: invalid syntax"),
        ("", "has no make_backplane()"),
        ("make_backplane = 5", "has no make_backplane()"),
        ("make_backplane = lambda *args: object()", "made no backplane: The object <object "),
        ("def make_backplane(*args):\n    import nowhere", ": No module named 'nowhere'"),
        ("def make_backplane(*args):\n    raise ValueError('no host')", "://x': no host"),
    ],
)
def test_a_package_that_brings_no_backplane_is_a_configuration_error(packages, code, why):
    packages("pigeon", code)
    said = refused("pigeon://x")
    assert said.startswith("stargate.backplane = 'pigeon://x': ") and why in said
    assert why[0] == ":" or "pigeon of pigeon 1.0 " in said or "no host" in said


def test_a_backplane_that_lacks_a_method_is_refused_by_its_name(packages):
    code = """
from stargate.interfaces import IBackplane
from stargate.backplane.memory import MemoryBackplane
from zope.interface import implementer

@implementer(IBackplane)
class Pigeon:
    networked = True

def make_backplane(settings, receiver):
    return Pigeon()
"""
    packages("pigeon", code)
    assert "pigeon.Pigeon" in refused("pigeon://x") and "publish" in refused("pigeon://x")


def test_two_packages_for_one_scheme_are_named_and_twice_the_same_is_one(packages):
    packages("pigeon")
    packages("dove", scheme="pigeon")
    said = refused("pigeon://x")
    assert "bring a backplane for pigeon:// each: uninstall all but one" in said
    assert "dove of dove 1.0" in said and "pigeon of pigeon 1.0" in said
    packages("memory2", scheme="memory", value="stargate.backplane.memory")
    backplanes._installed.cache_clear()
    assert backplanes.entry_point("memory").value == "stargate.backplane.memory"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("", r"pigeon of pigeon 1.0 has no make_publisher\(\)"),
        (
            "class Pigeon:\n    publish = history = close = print\n    presence = 5\n"
            "make_publisher = lambda settings: Pigeon()",
            "pigeon of pigeon 1.0 made no publisher: it lacks presence, listener_count",
        ),
    ],
)
def test_what_sends_from_outside_is_looked_at_as_well(packages, code, why):
    packages("pigeon", code)
    with pytest.raises(ValueError, match=why):
        stargate.connect("pigeon://x", "shop")


def test_nothing_is_loaded_but_what_is_asked_for(packages):
    packages("pigeon", "raise SystemExit")
    assert isinstance(make_backplane({"backplane": "memory"}, None), MemoryBackplane)
