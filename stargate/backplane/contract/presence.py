"""The part of the suite on who is here, in all processes."""

from __future__ import annotations

from functools import partial

from stargate.backplane.contract.making import Making
from stargate.backplane.contract.process import Process, until


class Presence(Making):
    """Who is here."""

    # Who is here.

    def test_nobody_is_here_at_first(self) -> None:
        process = self.process()
        assert process.backplane.presence("/a") == {}
        assert process.backplane.listener_count("/a") == 0

    def test_who_is_here_is_told_with_how_many_sockets(self) -> None:
        first, second = self.sender_and_listener()
        for process, who in ((first, "ann"), (second, "ann"), (second, "bob"), (first, None)):
            process.join("/a", who=who)
        for process in (first, second):
            until(partial(self.here, process, {"ann": 2, "bob": 1}))
            until(partial(self.counted, process, 4))
        assert first.backplane.presence("/b") == {}

    def test_who_leaves_is_here_no_more(self) -> None:
        first, second = self.sender_and_listener()
        mine, yours = first.join("/a", who="ann"), second.join("/a", who="ann")
        until(lambda: first.backplane.presence("/a") == {"ann": 2})
        first.leave(mine)
        until(lambda: first.backplane.presence("/a") == {"ann": 1})
        second.leave(yours)
        until(lambda: first.backplane.presence("/a") == {})
        until(lambda: second.backplane.listener_count("/a") == 0)

    def test_a_number_and_its_digits_are_two_names(self) -> None:
        first, second = self.sender_and_listener()
        for who in (1, "1", "ünï {}:/ 🛰", -5):
            first.join("/a", who=who)
        expected = {1: 1, "1": 1, "ünï {}:/ 🛰": 1, -5: 1}
        until(lambda: second.backplane.presence("/a") == expected)

    def test_the_first_and_the_last_socket_of_somebody_are_told_alone(self) -> None:
        first, second = self.sender_and_listener()
        listeners = [(first, first.join("/a", who="ann"))]
        self.told(first, second, "came", "ann")
        listeners += [(second, second.join("/a", who="ann")), (first, first.join("/a", who="ann"))]
        first.join("/a", who="fence")
        self.told(first, second, "came", "fence")
        for process, listener in listeners:
            assert self.ids(first, second, "went", "ann") == set()
            process.leave(listener)
        self.told(first, second, "went", "ann")
        assert len(self.ids(first, second, "came", "ann")) == 1
        assert len(self.ids(first, second, "went", "ann")) == 1

    def test_somebody_who_comes_again_is_told_anew(self) -> None:
        first, second = self.sender_and_listener()
        for count in (1, 2):
            listener = first.join("/a", who="ann")
            until(partial(self.changes, first, second, "came", count))
            first.leave(listener)
            until(partial(self.changes, first, second, "went", count))

    def here(self, process: Process, expected: dict[str | int, int]) -> bool:
        """Whether ``process`` knows that those are here."""
        return bool(process.backplane.presence("/a") == expected)

    def counted(self, process: Process, expected: int) -> bool:
        """Whether ``process`` counts as many listeners."""
        return bool(process.backplane.listener_count("/a") == expected)

    def changes(self, first: Process, second: Process, what: str, expected: int) -> bool:
        """Whether both have been told of so many comings or goings of Ann's."""
        return len(self.ids(first, second, what, "ann")) == expected

    def told(self, first: Process, second: Process, what: str, who: str) -> None:
        """Wait until one of both has been told of ``who``."""
        until(lambda: self.ids(first, second, what, who))

    def ids(self, first: Process, second: Process, what: str, who: str) -> set[str]:
        """The ids of what both were told of ``who``: a repeat has the same one."""
        lists = [
            each.receiver.arrivals if what == "came" else each.receiver.departures
            for each in (first, second)
        ]
        return {id for told in lists for topic, name, id in list(told) if name == who}
