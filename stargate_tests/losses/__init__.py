"""Lost nothing: processes, Redis and sockets die for a while, and no acknowledged message does."""
