"""A WebSocket peer by hand, for what no well-behaved library would send."""

import socket
from urllib.parse import urlsplit

from websockets.frames import Frame, Opcode

from stargate_tests.certificates import trust

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, section 1.3, for this key


def handshake(host="localhost", path="/", *extra, version="13"):
    """The bytes of an opening handshake."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        f"Sec-WebSocket-Version: {version}",
        *extra,
    ]
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def frame(message, opcode=None, fin=True):
    """A masked frame, as a browser sends it."""
    if opcode is None:
        opcode = Opcode.TEXT if isinstance(message, str) else Opcode.BINARY
    data = message.encode() if isinstance(message, str) else message
    return Frame(opcode, data, fin).serialize(mask=True)


def dial(url, timeout=20, rcvbuf=None):
    """A connection to the server at ``url``: ``http:``, ``https:``, or ``unix:`` and a path."""
    parts = urlsplit(url)
    sock = socket.socket(socket.AF_UNIX if parts.scheme == "unix" else socket.AF_INET)
    sock.settimeout(timeout)
    if rcvbuf is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    try:
        sock.connect(parts.path if parts.scheme == "unix" else (parts.hostname, parts.port))
        if parts.scheme == "https":
            sock = trust().wrap_socket(sock, server_hostname=parts.hostname)
    except BaseException:
        sock.close()
        raise
    return sock


def connect(url, path="/", *extra, behind=b"", rcvbuf=None, timeout=20):
    """Dial, shake hands, send ``behind`` in the same packet; returns the socket."""
    sock = dial(url, timeout, rcvbuf)
    try:
        sock.sendall(handshake(urlsplit(url).netloc or "localhost", path, *extra) + behind)
        head = read_head(sock)
        assert head.startswith(b"HTTP/1.1 101 "), head
    except BaseException:
        sock.close()
        raise
    return sock


def read_head(sock):
    """Exactly the status line and headers of an answer."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            break
        head += byte
    return head


def read_frame(sock):
    """The next frame of the server but for the pings of its heartbeat: its opcode and payload."""
    while (found := read_any_frame(sock))[0] is Opcode.PING:
        pass
    return found


def read_any_frame(sock):
    """The next frame of the server: its opcode and payload."""
    first, length = _exactly(sock, 2)
    if length == 126:
        length = int.from_bytes(_exactly(sock, 2), "big")
    elif length == 127:
        length = int.from_bytes(_exactly(sock, 8), "big")
    return Opcode(first & 15), _exactly(sock, length)


def read_all(sock):
    """Everything until the server closes."""
    found = b""
    while True:
        try:
            data = sock.recv(65536)
        except ConnectionResetError:
            return found
        if not data:
            return found
        found += data


def _exactly(sock, size):
    found = bytearray()
    while len(found) < size:
        data = sock.recv(size - len(found))
        if not data:
            raise EOFError(bytes(found))
        found += data
    return bytes(found)
