"""A Starlette application, which uvicorn serves; a broadcast awaits ``send_text`` for each."""

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocketDisconnect

listeners = set()


async def echo(websocket):
    await websocket.accept()
    async for message in websocket.iter_text():
        await websocket.send_text(message)


async def sub(websocket):
    await websocket.accept()
    listeners.add(websocket)
    try:
        async for _message in websocket.iter_text():
            pass
    finally:
        listeners.discard(websocket)


async def pub(websocket):
    await websocket.accept()
    async for message in websocket.iter_text():
        for listener in list(listeners):
            try:
                await listener.send_text(message)
            except WebSocketDisconnect:
                listeners.discard(listener)


app = Starlette(
    routes=[
        WebSocketRoute("/echo", echo),
        WebSocketRoute("/sub", sub),
        WebSocketRoute("/pub", pub),
    ]
)
