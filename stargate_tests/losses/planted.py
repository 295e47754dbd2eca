"""Faults to plant into the record of a trial: a checker that overlooks one is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stargate_tests.losses.verdict import Got, Story, Told

#: What one peer has seen; a fault changes it.
Notes = list


def leave_out(notes: Notes) -> None:
    """One message did not come."""
    del notes[_middle(notes)]


def double(notes: Notes) -> None:
    """One message came twice."""
    at = _middle(notes)
    notes.insert(at, notes[at])


def swap(notes: Notes) -> None:
    """Two messages came in the wrong order."""
    at = _middle(notes)
    other = next(place for place in range(at + 1, len(notes)) if isinstance(notes[place], Got))
    notes[at], notes[other] = notes[other], notes[at]


def change(notes: Notes) -> None:
    """A message came that nobody sent so."""
    at = _middle(notes)
    notes[at] = notes[at]._replace(message=notes[at].message + "?")


def leave_out_the_last(notes: Notes) -> None:
    """The newest message never came."""
    while not isinstance(notes.pop(), Got):
        pass


def lie(notes: Notes) -> None:
    """``recovered: true``, and what came before it did not come."""
    at = max(at for at in range(1, len(notes)) if _ends_recovery(notes, at))
    del notes[at - 1]


def swear(notes: Notes) -> None:
    """``recovered: true`` in the place of ``false``."""
    at = next(at for at, note in enumerate(notes) if isinstance(note, Told) and not note.recovered)
    notes[at] = notes[at]._replace(recovered=True)


FAULTS: dict[str, Callable[[Notes], None]] = {
    fault.__name__: fault
    for fault in (leave_out, double, swap, change, leave_out_the_last, lie, swear)
}


def plant(name: str, stories: Sequence[Story]) -> Story | None:
    """A copy of a story with that fault; ``None`` where none of them has a place for it."""
    for story in stories:
        notes = list(story.notes)
        try:
            FAULTS[name](notes)
        except (StopIteration, ValueError, IndexError):
            continue
        return story._replace(notes=notes)
    return None


def _middle(notes: Notes) -> int:
    places = [at for at, note in enumerate(notes) if isinstance(note, Got)]
    return places[len(places) // 2]


def _ends_recovery(notes: Notes, at: int) -> bool:
    note = notes[at]
    return isinstance(note, Told) and note.recovered and isinstance(notes[at - 1], Got)
