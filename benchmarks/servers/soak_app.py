"""The stargate server of the soak: pages that say what the process holds, and broadcasts all along.

Three views: one that only listens, one with ``on_message``, one with a blocking ``handler``.
"""

import argparse

import stargate

stargate.patch()

import ctypes  # noqa: E402
import gc  # noqa: E402
import os  # noqa: E402
import threading  # noqa: E402

import greenlet  # noqa: E402
from pyramid.config import Configurator  # noqa: E402

from stargate import WebSocketAwareContext, WebSocketView, gate  # noqa: E402
from stargate.engine import current_engine  # noqa: E402
from stargate.server.process import serve  # noqa: E402

#: Broadcasts a second, and the bytes of each.
RATE, SIZE = 50, 200


class Room(WebSocketAwareContext):
    __name__, __parent__ = "", None


class Answers(WebSocketView):
    def on_message(self, websocket, message):
        websocket.send(message)


class Blocks(WebSocketView):
    def handler(self, websocket):
        self.context.add_listener(websocket)
        for message in websocket:
            websocket.send(message)


def figures(context, request):
    """What the process holds, when all that can be collected is collected."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # Free memory that the allocator keeps is no leak.
    engine = current_engine()
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    alive = [each for each in gc.get_objects() if type(each) is greenlet.greenlet]
    stats = gate(request.registry).stats()
    return {
        "memory": resident,
        "descriptors": len(os.listdir("/proc/self/fd")),
        # Without those that are kept for the next piece of work: a bounded number.
        "greenlets": sum(not each.dead for each in alive) - len(engine._idle),
        "watchers": engine.watched,
        "open": stats.connections,
        "opened": stats.opened,
        "messages": stats.messages_out,
    }


def broadcast(room, ends):
    message = "x" * SIZE
    while not ends.wait(1 / RATE):
        room.send(message)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    room, ends = Room(), threading.Event()
    with Configurator(root_factory=lambda request: room) as config:
        config.include("stargate")
        config.add_view(figures, context=Room, name="figures", renderer="json")
        config.add_websocket_view(context=Room)
        config.add_websocket_view(Answers, context=Room, name="answers")
        config.add_websocket_view(Blocks, context=Room, name="blocks")
        application = config.make_wsgi_app()
    threading.Thread(target=broadcast, args=(room, ends), daemon=True).start()
    serve(application, f"127.0.0.1:{options.port}", access_log="false")
    ends.set()


if __name__ == "__main__":
    main()
