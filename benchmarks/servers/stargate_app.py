"""The stargate server of the benchmarks: a small tree of resources, and one way to send a view.

Ordinary use of the public API, and nothing else. ``--view`` chooses how ``/sub`` and ``/echo`` are
written: with a view that is parked between messages, or with a blocking ``handler``.
"""

import argparse

import stargate

stargate.patch()

from pyramid.config import Configurator  # noqa: E402
from pyramid.response import Response  # noqa: E402

from stargate import WebSocketAwareContext, WebSocketView  # noqa: E402
from stargate.server.process import serve  # noqa: E402

#: Of the listeners of ``/sub``, ``/pub-mixed`` serves one in so many by ``websocket.send``.
ONE_IN = 10


class Node(WebSocketAwareContext):
    def __init__(self, name="", parent=None):
        self.__name__, self.__parent__ = name, parent
        self.children = {}

    def __getitem__(self, name):
        return self.children[name]

    def add(self, kind, name):
        child = self.children[name] = kind(name, self)
        return child


class Root(Node):
    """``/``: every view that sends is a view of the root."""


class Group(Node):
    """``/sub``: the one resource of most measurements."""


class Excluded(Node):
    """``/excluded``: its listeners listen to ``/sub`` as well, and ``/pub-exclude`` omits them."""


class Forest(Node):
    """``/resources/0`` and on: as many resources as are asked for."""

    def __getitem__(self, name):
        return self.children.get(name) or self.add(Leaf, name)


class Leaf(Node):
    """One of many resources."""


class Kept(Node):
    """``/kept``: a view with ``on_message`` and ``on_close``, for its memory."""


class Echo(Node):
    """``/echo``: every message comes back."""


class Probe(Node):
    """``/probe``: sends what comes to its own listeners."""


class ListenByHandler(WebSocketView):
    def handler(self, websocket):
        self.context.add_listener(websocket)
        for _message in websocket:
            pass


class ListenExcluded(WebSocketView):
    def on_open(self, websocket):
        self.context.add_listener(websocket)
        self.context.__parent__["sub"].add_listener(websocket)


class KeptView(WebSocketView):
    def on_message(self, websocket, message):
        pass

    def on_close(self, websocket):
        pass


class EchoByEvents(WebSocketView):
    def on_open(self, websocket):
        """It need not listen."""

    def on_message(self, websocket, message):
        websocket.send(message)


class EchoByHandler(WebSocketView):
    def handler(self, websocket):
        for message in websocket:
            websocket.send(message)


class ProbeView(WebSocketView):
    def on_message(self, websocket, message):
        self.context.send(message)


class Publish(WebSocketView):
    """Each message goes to every listener of ``/sub``."""

    def on_open(self, websocket):
        """It need not listen."""

    def on_message(self, websocket, message):
        self.context["sub"].send(message)


class PublishExclude(Publish):
    """... but for those of ``/excluded``."""

    def on_message(self, websocket, message):
        self.context["sub"].send(message, exclude=self.context["excluded"].listeners)


class PublishMixed(Publish):
    """... to one in ten by ``websocket.send``, to the others by ``resource.send``."""

    def on_message(self, websocket, message):
        singled_out = list(self.context["sub"].listeners)[::ONE_IN]
        self.context["sub"].send(message, exclude=singled_out)
        for listener in singled_out:
            listener.send(message)


class PublishEach(Publish):
    """... one by one by ``websocket.send``, so that nothing is shared by them."""

    def on_message(self, websocket, message):
        for listener in self.context["sub"].listeners:
            listener.send(message)


class PublishAll(Publish):
    """Each message goes to every resource below ``/resources``, one after the other."""

    def on_message(self, websocket, message):
        for leaf in self.context["resources"].children.values():
            leaf.send(message)


def page(request):
    return Response("<!doctype html><title>A page</title><p>An ordinary view made this.</p>")


def application(compression, view):
    root = Root()
    kinds = {"sub": Group, "echo": Echo, "excluded": Excluded, "resources": Forest}
    for name, kind in (kinds | {"kept": Kept, "probe": Probe}).items():
        root.add(kind, name)
    by_handler = view == "handler"
    listen = ListenByHandler if by_handler else WebSocketView
    settings = {"stargate.compression": compression}
    with Configurator(settings=settings, root_factory=lambda request: root) as config:
        config.include("stargate")
        config.add_websocket_view(listen, context=Group)
        config.add_websocket_view(listen, context=Leaf)
        config.add_websocket_view(ListenExcluded, context=Excluded)
        config.add_websocket_view(KeptView, context=Kept)
        config.add_websocket_view(EchoByHandler if by_handler else EchoByEvents, context=Echo)
        config.add_websocket_view(ProbeView, context=Probe)
        config.add_websocket_view(Publish, context=Root, name="pub")
        config.add_websocket_view(PublishExclude, context=Root, name="pub-exclude")
        config.add_websocket_view(PublishMixed, context=Root, name="pub-mixed")
        config.add_websocket_view(PublishEach, context=Root, name="pub-each")
        config.add_websocket_view(PublishAll, context=Root, name="pub-all")
        config.add_view(page, context=Root, name="page")
        return config.make_wsgi_app()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--view", choices=["events", "handler"], default="events")
    parser.add_argument("--compression", choices=["off", "deflate"], default="off")
    options = parser.parse_args()
    serve(
        application(options.compression, options.view),
        listen=f"127.0.0.1:{options.port}",
        access_log=False,
    )
