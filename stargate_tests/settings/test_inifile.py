import subprocess
import sys

import pytest
from pyramid.exceptions import ConfigurationError

from stargate.settings.inifile import check_percents, read_ini


@pytest.fixture
def ini(tmp_path):
    """``ini(text)``: the path of a file with that in it."""

    def write(text, name="test.ini"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_the_settings_are_those_of_the_application(ini):
    path = ini("[DEFAULT]\nall = 1\n[app:main]\nuse = egg:nothing\na = %(here)s\n[app:b]\na = 2\n")
    assert read_ini(path) == {"use": "egg:nothing", "a": path.removesuffix("/test.ini")}
    assert read_ini(path + "#b") == {"a": "2"}


def test_globals_come_with_get_and_set(ini):
    path = ini("[DEFAULT]\nname = shop\n[application:main]\nget a = name\nget b = c\nset c = 3\n")
    assert read_ini(path) == {"a": "shop", "b": "3"}


def test_a_pipeline_leads_to_its_last_part_and_a_filter_to_what_is_next(ini):
    path = ini(
        "[pipeline:main]\npipeline = egg:first second\n"
        "[filter-app:second]\nuse = egg:x\nnext = third\nb = 1\n"
        "[app:third]\nuse = call:x:y\na = 1\n"
    )
    assert read_ini(path) == {"use": "call:x:y", "a": "1"}


def test_settings_of_the_one_that_uses_another_come_first(ini):
    path = ini("[app:main]\nuse = other\na = 1\n[app:other]\nuse = egg:x\na = 2\nb = 3\n")
    found = read_ini(path)
    assert (found["a"], found["b"]) == ("1", "3")


def test_another_file_is_found_beside_this_one(ini):
    ini("[app:shop]\nuse = egg:x\na = 2\nb = 3\n", "base.ini")
    found = read_ini(ini("[app:main]\nuse = config:base.ini#shop\na = 1\n"))
    assert (found["a"], found["b"]) == ("1", "3")


def test_a_circle_is_found(ini):
    with pytest.raises(ValueError, match="circle"):
        read_ini(ini("[app:main]\nuse = other\n[app:other]\nuse = main\n"))


def test_which_application_is_never_guessed(ini):
    path = ini("[composite:main]\nuse = egg:Paste#urlmap\n/ = shop\n[app:shop]\nuse = egg:x\n")
    with pytest.raises(ValueError, match=r"has no \[app:main\]; say which .*test.ini#shop$"):
        read_ini(path)
    with pytest.raises(ValueError, match=r"has no \[app:main\]$"):
        read_ini(ini("[server:main]\n"))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such ini file .*nothing.ini"):
        read_ini(str(tmp_path / "nothing.ini"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[app:main]\na = b\na = c\n", "test.ini, line 3: a stands there for the second time"),
        ("[app:main]\n[app:main]\n", r"line 2: \[app:main\] stands there for the second time"),
        ("[app:main]\na\n", "test.ini, line 2 is no ini file: a line must be "),
        ("a\n", "test.ini, line 1 is no ini file: a line must be "),
    ],
)
def test_the_line_that_cannot_be_read_is_named(ini, text, says):
    with pytest.raises(ValueError, match=says):
        read_ini(ini(text))


@pytest.mark.parametrize("text", ["a%b", "a%(b", "a%%%", "%%%(b)x"])
def test_a_percent_that_is_none_is_found_before_what_follows_is_shown(ini, text):
    with pytest.raises(ConfigurationError, match="each % is written twice"):
        check_percents(ini(f"[app:main]\nstargate.backplane = {text}\n"))


@pytest.mark.parametrize("text", ["stargate.a = %%2F%(here)s", "other.a = %2F", "stargate.a"])
def test_all_else_is_left_to_whoever_reads_it(ini, text):
    check_percents(ini(f"[app:main]\n{text}\n"))


def test_no_error_shows_what_stands_in_the_file(ini):
    with pytest.raises(ValueError, match="each % is written twice") as caught:
        read_ini(ini("[app:main]\nstargate.backplane = redis://:se%cret@localhost\n"))
    assert "cret" not in str(caught.value) and "stargate.backplane in [app:main]" in str(
        caught.value
    )
    with pytest.raises(ValueError, match="is no ini file") as caught:
        read_ini(ini("secret\n"))
    assert "secret" not in str(caught.value)


def test_the_application_is_not_loaded(ini):
    path = ini("[app:main]\nuse = call:no.such:module\n")
    program = (
        "import sys; from stargate.settings.inifile import check_percents, read_ini; "
        f"read_ini({path!r}); "
        "print([n for n in ('pyramid', 'eventlet', 'zope', 'webob', 'no') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "[]\n", done.stderr
