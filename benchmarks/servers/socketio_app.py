"""python-socketio on eventlet; a broadcast is one ``emit`` to what Socket.IO calls a room."""

import sys

import eventlet
import socketio

sio = socketio.Server(async_mode="eventlet", cors_allowed_origins="*")


@sio.event
def connect(sid, environ, auth):
    if "role=sub" in environ["QUERY_STRING"]:
        sio.enter_room(sid, "all")


@sio.on("pub")
def pub(sid, message):
    sio.emit("m", message, room="all")


@sio.on("echo")
def echo(sid, message):
    sio.emit("echo", message, to=sid)


eventlet.wsgi.server(
    eventlet.listen(("127.0.0.1", int(sys.argv[1])), backlog=1024),
    socketio.WSGIApp(sio),
    log_output=False,
    max_size=30_000,
)
