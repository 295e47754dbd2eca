"""What each room of the house may know, read from the source itself; the plan is ``rooms.py``."""

import ast
import re
from pathlib import Path

import pytest

from stargate_tests.rooms import HOUSE, MODULES, ROOMS, UPWARD, floors, imports, room

each = pytest.mark.parametrize("module", MODULES)


def roots(names):
    return {name.partition(".")[0] for name in names}


def ours(module):
    return {name for name in imports(module) if name in MODULES and name != module}


def test_the_plan_has_every_room_and_no_other():
    assert sorted(sum(ROOMS, ())) == sorted({room(module) for module in MODULES})
    listed = [path for path in HOUSE.iterdir() if path.name != "__pycache__"]
    assert len(listed) <= 24


@each
def test_arrows_point_down_for_type_checkers_too(module):
    floor = floors()
    upward = {
        (module, other)
        for other in imports(module, anywhere=True, types=True) & set(MODULES)
        if floor[room(other)] < floor[room(module)]
    }
    assert upward == {arrow for arrow in UPWARD if arrow[0] == module}


def test_the_reader_sees_what_is_imported():
    assert "eventlet" in roots(imports("stargate.engine.quiet"))
    assert "stargate.pubsub.topics" in imports("stargate.application.gates")
    assert "stargate.engine.hub" not in imports("stargate.application.gates"), "for types alone"
    assert "stargate.engine.hub" in imports("stargate.application.gates", types=True)
    assert "stargate.engine.hub" not in imports("stargate.engine")
    assert "stargate.engine.hub" in imports("stargate.engine", anywhere=True)


@pytest.mark.parametrize("module", ["stargate.interfaces", "stargate.exceptions"])
def test_contracts_and_errors_import_nothing_of_ours(module):
    assert "stargate" not in roots(imports(module, anywhere=True))


@pytest.mark.parametrize(
    "module",
    [
        "stargate.message.envelope",
        "stargate.handshake.upgrade",
        "stargate.message.message",
        "stargate.websocket.outbox",
        "stargate.message.address",
        "stargate.backplane.packet",
    ],
)
def test_what_does_no_io_imports_nothing_that_does(module):
    does_io = {"socket", "select", "selectors", "os", "eventlet", "ssl", "subprocess", "threading"}
    assert not roots(imports(module, anywhere=True)) & does_io


@each
def test_eventlet_is_imported_in_the_engine_alone(module):
    if not module.startswith("stargate.engine."):
        assert "eventlet" not in roots(imports(module, anywhere=True))


@each
def test_redis_and_gunicorn_are_imported_in_their_own_modules_alone(module):
    found = roots(imports(module, anywhere=True))
    assert not found & {"redis", "hiredis"} or module.startswith("stargate.backplane.redis.")
    assert "gunicorn" not in found or module == "stargate.gunicorn"


def test_a_resource_knows_the_application_and_no_room_below_it():
    """What it says of its neighbours' types comes from there as well."""
    found = {room(other) for other in imports("stargate.resource", anywhere=True) & set(MODULES)}
    assert found <= {"application", "pubsub", "websocket", "history", "interfaces"}


@each
def test_the_library_imports_no_tests_and_no_pytest(module):
    found = roots(imports(module, anywhere=True))
    assert "stargate_tests" not in found
    assert "pytest" not in found or module == "stargate.fixtures"


def test_there_are_no_import_cycles():
    seen, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in seen:
            return
        path.append(module)
        for other in sorted(ours(module)):
            visit(other)
        path.pop()
        seen.add(module)

    for module in MODULES:
        visit(module)


@each
def test_a_module_has_up_to_about_400_lines(module):
    assert len(MODULES[module].read_text().splitlines()) <= 420


@each
def test_a_module_begins_with_a_sentence(module):
    first = ast.get_docstring(ast.parse(MODULES[module].read_text())).splitlines()[0]
    assert first.endswith((".", ":", ";")) or "." in first


@each
def test_every_module_has_tests_of_its_own(module):
    """The tests mirror the package, file by file."""
    if module in NOT_MIRRORED:
        return
    path = MODULES[module].relative_to(HOUSE)
    name = path.parent.name if path.stem == "__init__" and path.parent != Path() else path.stem
    parent = path.parent.parent if name != path.stem else path.parent
    assert (Path(__file__).parent / parent / f"test_{name.strip('_')}.py").exists()


#: What holds no behaviour of its own, or is shown under another's name.
NOT_MIRRORED = {
    # The faces of rooms, in test_init.py.
    *("stargate.application", "stargate.handshake", "stargate.message", "stargate.pubsub"),
    *("stargate.server", "stargate.settings", "stargate.websocket"),
    "stargate.backplane",  # In backplane/test_installed.py, as is
    "stargate.settings.backplanes",
    "stargate.backplane.redis",
    "stargate.backplane.redis.outside",  # In test_publisher.py.
    # The suite: backplane/test_contract.py has it go red, as do those that inherit from it.
    "stargate.backplane.contract.delivering",
    "stargate.backplane.contract.keeping",
    "stargate.backplane.contract.making",
    "stargate.backplane.contract.presence",
    "stargate.backplane.contract.process",
    "stargate.engine",  # In engine/test_stock.py.
    "stargate.settings.server",  # In server/test_process.py.
    "stargate.scripts",
    "stargate.engine.threads",  # In engine/test_in_thread.py, through what is public.
    "stargate.engine.quiet",  # In engine/test_patching.py.
    "stargate.engine.accept",  # In functional/, on real sockets, as is
    "stargate.engine.wsgi",
    "stargate.engine.answer",  # In functional/test_pages.py, beside other servers, as is
    "stargate.engine.body",
    "stargate.fixtures",  # In test_testing.py.
    "stargate.websocket.state",
}


GUIDE = (HOUSE.parent / "docs" / "contributing.rst").read_text()
HOPS = re.findall(r"``([\w/]+\.py)``,\s+``([\w.]+)``", GUIDE)


@pytest.mark.parametrize(("path", "name"), HOPS)
def test_what_the_guide_to_the_code_names_is_there(path, name):
    tree = ast.parse((HOUSE / path).read_text())
    for part in name.split("."):
        (tree,) = [
            node
            for node in tree.body
            if getattr(node, "name", None) == part
            or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == part)
        ]


def test_the_guide_has_ten_hops_down_and_ten_up():
    for title in ("message-down", "frame-up"):
        section = GUIDE.partition(f".. _{title}:")[2].partition("\n\n\n")[0]
        assert section.count("#. ``") == 10
