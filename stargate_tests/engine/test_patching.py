import os
import subprocess
import sys

import pytest


def run(program, **environ):
    """What a fresh interpreter says to ``program``: its output and its log."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        env={
            **{k: v for k, v in os.environ.items() if k != "PSYCOPG_WAIT_FUNC"},
            # Pyramid's own, about pkg_resources, from Python 3.12 on.
            "PYTHONWARNINGS": "ignore::UserWarning,ignore::DeprecationWarning:pkg_resources",
            **environ,
        },
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_patching_first_warns_of_nothing():
    out, err = run(
        "import stargate; stargate.patch()\n"
        "import eventlet.patcher; print(eventlet.patcher.is_monkey_patched('thread'))"
    )
    assert (out, err) == ("True\n", "")


@pytest.mark.parametrize(
    ("imported", "named"),
    [
        ("pyramid.threadlocal", "pyramid.threadlocal was imported before"),
        ("transaction", "transaction was imported before"),
        ("sqlalchemy", "sqlalchemy was imported before"),
        ("transaction, sqlalchemy", "transaction, sqlalchemy were imported before"),
    ],
)
def test_what_was_imported_too_early_is_named(imported, named):
    _out, err = run(f"import {imported}, stargate; stargate.patch()")
    assert named in err
    assert "call stargate.patch() first" in err


def test_patching_twice_warns_once():
    _out, err = run("import transaction, stargate; stargate.patch(); stargate.patch()")
    assert err.count("was imported before") == 1


def test_patching_again_after_the_application_was_imported_warns_of_nothing():
    _out, err = run(
        "import stargate; stargate.patch(); import pyramid.threadlocal; stargate.patch()"
    )
    assert err == ""


def test_psycopg_is_told_to_wait_where_it_can_be_seen():
    out, _err = run("import os, stargate; stargate.patch(); print(os.environ['PSYCOPG_WAIT_FUNC'])")
    assert out == "wait_selector\n"


def test_what_somebody_told_psycopg_already_stays():
    out, _err = run(
        "import os, stargate; stargate.patch(); print(os.environ['PSYCOPG_WAIT_FUNC'])",
        PSYCOPG_WAIT_FUNC="wait",
    )
    assert out == "wait\n"


LOCALS = """
import pyramid.threadlocal
from pyramid.threadlocal import manager
manager.push({"request": "before", "registry": None})
import stargate
import logging; logging.disable()
stargate.patch()
import eventlet
seen = []
def view(name):
    manager.push({"request": name, "registry": None})
    eventlet.sleep(0)
    seen.append((name, manager.get()["request"], len(manager.stack)))
    manager.pop()
for name in "abc":
    eventlet.spawn(view, name)
for _ in range(4):
    eventlet.sleep(0)
print(seen)
print(manager.get()["request"])
"""


def test_each_greenlet_has_thread_locals_of_its_own_however_early_pyramid_was():
    out, _err = run(LOCALS)
    assert out.splitlines() == ["[('a', 'a', 1), ('b', 'b', 1), ('c', 'c', 1)]", "before"]


def test_the_repair_is_made_once():
    out, _err = run(
        "from stargate.engine.patching import repair_threadlocals\n"
        "repair_threadlocals()\n"
        "from pyramid.threadlocal import ThreadLocalManager, manager\n"
        "first = ThreadLocalManager.stack\n"
        "manager.push({'request': 1, 'registry': None})\n"
        "repair_threadlocals()\n"
        "print(ThreadLocalManager.stack is first, manager.get()['request'])"
    )
    assert out == "True 1\n"


def test_two_managers_have_stacks_of_their_own():
    out, _err = run(
        "from stargate.engine.patching import repair_threadlocals\n"
        "repair_threadlocals()\n"
        "from pyramid.threadlocal import ThreadLocalManager, manager\n"
        "other = ThreadLocalManager()\n"
        "other.push(1)\n"
        "print(manager.stack, other.stack)\n"
        "other.stack = [2]\n"
        "print(manager.stack, other.stack)"
    )
    assert out == "[] [1]\n[] [2]\n"


def test_importing_the_patching_imports_no_pyramid():
    out, _err = run(
        "import sys, stargate.engine.patching\n"
        "print([name for name in sys.modules if name.startswith('pyramid')])"
    )
    assert out == "[]\n"


def test_eventlets_deprecation_warning_is_not_shown():
    _out, err = run(
        "import warnings; warnings.simplefilter('always'); import stargate.engine.quiet"
    )
    assert "Eventlet is deprecated" not in err
