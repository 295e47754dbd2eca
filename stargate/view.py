"""WebSocketView, the response that hands the connection over, and the life of a view after it.

The view's life begins when the request is over: tweens left, transaction ended, callbacks run.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from greenlet import GreenletExit
from pyramid.httpexceptions import HTTPClientError, HTTPException, status_map
from pyramid.request import Request
from pyramid.response import Response
from pyramid.threadlocal import manager
from zope.interface import implementer

from stargate.application.gates import gate
from stargate.application.tree import CAPTURED, address_of
from stargate.engine import current_engine, refuse, stopping, take_over
from stargate.engine.peerlog import peerlog
from stargate.events import ViewFailed
from stargate.exceptions import BackplaneError, ConnectionClosed, shortened
from stargate.handshake.answered import answered
from stargate.handshake.upgrade import OWN_HEADERS, Accepted, Refused
from stargate.interfaces import IWebSocketView
from stargate.message.envelope import SUBPROTOCOL
from stargate.websocket.connection import NORMAL
from stargate.websocket.sending import TRY_LATER
from stargate.websocket.websocket import MESSAGES_A_TURN, WebSocket

if TYPE_CHECKING:
    from stargate.application.gates import Gate
    from stargate.engine.hub import Engine

log = logging.getLogger(__name__)

#: A path that is the same quoted.
PLAIN_PATH = re.compile(r"[/A-Za-z0-9_.~-]*").fullmatch

#: What servers and stargate keep in an environ for as long as HTTP is spoken.
SERVERS_OWN = (
    "headers_raw",
    "eventlet.input",
    "eventlet.posthooks",
    "eventlet.set_idle",
    "stargate.handshake",
    "stargate.stopping",
    "stargate.take_over",
    "wsgi.file_wrapper",
)

INTERNAL_ERROR, GOING_AWAY = 1011, 1001

#: The close reason where the backplane is out of reach; the code is 1013.
TRY_LATER_REASON = "try again later"

#: Where the judged handshake waits, in the environ, for the view's response.
HANDSHAKE = "stargate.handshake"


@implementer(IWebSocketView)
class WebSocketView:
    """A view that talks to one WebSocket. As it stands it listens to its context.

    Override :meth:`handler`, which has a greenlet of its own and may wait, **or** any of
    :meth:`on_open`, :meth:`on_message` and :meth:`on_close`, between which nothing is held but the
    view itself: never two of them at a time for one WebSocket. They run when the request is over,
    with ``self.request`` as the current request; its transaction and database session are gone.
    """

    def __init__(self, request: Request) -> None:
        #: The request of the handshake. It is over when the methods below run.
        self.request = request
        #: The resource that the URL was traversed to.
        self.context: Any = request.context

    def handler(self, websocket: WebSocket) -> None:
        """Talk to ``websocket`` for as long as you like.

        Returning closes with 1000; an exception is logged and closes with 1011, or with 1013 where
        it is a :class:`~stargate.exceptions.BackplaneError`; a
        :class:`~stargate.exceptions.ConnectionClosed` of this WebSocket ends it quietly.
        """
        self.on_open(websocket)
        for message in websocket:
            self.on_message(websocket, message)

    def on_open(self, websocket: WebSocket) -> None:
        """The connection is open: by default it becomes a listener of the context."""
        self.context.add_listener(websocket)

    def on_message(self, websocket: WebSocket, message: str | bytes) -> None:
        """A message has come: by default it is dropped, and counted in ``discarded``."""

    def on_close(self, websocket: WebSocket) -> None:
        """The connection has ended, once for each :meth:`on_open`, even where that raised."""

    def __call__(self) -> Response:
        """The answer to the handshake; called by Pyramid."""
        accepted: Accepted | None = self.request.environ.get(HANDSHAKE)
        if accepted is None:
            raise RuntimeError(
                f"{type(self).__qualname__} was called without a handshake: register it with "
                "config.add_websocket_view() or @view_config(websocket=True)"
            )
        return WebSocketResponse(self, accepted)


def overrides(view: type, *names: str) -> list[str]:
    """Which of its methods ``view`` has of its own."""
    return [name for name in names if getattr(view, name) is not getattr(WebSocketView, name)]


class WebSocketResponse(Response):
    """A 101 that takes the connection out of WSGI when the server calls it."""

    def __init__(self, view: WebSocketView, accepted: Accepted) -> None:
        request = view.request
        said = request.__dict__.get("response")  # By the view's __init__, or before it.
        headers = said.headerlist if said is not None else ()
        own = [(name, value) for name, value in headers if not name.lower().startswith("content-")]
        super().__init__(status="101 Switching Protocols", headerlist=own)
        self._stargate = (view, accepted)
        with suppress(Exception):  # Whoever needs it will hear of it then.
            setattr(request, CAPTURED, (view.context, address_of(view.context)))
        self._stargate_facts = {
            "path": path_of(request.environ),
            "origin": accepted.origin,
            "subprotocol": accepted.subprotocol,
            "remote_addr": request.remote_addr,
            # Now, while the transaction lasts: asking later would ask the database again.
            "userid": request.authenticated_userid,
        }
        if accepted.subprotocol == SUBPROTOCOL:
            self._stargate_facts |= _resumed(request)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        view, accepted = self._stargate
        request = view.request
        head = self._head(accepted)
        application, engine = gate(request.registry), current_engine()
        # Since the handshake was judged: the view may have waited.
        refused = application.admission.judge(engine, self._stargate_facts["remote_addr"])
        if refused or stopping(environ):
            return _refuse(refused or SERVER_STOPS, application, environ, start_response)
        walks = application.bind(engine)
        try:
            taken = take_over(environ)
        except OSError as error:
            self._log_no_room(error)
            return _refuse(NO_ROOM, application, environ, start_response)
        # From here on there is no way back to an HTTP answer.
        request.__dict__["environ"] = _detached(environ)
        request.__dict__.pop("__view__", None)  # A cycle: the request would wait for the collector.
        request.context = view.context  # The router has dropped it.
        answered(request)
        websocket: WebSocket | None = None
        try:
            websocket = WebSocket(
                taken.socket,
                application,
                self._stargate_facts,
                engine=engine,
                walks=walks,
                limits=application.limits,
                extensions=accepted.extensions,
            )
            websocket._open(head, taken.early)
            application.admission.enter(websocket)
            _Life(view, websocket).begin(engine)
        except (OSError, MemoryError) as error:
            (websocket._lose if websocket is not None else taken.socket.close)()
            self._log_no_room(error)
            application.counters.refuse(NO_ROOM.cause)
            start_response("503 Service Unavailable", [])  # For the log: nobody can be told.
        else:
            start_response("101 Switching Protocols", [])
        return taken.leave(websocket)

    def _log_no_room(self, error: Exception) -> None:
        path = self._stargate_facts["path"]
        peerlog.error(log, "no room for a WebSocket at %.200s: %r", path, error)

    def _head(self, accepted: Accepted) -> bytes:
        lines = ["HTTP/1.1 101 Switching Protocols"]
        lines += [f"{name}: {value}" for name, value in accepted.headers]
        for name, value in self.headerlist:
            if name.lower() in OWN_HEADERS:
                continue
            if "\r" in value or "\n" in value:
                raise ValueError(f"the header {name} has a line break: {value!r}")
            lines.append(f"{name}: {value}")
        return "\r\n".join((*lines, "", "")).encode("latin-1")


def _resumed(request: Request) -> dict[str, Any]:
    """What a WebSocket that speaks ``stargate.v1`` knows of the one that it takes the place of."""
    _context, address = getattr(request, CAPTURED, (None, None))
    try:
        since = request.GET.get("since")
    except UnicodeDecodeError:
        since = "?"  # No id: whoever sends it is told that it can't be gone on from.
    return {"ids": True, "since": (address, since) if address and since else None}


#: The answer to a handshake while the server ends; another one may have taken its place.
SERVER_STOPS = Refused(503, "The server is stopping.", (("Retry-After", "1"),), "stopping")

#: The answer where the machine has no descriptor or no memory for one more.
NO_ROOM = Refused(503, "There is no room for it.", (("Retry-After", "10"),), "memory")


def path_of(environ: dict[str, Any]) -> str:
    """What ``request.path`` is; most paths need no quoting, and are not copied for it."""
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return path if PLAIN_PATH(path) else str(Request(environ).path)


class HTTPUpgradeRequired(HTTPClientError):
    """426 (RFC 9110, section 15.5.22), which Pyramid has no class for."""

    code = 426
    title = "Upgrade Required"
    explanation = "This address is a WebSocket: open it with a WebSocket client."


def refusal(refused: Refused) -> HTTPException:
    """The HTTP answer that says why a handshake was refused."""
    kind = status_map.get(refused.status, HTTPUpgradeRequired)
    answer: HTTPException = kind(refused.reason)
    for name, value in refused.headers:
        answer.headers[name] = value
    return answer


def _refuse(
    refused: Refused, application: Gate, environ: dict[str, Any], start_response: Any
) -> list[bytes]:
    """Refuse a handshake that had been found good."""
    application.counters.refuse(refused.cause)
    answer = refusal(refused)
    if refuse(environ):
        answer.headers["Connection"] = "close"
    body: list[bytes] = answer(environ, start_response)
    return body


def _detached(environ: dict[str, Any]) -> dict[str, Any]:
    """``environ`` without what would keep the server's buffers and greenlet alive."""
    kept = environ.copy()
    for name in SERVERS_OWN:
        kept.pop(name, None)
    kept["wsgi.input"] = io.BytesIO()
    return kept


class _Life:
    """Runs one view for one WebSocket, never two of its methods at a time."""

    __slots__ = ("_begun", "_reads", "_running", "_stays", "_view", "_websocket")

    def __init__(self, view: WebSocketView, websocket: WebSocket) -> None:
        self._view, self._websocket = view, websocket
        self._begun = self._running = False
        kind = type(view)
        self._reads = kind.on_message is not WebSocketView.on_message
        #: Whether there is anything to do for the view once it is open.
        self._stays = self._reads or kind.on_close is not WebSocketView.on_close

    def begin(self, engine: Engine) -> None:
        """Begin when the server's greenlet has let go of the request."""
        if type(self._view).handler is not WebSocketView.handler:
            engine.spawn(self._run, self._handle)
        else:
            self._running = True
            self._websocket._attend = self._attend
            engine.call_soon(engine.lend, self._run, self._take_turn)

    def _run(self, part: Callable[[], None]) -> None:
        """Run a part of the view's life, its request being the current one."""
        websocket, request = self._websocket, self._view.request
        engine = websocket._engine
        websocket._runner = engine.greenlet
        engine.running += 1
        # What RequestContext does, with one look at the stack in the place of two.
        stack = manager.stack
        stack.append({"request": request, "registry": request.registry})
        try:
            part()
        finally:
            stack.pop()
            websocket._runner = None
            engine.running -= 1

    def _handle(self) -> None:
        self._call(self._view.handler)
        self._websocket.close(NORMAL)

    def _attend(self) -> None:
        """There is something to do: lend a greenlet to it, unless one is at it. On the hub."""
        if not self._running:
            self._running = True
            self._websocket._engine.lend(self._run, self._take_turn)

    def _take_turn(self) -> None:
        """Do what there is to do, and end: nothing yields between the last look and the end."""
        view, websocket = self._view, self._websocket
        if not self._begun:
            self._begun = True
            self._call(view.on_open)
            if not self._reads:
                websocket._discard_input()
        for _ in range(MESSAGES_A_TURN):
            inbox = websocket._inbox
            if not inbox:
                break
            if not self._call(view.on_message, websocket._take(inbox)):
                websocket._discard_input()
        if websocket.pending:
            websocket._engine.call_soon(self._attend)  # Everybody else first.
        elif websocket.closed:
            websocket._attend = None
            if not websocket._engine.closed:  # As it is in a child that on_message has forked.
                self._call(view.on_close)
        elif not self._stays:
            websocket._attend = None  # It listens, and nothing else: nobody need remember the view.
        self._running = False

    def _call(self, method: Callable[..., object], *args: object) -> bool:
        """Call a method of the view; whatever it raises ends the connection."""
        websocket = self._websocket
        try:
            method(websocket, *args)
            return True
        except ConnectionClosed as closed:
            if closed.websocket is not websocket:
                self._fail(closed)
        except GreenletExit:
            websocket.close(GOING_AWAY)
        except BaseException as error:
            self._fail(error)
            if isinstance(error, KeyboardInterrupt) and websocket._engine.ends_on:
                raise  # Ctrl-C, under a server that hears it like this.
        return False

    def _fail(self, error: BaseException) -> None:
        websocket, request = self._websocket, self._view.request
        out_of_reach = isinstance(error, BackplaneError)
        if out_of_reach:
            websocket.close(TRY_LATER, TRY_LATER_REASON)
        else:
            websocket.close(INTERNAL_ERROR)
        facts = type(self._view).__qualname__, shortened(websocket.path), websocket.id
        if out_of_reach:
            # Whoever joins meanwhile fails alike.
            peerlog.error(log, "%s failed at %s (WebSocket %s): %s", *facts, error)
        else:
            log.error("%s failed at %s (WebSocket %s)", *facts, exc_info=error)
        try:
            request.registry.notify(ViewFailed(self._view, websocket, error))
        except BaseException:
            log.exception("a subscriber to ViewFailed failed itself")
