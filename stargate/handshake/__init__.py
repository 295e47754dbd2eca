"""Who may open a WebSocket: the handshake, its origin, and how many are let in.

Nothing here knows a resource, a view or what is sent.
"""

from stargate.handshake.upgrade import is_websocket as is_websocket
