"""The application, as its resources and views see it: its gate, its tree, its JSON renderer.

What is sent goes down from here: to the backplane and to who listens. Nothing here knows a request
that is no handshake, nor a socket.
"""

from stargate.application.gates import Gate as Gate
from stargate.application.gates import gate as gate
