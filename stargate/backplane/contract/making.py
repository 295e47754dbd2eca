"""How a test of the suite gets its processes, and how they are ended behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import SkipTest

from stargate.backplane.contract.process import Process, Receiver


class Making:
    """What all parts of the suite have in common; a subclass says how a backplane is made."""

    #: How many processes of one namespace there can be: 1, or any number.
    processes = 2

    def make_backplane(self, receiver: Receiver) -> Any:
        """A new ``IBackplane`` that delivers to ``receiver``: one process of the namespace.

        Called once or twice a test. What it keeps must not be that of the test before.
        """
        raise NotImplementedError

    def make_stranger(self, receiver: Receiver) -> Any:
        """As :meth:`make_backplane`, of another namespace on the same server; it need not be."""
        raise SkipTest("this backplane has no namespaces: make_stranger() is not there")

    # The making.

    def setup_method(self) -> None:
        """Called by pytest before each test."""
        self._made: list[Process] = []

    def teardown_method(self) -> None:
        """Called by pytest after each test: closes what it has made."""
        for process in reversed(self._made):
            process.end()
        errors = [error for each in self._made for error in each.receiver.errors]
        assert not errors, errors

    def process(self, make: Callable[[Receiver], Any] | None = None) -> Process:
        """A process, which is ended behind the test."""
        receiver = Receiver()
        try:
            backplane = (make or self.make_backplane)(receiver)
        except BaseException:
            receiver.stop()
            raise
        self._made.append(Process(receiver, backplane))
        return self._made[-1]

    def two(self) -> tuple[Process, Process]:
        """Two processes that hear each other."""
        if self.processes < 2:
            raise SkipTest("this backplane is of one process")
        return self.process(), self.process()

    def sender_and_listener(self) -> tuple[Process, Process]:
        """Two processes, or the same one twice."""
        return self.two() if self.processes > 1 else (self.process(),) * 2
