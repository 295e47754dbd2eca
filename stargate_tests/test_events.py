import dataclasses

import pytest

from stargate.events import ViewFailed


def test_a_failure_says_which_view_which_websocket_and_what():
    view, websocket, error = object(), object(), ValueError()
    event = ViewFailed(view, websocket, error)
    assert (event.view, event.websocket, event.error) == (view, websocket, error)


def test_an_event_is_frozen():
    event = ViewFailed(None, None, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.error = ValueError()
