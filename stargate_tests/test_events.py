import dataclasses

import pytest

from stargate.events import ListenerJoined, ListenerLeft, MessagesMissed, ViewFailed


def test_a_failure_says_which_view_which_websocket_and_what():
    view, websocket, error = object(), object(), ValueError()
    event = ViewFailed(view, websocket, error)
    assert (event.view, event.websocket, event.error) == (view, websocket, error)


def test_an_event_is_frozen():
    event = ViewFailed(None, None, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.error = ValueError()


@pytest.mark.parametrize("kind", [ListenerJoined, ListenerLeft])
def test_a_coming_and_a_going_say_where_and_who_and_are_equal_to_their_repeat(kind):
    event = kind("/a", "ann", "1")
    assert (event.address, event.who, event.id) == ("/a", "ann", "1")
    assert event == kind("/a", "ann", "1") != kind("/a", "ann", "2")


def test_missed_messages_say_where():
    assert MessagesMissed("/a").address == "/a"
