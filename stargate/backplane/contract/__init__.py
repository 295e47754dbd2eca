"""The tests that every backplane passes, for those who write one: a class to inherit from.

    from stargate.backplane.contract import BackplaneContract

    class TestMyBackplane(BackplaneContract):
        def make_backplane(self, receiver):
            return MyBackplane(self.url, receiver)

Plain asserts and no test runner's imports: pytest collects the subclass as it stands.
"""

from __future__ import annotations

import threading

from zope.interface.verify import verifyObject

from stargate.backplane.contract.delivering import Delivering
from stargate.backplane.contract.keeping import Keeping
from stargate.backplane.contract.presence import Presence
from stargate.backplane.contract.process import Process, Receiver, texts, until
from stargate.history import Keep
from stargate.interfaces import IBackplane, IReceiver

__all__ = ["BackplaneContract", "Process", "Receiver"]


class BackplaneContract(Delivering, Keeping, Presence):
    """What stargate relies on in a backplane; a subclass says how one is made.

    A test asks for one or two *processes*: backplanes that are to hear each other, each with a
    receiver of its own. Where there can be but one, ``processes = 1`` skips the tests for two.
    """

    # The shape.

    def test_it_provides_its_interface(self) -> None:
        process = self.process()
        assert verifyObject(IBackplane, process.backplane)
        assert verifyObject(IReceiver, process.receiver)

    # Others on the same server, and the end.

    def test_two_namespaces_do_not_hear_each_other(self) -> None:
        stranger = self.process(self.make_stranger)
        process = self.process()
        theirs, ours = stranger.join("/a", Keep(5), who="eve"), process.join("/a", Keep(5))
        process.send("/a", "ours", keep=Keep(5), key="k")
        stranger.send("/a", "theirs", keep=Keep(5), key="k")
        until(lambda: ours.heard and theirs.heard)
        assert (ours.messages, theirs.messages) == (["ours"], ["theirs"])
        assert texts(process.backplane.history("/a")) == ["ours"]
        until(lambda: stranger.backplane.presence("/a") == {"eve": 1})
        assert process.backplane.presence("/a") == {}
        assert process.backplane.listener_count("/a") == 1

    def test_who_listened_in_a_process_that_ends_is_gone(self) -> None:
        process, ending = self.two()
        ending.join("/a", who="ann")
        until(lambda: process.backplane.presence("/a") == {"ann": 1})
        ending.backplane.close()
        until(lambda: process.backplane.presence("/a") == {})
        until(lambda: process.backplane.listener_count("/a") == 0)

    def test_a_process_that_ends_takes_nothing_from_the_others(self) -> None:
        process, ending = self.two()
        listener, gone = process.join("/a"), ending.join("/a")
        ending.backplane.close()
        process.send("/a", "hello")
        until(lambda: listener.messages == ["hello"])
        assert gone.messages == []

    def test_closing_lets_go_of_every_thread_and_twice_is_once(self) -> None:
        process = self.process()
        before = set(threading.enumerate())
        closing = self.process()
        closing.join("/a", Keep(5), who="ann")
        closing.send("/a", "x", keep=Keep(5))
        closing.backplane.close()
        closing.backplane.close()
        closing.receiver.stop()
        until(lambda: not set(threading.enumerate()) - before)
        assert process.backplane.history("/b") == []
