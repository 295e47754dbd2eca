"""WebSockets: what each sends, takes and holds, and the walks of messages over many of them.

Everything belongs to the engine's own OS thread. Nothing here knows a resource, a topic, a view or
a backplane.
"""

from stargate.websocket.websocket import WebSocket as WebSocket
