"""What ``benchmarks/waiting.py`` measures: a page, and a WebSocket at ``/``.

As a program it takes the settings of the server as ``name=value``; gunicorn is given ``made()``.
"""

import sys

import stargate

stargate.patch()

from pyramid.config import Configurator  # noqa: E402
from pyramid.response import Response  # noqa: E402

from stargate import WebSocketAwareContext  # noqa: E402


class Root(WebSocketAwareContext):
    __name__, __parent__ = "", None


def made():
    root = Root()
    with Configurator(root_factory=lambda request: root) as config:
        config.include("stargate")
        config.add_view(lambda context, request: Response("page"), context=Root, name="page")
        config.add_websocket_view(context=Root)
        return config.make_wsgi_app()


if __name__ == "__main__":
    settings = dict(each.split("=", 1) for each in sys.argv[1:])
    stargate.server.serve(made(), access_log="false", **settings)
