"""What ``config.include("stargate")`` adds: directives, predicate, deriver, the gate, and 426."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import venusian
from pyramid.exceptions import ConfigurationError, PredicateMismatch, URLDecodeError
from pyramid.httpexceptions import HTTPNotImplemented
from pyramid.interfaces import IMultiView
from pyramid.settings import aslist
from pyramid.view import _find_views
from pyramid.viewderivers import INGRESS
from zope.interface import classImplements, providedBy

from stargate.application.gates import Gate, gate, register
from stargate.engine import current_engine, has_socket, refuse, stopping
from stargate.engine.peerlog import peerlog
from stargate.exceptions import BackplaneError, shortened
from stargate.handshake.admission import FULL, TOO_MANY
from stargate.handshake.upgrade import (
    UPGRADE_HEADERS,
    Accepted,
    Negotiator,
    Refused,
    is_websocket,
)
from stargate.interfaces import IBackplaneError
from stargate.message.address import SAFE
from stargate.message.envelope import SUBPROTOCOL
from stargate.message.incoming import protocol_log
from stargate.settings.application import read_application, without_password
from stargate.settings.origins import OriginPolicy, hosts, origins
from stargate.settings.parsers import tokens
from stargate.view import HANDSHAKE, SERVER_STOPS, WebSocketView, overrides, refusal

if TYPE_CHECKING:
    from pyramid.config import Configurator
    from pyramid.request import Request
    from pyramid.response import Response

log = logging.getLogger(__name__)

#: Refusals that are in the log already, as warnings that name the setting.
WARNED_OF = frozenset(("origin", FULL.cause, TOO_MANY.cause))

TRUSTED = "pyramid.csrf_trusted_origins"

#: In the environ of a request that a view would have taken, had it asked for a WebSocket.
UPGRADE_REQUIRED = "stargate.upgrade_required"


def includeme(config: Configurator) -> None:
    """Called by ``config.include("stargate")``; reads the ``stargate.*`` settings."""
    settings = read_application(config.registry.settings)
    _register_gate(config, settings)
    config.add_directive("add_websocket_view", add_websocket_view)
    config.add_view_predicate("websocket", WebSocketPredicate, weighs_more_than="custom")
    config.add_view_deriver(handshake_deriver, "websocket_handshake")
    config.add_view_deriver(page_deriver, "websocket_first", under=INGRESS, over="secured_view")
    config.add_request_method(_IsWebSocket(), "is_websocket")
    config.add_exception_view(upgrade_required, context=PredicateMismatch, request_method="GET")
    config.add_exception_view(no_path, context=URLDecodeError, websocket=True)
    classImplements(BackplaneError, IBackplaneError)
    config.add_exception_view(out_of_reach, context=IBackplaneError)
    if protocol_log.level == logging.NOTSET:
        protocol_log.setLevel(logging.WARNING)  # Below it, a line or two for each connection.


def _register_gate(config: Configurator, settings: dict[str, Any]) -> None:
    try:
        made = Gate(config.registry, settings)
    except (ValueError, ImportError) as error:  # A URL is read by whoever connects to it.
        shown = without_password(settings["backplane"])
        raise ConfigurationError(f"stargate.backplane = {shown!r}: {error}") from error
    intr = config.introspectable("stargate", "gate", "the gate of this application", "gate")
    intr.update(settings)
    # At once: a resource may send while the rest of the configuration goes on.
    register(made, config.registry)
    config.action(("stargate", "gate"), introspectables=(intr,))


def add_websocket_view(config: Configurator, view: Any = WebSocketView, **options: Any) -> None:
    """Register a view for WebSockets: all that ``config.add_view`` takes, and three more.

    ``subprotocols``: those that the view speaks, best first; a peer that offers none of them is
    refused with 400. ``ids=True``: it speaks ``stargate.v1``, and nothing else: each message comes
    with its id, and a peer that comes back with ``?since=`` is sent what it missed.
    ``allowed_origins``: in the place of ``stargate.allowed_origins``. Raises
    ``ConfigurationError`` for a view that overrides ``handler`` and one of the others.
    """
    view = config.maybe_dotted(view)
    check_view(view)
    if options.setdefault("websocket", True) is not True:
        raise ConfigurationError("add_websocket_view() is for websocket=True; use add_view()")
    config.add_view(view, **options)


class websocket_view_config:  # noqa: N801 - named as pyramid.view.view_config is
    """A decorator for a WebSocketView, found by ``config.scan()``.

    Takes what ``config.add_websocket_view`` takes; several may be stacked.
    """

    venusian = venusian

    def __init__(self, **options: Any) -> None:
        self._depth = options.pop("_depth", 0)
        self._category = options.pop("_category", "pyramid")
        self.options = options

    def __call__(self, wrapped: Any) -> Any:
        options = self.options.copy()

        def callback(context: Any, _name: str, found: Any) -> None:
            config = context.config.with_package(info.module)
            config.add_websocket_view(view=found, **options)

        info = self.venusian.attach(
            wrapped, callback, category=self._category, depth=self._depth + 1
        )
        options["_info"] = info.codeinfo
        return wrapped


class _IsWebSocket:
    """``request.is_websocket``, found out when the request is made.

    A reified property would have Pyramid make a class for each request: 20 us, of a page's as well.
    """

    def __get__(self, request: Request, _owner: type | None = None) -> bool:
        return is_websocket(None, request)


class WebSocketPredicate:
    """``websocket=True``: the request asks for a WebSocket; ``False``: it does not."""

    def __init__(self, value: Any, _info: Any) -> None:
        if not isinstance(value, bool):
            raise ConfigurationError(f"websocket = {value!r}: it must be True or False")
        self.value = value

    def text(self) -> str:
        return f"websocket = {self.value}"

    phash = text

    def __call__(self, context: object, request: Request) -> bool:
        if is_websocket(context, request) == self.value:
            return True
        if self.value:
            request.environ[UPGRADE_REQUIRED] = True
        return False


def upgrade_required(_mismatch: PredicateMismatch, request: Request) -> Response:
    """426 for a plain GET where only a WebSocket is served, else leave it to the next view."""
    if UPGRADE_REQUIRED not in request.environ:
        raise PredicateMismatch("not for want of an upgrade")
    gate(request.registry).counters.refuse("upgrade")
    return refusal(Refused(426, "This address is served to WebSockets only.", UPGRADE_HEADERS))


def no_path(error: URLDecodeError, request: Request) -> Response:
    """400 for a handshake at a path that is not UTF-8: of pages, Pyramid makes a 500."""
    return _refused(request, Refused(400, f"the path is not UTF-8: {error}"))


def out_of_reach(error: BackplaneError, request: Request) -> Response:
    """503 for a page, or a handshake, that lets a ``BackplaneError`` through, and a line of log.

    An application's own exception view for ``BackplaneError`` takes its place.
    """
    path = quote(request.environ.get("PATH_INFO", ""), safe=f"/{SAFE}", encoding="latin-1")
    peerlog.error(log, "%.20s %s failed: %s", request.method, shortened(path), error)
    answer = refusal(Refused(503, "Try again later.", (("Retry-After", "1"),)))
    if request.is_websocket and refuse(request.environ):
        answer.headers["Connection"] = "close"
    return answer


def handshake_deriver(view: Any, info: Any) -> Any:
    """Judge the handshake inside the permission check and before the view's ``__init__``."""
    options, original = info.options, info.original_view
    is_ours = isinstance(original, type) and issubclass(original, WebSocketView)
    if options.get("websocket") is not True and not is_ours:
        for name in handshake_deriver.options:  # type: ignore[attr-defined]
            if options.get(name):
                raise ConfigurationError(f"{name} goes with websocket=True only")
        return view
    check_view(original)
    judge = _judge(info)

    def judged(context: Any, request: Request) -> Response:
        accepted = judge(request)
        if not isinstance(accepted, Accepted):
            return accepted
        request.environ[HANDSHAKE] = accepted
        return view(context, request)

    return judged


handshake_deriver.options = ("subprotocols", "allowed_origins", "ids")  # type: ignore[attr-defined]


def page_deriver(view: Any, info: Any) -> Any:
    """Let a page leave the requests for WebSockets to the WebSocket view that would take them.

    By Pyramid's own order a page with ``accept``, with more predicates or on a more specific
    context would come first, and a browser can do nothing with a page that it asked no page for.
    """
    if info.exception_only or info.options.get("websocket") is not None:
        return view

    def page(context: Any, request: Request) -> Response:
        if "HTTP_UPGRADE" in request.environ and _has_websocket_view(context, request):
            raise PredicateMismatch("a WebSocket is asked for, and served here")
        return view(context, request)

    return page


def _has_websocket_view(context: Any, request: Request) -> bool:
    found = _find_views(
        request.registry, request.request_iface, providedBy(context), request.view_name
    )
    for view in found:
        several = IMultiView.providedBy(view)
        for each in [v for _, v, _ in view.get_views(request)] if several else [view]:
            predicates = getattr(each, "__predicates__", ())
            wants = any(isinstance(p, WebSocketPredicate) and p.value for p in predicates)
            if wants and each.__predicated__(context, request):
                return True
    return False


def check_view(view: Any) -> None:
    """Raise ``ConfigurationError`` for a view with two styles at once."""
    if isinstance(view, type) and issubclass(view, WebSocketView):
        others = overrides(view, "on_open", "on_message", "on_close")
        if others and overrides(view, "handler"):
            raise ConfigurationError(
                f"{view.__module__}.{view.__qualname__} overrides handler and {', '.join(others)}: "
                "handler has the WebSocket for itself, so the others would never be called"
            )


def _judge(info: Any) -> Callable[[Request], Accepted | Response]:
    settings = info.registry.settings
    subprotocols = _option("subprotocols", tokens, info.options.get("subprotocols") or ())
    if _speaks_ids(info):
        if subprotocols:
            raise ConfigurationError(
                f"subprotocols = {subprotocols!r}: with ids=True it is {SUBPROTOCOL}, and no other"
            )
        subprotocols = (SUBPROTOCOL,)
    allowed = info.options.get("allowed_origins")
    if allowed is None:
        allowed = settings.get("stargate.allowed_origins", ())
    trusted = _option(TRUSTED, hosts, aslist(settings.get(TRUSTED, ())))
    negotiator = Negotiator(
        origins=OriginPolicy(_option("allowed_origins", origins, allowed), trusted),
        subprotocols=subprotocols,
        compression=settings.get("stargate.compression") == "deflate",
    )

    def judge(request: Request) -> Accepted | Response:
        if not has_socket(request.environ):
            return _no_socket(request)
        application = gate(request.registry)
        found = SERVER_STOPS if stopping(request.environ) else negotiator.judge(request.environ)
        if isinstance(found, Accepted):
            found = application.admission.judge(current_engine(), request.remote_addr) or found
        if isinstance(found, Accepted):
            return found
        return _refused(request, found)

    return judge


def _speaks_ids(info: Any) -> bool:
    ids = info.options.get("ids", False)
    if not isinstance(ids, bool):
        raise ConfigurationError(f"ids = {ids!r}: it must be True or False")
    return ids


def _refused(request: Request, found: Refused) -> Response:
    path = quote(request.environ.get("PATH_INFO", ""), encoding="latin-1")
    if found.cause not in WARNED_OF:
        text = "refused a WebSocket at %.200s: %s"
        peerlog.info(log, text, path, found.reason, cause=found.cause)
    gate(request.registry).counters.refuse(found.cause)
    answer = refusal(found)
    if refuse(request.environ):
        answer.headers["Connection"] = "close"
    return answer


def _no_socket(request: Request) -> Response:
    server = request.environ.get("SERVER_SOFTWARE") or "the WSGI server"
    right = (
        "Start it with `-k stargate.gunicorn.EventletWorker`"
        if server.startswith("gunicorn")
        else "Put `use = egg:stargate#eventlet` into [server:main]"
    )
    why = f"{server} has no way to give a WebSocket its connection. {right}"
    peerlog.error(log, "refused a WebSocket at %.200s: %s", request.path, why)
    gate(request.registry).counters.refuse("no_socket")
    return HTTPNotImplemented(why)


def _option(name: str, parse: Callable[[Any], tuple[str, ...]], value: Any) -> tuple[str, ...]:
    try:
        return parse(value)
    except ValueError as error:
        raise ConfigurationError(f"{name} = {without_password(value)!r}: {error}") from error
