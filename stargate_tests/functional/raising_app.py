"""An application that raises what is no ``Exception``, wherever its code runs."""

import logging
import signal
import sys
import threading
import time

import eventlet
from pyramid.config import Configurator
from pyramid.events import ContextFound
from pyramid.renderers import JSON
from pyramid.response import Response

from stargate import WebSocketView, gate
from stargate.events import ViewFailed
from stargate_tests.functional.tree import Echo, Node


class OwnError(BaseException):
    pass


KINDS = {
    "SystemExit": lambda: sys.exit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GreenletExit": eventlet.support.greenlets.GreenletExit,
    "Timeout": eventlet.Timeout,
    "GeneratorExit": GeneratorExit,
    "OwnError": OwnError,
    "BaseExceptionGroup": lambda: BaseExceptionGroup("several", [SystemExit(3), OwnError()]),
}


def throw(kind):
    raise KINDS[kind]()


class Kind:
    """What no renderer knows."""

    def __init__(self, kind):
        self.kind = kind


def throw_at(place, request):
    """Raise what is asked for, if it is to be at ``place``."""
    if request.params.get("at") == place:
        throw(request.params["kind"])


class Policy:
    def identity(self, request):
        throw_at("policy", request)

    def authenticated_userid(self, request):
        return self.identity(request)

    def permits(self, request, context, permission):
        return True


class Raising(WebSocketView):
    def __init__(self, request):
        throw_at("init", request)
        super().__init__(request)

    def on_open(self, websocket):
        throw_at("open", self.request)

    def on_message(self, websocket, message):
        throw_at("message", self.request)
        if self.request.params["at"] == "json":
            websocket.send_json(Kind(self.request.params["kind"]))
        websocket.close()

    def on_close(self, websocket):
        throw_at("closed", self.request)


class RaisingHandler(WebSocketView):
    def handler(self, websocket):
        throw_at("handler", self.request)
        raise ValueError("what a subscriber is told of")


class Addressed(Node):
    kind = None

    @property
    def stargate_address(self):
        throw(self.kind)


def view(context, request):
    if "say" in request.params:
        logging.getLogger(__name__).info("%s", request.params["say"])
    throw_at("view", request)
    if request.params.get("at") == "response":
        request.add_response_callback(lambda request, _: throw_at("response", request))
    if request.params.get("at") == "finished":
        request.add_finished_callback(lambda request: throw_at("finished", request))
    return Response("page")


class Broken(logging.Handler):
    """A handler of the log that raises for what fails, and writes nothing."""

    def emit(self, record):
        if record.exc_info or "Traceback" in record.getMessage():
            sys.exit(3)


def unlogged(context, request):
    """Fail where the log does as well."""
    logging.getLogger("stargate").addHandler(Broken())
    raise ValueError


def rendered(context, request):
    return {"found": Kind(request.params["kind"])}


def sent(context, request):
    context.send_json(Kind(request.params["kind"]))


def addressed(context, request):
    found = Addressed("x", context)
    found.kind = request.params["kind"]
    found.send("x")


class Pieces:
    """An ``app_iter`` that raises in its middle, or at its end."""

    def __init__(self, request):
        self.request = request

    def __iter__(self):
        yield b"first"
        throw_at("middle", self.request)

    def close(self):
        throw_at("close", self.request)


def streamed(context, request):
    return Response(app_iter=Pieces(request))


def busy(context, request):
    """Never give way for a while, in code of the application's own."""
    logging.getLogger(__name__).info("busy from here on")
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pass
    return Response("page")


def raise_in_signal(kind):
    """As a time limit by SIGALRM does, in whatever runs then: the hub, as a rule."""
    signal.signal(signal.SIGALRM, lambda number, frame: throw(kind))
    signal.setitimer(signal.ITIMER_REAL, 0.01)


def spawned(context, request):
    """Have something beside the page raise, and answer when it has had its time."""
    kind, place = request.params["kind"], request.params["at"]
    hub = eventlet.hubs.get_hub()
    real = eventlet.patcher.original("threading")
    {
        "greenlet": lambda: eventlet.spawn(throw, kind),
        "greenlet_n": lambda: eventlet.spawn_n(throw, kind),
        "timer": lambda: eventlet.spawn_after(0.01, throw, kind),
        "hub_timer": lambda: hub.schedule_call_global(0, throw, kind),
        "thread": lambda: threading.Thread(target=throw, args=(kind,)).start(),
        "os_thread": lambda: real.Thread(target=throw, args=(kind,)).start(),
        "signal": lambda: raise_in_signal(kind),
        "callback": lambda: gate(request.registry)._delivery.engine.call_from_thread(throw, kind),
    }[place]()
    time.sleep(0.05)
    return Response("page")


def root_factory(root):
    def find(request):
        throw_at("factory", request)
        return root

    return find


def tween_factory(handler, registry):
    def tween(request):
        response = handler(request)
        throw_at("tween", request)
        return response

    return tween


def failed(event):
    if event.view.request.params["at"] == "failed":
        throw(event.view.request.params["kind"])


def main(global_config, **settings):
    root = Node()
    renderer = JSON()
    renderer.add_adapter(Kind, lambda found, request: throw(found.kind))
    with Configurator(root_factory=root_factory(root), settings=settings) as config:
        config.include("stargate")
        config.set_security_policy(Policy())
        config.add_renderer("json", renderer)
        config.add_tween(f"{__name__}.tween_factory")
        config.add_subscriber(lambda event: throw_at("subscriber", event.request), ContextFound)
        config.add_subscriber(failed, ViewFailed)
        config.add_websocket_view(Echo, context=Node)
        config.add_websocket_view(Raising, context=Node, name="raising")
        config.add_websocket_view(RaisingHandler, context=Node, name="raising_handler")
        config.add_view(rendered, context=Node, name="rendered", renderer="json")
        for each in (view, streamed, spawned, sent, addressed, busy, unlogged):
            config.add_view(each, context=Node, name=each.__name__)
        return config.make_wsgi_app()
