"""The application that the tests of faults start: ``/kept/...`` has histories, others none."""

import dataclasses

from pyramid.config import Configurator
from pyramid.response import Response

from stargate import WebSocketView, gate
from stargate.events import MessagesMissed
from stargate.exceptions import BackplaneError
from stargate_tests.functional.tree import Echo, Listen, Node, Talk


class Kept(Node):
    history_size = 1000


class Root(Node):
    def __getitem__(self, name):
        kind = Kept if name == "kept" else Node
        return self.children.setdefault(name, kind(name, self))


def send(context, request):
    """Sends ``message``; answers with its id, or with what is certain."""
    try:
        found = context.send(request.params["message"], key=request.params.get("key"))
    except BackplaneError as error:
        return {"outcome": error.outcome, "why": str(error), "key": error.key}
    return {"outcome": "sent", "id": found}


def history(context, request):
    return [kept.message for kept in context.history(limit=1000)]


def stats(context, request):
    return {**dataclasses.asdict(gate(request.registry).stats()), "missed": missed}


class Speak(WebSocketView):
    """Sends each message to all, in the style without a greenlet, and listens to nothing."""

    def on_open(self, websocket):
        pass

    def on_message(self, websocket, message):
        self.context.send(message)


def say(context, request):
    """Sends, and leaves whatever goes wrong to whoever catches it."""
    context.send("said")
    return Response("said")


def page(context, request):
    return Response("a page")


missed = []


def main(global_config, **settings):
    root = Root()
    with Configurator(root_factory=lambda request: root, settings=settings) as config:
        config.include("stargate")
        config.add_websocket_view(Listen, context=Node, ids=True)
        config.add_websocket_view(Echo, context=Node, name="echo")
        config.add_subscriber(lambda event: missed.append(event.address), MessagesMissed)
        config.add_websocket_view(Talk, context=Node, name="talk")
        config.add_websocket_view(Speak, context=Node, name="speak")
        config.add_view(page, context=Node, name="page")
        config.add_view(say, context=Node, name="say")
        for view in (send, history, stats):
            config.add_view(view, context=Node, name=view.__name__, renderer="json")
        return config.make_wsgi_app()
