"""The memory of a listener: a parked one, and one whose view is a blocking ``handler``.

Opens WebSockets on a server in a process of its own and prints how much its proportional set size
(PSS, what the kernel counts as this process's memory) grows for each. ``make bench-memory`` runs
it; ``python benchmarks/memory.py --sockets 5000`` does as well. Linux only.
"""

import argparse
import re
import resource
import select
import socket
import subprocess
import sys
from pathlib import Path

HANDSHAKE = (
    "GET /{path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

KINDS = {
    "parked": "WebSocketView as it stands",
    "events": "on_message and on_close overridden",
    "handler": "a blocking handler",
}

#: Opened before the measurement, so that what is made once is not counted.
WARM = 300


def serve():
    """The server: a tree of one resource a kind of view."""
    import stargate

    stargate.patch()
    from pyramid.config import Configurator

    from stargate import WebSocketAwareContext, WebSocketView
    from stargate.server import serve

    class Node(WebSocketAwareContext):
        def __init__(self, name, parent):
            self.__name__, self.__parent__ = name, parent
            self.children = {}

        def __getitem__(self, name):
            return self.children[name]

    class Events(WebSocketView):
        def on_message(self, websocket, message):
            self.context.send(message)

        def on_close(self, websocket):
            pass

    class Handler(WebSocketView):
        def handler(self, websocket):
            self.context.add_listener(websocket)
            for message in websocket:
                self.context.send(message)

    class Parked(Node):
        pass

    class WithEvents(Node):
        pass

    class WithHandler(Node):
        pass

    root = Node("", None)
    root.children = {
        "parked": Parked("parked", root),
        "events": WithEvents("events", root),
        "handler": WithHandler("handler", root),
    }
    with Configurator(root_factory=lambda request: root) as config:
        config.include("stargate")
        config.add_websocket_view(context=Parked)
        config.add_websocket_view(Events, context=WithEvents)
        config.add_websocket_view(Handler, context=WithHandler)
        app = config.make_wsgi_app()
    serve(app, listen="127.0.0.1:0", access_log=False)


def connect(port, path):
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    sock.sendall(HANDSHAKE.format(path=path).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(4096) or sys.exit(f"the server closed: {head!r}")
    if not head.startswith(b"HTTP/1.1 101 "):
        sys.exit(f"no handshake: {head!r}")
    return sock


def pss(process):
    """The proportional set size of ``process`` in KiB."""
    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE).group(1))


def settle(sock):
    """Return when the server has come to what was sent before: it answers a ping in order."""
    sock.sendall(b"\x89\x80\0\0\0\0")
    assert sock.recv(2) == b"\x8a\0"


def measure(kind, count):
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            ready, _, _ = select.select([process.stderr], [], [], 60)
            line = process.stderr.readline() if ready else ""
            port = int(re.search(r"serving on http://\S+:(\d+)", line).group(1))
            held = [connect(port, kind) for _ in range(WARM)]
            settle(held[-1])
            before = pss(process)
            held += [connect(port, kind) for _ in range(count)]
            settle(held[-1])
            after = pss(process)
            for sock in held:
                sock.close()
        finally:
            process.terminate()
            process.wait(60)
    return (after - before) / count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sockets", type=int, default=5000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    wanted = options.sockets + WARM + 200
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if wanted > hard:
        sys.exit(f"{wanted} descriptors are needed, and the limit is {hard}: see ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if options.serve:
        serve()
        return
    print(f"memory of the server for each of {options.sockets} WebSockets")
    for kind, what in KINDS.items():
        print(f"  {kind:8} {measure(kind, options.sockets):6.2f} KiB   {what}")


if __name__ == "__main__":
    main()
