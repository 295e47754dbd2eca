"""The settings: one table of names, defaults, units and reasons for the application and a reader.

The server's own table is in ``server.py``: the server is made before the application.
Pyramid is imported for its error alone: publishers that are no web application read settings too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
from typing import Any, NoReturn

from stargate.settings.backplanes import entry_point
from stargate.settings.origins import origins
from stargate.settings.parsers import at_least, flag, one_of, seconds

PREFIX = "stargate."

_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII).fullmatch
#: A URL, by its scheme (RFC 3986, section 3.1).
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+").fullmatch


@dataclass(frozen=True)
class Setting:
    """One setting: how its text becomes a value, and what the documentation says of it."""

    name: str
    default: Any
    parse: Callable[[Any], Any]
    unit: str
    reason: str


#: How like ``stargate`` another word must be to be meant for it: ``stargaze`` may be somebody's.
NEAR = 0.9


def backplane(value: Any) -> str:
    """A parser for ``memory`` or a URL, of whose scheme a backplane is installed."""
    text = str(value).strip()
    if text != "memory" and (not _URL(text) or text.startswith("memory:")):
        several = ", one alone and without white space" if re.search(r"\s", text) else ""
        raise ValueError(f"it must be 'memory' or a URL as in redis://localhost:6379/0{several}")
    entry_point(text)
    return text


def namespace(value: Any) -> str:
    """A parser for a name of up to 64 letters, digits and ``_.-``."""
    text = str(value).strip()
    if text and not _NAMESPACE(text):
        raise ValueError("it must be 1 to 64 letters, digits, or any of _ . -")
    return text


APPLICATION = (
    Setting(
        "allowed_origins",
        (),
        origins,
        "origins",
        "Pages of these origins may open WebSockets besides pages of the same host and port: "
        "`https://example.com`, or of any other scheme, as in `capacitor://localhost`, exact; "
        "`https://*.example.com` for all hosts below a domain, each of which can then act with "
        "the cookies of your users; `*` for every page of the Web. White space or commas separate. "
        "`pyramid.csrf_trusted_origins` counts too.",
    ),
    Setting(
        "max_connections",
        None,
        at_least(0),
        "WebSockets",
        "How many WebSockets may be open in this process; one more gets 503 with `Retry-After`, "
        "and pages go on being served. By default seven eighths of the descriptors that the "
        "process may have (`ulimit -n`): the rest is for pages, files and databases. 0 sets no "
        "limit.",
    ),
    Setting(
        "max_connections_per_address",
        0,
        at_least(0),
        "WebSockets",
        "How many WebSockets may be open from one remote address, or one /64 of IPv6; one more "
        "gets 429 with `Retry-After`. 0 sets no limit: a school or a mobile network is one "
        "address. Behind a proxy set `trusted_proxy` of the server, or all are one.",
    ),
    Setting(
        "max_message_size",
        1_048_576,
        at_least(1),
        "bytes",
        "The longest message that is taken in, reassembled and inflated; a longer one closes the "
        "WebSocket with 1009. Whoever may open one can make the server hold this much.",
    ),
    Setting(
        "max_fragments",
        16_384,
        at_least(1),
        "fragments",
        "The most fragments that a message may come in; more close the WebSocket with 1009. A "
        "million tiny ones cost a server far more than they cost a peer.",
    ),
    Setting(
        "max_message_rate",
        0,
        at_least(0),
        "messages a second",
        "The most messages a second that are taken from one WebSocket, pings and pongs among them, "
        "with as many at once after a second of silence; more close it with 1008. 0 is no bound: "
        "what is too much only the application can know, and a flood holds nobody else up.",
    ),
    Setting(
        "compression",
        "off",
        one_of("off", "deflate"),
        "",
        "`deflate` agrees on permessage-deflate (RFC 7692) with browsers that offer it, without "
        "context takeover, so that a message is compressed once for all its listeners. Off, "
        "because it costs CPU and, for secrets beside an attacker's text, leaks their length.",
    ),
    Setting(
        "inbox_length",
        64,
        at_least(1),
        "messages",
        "How many messages may wait for a view before its socket is read no further and TCP "
        "pushes back. Reading goes on when half of them are left.",
    ),
    Setting(
        "outbox_size",
        4_194_304,
        at_least(1),
        "bytes",
        "How much may wait for a listener that reads slowly, 48 bytes for the bookkeeping of each "
        "message included. A message that finds this much before it closes the WebSocket with "
        "1013, or has older ones dropped where the resource says so; so a listener that never "
        "reads costs no more than this and one message.",
    ),
    Setting(
        "outbox_total",
        268_435_456,
        at_least(1),
        "bytes",
        "How much may wait in all outboxes of the process together. Past it the largest goes "
        "first: many slow listeners must not take the memory that everybody needs.",
    ),
    Setting(
        "outbox_progress",
        16_384,
        at_least(1),
        "bytes",
        "How much a peer for whom something waits must take in `outbox_progress_timeout`; one "
        "that takes less is closed with 1013. Without it a byte now and then would keep an outbox "
        "for ever.",
    ),
    Setting(
        "outbox_progress_timeout",
        10.0,
        seconds(0),
        "seconds",
        "The time for `outbox_progress`: 1.6 KiB/s by default, less than any network of today. 0 "
        "asks for no progress.",
    ),
    Setting(
        "max_send_size",
        None,
        at_least(1),
        "bytes",
        "The longest message that `resource.send()` takes; a longer one raises `MessageTooBig` "
        "and reaches nobody. By default a quarter of `outbox_size`: one message that fills an "
        "outbox would have the next one close every healthy listener.",
    ),
    Setting(
        "outbox_high_water",
        262_144,
        at_least(0),
        "bytes",
        "A view that sends to its own WebSocket waits while more than this is queued, so that it "
        "can stream a file of any size.",
    ),
    Setting(
        "close_timeout",
        5.0,
        seconds(0),
        "seconds",
        "How long a peer may take for its part of the close handshake, and to read what was sent "
        "before it; then the connection is cut. When the server stops, `graceful_timeout` of the "
        "server bounds it.",
    ),
    Setting(
        "drain_period",
        0.0,
        seconds(0),
        "seconds",
        "When the server ends, its WebSockets are told so one after the other over this time, and "
        "served until then: their browsers do not all come back in one second. At most what "
        "`graceful_timeout` of the server leaves for the close handshakes.",
    ),
    Setting(
        "ping_interval",
        20.0,
        seconds(0),
        "seconds",
        "How often each WebSocket is pinged: proxies cut connections that are silent for a "
        "minute, and a peer that has vanished says nothing. The pings are spread over the "
        "interval. 0 sends none.",
    ),
    Setting(
        "ping_timeout",
        20.0,
        seconds(0.1),
        "seconds",
        "How long a peer may be silent after a ping; then it has vanished, and is cut. Anything "
        "that it says is an answer, and while its view keeps it from being read no time passes.",
    ),
    Setting(
        "backplane",
        "memory",
        backplane,
        "",
        "What carries messages between processes. `memory` carries them within this one; a URL "
        "names a Redis (7 or later) or Valkey: `redis://host:6379/0`, `rediss://` with TLS, "
        "`unix:///path`, `redis+sentinel://host:26379,host:26379/name`, or `redis+cluster://host`. "
        "It needs `pip install stargate[redis]` and a `namespace`. Packages of others may bring "
        "other schemes.",
    ),
    Setting(
        "namespace",
        "",
        namespace,
        "",
        "The name of this application in the Redis of `backplane`: part of every key and of every "
        "Pub/Sub channel, so that two applications in one Redis do not hear each other.",
    ),
    Setting(
        "backplane_timeout",
        2.0,
        seconds(0.01),
        "seconds",
        "How long one call may wait for the backplane in all: for a free connection, for the "
        "connecting and for the answer. Then it raises `BackplaneError`; others go on meanwhile.",
    ),
    Setting(
        "backplane_replicas",
        0,
        at_least(0),
        "replicas",
        "How many replicas must have a message before `send()` returns (Redis's `WAIT`). 0: the "
        "primary's memory will do, and a fail-over may lose the last messages.",
    ),
    Setting(
        "backplane_on_error",
        "raise",
        one_of("raise", "local"),
        "",
        "What `send()` does when the backplane has certainly not got the message: `raise` raises "
        "`BackplaneError`; `local` reaches the listeners of this process, and logs it.",
    ),
    Setting(
        "memory_in_many_workers",
        False,
        flag,
        "",
        "Let gunicorn start several workers with `backplane = memory`, although a message then "
        "reaches the browsers of one of them only.",
    ),
    Setting(
        "recover_limit",
        16_777_216,
        at_least(0),
        "bytes",
        "The most that a WebSocket which comes back is sent of what it missed; where more is "
        "missing it is told so instead. It waits in memory for as long as its peer needs.",
    ),
    Setting(
        "presence",
        True,
        flag,
        "",
        "Whether a Redis is told who listens: a request when somebody comes or goes, and one every "
        "2 s. Without, `presence()` is empty, `listener_count()` counts this process alone, and "
        "there is no `ListenerJoined` nor `ListenerLeft`. No difference with `memory`.",
    ),
)


@dataclass(frozen=True)
class Limits:
    """The bounds of a connection, shared by all connections of an application."""

    max_connections: int = 0
    max_connections_per_address: int = 0
    max_message_size: int = 1_048_576
    max_fragments: int = 16_384
    max_message_rate: int = 0
    inbox_length: int = 64
    outbox_size: int = 4_194_304
    outbox_high_water: int = 262_144
    outbox_total: int = 268_435_456
    outbox_progress: int = 16_384
    outbox_progress_timeout: float = 10.0
    max_send_size: int = 1_048_576
    recover_limit: int = 16_777_216
    close_timeout: float = 5.0
    drain_period: float = 0.0
    ping_interval: float = 20.0
    ping_timeout: float = 20.0


def spare_descriptors() -> int:
    """Seven eighths of the descriptors that this process may have."""
    soft, _hard = getrlimit(RLIMIT_NOFILE)
    return 0 if soft == RLIM_INFINITY else max(1, soft - soft // 8)


def read_application(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The ``stargate.*`` settings of an application, every one of them, by name without prefix.

    Raises Pyramid's ``ConfigurationError``.
    """
    try:
        return application_values(settings)
    except ValueError as error:
        _misconfigured(error)


def application_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """:func:`read_application` for whoever is no Pyramid application; raises ``ValueError``."""
    _check_prefix(settings)
    given = {
        name.removeprefix(PREFIX): value
        for name, value in settings.items()
        if name.startswith(PREFIX)
    }
    found = values(APPLICATION, given, PREFIX)
    if found["max_connections"] is None:
        found["max_connections"] = spare_descriptors()
    if found["max_send_size"] is None:
        found["max_send_size"] = max(1, found["outbox_size"] // 4)
    elif found["max_send_size"] > found["outbox_size"]:
        raise ValueError(
            f"{PREFIX}max_send_size = {found['max_send_size']}: it must be at most "
            f"{PREFIX}outbox_size, {found['outbox_size']}, of which a quarter is a good value"
        )
    if found["backplane"] != "memory" and not found["namespace"]:
        raise ValueError(
            f"{PREFIX}namespace is not set: with {found['backplane'].partition('://')[0]}:// it "
            "must be the name of this application there, as in stargate.namespace = shop"
        )
    return found


def read(table: Iterable[Setting], given: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``given`` as values of ``table``, with its defaults; raises ``ConfigurationError``."""
    try:
        return values(table, given, prefix)
    except ValueError as error:
        _misconfigured(error)


def values(table: Iterable[Setting], given: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """:func:`read`, with a ``ValueError``."""
    known = {setting.name: setting for setting in table}
    found = {name: setting.default for name, setting in known.items()}
    for name, value in given.items():
        setting = known.get(name)
        if setting is None:
            hint = _hint(name, known, prefix)
            raise ValueError(f"{prefix}{name} is no setting of stargate{hint}")
        try:
            found[name] = setting.parse(value)
        except ValueError as error:
            shown = without_password(value)
            raise ValueError(f"{prefix}{name} = {shown!r}: {error}") from error
    return found


def without_password(value: Any) -> Any:
    """``value``, or where it is text that may be a URL: without the user and password in it.

    Whatever stands before the last ``@`` goes: what is wrong with it may be its password.
    """
    if isinstance(value, list | tuple):
        return type(value)(map(without_password, value))
    if not isinstance(value, str):
        return value
    value = re.sub(r"(?s)^(\w[\w+.-]*://)?.*@", r"\1***@", value)
    return re.sub(r"(?i)(passw[a-z]*=)[^&\s]*", r"\1***", value)


def _misconfigured(error: ValueError) -> NoReturn:
    from pyramid.exceptions import ConfigurationError

    raise ConfigurationError(str(error)) from (error.__cause__ or error)


def limits(values: Mapping[str, Any]) -> Limits:
    """The part of the application's settings that each connection looks at."""
    return Limits(**{name: values[name] for name in Limits.__dataclass_fields__})


def _hint(name: str, known: Iterable[str], prefix: str) -> str:
    if not prefix and name.startswith(PREFIX):
        return "'s server: it belongs into the section of the application, [app:main]"
    close = get_close_matches(name.lower(), list(known), 1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _check_prefix(names: Iterable[str]) -> None:
    """Raise ``ValueError`` for a setting of ours whose first word is misspelled."""
    known = {setting.name for setting in APPLICATION}
    for name in names:
        first, _, rest = name.partition(".")
        near = rest in known and get_close_matches(first.lower(), [PREFIX[:-1]], 1, NEAR)
        if near and not name.startswith(PREFIX):
            raise ValueError(f"{name} is no setting of stargate; did you mean {PREFIX}{rest}?")
