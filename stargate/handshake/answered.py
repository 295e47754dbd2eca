"""What a view's request is told when its answer has gone: no other will carry it, and that is said.

Pyramid takes callbacks, cookies and changes of a session at any time. Here each line of the
application that does so too late is named in the log, once. Nothing is done for each message.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from typing import Any

from pyramid.request import Request
from pyramid.response import Response
from pyramid.threadlocal import manager

log = logging.getLogger("stargate.handshake")

SESSION, RESPONSE = "the session is changed", "request.response is used"
FINISHED = "a finished callback is added"

#: What comes of it, and what would be right.
NOT_CARRIED = "no answer will carry it. Do it in the __init__ of the view, or in a page"
NOT_CALLED = "nothing will call it. Do that in on_close, or where the handler ends"

_told: set[tuple[str, int]] = set()


def answered(request: Request) -> None:
    """From here on say what is done to ``request``, or to its response or session, in vain."""
    known = request.__dict__
    said = known.get("response")
    if type(said) is Response:
        said.__class__ = _Response  # Whoever has kept it is told as well.
    known["response"] = _RESPONSE
    known["response_callbacks"], known["finished_callbacks"] = _RESPONSE_CALLBACKS, _FINISHED
    session = known.get("session")
    if getattr(session, "_dirty", False):  # Pyramid's own, which asks for its cookie once.
        session._dirty, session.request = False, _REQUEST


class _Callbacks(deque[Any]):
    """Stands in for those of all requests, and stays empty."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what

    def append(self, _callback: Any) -> None:
        _tell(self._what)


class _Request:
    """What a session of Pyramid's knows of its request; the request itself would be a cycle."""

    def add_response_callback(self, callback: Any) -> None:
        _RESPONSE_CALLBACKS.append(callback)


class _Response(Response):
    """Stands in for that of all requests: the current one's own is made when it is used."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return super().__getattribute__(name)
        _tell(RESPONSE)
        return getattr(_real(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        _tell(RESPONSE)
        setattr(_real(), name, value)


def _real() -> Response:
    """It goes nowhere, but a view that is rendered for a message may use it."""
    request = manager.get()["request"]
    known = {} if request is None else request.__dict__
    if "_stargate_response" not in known:
        known["_stargate_response"] = Response()
    return known["_stargate_response"]


_RESPONSE = _Response.__new__(_Response)
_RESPONSE_CALLBACKS = _Callbacks("a response callback is added")
_FINISHED = _Callbacks(FINISHED)
_REQUEST = _Request()


def _tell(what: str) -> None:
    """Name the line of the application that is behind the call, unless it has been named."""
    frame = sys._getframe(1)
    while (name := frame.f_globals.get("__name__", "")).startswith(
        ("stargate.", "pyramid.", "webob.")
    ):
        if name == "pyramid.session":
            what = SESSION
            if frame.f_code.co_name == "changed" and "self" in frame.f_locals:
                frame.f_locals["self"]._dirty = False  # Have it ask again at the next change.
                if frame.f_back is not None and frame.f_back.f_code.co_name == "accessed":
                    return  # It is read: its cookie would have lived longer.
        if name == "pyramid.authentication":
            return  # So would that of a ticket.
        if what == RESPONSE and name.startswith("pyramid."):
            return  # It renders a view.
        assert frame.f_back is not None
        frame = frame.f_back
    place = frame.f_code.co_filename, frame.f_lineno
    if place not in _told:
        _told.add(place)
        log.warning(
            "%s:%d: %s when the handshake has been answered, and %s",
            *place,
            what,
            NOT_CALLED if what == FINISHED else NOT_CARRIED,
        )
