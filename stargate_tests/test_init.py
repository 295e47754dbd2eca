import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import stargate

PINNED = [
    "AmbiguousApplication", "ConnectionClosed", "NoAddress", "StargateError", "WebSocket",
    "WebSocketAwareContext", "WebSocketAwareResource", "WebSocketView", "gate", "includeme",
    "is_websocket", "patch", "websocket_view_config",
]  # fmt: skip


def run(program):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", PINNED)
def test_every_name_is_found_where_it_is_promised(name):
    assert getattr(stargate, name) is not None
    assert name in dir(stargate) and name in stargate.__all__


PAGES = Path(__file__).parents[1] / "docs" / "api"
DOCUMENTED = sorted(
    {
        name
        for page in PAGES.glob("*.rst")
        for name in re.findall(
            r"^\.\. auto\w+:: (stargate\.[\w.]+)", page.read_text(), re.MULTILINE
        )
    }
)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_what_the_documentation_names_is_imported_from_there(name):
    """A class of a room is named as the room shows it, in whichever module it is."""
    module, _, found = name.rpartition(".")
    if module == "stargate":
        assert getattr(stargate, found) is not None
    else:
        assert getattr(import_module(module), found) is not None


def test_a_name_is_the_very_thing_its_module_has():
    from stargate.resource import WebSocketAwareContext

    assert stargate.WebSocketAwareContext is WebSocketAwareContext


def test_an_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="module 'stargate' has no attribute 'nothing'"):
        _ = stargate.nothing


def test_everything_can_be_imported_with_a_star():
    program = "from stargate import *; print(WebSocketView.__name__, gate.__name__)"
    assert run(f"import warnings; warnings.simplefilter('ignore'); {program}") == (
        "WebSocketView gate"
    )


@pytest.mark.parametrize(
    "module",
    ["pyramid", "eventlet", "threading", "webob", "websockets", "zope.interface", "logging", "ssl"],
)
def test_importing_stargate_imports_nothing_that_is_patched_or_heavy(module):
    program = (
        "import sys; before = set(sys.modules); import stargate; "
        "print(sorted(name for name in set(sys.modules) - before "
        f"if name == {module!r} or name.startswith({module + '.'!r})))"
    )
    assert run(program) == "[]"


def test_importing_the_server_imports_no_pyramid():
    program = (
        "import sys, stargate.server.process; "
        "print(sorted(name for name in sys.modules if name.startswith(('pyramid', 'eventlet'))))"
    )
    assert run(program) == "[]"


def test_a_script_without_an_ini_file_needs_no_other_import():
    """Design, section 2: stargate.patch() is the first line, then stargate.server.serve(...)."""
    program = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "import stargate\nstargate.patch()\nprint(stargate.server.serve.__name__)"
    )
    assert run(program) == "serve"
