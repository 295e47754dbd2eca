"""One process that serves: where it listens, what it says good-bye to, and how it ends.

HTTP is the engine's. Nothing here may import Pyramid before the standard library is patched.
"""

from stargate.server.process import Server as Server
from stargate.server.process import run as run
from stargate.server.process import serve as serve
from stargate.server.process import server_factory as server_factory
