"""TLS: a class that stands where a non-blocking socket stands, and the certificate it shows.

OpenSSL is given bytes and gives bytes; it never sees the socket. Whoever reads and writes need not
know which of the two it has.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from pyramid.exceptions import ConfigurationError

from stargate.engine.hub import patcher, socket

ssl = patcher.original("ssl")

#: Bytes encrypted or decrypted at once. OpenSSL's buffers stay as large as the most that was ever
#: in them: with whole records a listener that got one long message would cost 30 KiB more for ever.
PIECE = 4096

#: The longest content of a record (RFC 8446, section 5.1).
RECORD = 16_384

#: Bytes of TLS's own (new keys, refused renegotiations) that may wait for a peer that reads none.
MOST_UNSENT = 65_536


class HandshakeFailed(OSError):
    """The peer speaks no TLS, or not as it is spoken here, or has left in the midst of it."""


class TlsSocket:
    """A non-blocking socket with TLS on it, on the server's side.

    After :meth:`shake_hands` it is read and written as the socket itself would be, but ``recv`` may
    return more than it was asked for: what has been decrypted makes no descriptor readable.
    """

    __slots__ = (
        "_ended",
        "_incoming",
        "_outgoing",
        "_owed",
        "_ready",
        "_sock",
        "_tls",
        "_unsent",
        "heard",
    )

    #: A green socket copies these, and never calls them.
    bind = listen = None

    def __init__(self, sock: Any, context: Any) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        #: Decrypted, and not asked for yet.
        self._ready = b""
        #: Encrypted, and not taken by the kernel yet.
        self._unsent = b""
        #: How many bytes of what is sent next have left already: none, or one.
        self._owed = 0
        #: Whether the peer has said anything.
        self.heard = False
        #: Whether it will say no more.
        self._ended = False

    # The handshake.

    def shake_hands(self) -> bool:
        """Take the handshake as far as it goes now; returns whether it is over.

        Raises :class:`HandshakeFailed`, or what the socket raises.
        """
        with suppress(BlockingIOError):  # It may be writable only.
            data = self._sock.recv(PIECE)
            if not data:
                raise HandshakeFailed("the peer has left")
            self.heard = True
            self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._answer()
            return False
        except ssl.SSLError as error:
            with suppress(OSError):
                self._answer()  # It tells the peer why.
            raise HandshakeFailed(reason(error)) from None
        self._answer()
        self._ready = self._decrypt(b"")
        return True

    @property
    def waits(self) -> bool:
        """Whether something is to be sent as soon as the socket is writable."""
        return bool(self._unsent)

    # Reading.

    def recv(self, size: int, _flags: int = 0) -> bytes:
        """Everything that has come in; of the socket ``size`` bytes are read, or a piece."""
        found, self._ready = self._ready, b""
        if found or self._ended:
            return found
        data = self._sock.recv(max(size, PIECE))
        if not data:
            return b""
        found = self._decrypt(data)
        if self._outgoing.pending or self._unsent:
            with suppress(OSError):
                self._answer()
            if len(self._unsent) > MOST_UNSENT:
                self._end()
        if not found and not self._ended:
            raise not_now()
        return found

    def recv_into(self, buffer: Any, size: int = 0, _flags: int = 0) -> int:
        """As :meth:`recv`; what does not fit into ``buffer`` is there for the next call."""
        size = size or len(buffer)
        data = self.recv(size)
        self._ready = data[size:]
        count = min(len(data), size)
        memoryview(buffer)[:count] = data[:count]
        return count

    def take_ready(self) -> bytes:
        """What has been decrypted and not been read."""
        found, self._ready = self._ready, b""
        return found

    def _decrypt(self, data: bytes) -> bytes:
        """What is in ``data``, and in front of it; none of it stays behind."""
        found: list[bytes] = []
        self._take_out(found)
        for start in range(0, len(data), PIECE):
            self._incoming.write(data[start : start + PIECE])
            self._take_out(found)
        return b"".join(found)

    def _take_out(self, found: list[bytes]) -> None:
        while self._incoming.pending and not self._ended:
            try:
                plain = self._tls.read(RECORD)
            except ssl.SSLWantReadError:
                return  # A record has come in part.
            except ssl.SSLError:
                plain = b""  # A broken one, or the end once more.
            if plain:
                found.append(plain)
            else:
                self._end()

    def _end(self) -> None:
        """Nothing more can come. Whoever waits for the descriptor is told so by the kernel."""
        self._ended = True
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    # Writing.

    def send(self, buffer: Any, _flags: int = 0) -> int:
        """As a socket's; where the kernel does not take all that was encrypted, one byte less.

        What is encrypted will leave, and cannot be taken back. Of a buffer that was encrypted to
        its end, the last byte is said not to be sent, so that the caller comes back when the
        socket is writable, and counts the buffer as begun until then.
        """
        size = len(buffer)
        if size > PIECE or self._unsent or self._owed:
            return self.sendmsg((buffer,))
        if size:
            self._pass_on(buffer)
        return self._own_up(size, size)

    def sendmsg(self, buffers: Sequence[Any]) -> int:
        """As :meth:`send`, for several buffers."""
        self._flush()
        taken, self._owed = self._owed, 0
        for piece in pieces(buffers, taken):
            taken += len(piece)
            self._pass_on(piece)
            if self._unsent:
                break
        return self._own_up(taken, sum(map(len, buffers)))

    def _pass_on(self, piece: Any) -> None:
        """Encrypt ``piece``, and send as much of that as the kernel takes."""
        try:
            self._tls.write(piece)
        except ssl.SSLError as error:
            raise BrokenPipeError(errno.EPIPE, f"TLS: {reason(error)}") from None
        ciphertext = self._outgoing.read()
        try:
            sent = self._sock.send(ciphertext)
        except BlockingIOError:
            sent = 0
        self._unsent = ciphertext[sent:]

    def _own_up(self, taken: int, of: int) -> int:
        """How many of the ``taken`` bytes to call sent, where ``of`` bytes were to be."""
        if not self._unsent or taken < of:
            return taken
        self._owed = 1
        if taken == 1:
            raise not_now()
        return taken - 1

    def _flush(self) -> None:
        if self._unsent:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
            if self._unsent:
                raise not_now()

    def _answer(self) -> None:
        """Send what TLS has to say for itself; it may have to wait."""
        self._unsent += self._outgoing.read()
        with suppress(BlockingIOError):
            self._flush()

    # Ending.

    def shutdown(self, how: int) -> None:
        """As a socket's; an end of what we send is said in TLS as well (RFC 8446, section 6.1)."""
        if how != socket.SHUT_RD:
            with suppress(OSError):  # It would wait for the peer's; or the peer has gone.
                self._tls.unwrap()
            with suppress(OSError):
                self._answer()
        self._sock.shutdown(how)

    def close(self) -> None:
        """Close the descriptor."""
        self._sock.close()

    # What is the socket's own.

    @property
    def family(self) -> int:
        return int(self._sock.family)

    def fileno(self) -> int:
        return int(self._sock.fileno())

    def getsockname(self) -> Any:
        return self._sock.getsockname()

    def getsockopt(self, *args: Any) -> Any:
        return self._sock.getsockopt(*args)

    def setsockopt(self, *args: Any) -> None:
        self._sock.setsockopt(*args)

    def setblocking(self, _flag: bool) -> None:
        """It never blocks."""

    def gettimeout(self) -> float:
        return 0.0


def pieces(buffers: Iterable[Any], skip: int) -> Iterator[bytearray]:
    """``buffers`` without their first ``skip`` bytes, in pieces of at most ``PIECE`` bytes."""
    piece = bytearray()
    for buffer in buffers:
        rest = memoryview(buffer)[skip:]
        skip = max(0, skip - len(buffer))
        while rest:
            room = PIECE - len(piece)
            if not room:
                yield piece
                piece, room = bytearray(), PIECE
            piece += rest[:room]
            rest = rest[room:]
    if piece:
        yield piece


def not_now() -> BlockingIOError:
    """What a non-blocking socket raises when there is nothing to read, or no room to write."""
    return BlockingIOError(errno.EAGAIN, "not now")


def reason(error: Any) -> str:
    """What OpenSSL says is wrong, as words."""
    return error.reason.replace("_", " ").lower() if error.reason else str(error)


# The certificate.

#: What OpenSSL calls a key that belongs to another certificate, of the same kind or not.
NOT_THE_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")


def server_context(certfile: str, keyfile: str) -> Any:
    """What :class:`TlsSocket` is made with: TLS 1.2 and 1.3, with the certificate of two PEM files.

    ``certfile`` has the chain too, and the key where ``keyfile`` is empty. Raises
    ``ConfigurationError`` for what is no certificate, no key, or not the key of it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # It costs the peer little, and the server much.
    context.set_alpn_protocols(["http/1.1"])
    certificate = ("certfile", certfile)
    key = ("keyfile", keyfile) if keyfile else certificate
    _check_pem(*certificate, "CERTIFICATE-----", "certificate")
    _check_pem(*key, "PRIVATE KEY-----", "private key")
    asked: list[bytes] = []

    def no_password() -> bytes:
        asked.append(b"")
        return b""

    try:
        # Without a function OpenSSL would ask for a password on the terminal.
        context.load_cert_chain(certfile, keyfile or None, no_password)
    except ssl.SSLError as error:
        if asked:
            raise _wrong(
                *key,
                "the key is encrypted: it must be one that is not, as openssl pkey -in "
                f"{key[1]} -out FILE writes it",
            ) from None
        if error.reason in NOT_THE_KEY:
            text = f"it is not the key of the certificate in certfile = {certfile!r}"
            raise _wrong(*key, text) from None
        guilty = certificate if error.reason or not _is_readable(certfile) else key
        raise _wrong(*guilty, f"OpenSSL cannot use it: {_unusable(error)}") from None
    return context


def _unusable(error: Any) -> str:
    # Without a reason it has the place in OpenSSL's code alone.
    return reason(error) if error.reason else "it is damaged, or cut off"


def _check_pem(name: str, path: str, mark: str, what: str) -> None:
    try:
        with open(path, "rb") as file:
            found = mark.encode() in file.read()
    except OSError as error:
        denied = error.errno == errno.EACCES
        hint = ": the user of this process must be able to read it" if denied else ""
        raise _wrong(name, path, f"{error.strerror}{hint}") from None
    if not found:
        raise _wrong(
            name,
            path,
            f"there is no {what} in it; it must be PEM, with a line -----BEGIN ... {mark}",
        )


def _is_readable(certfile: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certfile)
    except ssl.SSLError:
        return False
    return True


def _wrong(name: str, path: str, text: str | None) -> ConfigurationError:
    return ConfigurationError(f"{name} = {path!r}: {text}")
