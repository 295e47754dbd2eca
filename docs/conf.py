"""How Sphinx builds these pages. It needs no network: references outside stargate stay plain."""

import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from stargate.settings import application, server

# The picture of the rooms is drawn from the tests' table.
sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from picture import RoomsPicture, RoomsTable  # noqa: E402

project = "stargate"
author = "The stargate authors"
copyright = "2011-2026, The stargate authors"
release = version_of("stargate")
version = ".".join(release.split(".")[:2])

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
# What is documented here imports them, and they are no part of what builds the documentation.
autodoc_mock_imports = ["gunicorn", "pytest"]

# The dotted names of other packages: without intersphinx there is nothing to link them to. Names
# with no dots are in annotations, imported for the type checker alone.
nitpick_ignore_regex = [
    ("py:.*", r"(?!stargate\.)[a-z_]\w*(\.\w+)+"),
    ("py:class", r"Connection|Registry|Request|Response|Sent|stargate\.engine\.in_thread\.R"),
]

html_theme = "furo"
html_title = f"stargate {release}"


class SettingsTable(Directive):
    """``.. settings-table:: application`` or ``server``: the table as the code has it."""

    required_arguments = 1

    def run(self):
        tables = {
            "application": (application.APPLICATION, application.PREFIX),
            "server": (server.table(), ""),
        }
        table, prefix = tables[self.arguments[0]]
        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 26 14 12 48", ""]
        for row in (("Setting", "Default", "Unit", "What it is for"), *rows(table, prefix)):
            lines += [f"   {'*' if n == 0 else ' '} - {cell}" for n, cell in enumerate(row)]
        found = nodes.Element()
        self.state.nested_parse(StringList(lines, source="settings"), self.content_offset, found)
        return found.children


def rows(table, prefix):
    """The cells of each setting of ``table``, as reStructuredText."""
    for setting in table:
        reason = re.sub("`([^`]+)`", r"``\1``", setting.reason)
        yield f"``{prefix}{setting.name}``", shown(setting), setting.unit, reason


def shown(setting):
    """The default as it would be written in an ini file; nothing for "not set"."""
    default = setting.default
    if default in ((), ""):
        return ""
    if isinstance(default, bool):
        return f"``{str(default).lower()}``"
    if setting.unit == "octal":
        return f"``{default:o}``"
    return f"``{default:g}``" if isinstance(default, float) else f"``{default}``"


def shown_by_its_room(app, env, node, content):
    """Where ``stargate.ROOM.MODULE.NAME`` is documented: as the room shows it."""
    package, _, rest = node["reftarget"].partition(".")
    parts = rest.split(".")
    if package != "stargate" or len(parts) < 3:
        return None
    target = ".".join((package, parts[0], *parts[2:]))
    domain = env.get_domain("py")
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], target, node, content
    )


def setup(app):
    app.add_directive("settings-table", SettingsTable)
    app.add_directive("rooms-picture", RoomsPicture)
    app.add_directive("rooms-table", RoomsTable)
    app.connect("missing-reference", shown_by_its_room)
