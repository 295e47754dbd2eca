"""The limit of the language: epoll, and a loop of ``send`` over raw sockets in plain Python.

Only as much of the protocol as the measurements need: no fragments, no control frames but close.
What is masked is unmasked by the C function of the library websockets, as stargate has it done.
"""

import base64
import hashlib
import select
import socket
import sys

from websockets.frames import apply_mask

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %s\r\n\r\n"
)

poll = select.epoll()
peers = {}  # By descriptor.
listeners = {}  # Its socket, by descriptor.
unsent = {}  # What a socket has not taken yet, by descriptor.


class Peer:
    __slots__ = ("path", "received", "socket")

    def __init__(self, sock):
        self.socket, self.path, self.received = sock, None, b""


def header(opcode, size):
    if size < 126:
        return bytes((0x80 | opcode, size))
    if size < 65536:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big")
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big")


def broadcast(frame):
    size = len(frame)
    for fd, sock in listeners.items():
        if fd in unsent:
            keep(fd, frame)
            continue
        try:
            sent = sock.send(frame)
        except BlockingIOError:
            keep(fd, frame)
        except OSError:
            pass  # The poll will tell.
        else:
            if sent != size:
                keep(fd, frame[sent:])


def send(fd, sock, frame):
    try:
        sent = sock.send(frame) if fd not in unsent else 0
    except BlockingIOError:
        sent = 0
    if sent != len(frame):
        keep(fd, frame[sent:])


def keep(fd, rest):
    if fd not in unsent:
        unsent[fd] = bytearray()
        poll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
    unsent[fd] += rest


def go_on(fd, sock):
    rest = unsent[fd]
    del rest[: sock.send(rest)]
    if not rest:
        del unsent[fd]
        poll.modify(fd, select.EPOLLIN)


def accept(listening):
    while True:
        try:
            sock, _address = listening.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peers[sock.fileno()] = Peer(sock)
        poll.register(sock.fileno(), select.EPOLLIN)


def drop(fd):
    listeners.pop(fd, None)
    unsent.pop(fd, None)
    peers.pop(fd).socket.close()


def receive(fd, peer):
    received = peer.socket.recv(65_536)
    if not received:
        raise ConnectionResetError
    peer.received = peer.received + received if peer.received else received
    if peer.path is None:
        shake_hands(fd, peer)
    take_frames(fd, peer)


def shake_hands(fd, peer):
    head, end, rest = peer.received.partition(b"\r\n\r\n")
    if not end:
        return
    first, *lines = head.split(b"\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(b":") for line in lines)}
    key = headers[b"sec-websocket-key"].strip()
    accepted = base64.b64encode(hashlib.sha1(key + GUID).digest())
    peer.socket.send(ANSWER % accepted)
    peer.path, peer.received = first.split(b" ")[1], rest
    if peer.path == b"/sub":
        listeners[fd] = peer.socket


def take_frames(fd, peer):
    received, position = peer.received, 0
    while len(received) - position >= 6 and peer.path is not None:
        opcode, size, start = received[position] & 15, received[position + 1] & 127, position + 6
        if size >= 126:
            width = 2 if size == 126 else 8
            start += width
            size = int.from_bytes(received[position + 2 : position + 2 + width], "big")
        if len(received) < start + size:
            break
        payload = apply_mask(received[start : start + size], received[start - 4 : start])
        position = start + size
        take_frame(fd, peer, opcode, payload)
    peer.received = received[position:]


def take_frame(fd, peer, opcode, payload):
    if opcode == 8:
        peer.socket.send(header(8, len(payload[:2])) + payload[:2])
        raise ConnectionResetError
    if opcode in (1, 2):
        frame = header(opcode, len(payload)) + payload
        if peer.path == b"/pub":
            broadcast(frame)
        elif peer.path == b"/echo":
            send(fd, peer.socket, frame)


def serve(port):
    listening = socket.create_server(("127.0.0.1", port), backlog=1024)
    listening.setblocking(False)
    poll.register(listening.fileno(), select.EPOLLIN)
    while True:
        for fd, events in poll.poll():
            if fd == listening.fileno():
                accept(listening)
                continue
            try:
                if events & select.EPOLLOUT and fd in unsent:
                    go_on(fd, peers[fd].socket)
                if events & ~select.EPOLLOUT:
                    receive(fd, peers[fd])
            except BlockingIOError:
                pass
            except OSError:
                drop(fd)


serve(int(sys.argv[1]))
