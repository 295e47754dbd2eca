"""The library websockets on asyncio; a broadcast is its own ``broadcast``."""

import asyncio
import sys

from websockets.asyncio.server import broadcast, serve

listeners = set()


async def view(websocket):
    if websocket.request.path == "/sub":
        listeners.add(websocket)
        try:
            await websocket.wait_closed()
        finally:
            listeners.discard(websocket)
    elif websocket.request.path == "/echo":
        async for message in websocket:
            await websocket.send(message)
    else:
        async for message in websocket:
            broadcast(listeners, message)


async def main(port):
    async with serve(view, "127.0.0.1", port, backlog=1024, compression=None) as server:
        await server.serve_forever()


asyncio.run(main(int(sys.argv[1])))
