"""The application that the tests start with ``pserve``."""

import logging
import os
import time

from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.threadlocal import get_current_request

from stargate import WebSocketView
from stargate_tests.functional.tree import Echo, EchoHandler, Listen, Node, Talk


class Deaf(WebSocketView):
    """Never reads a message, and never ends."""

    def handler(self, websocket):
        while not websocket.closed:
            time.sleep(0.05)


def thread_locals(context, request):
    """Whether the current request is this one, before and after giving way to the others."""
    before = get_current_request() is request
    time.sleep(0.2)
    return Response(str(before and get_current_request() is request))


def slow(context, request):
    logging.getLogger(__name__).info("a slow request begins")
    time.sleep(float(request.params["seconds"]))
    return Response("done")


def fail(context, request):
    raise ValueError("a view that fails")


def send(context, request):
    context.send(request.params["message"])
    return Response("sent")


def many(context, request):
    """As many messages of 1,000 bytes as are asked for, without ever giving way."""
    for number in range(int(request.params["count"])):
        context.send(f"{number:07}".ljust(1000))
    return Response("sent")


def flood(context, request):
    """Two OS threads that send until the process ends."""
    from eventlet.patcher import original

    from stargate import gate

    way_in = gate(request.registry)

    def send():
        while True:
            way_in.send(context, "x")

    for _ in range(2):
        original("threading").Thread(target=send, daemon=True).start()
    return Response("started")


def refusals(context, request):
    from stargate import gate

    return Response(json_body=dict(gate(request.registry).stats().refusals))


def patched(context, request):
    from eventlet.patcher import is_monkey_patched

    return Response(str(is_monkey_patched("thread")))


def activation(context, request):
    """What a child would have of systemd's socket activation."""
    said = [name for name in os.environ if name.startswith("LISTEN_")]
    return Response(f"{said} {os.get_inheritable(3)}")


class Kept(Node):
    """A resource that keeps its messages."""

    history_size = 100


def main(global_config, **settings):
    root = Node()
    root.children["kept"] = Kept("kept", root)
    with Configurator(root_factory=lambda request: root, settings=settings) as config:
        config.include("stargate")
        config.add_websocket_view(Talk, context=Node)
        config.add_websocket_view(Echo, context=Node, name="echo")
        config.add_websocket_view(EchoHandler, context=Node, name="handler")
        config.add_websocket_view(Listen, context=Node, name="listen")
        config.add_websocket_view(Listen, context=Kept, name="ids", ids=True)
        config.add_websocket_view(Deaf, context=Node, name="deaf")
        for view in (thread_locals, slow, fail, send, many, flood, refusals, patched, activation):
            config.add_view(view, context=Node, name=view.__name__)
        return config.make_wsgi_app()


def made(environ, start_response):
    """A WSGI application under a name, made when it is first asked for."""
    global _app
    if _app is None:
        _app = main({})
    return _app(environ, start_response)


_app = None
