"""Addresses as text: what an address may be, for resources, gates, publishers and commands alike.

Nothing here imports Pyramid: publishers that are no web application use it as well.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from stargate.exceptions import BadAddress, shortened

#: What Pyramid leaves unquoted in a segment of a path besides letters, digits and ``_.-``.
SAFE = "~!$&'()*+,;=:@"

#: The longest address, in bytes, its scope included: it is part of every key and every message
#: between processes, and no server takes a longer request line by default.
MAX_ADDRESS = 8192

FORMS = "a path as in '/jobs/1', or one with a scope before it as in 'acme:/jobs/1'"

NO_TEXT = "it has a character that is no text"

_SCOPE = r"[A-Za-z0-9._-]{1,64}"

#: A path as ``pyramid.traversal.resource_path`` writes it: each byte quoted that has to be, and no
#: other. There is one way to match, so that nothing long is gone back over.
_PATH = (
    r"/(?!/)[A-Za-z0-9_.\-~!$&'()*+,;=:@]*"
    r"(?:(?:%(?:[0189A-F][0-9A-F]|2[0235F]|3[CEF]|5[B-E]|60|7[BCDF])|/(?=[^/]))"
    r"[A-Za-z0-9_.\-~!$&'()*+,;=:@]*)*"
)

_is_address = re.compile(f"(?:{_SCOPE}:)?{_PATH}").fullmatch
_is_scope = re.compile(_SCOPE).fullmatch


def check_address(address: str) -> str:
    """``address``, if it is one; else a ``BadAddress`` that says what would be right.

    It is a path as ``pyramid.traversal.resource_path`` writes it, quoted as in a URL and with no
    slash at its end, or one with a scope before it, ``acme:/jobs/1``. A scope is 1 to 64 of
    letters, digits and ``._-``. Whatever else is said would reach nobody in silence.
    """
    why = fault_of(address)
    if why:
        raise BadAddress(address, why)
    return address


def fault_of(address: str) -> str:
    """Why ``address`` is none, in words; ``""`` where it is one."""
    if len(address) > MAX_ADDRESS:
        return f"it has {_size(address)} bytes, more than {MAX_ADDRESS}"
    if not _is_address(address):
        return _what_is_right(address)
    return "" if "%" not in address or _is_text(address) else NO_TEXT


def _what_is_right(address: str) -> str:
    if any(0xD800 <= ord(letter) < 0xE000 for letter in address):
        return NO_TEXT
    if address.startswith("/"):
        return f"it must be {shortened(_as_pyramid_writes(address))!r}"
    scope, found, path = address.partition(":/")
    if found and _is_scope(scope):
        return f"it must be {shortened(scope + ':' + _as_pyramid_writes(path))!r}"
    if found:
        why = f"{shortened(scope)!r} is no scope: 1 to 64 letters, digits and '.', '_', '-'"
    elif address and ":" not in address:
        why = f"{shortened(_as_pyramid_writes(address))!r} is one"
    else:
        why = "it begins with neither a slash nor a scope"
    return f"it must be {FORMS}; {why}"


def _is_text(address: str) -> bool:
    """Whether what is quoted is UTF-8: Pyramid writes nothing else, and takes no such URL."""
    try:
        unquote(address, errors="strict")
    except UnicodeDecodeError:
        return False
    return True


def _size(address: str) -> int:
    return len(address.encode("utf-8", "surrogatepass"))


def _as_pyramid_writes(path: str) -> str:
    names = [unquote(each, errors="surrogateescape") for each in path.split("/") if each]
    return "/" + "/".join(
        quote(each.encode("utf-8", "surrogateescape"), safe=SAFE) for each in names
    )
