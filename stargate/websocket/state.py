"""The states of a connection; what leads from one to the next is in ``connection.py``."""

from __future__ import annotations

import enum


class State(enum.Enum):
    """Where a connection is in its life.

    ========  =======================================  ==================================
    state     what it means                            what leads out of it
    ========  =======================================  ==================================
    OPEN      messages go both ways                    a close frame either way, or a loss
    CLOSING   over for the application; the close      the peer's end, a loss, or
              handshake and queued bytes remain        ``close_timeout``
    CLOSED    the descriptor is closed                 nothing
    ========  =======================================  ==================================
    """

    OPEN = 1
    CLOSING = 2
    CLOSED = 3
