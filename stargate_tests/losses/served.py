"""The application of a trial: resources that keep their messages, and a view that sends."""

from __future__ import annotations

import logging
from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from stargate import BackplaneError, WebSocketAwareContext, WebSocketView
from stargate_tests.losses.ledger import LONG, RESOURCES


class Resource(WebSocketAwareContext):
    """One of those that are sent to."""

    def __init__(self, name: str = "", parent: Resource | None = None) -> None:
        self.__name__, self.__parent__ = name, parent
        self.history_size = RESOURCES.get(name, LONG)

    def __getitem__(self, name: str) -> Resource:
        if name not in RESOURCES:
            raise KeyError(name)
        return Resource(name, self)


def send(context: Resource, request: Request) -> Response:
    """Send the body; answer with the id, or with 503 and what is known of the outcome."""
    kind, key, body = request.params["kind"], request.params["key"], request.body
    try:
        if kind == "json":
            id = context.send_json(body.decode(), key=key)
        else:
            id = context.send(body if kind == "binary" else body.decode(), key=key)
    except BackplaneError as error:
        return Response(status=503, json_body={"outcome": error.outcome})
    return Response(json_body={"id": id})


def main(url: str, namespace: str) -> Any:
    """The WSGI application, as gunicorn asks for it."""
    logging.basicConfig(
        level=logging.INFO, format="%(process)d %(asctime)s %(levelname)s %(name)s %(message)s"
    )
    root = Resource()
    settings = {"stargate.backplane": url, "stargate.namespace": namespace}
    with Configurator(settings=settings, root_factory=lambda request: root) as config:
        config.include("stargate")
        config.add_websocket_view(WebSocketView, context=Resource, name="live", ids=True)
        config.add_view(send, context=Resource, name="send", request_method="POST")
        return config.make_wsgi_app()
