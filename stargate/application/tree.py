"""Addresses: the string that all objects which mean one resource share, and what else it says.

What a string must be to be one is ``message/address.py``'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyramid.traversal import quote_path_segment

from stargate.exceptions import NoAddress, shortened
from stargate.history import DEFAULT_TTL, NOT_KEPT, Keep
from stargate.message.address import MAX_ADDRESS, fault_of
from stargate.websocket.outbox import POLICIES

#: The attribute of a request with its context and the address that this had during the request.
CAPTURED = "_stargate_address"

#: The most messages that a resource may keep, and the most seconds: a year.
MOST_KEPT, LONGEST_KEPT = 100_000, 31_622_400


def address_of(resource: object) -> str:
    """The address of ``resource``: its ``stargate_address()``, or else its path in the tree."""
    own = getattr(resource, "stargate_address", None)
    if own is None:
        return location(resource)
    address = own()
    if getattr(own, "by_location", False):
        return str(address)  # Right by construction, and its length is checked.
    if not isinstance(address, str):
        raise NoAddress(resource, f"its stargate_address() returned {address!r}, not a string")
    fault = fault_of(address)
    if fault:
        shown = shortened(address)
        raise NoAddress(resource, f"its stargate_address() returned {shown!r}: {fault}")
    return address


def by_location(method: Callable[[Any], str]) -> Callable[[Any], str]:
    """Mark a ``stargate_address`` that returns what :func:`location` does: it is not checked."""
    method.by_location = True  # type: ignore[attr-defined]
    return method


def policy_of(target: object) -> str | None:
    """What ``target`` says of its slow listeners; ``None`` where it says nothing."""
    found = getattr(target, "stargate_when_slow", None)
    return known_policy("stargate_when_slow", found) if found is not None else None


def known_policy(name: str, policy: str) -> str:
    """The policy for slow listeners that ``policy`` names; ``ValueError`` where there is none."""
    if policy not in POLICIES:
        raise ValueError(f"{name} = {policy!r}: it must be one of {', '.join(POLICIES)}")
    return POLICIES[POLICIES.index(policy)]  # The very object: it is compared by identity.


def keep_of(target: object) -> Keep | None:
    """How much is kept of the messages of ``target``; ``None`` where only its address is known.

    Raises ``ValueError`` for a ``history_size`` or a ``history_ttl`` that is none.
    """
    if not hasattr(target, "history_size"):
        return None  # A string, or an object that says nothing of it.
    size = target.history_size or 0
    ttl = getattr(target, "history_ttl", None)
    if not isinstance(size, int) or not 0 <= size <= MOST_KEPT:
        raise ValueError(f"history_size = {size!r}: it must be a whole number up to {MOST_KEPT}")
    if ttl is None:
        ttl = DEFAULT_TTL
    if not isinstance(ttl, int | float) or not 0 < ttl <= LONGEST_KEPT:
        raise ValueError(f"history_ttl = {ttl!r}: it must be seconds, at most {LONGEST_KEPT}")
    return Keep(size, float(ttl)) if size else NOT_KEPT


def location(resource: Any) -> str:
    """The path of ``resource`` in its tree, as ``pyramid.traversal.resource_path`` writes it.

    Only for a resource that has a place of its own: it and all above it have a ``__name__`` and a
    ``__parent__``, up to a root with the name ``""``. A node without a name would lend its children
    to every other such node: they would have one path, and hear each other.
    """
    names = []
    node = resource
    while True:
        name, parent = getattr(node, "__name__", None), getattr(node, "__parent__", None)
        if name is None or (name != "" if parent is None else not name):
            raise NoAddress(resource, _lacking(resource, node, name, parent))
        if parent is None:
            break
        names.append(quote_path_segment(name))
        node = parent
    names.append("")
    path = "/".join(reversed(names)) or "/"
    if len(path) > MAX_ADDRESS:
        raise NoAddress(resource, f"its path is too long: {fault_of(path)}")
    return path


def _lacking(resource: Any, node: Any, name: Any, parent: Any) -> str:
    whose = "it" if node is resource else f"{type(node).__qualname__}, above it,"
    if name is None:
        return f"{whose} has no __name__"
    if parent is None:
        return f"{whose} has the __name__ {name!r} but no __parent__"
    return f"{whose} has the __name__ {name!r}, which is the root's"


class Identity:
    """An object as an address, which keeps it alive: no other object can come by its ``id()``."""

    __slots__ = ("_target",)

    def __init__(self, target: object) -> None:
        self._target = target

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and other._target is self._target

    def __hash__(self) -> int:
        return id(self._target)
