"""What ``benchmarks/backplane.py`` measures: whatever a WebSocket says is sent to its resource.

``/live/NAME`` keeps nothing, ``/kept/NAME`` keeps its messages. Arguments: the port, and the
backplane: ``memory`` or the URL of a Redis.
"""

import sys

import stargate

stargate.patch()

from pyramid.config import Configurator  # noqa: E402

from stargate import WebSocketAwareContext, WebSocketView  # noqa: E402


class Node(WebSocketAwareContext):
    """A resource, and all that may be under it."""

    def __init__(self, name, parent, history_size=0):
        self.__name__, self.__parent__, self.history_size = name, parent, history_size

    def __getitem__(self, name):
        return Node(name, self, 5000 if "kept" in (name, self.__name__) else 0)


class Repeats(WebSocketView):
    """Sends what it is told to everybody who listens."""

    def on_message(self, websocket, message):
        self.context.send(message)


def main(port, backplane):
    """Serve."""
    settings = {
        "stargate.backplane": backplane,
        "stargate.namespace": "bench",
        "stargate.ping_interval": "0",
    }
    with Configurator(settings=settings, root_factory=lambda _request: Node("", None)) as config:
        config.include("stargate")
        config.add_websocket_view(Repeats, context=Node)
        application = config.make_wsgi_app()
    stargate.server.serve(application, listen=f"127.0.0.1:{port}", access_log="false")


if __name__ == "__main__":
    main(*sys.argv[1:])
