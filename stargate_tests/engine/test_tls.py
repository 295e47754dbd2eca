import random
import socket
import ssl
from contextlib import suppress
from functools import lru_cache
from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyramid.exceptions import ConfigurationError

from stargate.engine import tls
from stargate.engine.tls import HandshakeFailed, TlsSocket, pieces, server_context
from stargate_tests.certificates import certificate, folder, issue
from stargate_tests.conftest import pair

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@lru_cache
def context():
    return server_context(certificate().certfile, certificate().keyfile)


class TlsPeer:
    """The other end, as bytes: what OpenSSL's client says and understands."""

    def __init__(self, sock, version=None):
        self.sock = sock
        sock.setblocking(False)
        made = ssl.create_default_context(cafile=certificate().authority)
        if version is not None:
            made.minimum_version = made.maximum_version = version
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = made.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def flight(self):
        """What it says next in the handshake."""
        with suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outgoing.read()

    def hear(self):
        """Take in what has come; false at the end of it."""
        try:
            data = self.sock.recv(65_536)
        except BlockingIOError:
            return True
        self.incoming.write(data)
        return bool(data)

    def sealed(self, data):
        """The record that has ``data`` in it."""
        self.tls.write(data)
        return self.outgoing.read()

    def say(self, data):
        self.sock.sendall(self.sealed(data))

    def read(self):
        """All that can be read now."""
        found = b""
        self.hear()
        try:
            while data := self.tls.read(65_536):
                found += data
        except ssl.SSLWantReadError:
            pass
        return found


class Narrow:
    """A socket that takes as many bytes at a time as ``limits`` say; none is not now."""

    def __init__(self, sock, limits):
        self._sock, self._limits, self.sent = sock, cycle(limits), b""

    def send(self, data):
        limit = next(self._limits)
        if not limit:
            raise BlockingIOError
        self.sent += bytes(data[:limit])
        return min(limit, len(data))

    def __getattr__(self, name):
        return getattr(self._sock, name)


@pytest.fixture
def sockets():
    ours, theirs = pair("unix")
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def shaken(sockets, version=None):
    """Both ends behind the handshake."""
    ours, theirs = sockets
    secure, peer = TlsSocket(ours, context()), TlsPeer(theirs, version)
    shake(secure, peer)
    return secure, peer


def shake(secure, peer):
    over = False
    while not over:
        peer.hear()
        peer.sock.sendall(peer.flight())
        over = secure.shake_hands()
    peer.read()  # The tickets of TLS 1.3.


@pytest.fixture
def ends(sockets):
    return shaken(sockets)


# The handshake.


@pytest.mark.parametrize("version", VERSIONS)
def test_a_handshake_and_a_word_each_way(sockets, version):
    secure, peer = shaken(sockets, version)
    assert secure.send(b"hello") == 5
    assert peer.read() == b"hello"
    peer.say(b"hello yourself")
    assert secure.recv(100) == b"hello yourself"
    assert peer.tls.selected_alpn_protocol() is None


def test_a_handshake_that_comes_byte_by_byte(sockets):
    ours, theirs = sockets
    secure, peer = TlsSocket(ours, context()), TlsPeer(theirs)
    over = False
    while not over:
        peer.hear()
        for byte in peer.flight():
            assert not over
            theirs.sendall(bytes([byte]))
            over = secure.shake_hands()
    peer.say(b"x")
    assert secure.recv(100) == b"x"


def test_words_behind_the_handshake_in_its_packet_are_there(sockets):
    ours, theirs = sockets
    secure, peer = TlsSocket(ours, context()), TlsPeer(theirs)
    theirs.sendall(peer.flight())
    assert not secure.shake_hands()
    peer.hear()
    theirs.sendall(peer.flight() + peer.sealed(b"early words"))
    assert secure.shake_hands()
    assert secure.recv(100) == b"early words"


def test_an_answer_that_the_kernel_does_not_take_waits_until_it_does(sockets):
    ours, theirs = sockets
    narrow = Narrow(ours, [0])
    secure, peer = TlsSocket(narrow, context()), TlsPeer(theirs)
    theirs.sendall(peer.flight())
    assert not secure.shake_hands()
    assert secure.waits and not narrow.sent
    narrow._limits = cycle([100])
    while secure.waits:
        assert not secure.shake_hands()
    theirs.setblocking(True)
    peer.incoming.write(narrow.sent)
    narrow._limits = cycle([100_000])
    theirs.sendall(peer.flight())
    assert secure.shake_hands()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "http request"),
        (b"\x16\x03\x01\x00\x05hello", "unexpected message"),
        (b"\0" * 100, "wrong version number"),
        (b"", "the peer has left"),
    ],
)
def test_what_is_no_handshake_fails(sockets, said, why):
    ours, theirs = sockets
    secure = TlsSocket(ours, context())
    theirs.sendall(said)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(HandshakeFailed, match=why):
        secure.shake_hands()
    assert secure.heard is bool(said)


def test_tls_1_1_is_told_that_it_is_too_old(sockets):
    ours, theirs = sockets
    made = ssl.create_default_context(cafile=certificate().authority)
    made.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        made.minimum_version = made.maximum_version = ssl.TLSVersion.TLSv1_1
    secure, peer = TlsSocket(ours, context()), TlsPeer(theirs)
    peer.tls = made.wrap_bio(peer.incoming, peer.outgoing, server_hostname="localhost")
    theirs.sendall(peer.flight())
    with pytest.raises(HandshakeFailed, match="unsupported protocol"):
        secure.shake_hands()
    peer.hear()
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        peer.flight()


# Reading.


def test_nothing_to_read_is_what_a_socket_says(ends):
    secure, peer = ends
    with pytest.raises(BlockingIOError):
        secure.recv(100)
    record = peer.sealed(b"in two packets")
    peer.sock.sendall(record[:10])
    with pytest.raises(BlockingIOError):
        secure.recv(100)
    peer.sock.sendall(record[10:])
    assert secure.recv(100) == b"in two packets"


def test_all_that_was_decrypted_is_given_at_once(ends):
    secure, peer = ends
    said = random.Random(4).randbytes(100_000)
    peer.sock.setblocking(True)
    peer.sock.sendall(
        b"".join(peer.sealed(said[n : n + 10_000]) for n in range(0, 100_000, 10_000))
    )
    heard = b""
    while len(heard) < len(said):
        heard += secure.recv(65_536)
    assert heard == said


def test_what_does_not_fit_into_a_buffer_is_there_for_the_next(ends):
    secure, peer = ends
    peer.say(b"a long sentence")
    buffer = bytearray(6)
    assert (secure.recv_into(buffer), bytes(buffer)) == (6, b"a long")
    assert (secure.recv_into(buffer, 3), bytes(buffer[:3])) == (3, b" se")
    assert secure.take_ready() == b"ntence"
    assert secure.take_ready() == b""


def test_the_peers_close_notify_is_the_end_and_the_poller_is_told(ends):
    secure, peer = ends
    record = peer.sealed(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.unwrap()
    peer.sock.sendall(record + peer.outgoing.read() + b"never read")
    assert secure.recv(100) == b"last words"
    assert secure._sock.recv(100) in (b"", b"never read")  # Readable: nobody sleeps over it.
    assert secure.recv(100) == secure.recv(100) == b""


def test_a_peer_that_hangs_up_without_it_has_ended_too(ends):
    secure, peer = ends
    peer.sock.shutdown(socket.SHUT_WR)
    assert secure.recv(100) == b""


def test_a_record_that_was_tampered_with_is_the_end(ends):
    secure, peer = ends
    record = bytearray(peer.sealed(b"pay 1 to kay"))
    record[-1] ^= 1
    peer.sock.sendall(record)
    assert secure.recv(100) == b""


def test_a_peer_that_keeps_tls_talking_and_reads_nothing_is_ended(ends, monkeypatch):
    secure, peer = ends
    with pytest.raises(BlockingIOError):
        while True:
            secure.send(b"x" * 4000)
    monkeypatch.setattr(tls, "MOST_UNSENT", 10)
    assert secure.waits
    peer.say(b"more")
    assert secure.recv(100) == b"more"
    assert secure.recv(100) == b""


# Writing.


def test_a_long_message_comes_whole_to_a_peer_that_reads_slowly(ends):
    secure, peer = ends
    said = random.Random(5).randbytes(3_000_000)
    left, heard, refused = memoryview(said), b"", 0
    while left:
        try:
            left = left[secure.send(left) :]
        except BlockingIOError:
            refused += 1
            heard += peer.read()
    while len(heard) < len(said):
        heard += peer.read()
    assert heard == said
    assert refused


def test_a_message_is_never_said_to_be_sent_while_the_kernel_has_not_all_of_it(ends):
    secure, _peer = ends
    secure._sock = Narrow(secure._sock, [10, 0])
    assert secure.send(b"x" * 100) == 99
    assert secure.waits
    with pytest.raises(BlockingIOError):
        secure.send(b"x")
    secure._sock._limits = cycle([1000])
    assert secure.send(b"x") == 1
    assert not secure.waits


def test_one_byte_that_the_kernel_does_not_take_is_not_sent(ends):
    secure, peer = ends
    narrow = secure._sock = Narrow(secure._sock, [0])
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            secure.send(b"x")
    narrow._limits = cycle([1000])
    assert secure.send(b"x") == 1
    peer.incoming.write(narrow.sent)
    assert peer.read() == b"x"


def test_nothing_is_sent_for_nothing(ends):
    secure, _peer = ends
    secure._sock = Narrow(secure._sock, [0])
    assert secure.send(b"") == 0
    assert not secure.waits


@lru_cache
def endless_ends():
    """One pair of ends for all that Hypothesis tries; nothing of it reaches a kernel."""
    ours, theirs = pair("unix")
    ours.setblocking(False)
    return shaken((ours, theirs))


@pytest.fixture(scope="module", autouse=True)
def closed():
    yield
    if endless_ends.cache_info().currsize:
        secure, peer = endless_ends()
        secure.close()
        peer.sock.close()


@given(
    st.lists(st.integers(1, 10_000), min_size=1, max_size=8),
    st.lists(st.sampled_from([0, 1, 30, 4000, 4118, 4119, 100_000]), min_size=1, max_size=6).filter(
        any
    ),
    st.booleans(),
)
def test_whatever_the_kernel_takes_the_stream_is_the_same(sizes, limits, single):
    secure, peer = endless_ends()
    narrow = secure._sock = Narrow(getattr(secure._sock, "_sock", secure._sock), limits)
    buffers = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    said, left = b"".join(buffers), [memoryview(buffer) for buffer in buffers]
    while left:
        offered = len(left[0]) if single else sum(map(len, left))
        try:
            sent = secure.send(left[0]) if single else secure.sendmsg(left)
        except BlockingIOError:
            assert secure.waits
            continue
        assert secure.waits <= (sent < offered)
        while left and sent >= len(left[0]):
            sent -= len(left.pop(0))
        if left:
            left[0] = left[0][sent:]
    peer.incoming.write(narrow.sent)
    assert peer.read() == said


@pytest.mark.parametrize(
    ("sizes", "skip", "found"),
    [
        ([], 0, []),
        ([3], 1, [2]),
        ([1, 5], 1, [5]),
        ([4096], 0, [4096]),
        ([4097], 0, [4096, 1]),
        ([4095, 4095], 0, [4096, 4094]),
        ([1, 1, 1], 0, [3]),
    ],
)
def test_pieces_are_as_long_as_they_may_be(sizes, skip, found):
    assert [len(piece) for piece in pieces([b"x" * size for size in sizes], skip)] == found


def test_a_write_behind_the_end_of_tls_is_a_broken_pipe(ends):
    secure, _peer = ends
    secure.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError, match="TLS"):
        secure.send(b"more")


# Ending.


def test_a_half_close_is_a_close_notify_and_reading_goes_on(ends):
    secure, peer = ends
    secure.send(b"last words")
    secure.shutdown(socket.SHUT_WR)
    assert peer.read() == b"last words"  # Without a close_notify, OpenSSL would raise.
    peer.say(b"answer")
    assert secure.recv(100) == b"answer"


def test_to_stop_reading_says_nothing(ends):
    secure, peer = ends
    secure.shutdown(socket.SHUT_RD)
    secure.send(b"still here")
    assert peer.read() == b"still here"


def test_the_rest_is_the_sockets_own(ends):
    secure, _peer = ends
    assert secure.family == socket.AF_UNIX
    assert secure.getsockname() == secure._sock.getsockname()
    secure.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    assert secure.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    secure.setblocking(True)
    assert secure.gettimeout() == 0
    secure.close()
    assert secure.fileno() == -1


# The certificate.


def written(name, content):
    path = f"{folder().name}/{name}"
    with open(path, "wb") as file:
        file.write(content)
    return path


def content(path):
    with open(path, "rb") as file:
        return file.read()


def test_one_file_may_have_both():
    assert server_context(certificate().both, "")


def test_files_that_make_no_sense_are_named():
    good, other = certificate(), issue("localhost", stem="other")
    empty = written("empty", b"")
    cut = content(good.certfile)
    broken = written("broken", cut[:100] + cut[110:])
    key = content(good.keyfile)
    broken_key = written("broken.key", key[:60] + b"????" + key[64:])
    for certfile, keyfile, says in [
        ("/no/such/file", "", "certfile = '/no/such/file': No such file or directory"),
        (good.certfile, "/no/such/key", "keyfile = '/no/such/key': No such file or directory"),
        (folder().name, "", f"certfile = {folder().name!r}: Is a directory"),
        (empty, "", "there is no certificate in it; it must be PEM"),
        (
            good.certfile,
            "",
            f"certfile = {good.certfile!r}: there is no private key in it; it must be PEM",
        ),
        (
            good.certfile,
            good.certfile,
            "keyfile = .*: there is no private key in it; it must be PEM",
        ),
        (good.certfile, other.keyfile, f"keyfile = {other.keyfile!r}: it is not the key of"),
        (broken, good.keyfile, f"certfile = {broken!r}: OpenSSL cannot use it"),
        (good.certfile, broken_key, f"keyfile = {broken_key!r}: OpenSSL cannot use it"),
    ]:
        with pytest.raises(ConfigurationError, match=says):
            server_context(certfile, keyfile)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it():
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(content(certificate().keyfile), None)
    encrypted = written(
        "encrypted.key",
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        ),
    )
    with pytest.raises(ConfigurationError, match="the key is encrypted"):
        server_context(certificate().certfile, encrypted)
