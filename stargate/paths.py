"""Addresses as text: whether a string is what Pyramid would write for a place in the tree.

Nothing here imports Pyramid: publishers that are no web application use it as well.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

from stargate.exceptions import BadAddress

#: What Pyramid leaves unquoted in a segment of a path besides letters, digits and ``_.-``.
SAFE = "~!$&'()*+,;=:@"

#: The longest address, in bytes: it is part of every key and every message between processes.
MAX_ADDRESS = 2048


def check_address(address: str) -> str:
    """``address``, if a resource can have it; else a ``BadAddress`` that says what would be right.

    What begins with ``/`` must be as ``pyramid.traversal.resource_path`` writes it, quoted as in a
    URL and with no slash at its end, or it would mean no resource and reach nobody in silence.
    Anything else is an address of the application's own making (``stargate_address()``).
    """
    if not address:
        raise BadAddress(address, "it must be a path as in '/jobs/1'")
    size = len(address.encode("utf-8", "surrogatepass"))
    if size > MAX_ADDRESS:
        raise BadAddress(address[:40] + "...", f"it has {size} bytes, more than {MAX_ADDRESS}")
    if address[0] == "/":
        if _is_no_text(address):
            raise BadAddress(address, "it has a character that is no text")
        right = _as_pyramid_writes(address)
        if address != right:
            raise BadAddress(address, f"it must be {right!r}")
    elif _is_no_text(address) or any(ord(letter) < 32 for letter in address):
        raise BadAddress(address, "it has a character that is no text")
    return address


def _is_no_text(address: str) -> bool:
    return any(0xD800 <= ord(letter) < 0xE000 for letter in address)


def _as_pyramid_writes(path: str) -> str:
    names = [unquote(each, errors="surrogateescape") for each in path.split("/") if each]
    return "/" + "/".join(
        quote(each.encode("utf-8", "surrogateescape"), safe=SAFE) for each in names
    )
