"""Errors of redis-py, hiredis, sockets and TLS as sentences: the cause, and what would be right.

All errors of this package become text here. There is no password in any.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from typing import Any

from redis import exceptions
from redis.connection import DefaultParser
from redis.exceptions import RedisError

#: What a reply begins with, or has in it, and what is told instead. ``{0}`` is the reply itself.
REPLIES = tuple(
    (re.compile(pattern, re.IGNORECASE).search, sentence)
    for pattern, sentence in (
        (
            "^NOAUTH|unauthenticated (multi)?bulk",
            "Redis wants a password, and the URL has none: it must be as in "
            "redis://:PASSWORD@HOST:PORT/0",
        ),
        (
            "^WRONGPASS|^ERR invalid password",
            "Redis does not take the user and password of the URL; of a password / is written "
            "%2F there, @ %40 and % %25, and in an ini file each % twice",
        ),
        (
            "without any password configured",
            "the URL has a password, and this Redis has none for the default user: leave it out, "
            "or set requirepass of Redis",
        ),
        (
            "^NOPERM|user executing the script can't",
            "the user of the URL may not do this ({0}): its ACL must be as under "
            "'Who may do what' in the documentation",
        ),
        (
            "DB index is out of range|invalid DB index",
            "this Redis has no such database: the number at the end of the URL must be below its "
            "setting databases, which is 16 by default",
        ),
        (
            "SELECT is not allowed in cluster mode",
            "this is a node of a Cluster: the URL must begin with redis+cluster:// and end with /0",
        ),
        (
            "^MOVED|Hash slot not served",
            "this is a node of a Cluster that has not got what is asked for ({0}): the URL must "
            "begin with redis+cluster://, and each slot must have a node",
        ),
        (
            "^CLUSTERDOWN",
            "the Cluster is down ({0}): see CLUSTER INFO there",
        ),
        (
            "cluster support disabled",
            "this Redis is no node of a Cluster: the URL must begin with redis:// or rediss://",
        ),
        (
            "unknown command '?SENTINEL",
            "this is no Sentinel: the URL must have the hosts and ports of Sentinels, or begin "
            "with redis:// for a Redis itself",
        ),
        (
            "unknown command",
            "Redis does not know a command ({0}): it must be Redis 7 or later, or Valkey, and no "
            "Sentinel, and must not have renamed it",
        ),
        (
            "^OOM",
            "Redis has no memory left and removes nothing (its maxmemory and maxmemory-policy): "
            "give it more",
        ),
        (
            "^READONLY",
            "this Redis is a replica, which takes no messages: the URL must name the primary, or "
            "Sentinels as in redis+sentinel://HOST:26379/SERVICE/0",
        ),
        (
            "^MASTERDOWN",
            "this Redis is a replica, and has lost its primary: the URL must name the primary, or "
            "Sentinels as in redis+sentinel://HOST:26379/SERVICE/0",
        ),
        (
            "^MISCONF",
            "Redis cannot write its snapshot to its disk, and takes no messages until it can: its "
            "log says why",
        ),
        (
            "^NOREPLICAS",
            "Redis takes no messages while it has fewer replicas than its min-replicas-to-write",
        ),
        (
            "max number of clients",
            "Redis has too many connections: its setting maxclients must be higher",
        ),
        (
            "^DENIED",
            "Redis is in protected mode, which takes nobody from another machine: give it a "
            "password (requirepass) and write that into the URL",
        ),
        ("^LOADING", "Redis has just been started and reads what is on its disk: wait"),
    )
)

#: What a server may have been told that closes a connection without having said anything.
SILENT = (
    "the server has closed the connection before it said anything: the port must be that of a "
    "Redis, and where it is for TLS the URL must begin with rediss://"
)

#: A Redis without TLS takes the handshake for the beginning of a line, and waits for its end.
NO_HANDSHAKE = (
    "no TLS handshake within {0:.2g} s: where the port is one without TLS, the URL must begin with "
    "redis://"
)

#: What OpenSSL calls the answer of a server that does not speak TLS.
NO_TLS = ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING", "RECORD_LAYER_FAILURE")

#: An alert about our certificate: with TLS 1.3 it comes when the connection is open for us.
NOT_TRUSTED = re.compile("ALERT_(CERTIFICATE|BAD_CERTIFICATE|UNKNOWN_CA)").search
UNKNOWN_HERE = (
    "the server has ended TLS: where it wants a certificate of whoever connects (tls-auth-clients "
    "of Redis), the URL must have ssl_certfile and ssl_keyfile, of an authority that the server "
    "trusts"
)

NOTHING_IN_COMMON = (
    "there must be a version of TLS and a cipher that both sides take (tls-protocols and "
    "tls-ciphers of Redis, ssl_ciphers of the URL), and where Redis wants a certificate "
    "(tls-auth-clients) the URL must have ssl_certfile and ssl_keyfile"
)

#: OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
OF_ANOTHER_TIME = (9, 10)

#: The files that the URL may name for TLS, and where redis-py keeps their paths.
FILES = (
    ("ssl_ca_certs", "ca_certs"),
    ("ssl_certfile", "certfile"),
    ("ssl_keyfile", "keyfile"),
)


def parsed(text: str) -> Exception:
    """An error of the server as redis-py has it, and never the one for a lost connection."""
    error: Exception = DefaultParser.parse_error(text)
    if type(error) is exceptions.ConnectionError:  # "max number of clients reached"
        error = exceptions.ResponseError(text)
    error.args = (_replied(text, str(error)),)
    return error


def _replied(whole: str, text: str) -> str:
    # What was sent is told in it, and that may be a password.
    text = re.sub(r"(?s),? with args beginning with:.*", "", text)
    text = re.sub(r"\.? script: [0-9a-f]+, on @user_script.*", "", text).removeprefix("ERR ")
    for found, sentence in REPLIES:
        if found(whole):
            return sentence.format(text.rstrip(". "))
    return text


def reason(error: BaseException) -> str:
    """What went wrong, in words that no password is in."""
    if isinstance(error, ssl.SSLEOFError) or NOT_TRUSTED(str(error)):
        return UNKNOWN_HERE
    if isinstance(error, OSError) and error.strerror:
        return _words(error)
    text = str(error) or type(error).__name__
    return text if isinstance(error, RedisError | OSError) else repr(error)


def not_redis(error: Exception) -> str:
    """What has come is no reply."""
    text = str(error).removeprefix("Protocol error, ")
    return f"what answers is no Redis ({text}): the host and port in the URL must be those of one"


def not_opened(error: BaseException, plain: Any) -> str:
    """Why a connection of redis-py could not be opened; redis-py's error is in its own words."""
    found = error if isinstance(error, OSError | UnicodeError) else error.__context__
    path = getattr(plain, "path", None)
    if path:
        return _no_unix_socket(found, path)
    if isinstance(found, ssl.SSLError):
        return _no_tls(found, plain)
    if isinstance(found, socket.gaierror | UnicodeError):
        return f"the host {plain.host!r} of the URL is not known here ({_words(found)})"
    if isinstance(found, OSError) and found.errno == errno.ECONNREFUSED:
        return (
            "Connection refused: no Redis listens there; it must be started, and the host and port "
            "in the URL must be its own"
        )
    missing = _unreadable(plain)
    return missing or (_words(found) if found is not None else reason(error))


def _no_unix_socket(found: BaseException | None, path: str) -> str:
    code = found.errno if isinstance(found, OSError) else None
    if code == errno.ECONNREFUSED:
        return (
            "Connection refused: no Redis listens on this path; it must be its setting unixsocket"
        )
    if code in (errno.ENOENT, errno.ENOTDIR):
        return "there is no such UNIX socket: it must be the setting unixsocket of Redis"
    if code == errno.EACCES:
        return (
            "the user of this process may not open this UNIX socket: see unixsocketperm of Redis "
            "and the permissions of its folders"
        )
    if "too long" in str(found):
        return f"the path of a UNIX socket must be at most 107 bytes long, and has {len(path)}"
    return _words(found)


def _no_tls(found: ssl.SSLError, plain: Any) -> str:
    if isinstance(found, ssl.SSLCertVerificationError):
        said = f"the certificate of this Redis is not to be trusted ({found.verify_message}): "
        if found.verify_code in OF_ANOTHER_TIME:
            return f"{said}it must be renewed, or the clock of one of the two machines put right"
        return said + (
            "ssl_ca_certs of the URL must name the file of the authority that signed it, and the "
            "host in the URL must be one that it is for"
        )
    if NOT_TRUSTED(str(found)):
        return UNKNOWN_HERE
    if getattr(found, "reason", None) in NO_TLS:
        return (
            "what answers does not speak TLS: the port must be the tls-port of a Redis, or the URL "
            "must begin with redis://"
        )
    if re.search("ALERT|cipher|PROTOCOL", str(found)):
        return f"OpenSSL says {_words(found)}: {NOTHING_IN_COMMON}"
    return _unreadable(plain) or (
        f"OpenSSL says {_words(found)}: ssl_ca_certs, ssl_certfile and ssl_keyfile of the URL must "
        "be PEM files, the key that of the certificate"
    )


def _unreadable(plain: Any) -> str:
    """Which of the files for TLS can't be read: OpenSSL does not tell."""
    for name, attribute in FILES:
        path = getattr(plain, attribute, None)
        try:
            if path:
                with open(path, "rb"):
                    pass
        except OSError as error:
            return f"{name} = {path} of the URL: {error.strerror}"
    return ""


def _words(found: BaseException | None) -> str:
    openssls = getattr(found, "reason", None) if isinstance(found, ssl.SSLError) else None
    if openssls:
        return str(openssls).replace("_", " ").lower()
    text = str(getattr(found, "strerror", None) or found)
    return re.sub(r" \(_ssl\.c:\d+\)$", "", text)
