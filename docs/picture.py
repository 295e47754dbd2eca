"""The picture of the rooms and the table below it, drawn from ``stargate_tests/rooms.py``."""

from html import escape

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from stargate_tests.rooms import ROOMS, arrows, floors, sentence

WIDE, HIGH, GAP, ACROSS = 118, 30, 34, 760


class RoomsPicture(Directive):
    """``.. rooms-picture::``: the rooms, floor by floor, and who imports whom."""

    def run(self):
        return [nodes.raw("", drawn(), format="html")]


class RoomsTable(Directive):
    """``.. rooms-table::``: the rooms from the top down, what each is for, and what it imports."""

    def run(self):
        known = {name: [] for name in sum(ROOMS, ())}
        for above, below in arrows():
            known[above].append(below)
        order = floors()
        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 16 46 38", ""]
        rows = [("Room", "What lives there", "Imports")]
        for name, below in known.items():
            found = ", ".join(f"``{each}``" for each in sorted(below, key=order.get)) or "nothing"
            rows.append(
                (f"``{name}``", sentence(name).replace("``", "`").replace("`", "``"), found)
            )
        for row in rows:
            lines += [f"   {'*' if n == 0 else ' '} - {cell}" for n, cell in enumerate(row)]
        found = nodes.Element()
        self.state.nested_parse(StringList(lines, source="rooms"), self.content_offset, found)
        return found.children


def drawn():
    """The picture, as SVG in the colours of the page."""
    places = {}
    for number, names in enumerate(ROOMS):
        left = (ACROSS - len(names) * (WIDE + 20) + 20) / 2
        for column, name in enumerate(names):
            places[name] = left + column * (WIDE + 20), number * (HIGH + GAP) + 4
    height = len(ROOMS) * (HIGH + GAP)
    parts = [
        f'<svg viewBox="0 0 {ACROSS} {height}" role="img" aria-label="The rooms of stargate and '
        'their arrows" style="max-width:100%;font:13px sans-serif" stroke="currentColor" '
        'fill="none">'
    ]
    for above, below in arrows():
        (x, y), (u, v) = places[above], places[below]
        if v > y:
            middle, end = x + WIDE / 2, u + WIDE / 2
            bend = (v - y) / 3
            parts.append(
                f'<path d="M{middle:.0f} {y + HIGH} C{middle:.0f} {y + HIGH + bend:.0f} '
                f'{end:.0f} {v - bend:.0f} {end:.0f} {v}" opacity="0.25"/>'
            )
    for name, (x, y) in places.items():
        parts.append(
            f'<rect x="{x:.0f}" y="{y}" width="{WIDE}" height="{HIGH}" rx="5" '
            'style="fill:var(--color-background-secondary,#eee)"/>'
            f'<text x="{x + WIDE / 2:.0f}" y="{y + 20}" text-anchor="middle" fill="currentColor" '
            f'stroke="none"><title>{escape(sentence(name))}</title>{escape(name)}</text>'
        )
    return "".join([*parts, "</svg>"])
