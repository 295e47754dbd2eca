import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from stargate.scripts.main import (
    ABANDONED,
    COMMANDS,
    DONE,
    FAILED,
    INTERRUPTED,
    MISUSED,
    UNHEARD,
    main,
    make_parser,
)
from stargate.scripts.targets import Failed


def test_the_command_is_installed():
    [found] = entry_points(group="console_scripts", name="stargate")
    assert found.load() is main


def test_help_has_a_line_for_each_command(command):
    code, out, _ = command("--help")
    assert code == 0
    for module in COMMANDS:
        assert module.HELP in out


@pytest.mark.parametrize("word", ["send", "history", "presence", "listen"])
def test_each_command_has_help_that_fits_a_terminal(command, monkeypatch, word):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = command(word, "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert make_parser().prog == "stargate"


def test_the_documentation_has_each_status_that_the_help_has(command):
    docs = (Path(__file__).parents[2] / "docs" / "commands.rst").read_text()
    documented = re.findall(r"^   \* - (\d+)$", docs, re.MULTILINE)
    for words in (("--help",), ("send", "--help"), ("listen", "--help")):
        _, out, _ = command(*words)
        assert re.findall(r"^  (\d+) ", out, re.MULTILINE) == documented
    known = {DONE, FAILED, MISUSED, UNHEARD, INTERRUPTED, ABANDONED}
    own = {kind.status for kind in Failed.__subclasses__()}
    assert {int(each) for each in documented} == known | own


@pytest.mark.parametrize("words", [(), ("nothing",), ("send", "only-this")])
def test_what_is_not_understood_is_2(command, words):
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert err.startswith("usage: stargate")


def test_it_imports_neither_pyramid_nor_eventlet_nor_redis_for_its_help():
    program = (
        "import sys, stargate.scripts.main as m; m.make_parser(); "
        "print([n for n in ('pyramid', 'eventlet', 'zope', 'redis', 'websockets') "
        "if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "[]\n", done.stderr


def test_an_interruption_has_no_traceback(command, monkeypatch):
    def interrupted(_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("stargate.scripts.presence.run", interrupted)
    assert command("presence", "x.ini", "/") == (130, "", "")
