"""eventlet's own WSGI server and ``WebSocketWSGI``: what the handshake is compared with."""

import sys

import eventlet
from eventlet import websocket, wsgi

listeners = set()


@websocket.WebSocketWSGI
def view(socket):
    path = socket.environ["PATH_INFO"]
    if path == "/sub":
        listeners.add(socket)
    try:
        while (message := socket.wait()) is not None:
            if path == "/echo":
                socket.send(message)
            elif path == "/pub":
                broadcast(message)
    finally:
        listeners.discard(socket)


def broadcast(message):
    for listener in list(listeners):
        try:
            listener.send(message)
        except OSError:
            listeners.discard(listener)


wsgi.server(
    eventlet.listen(("127.0.0.1", int(sys.argv[1])), backlog=1024),
    view,
    log_output=False,
    max_size=30_000,
)
