import pytest

from stargate import exceptions
from stargate.exceptions import (
    AmbiguousApplication,
    BackplaneError,
    BadAddress,
    ConnectionClosed,
    MessageTooBig,
    NoAddress,
    StargateError,
)


class DummyWebSocket:
    id = "0a1b"


@pytest.mark.parametrize(
    "error",
    [
        AmbiguousApplication,
        BackplaneError,
        BadAddress,
        ConnectionClosed,
        MessageTooBig,
        NoAddress,
    ],
    ids=lambda kind: kind.__name__,
)
def test_every_error_has_the_one_root(error):
    assert issubclass(error, StargateError)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (ConnectionClosed, ConnectionError),
        (AmbiguousApplication, LookupError),
        (NoAddress, LookupError),
        (BadAddress, ValueError),
        (BackplaneError, OSError),
        (MessageTooBig, ValueError),
    ],
)
def test_every_error_is_the_builtin_a_caller_expects(error, builtin):
    assert issubclass(error, builtin)


def test_every_docstring_says_what_to_do():
    kinds = [
        kind
        for kind in vars(exceptions).values()
        if isinstance(kind, type) and issubclass(kind, StargateError) and kind is not StargateError
    ]
    assert kinds and all("If you see this" in kind.__doc__ for kind in kinds)


def test_connection_closed_says_which_and_how():
    websocket = DummyWebSocket()
    error = ConnectionClosed(websocket, 1001, "bye")
    assert (error.websocket, error.code, error.reason) == (websocket, 1001, "bye")
    assert str(error) == "the WebSocket 0a1b has ended: 1001 (bye)"


def test_connection_closed_leaves_out_a_reason_that_is_not_there():
    assert str(ConnectionClosed(DummyWebSocket(), 1006)) == "the WebSocket 0a1b has ended: 1006"


def test_ambiguous_application_without_a_request_counts_and_names_the_way_out():
    assert str(AmbiguousApplication(2, False)) == (
        "there is no current request, and 2 application(s) of this process did: say which one is "
        "meant with stargate.gate(registry).send(resource, message)"
    )


def test_ambiguous_application_in_a_request_blames_the_request():
    assert str(AmbiguousApplication(1, True)).startswith(
        "the application of the current request did not include stargate, and 1 application(s)"
    )


def test_no_address_names_the_class_the_lack_and_the_hook():
    resource = DummyWebSocket()
    error = NoAddress(resource, "it has no __name__")
    assert error.resource is resource
    assert str(error).startswith(
        "stargate_tests.test_exceptions.DummyWebSocket has no address: it has no __name__. "
    )
    assert "stargate_address()" in str(error)


def test_bad_address_shows_what_was_given_and_what_would_be_right():
    error = BadAddress("/a b", "it must be '/a%20b'")
    assert error.address == "/a b"
    assert str(error) == "'/a b' is the address of no resource: it must be '/a%20b'"


def test_a_backplane_error_says_the_outcome_first_and_has_the_key_for_a_repeat():
    error = BackplaneError("unknown", "redis://here: no answer within 2 s", "k")
    assert (error.outcome, error.key) == ("unknown", "k")
    assert str(error) == "unknown: redis://here: no answer within 2 s"


def test_a_backplane_error_has_no_key_where_nothing_was_sent():
    assert BackplaneError("not sent", "refused").key is None
