"""What goes wrong around a Redis and around ``stargate listen``, brought about for real.

Each is a context manager under the words of the table in docs/topics/when-it-fails.rst that it
belongs to, and yields the URL to try.
"""

from __future__ import annotations

import http.server
import os
import socket
import ssl
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from stargate_tests.certificates import certificate, issue
from stargate_tests.redis_groups import Replica, Sentinel
from stargate_tests.redis_servers import RedisServer, free_port
from stargate_tests.waiting import wait_until

#: What must not be in any sentence.
SECRET = "sesame-open"

#: By the words of the tables.
REDIS, LISTEN = {}, {}


def of_redis(cause):
    """Put a context manager into the table of the Redis."""
    return lambda function: REDIS.setdefault(cause, contextmanager(function))


def of_listen(cause):
    """Put one into the table of ``stargate listen``."""
    return lambda function: LISTEN.setdefault(cause, contextmanager(function))


# Logging in.


def _login(cause, login, **config):
    @of_redis(cause)
    def broken():
        with RedisServer(**config) as server:
            yield f"redis://{login}127.0.0.1:{server.port}/0"


LOCKED = {"requirepass": "another", "user": [f"poor on >{SECRET} ~* &* +get"]}

_login("a password is needed, and the URL has none", "", **LOCKED)
_login("the password is wrong", f":{SECRET}@", **LOCKED)
_login("the user is unknown", f"nobody:{SECRET}@", **LOCKED)
_login("the ACL does not let it", f"poor:{SECRET}@", **LOCKED)
_login("a password is given, and none is needed", f":{SECRET}@")
_login("a command is renamed", f":{SECRET}@", rename_command=["AUTH OTHER"])


@of_redis("no database of that number")
def _database():
    with RedisServer() as server:
        yield f"redis://127.0.0.1:{server.port}/99"


@of_redis("protected mode, and another machine")
def _protected():
    with (
        RedisServer(bind="*", protected_mode="yes") as server,
        _from_elsewhere(server.port) as port,
    ):
        yield f"redis://127.0.0.1:{port}/0"


# What it does not do now.


def _configured(cause, **settings):
    @of_redis(cause)
    def broken():
        with RedisServer() as server:
            for name, value in settings.items():
                server.ask("CONFIG", "SET", name.replace("_", "-"), value)
            yield server.url


_configured("its memory is full, and its policy noeviction", maxmemory=1)
_configured("it has fewer replicas than it must have", min_replicas_to_write=1)


@of_redis("it is a replica")
def _replica():
    with RedisServer() as server, Replica(server) as replica:
        yield replica.url


@of_redis("it is a replica that has lost its primary")
def _orphan():
    with RedisServer(replica_serve_stale_data="no") as server:
        server.ask("REPLICAOF", "127.0.0.1", free_port())
        yield server.url


@of_redis("it cannot write its snapshot")
def _full_disk():
    with RedisServer(save="3600 1") as server:
        (server.data / "dump.rdb").mkdir()
        server.ask("SET", "x", "y")
        server.ask("BGSAVE")
        wait_until(lambda: server.info("persistence")["rdb_last_bgsave_status"] == "err")
        yield server.url


@of_redis("it has too many connections")
def _crowded():
    with RedisServer(maxclients=1) as server:
        server.ask("PING")  # By that connection of its own.
        yield server.url


# Clusters and Sentinels.


def _node(cause, url, slots=""):
    @of_redis(cause)
    def broken():
        with RedisServer(cluster_enabled="yes") as server:
            if slots:
                server.ask("CLUSTER", "ADDSLOTSRANGE", *slots.split())
            yield url.format(server.port)


_node("it is a node of a Cluster, and the database not 0", "redis://127.0.0.1:{}/1")
_node("it is a node of a Cluster, and the URL redis://", "redis://127.0.0.1:{}/0")
_node("the Cluster has slots without a node", "redis+cluster://127.0.0.1:{}/0", "0 16382")


def _alone(cause, url):
    @of_redis(cause)
    def broken():
        with RedisServer() as server:
            yield url.format(server.port)


_alone("it is no node of a Cluster", "redis+cluster://127.0.0.1:{}/0")
_alone("it is no Sentinel", "redis+sentinel://127.0.0.1:{}/shop/0")


@of_redis("the Sentinel knows no such name")
def _nothing_watched():
    with RedisServer() as server, Sentinel(server) as sentinel:
        yield f"redis+sentinel://127.0.0.1:{sentinel.port}/nothing/0"


# What is there instead.


@of_redis("something else listens there, such as a web server")
def _web():
    with _web_server() as port:
        yield f"redis://127.0.0.1:{port}/0"


@of_redis("nobody listens there")
def _nobody():
    yield f"redis://:{SECRET}@127.0.0.1:{free_port()}/0"


@of_redis("it stands still, or a firewall is between")
def _still():
    with RedisServer() as server:
        server.pause()
        yield server.url
        server.resume()


@of_redis("the host is unknown")
def _unknown():
    yield f"redis://:{SECRET}@no-such-host.invalid:6379/0"


# UNIX sockets.


@of_redis("the UNIX socket is missing")
def _no_socket():
    with tempfile.TemporaryDirectory() as folder:
        yield f"unix://:{SECRET}@{folder}/redis.sock"


@of_redis("the UNIX socket is one that nobody listens on, a file, or a folder")
def _stale_socket():
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(f"{folder}/stale")
        Path(folder, "file").touch()
        yield [f"unix://{folder}/stale", f"unix://{folder}/file", f"unix://{folder}"]


@of_redis("the UNIX socket may not be opened")
def _closed_socket():
    with RedisServer(unixsocketperm="0" if os.geteuid() else "700") as server:
        server.folder.chmod(0o755)
        yield server.unix_url


@of_redis("the path of the UNIX socket is too long")
def _long_socket():
    yield f"unix:///tmp/{'x' * 120}"


# TLS.


@of_redis("it speaks TLS, and the URL is redis://")
def _only_tls():
    with RedisServer(tls=True) as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@of_redis("it does not speak TLS, and the URL is rediss://")
def _no_tls():
    with RedisServer() as server:
        yield f"rediss://127.0.0.1:{server.port}/0"


@of_redis("a web server listens there, and the URL is rediss://")
def _web_and_tls():
    with _web_server() as port:
        yield f"rediss://127.0.0.1:{port}/0"


def _over_tls(cause, options, **config):
    @of_redis(cause)
    def broken():
        with RedisServer(tls=True, **config) as server:
            options_now = options.format(certificate().authority, certificate().certfile)
            yield f"rediss://localhost:{server.port}/0{options_now}"


_over_tls("its certificate is signed by nobody who is known", "")
_over_tls("the file of the authority is missing", "?ssl_ca_certs=/no/such.pem")
_over_tls("the file of the authority is none", f"?ssl_ca_certs={__file__}")
_over_tls("it wants a certificate of who connects", "?ssl_ca_certs={}", tls_auth_clients="yes")


@of_redis("its certificate is for another host")
def _other_host():
    authority = trustme.CA()
    issued = authority.issue_cert("redis.example")
    with tempfile.TemporaryDirectory() as folder:
        names = [f"{folder}/{name}.pem" for name in ("cert", "key", "authority")]
        issued.cert_chain_pems[0].write_to_path(names[0])
        issued.private_key_pem.write_to_path(names[1])
        authority.cert_pem.write_to_path(names[2])
        config = {"tls_cert_file": names[0], "tls_key_file": names[1]}
        with RedisServer(tls=True, tls_ca_cert_file=names[2], **config) as server:
            yield f"rediss://localhost:{server.port}/0?ssl_ca_certs={names[2]}"


def _of(year):
    """A certificate that was valid on the first day of ``year``."""
    return issue("localhost", stem=f"of-{year}", begins=datetime(year, 1, 1, tzinfo=UTC))


YEARS = (2011, 2111)


@of_redis("its certificate has expired, or is of the future")
def _other_time():
    with ExitStack() as stack:
        urls = []
        for made in map(_of, YEARS):
            server = stack.enter_context(
                RedisServer(tls=True, tls_cert_file=made.certfile, tls_key_file=made.keyfile)
            )
            urls.append(f"rediss://localhost:{server.port}/0?ssl_ca_certs={made.authority}")
        yield urls


@of_redis("the two have no version or cipher of TLS in common")
def _nothing_in_common():
    old = {"tls_protocols": "TLSv1.1"}, {"tls_protocols": "TLSv1.2", "tls_auth_clients": "yes"}
    with RedisServer(tls=True, **old[0]) as first, RedisServer(tls=True, **old[1]) as second:
        url = f"rediss://localhost:{{}}/0?ssl_ca_certs={certificate().authority}"
        yield [
            url.format(first.port),
            url.format(second.port),
            f"{url.format(second.port)}&ssl_ciphers=none",
        ]


@of_redis("it does not trust the certificate of who connects")
def _strange_peer():
    peers = issue("localhost", stem="stranger"), _of(YEARS[0])
    with RedisServer(tls=True, tls_auth_clients="yes") as server:
        yield [
            f"rediss://localhost:{server.port}/0?ssl_ca_certs={certificate().authority}"
            f"&ssl_certfile={peer.certfile}&ssl_keyfile={peer.keyfile}"
            for peer in peers
        ]


# stargate listen.


@of_listen("listen: nobody listens there")
def _nobody_at_all():
    yield f"ws://127.0.0.1:{free_port()}/"


@of_listen("listen: the host is unknown")
def _unknown_host():
    yield f"ws://u:{SECRET}@no-such-host.invalid/"


@of_listen("listen: the server stands still")
def _mute():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}/"


@of_listen("listen: wss:// to a port without TLS")
def _mute_tls():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"wss://127.0.0.1:{listening.getsockname()[1]}/"


@of_listen("listen: ws:// to a port with TLS, or to no web server")
def _secure():
    with _web_server(tls=certificate()) as port, RedisServer() as server:
        yield [f"ws://127.0.0.1:{port}/", f"ws://127.0.0.1:{server.port}/"]


@of_listen("listen: wss:// to one that speaks without TLS")
def _plain():
    with _answering(b"220 mail ESMTP\r\n") as port:
        yield f"wss://127.0.0.1:{port}/"


@of_listen("listen: the certificate is signed by nobody who is known")
def _untrusted():
    with _web_server(tls=certificate()) as port:
        yield f"wss://localhost:{port}/"


@of_listen("listen: the certificate has expired, or is of the future")
def _listen_at_other_time():
    old, new = map(_of, YEARS)
    both = Path(old.authority).with_name("both.ca")
    both.write_bytes(b"".join(Path(each.authority).read_bytes() for each in (old, new)))
    with (
        pytest.MonkeyPatch.context() as patch,
        _web_server(tls=old) as first,
        _web_server(tls=new) as second,
    ):
        patch.setenv("SSL_CERT_FILE", str(both))
        yield [f"wss://localhost:{port}/" for port in (first, second)]


@of_listen("listen: there is a proxy in the environment")
def _by_proxy():
    with pytest.MonkeyPatch.context() as patch, _web_server() as port:
        patch.setenv("no_proxy", "")
        patch.setenv("ws_proxy", f"http://u:{SECRET}@127.0.0.1:{free_port()}")
        yield f"ws://127.0.0.1:{port}/"


@of_listen("listen: the port is none")
def _no_port():
    yield f"ws://u:{SECRET}@localhost:99999/"


# What answers.


class _Page(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_arguments):
        pass


class _Web(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_arguments):
        """Whoever goes away does so on purpose."""


@contextmanager
def _web_server(*, tls=None):
    with _Web(("127.0.0.1", 0), _Page) as server:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.certfile, tls.keyfile)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=True
            )
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@contextmanager
def _answering(words):
    """A port that says ``words`` to the first that comes, whatever it has said."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            sock, _address = listening.accept()
            with sock:
                sock.recv(65_536)
                sock.sendall(words)

        thread = threading.Thread(target=answer)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


@contextmanager
def _from_elsewhere(port):
    """A port that leads to ``port``, from an address that Redis takes for another machine's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def relay():
            sock, _address = listening.accept()
            there = socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0))
            with sock, there:
                while block := there.recv(65_536):
                    sock.sendall(block)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65_536):
                    pass

        thread = threading.Thread(target=relay)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()
