import io
import socket

import pytest

from stargate.engine import STOCK_INPUT, TAKE_OVER, has_socket, refuse, take_over
from stargate.engine.stock import _stay, read_ahead
from stargate_tests.waiting import turn, turn_until


class Green:
    """A green socket's time-out."""

    timeout = 60

    def gettimeout(self):
        return self.timeout

    def settimeout(self, timeout):
        self.timeout = timeout


class Silent(io.RawIOBase):
    def __init__(self, error):
        self.error = error

    def readable(self):
        return True

    def readinto(self, _buffer):
        raise self.error


@pytest.mark.parametrize("key", [TAKE_OVER, STOCK_INPUT])
def test_a_server_of_eventlets_has_a_socket_to_give(key):
    assert has_socket({key: object()})


def test_any_other_has_none():
    assert not has_socket({"wsgi.input": io.BytesIO()})


def test_our_own_server_is_asked_to_let_go():
    taken = object()
    assert take_over({TAKE_OVER: lambda: taken, STOCK_INPUT: None}) is taken


def test_what_was_read_ahead_is_taken_and_the_time_out_put_back():
    green = Green()
    assert read_ahead(io.BufferedReader(io.BytesIO(b"frames")), green) == b"frames"
    assert green.timeout == 60


@pytest.mark.parametrize("error", [BlockingIOError(), TimeoutError()])
def test_nothing_read_ahead_is_nothing_and_does_not_wait(error):
    green = Green()
    assert read_ahead(io.BufferedReader(Silent(error)), green) == b""
    assert green.timeout == 60


def test_the_wsgi_call_stays_until_the_end(monkeypatch, engine, wire):
    monkeypatch.setattr("stargate.engine.stock.current_engine", lambda: engine)
    websocket, _peer = wire()
    left = []
    engine.spawn(lambda: left.append(_stay(websocket)))
    turn(engine, 0.01)
    assert left == []
    websocket._lose()
    turn_until(engine, lambda: left == [[]])


def test_the_wsgi_call_does_not_stay_for_what_has_ended(monkeypatch, engine, wire):
    monkeypatch.setattr("stargate.engine.stock.current_engine", lambda: engine)
    websocket, _peer = wire()
    websocket._lose()
    assert _stay(websocket) == []


@pytest.mark.parametrize("environ", [{}, {TAKE_OVER: None, STOCK_INPUT: None}])
def test_our_own_server_and_others_see_to_a_refusal_themselves(environ):
    assert refuse(environ) is False


def test_behind_a_refusal_eventlets_own_server_closes_the_connection():
    hooks, done = [], []

    class Socket(Green):
        def shutdown(self, how):
            done.append(how)

    class Stream:
        rfile = io.BufferedReader(io.BytesIO(b"pipelined"))

        def get_socket(self):
            return green

    green = Socket()
    environ = {STOCK_INPUT: Stream(), "eventlet.posthooks": hooks}
    assert refuse(environ) is True
    assert done == [], "not before the answer"
    ((hook, args, options),) = hooks
    hook(environ, *args, **options)
    assert done == [socket.SHUT_RDWR]
