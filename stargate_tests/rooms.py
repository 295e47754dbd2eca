"""The plan of the house: its rooms, what each may import, and what each does import.

:data:`ROOMS` is the way of a message, from what an application calls down to the socket. A room
imports rooms below it alone, for type checkers and inside functions too: ``test_architecture.py``.
The documentation draws its picture from here.
"""

import ast
from functools import cache
from pathlib import Path

HOUSE = Path(__file__).parents[1] / "stargate"

MODULES = {
    ".".join(("stargate", *path.relative_to(HOUSE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(HOUSE.rglob("*.py"))
}

#: From the top down, floor by floor. What a room is for is the first sentence of its ``__init__``,
#: or of its module.
ROOMS = (
    ("__init__",),  # The front door: each name is imported when it is first used.
    ("scripts", "fixtures", "testing", "gunicorn"),
    ("server", "config"),
    ("publisher", "view", "resource"),
    ("application",),
    ("handshake",),
    ("backplane",),
    ("pubsub",),
    ("websocket",),
    ("engine",),
    ("message",),
    ("settings",),
    ("events", "stats", "history", "exceptions", "interfaces"),
)

#: Arrows that run up all the same, with the reason.
UPWARD = {
    # Fields of an event; who checks the types of a subscriber wants to know what they are.
    ("stargate.events", "stargate.view"),
    ("stargate.events", "stargate.websocket.websocket"),
}


def room(module):
    """The room that ``module`` is in."""
    return [*module.split("."), "__init__"][1]


def floors():
    """The number of each room's floor; within one, a room may import those behind it."""
    return {name: number for number, name in enumerate(sum(ROOMS, ()))}


@cache
def imports(module, anywhere=False, types=False):
    """The modules that ``module`` imports when it is imported; ``anywhere``: or at any time.

    With ``types`` those that a type checker reads as well.
    """
    found = set()
    for node in statements(ast.parse(MODULES[module].read_text()), anywhere, types):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & set(MODULES)
            if not names <= set(MODULES):
                found.add(node.module)
    return frozenset(found)


def statements(tree, anywhere, types):
    """Those that are run when a module is imported, or all of them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not types:
            yield from node.orelse
            continue
        if not anywhere and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        yield node
        yield from statements(node, anywhere, types)


def sentence(name):
    """What the room says of itself, in its first paragraph."""
    folder = HOUSE / name / "__init__.py"
    path = folder if folder.exists() else HOUSE / f"{name}.py"
    first = ast.get_docstring(ast.parse(path.read_text())).partition("\n\n")[0]
    return " ".join(first.split())


def arrows():
    """Pairs of rooms, of which the first imports the second."""
    return sorted(
        {
            (room(module), room(other))
            for module in MODULES
            for other in imports(module, anywhere=True, types=True) & set(MODULES)
            if room(module) != room(other) and (module, other) not in UPWARD
        }
    )
