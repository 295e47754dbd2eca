"""Why ``stargate listen`` has no connection, as a sentence: the cause, and what would be right."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import urlsplit

from stargate.scripts.targets import Misused

#: OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
OF_ANOTHER_TIME = (9, 10)


def checked(url: str) -> str:
    """``url``, which may be that of a WebSocket; raises :class:`Misused`."""
    from websockets.exceptions import InvalidURI
    from websockets.uri import parse_uri

    shown = _shown(url)
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("ws", "wss") and parts.hostname and parts.port != 0
    except ValueError:
        right = False
    if not right:
        raise Misused(
            f"URL: {shown!r} must begin with ws:// or wss://, a host, and a port of 1 to 65535 "
            "where it has one"
        )
    try:
        parse_uri(url)
    except (InvalidURI, ValueError) as error:  # It has a fragment, or what UTF-8 can't write.
        raise Misused(f"URL: {str(error).replace(url, shown)}") from error
    return url


def cause(error: BaseException, url: str, seconds: float) -> str:
    """What has kept a connection to ``url`` from being opened within so many ``seconds``."""
    from websockets.proxy import get_proxy
    from websockets.uri import parse_uri

    host = urlsplit(url).hostname
    if isinstance(error, ssl.SSLCertVerificationError):
        said = f"the certificate of {host} is not to be trusted ({error.verify_message}): "
        if error.verify_code in OF_ANOTHER_TIME:
            return f"{said}it must be renewed, or the clock of one of the two machines put right"
        return said + (
            "SSL_CERT_FILE of the environment may name the authority that signed it, and the host "
            "in the URL must be one that it is for"
        )
    proxy = get_proxy(parse_uri(url))
    if proxy is not None and not isinstance(error, ssl.SSLError | UnicodeError):
        why = getattr(error, "strerror", None) or str(error) or f"no answer within {seconds:g} s"
        return (
            f"{why}, by the proxy {_shown(proxy)} of the environment; no_proxy = {host} there goes "
            "past it"
        )
    if isinstance(error, socket.gaierror | UnicodeError):
        return f"nobody knows the host {host!r} of the URL"
    if isinstance(error, ConnectionRefusedError):
        return "Connection refused: nothing listens at the host and port of the URL"
    if isinstance(error, TimeoutError):
        tls = url.startswith("wss:") and "handshake operation" in str(error)
        hint = ": where the port is one without TLS, the URL must begin with ws://"
        return f"no answer within {seconds:g} s{hint if tls else ''}"
    if isinstance(error, ssl.SSLError):
        return "what answers does not speak TLS: without it the URL must begin with ws://"
    if type(error).__name__ == "InvalidMessage":
        return (
            "what answers is no web server: where the port is for TLS, the URL must begin with "
            "wss://"
        )
    return str(getattr(error, "strerror", None) or error)


def _shown(url: str) -> str:
    """``url`` without a password."""
    return url if "@" not in url else f"{url.partition('://')[0]}://***@{url.rpartition('@')[2]}"
