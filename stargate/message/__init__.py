"""Messages as bytes and bytes as messages: frames, envelopes, JSON and addresses; no I/O.

Nothing here knows a socket, a listener or an application.
"""

from stargate.message.message import BINARY as BINARY
from stargate.message.message import TEXT as TEXT
from stargate.message.message import Message as Message
from stargate.message.message import Sent as Sent
