"""A small tree of resources and the applications around it, for the tests on real sockets."""

from pyramid.config import Configurator
from pyramid.response import Response

from stargate import WebSocketAwareContext, WebSocketView


class Node(WebSocketAwareContext):
    """A resource that makes its children when they are asked for, and keeps them."""

    def __init__(self, name="", parent=None):
        self.__name__, self.__parent__ = name, parent
        self.children = {}

    def __getitem__(self, name):
        if name.startswith("@"):
            raise KeyError(name)
        return self.children.setdefault(name, type(self)(name, self))


class Listen(WebSocketView):
    """Nothing but WebSocketView itself."""


class Echo(WebSocketView):
    """Answers each message, in the style without a greenlet."""

    def on_open(self, websocket):
        pass

    def on_message(self, websocket, message):
        websocket.send(message)


class EchoHandler(WebSocketView):
    """Answers each message, in the blocking style."""

    def handler(self, websocket):
        for message in websocket:
            websocket.send(message)


class Talk(WebSocketView):
    """Every listener gets what any of them says."""

    def handler(self, websocket):
        self.context.add_listener(websocket)
        for message in websocket:
            self.context.send(message)


def page(context, request):
    return Response(f"the page of {context.path}", content_type="text/plain")


def make_app(configure=None, root=None, **settings):
    """An application over one tree: ``/x`` listens, ``@@echo``, ``@@handler``, ``@@talk``."""
    root = root if root is not None else Node()
    with Configurator(root_factory=lambda request: root, settings=settings) as config:
        config.include("stargate")
        config.add_view(page, context=Node, name="page")
        config.add_websocket_view(Listen, context=Node)
        config.add_websocket_view(Echo, context=Node, name="echo")
        config.add_websocket_view(EchoHandler, context=Node, name="handler")
        config.add_websocket_view(Talk, context=Node, name="talk")
        if configure is not None:
            configure(config)
        app = config.make_wsgi_app()
    app.root = root
    return app
