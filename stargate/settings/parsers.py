"""How the text of a setting becomes a value; a ``ValueError`` says what it must be.

Nothing here imports Pyramid, whose words these are: publishers read settings as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv6Address
from itertools import chain
from math import inf
from typing import Any

#: The words of ``pyramid.settings.asbool``.
TRUE, FALSE = ("t", "true", "y", "yes", "on", "1"), ("f", "false", "n", "no", "off", "0")


def at_least(least: float, kind: type = int, most: float = inf) -> Callable[[Any], Any]:
    """A parser for a number of at least ``least`` and at most ``most``."""
    what = "a whole number" if kind is int else "a number"

    def parse(value: Any) -> Any:
        try:
            number = kind(value)
        except (TypeError, ValueError):
            raise ValueError(f"it must be {what}") from None
        if not number >= least:
            raise ValueError(f"it must be at least {least}")
        if number > most:
            raise ValueError(f"it must be at most {most}")
        return number

    return parse


def seconds(least: float) -> Callable[[Any], Any]:
    """A parser for a time of at least ``least`` seconds, and at most a day."""
    return at_least(least, float, most=86_400)


def one_of(*choices: str) -> Callable[[Any], str]:
    """A parser for one of a few words, in upper or lower case."""
    known = {choice.lower(): choice for choice in choices}

    def parse(value: Any) -> str:
        word = value.strip().lower() if isinstance(value, str) else None
        if word not in known:
            raise ValueError("it must be " + " or ".join(repr(choice) for choice in choices))
        return known[word]

    return parse


def words(value: Any) -> tuple[str, ...]:
    """A parser for words with white space or commas between them, or a list of them."""
    try:
        return tuple(_words(value) if isinstance(value, str) else chain(*map(words, value)))
    except TypeError:
        raise ValueError("it must be words with white space or commas between them") from None


def _words(value: str) -> list[str]:
    parts = [part.split() for part in value.split(",")]
    if len(parts) > 1 and not all(parts):
        raise ValueError("an entry is empty: it must have no comma but between two entries")
    return [unquoted(word) for part in parts for word in part]


def unquoted(word: str) -> str:
    """``word``, which has no quotes around it."""
    if '"' in word or word.startswith("'") or word.endswith("'"):
        raise ValueError("it must be without quotes: they would be a part of it")
    return word


def text(value: Any) -> str:
    """A parser for a text on one line, without quotes."""
    found = unquoted(str(value).strip())
    if not found.isprintable():
        raise ValueError("it must be one line")
    return found


def tokens(value: Any) -> tuple[str, ...]:
    """A parser for tokens (RFC 9110, section 5.6.2), such as the names of subprotocols."""
    found = words(value)
    for word in found:
        if not is_token(word):
            raise ValueError(f"{word!r} must be letters, digits, or any of !#$%&'*+-.^_`|~")
    return found


#: Whether a text is a token (RFC 9110, section 5.6.2).
is_token = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII).fullmatch


def addresses(value: Any) -> tuple[str, ...]:
    """A parser for one ``host:port`` or several."""
    found = words(value)
    if not found:
        raise ValueError(ADDRESS)
    for word in found:
        split_address(word)
    return found


ADDRESS = "it must be host:port, as in localhost:6543"


def split_address(name: str) -> tuple[str, int]:
    """Host and port of ``host:port``, without the brackets of IPv6."""
    if name.startswith("unix:"):
        path = "/" + name.removeprefix("unix:").lstrip("/")
        raise ValueError(f"it must be host:port; a UNIX socket is unix_socket = {path}")
    host, colon, port = name.rpartition(":")
    if not colon or "/" in name or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(ADDRESS + _without_url(name))
    return host_name(host).removeprefix("[").removesuffix("]") if host else "", int(port)


def host_name(value: Any) -> str:
    """A parser for a name or an address without a port; IPv6 gets its brackets."""
    name = text(value)
    if _is_ipv6(name):
        return f"[{name}]"
    if name.startswith("[") and name.endswith("]") and _is_ipv6(name[1:-1]):
        return name
    if not name or re.search(r"[\s,:/\[\]]", name):
        raise ValueError(
            "it must be a name or an address, as in localhost, 192.0.2.1 or [::1], or * for every "
            "interface" + _without_url(name)
        )
    return name


def socket_path(value: Any) -> str:
    """A parser for the path of a UNIX socket."""
    path = text(value)
    if path.startswith("unix:"):
        raise ValueError(f"it must be the path alone: /{path.removeprefix('unix:').lstrip('/')}")
    if len(path.encode()) > MOST_OF_PATH:
        raise ValueError(f"it must be at most {MOST_OF_PATH} bytes long: the kernel takes no more")
    return path


#: Bytes of ``sun_path`` on Linux, but for the NUL at its end (unix(7)).
MOST_OF_PATH = 107


def permissions(value: Any) -> int:
    """A parser for the permissions of a file, octal as in ``chmod``."""
    try:
        found = value if isinstance(value, int) else int(str(value), 8)
    except ValueError:
        found = -1
    if not 0 <= found <= 0o777:
        raise ValueError("it must be octal, as in 660 for the owner and the group (0o660 in code)")
    return found


def _is_ipv6(name: str) -> bool:
    try:
        return bool(IPv6Address(name))
    except ValueError:
        return False


def _without_url(name: str) -> str:
    """What is left of ``name`` where it is a URL."""
    host = re.sub(r"^[\w+.-]*://", "", name).split("/")[0].rpartition("@")[2]
    return f"; here that is {host}" if host and host != name else ""


def flag(value: Any) -> bool:
    """A parser for yes and no, in the words that Pyramid knows; any other is an error."""
    word = str(value).strip().lower()
    if word not in (*TRUE, *FALSE):
        raise ValueError("it must be true or false")
    return word in TRUE
