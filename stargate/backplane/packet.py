"""The message between processes, version 1: a line of words and the payload; no I/O.

    1 KIND ID TIME EXCLUDED KEY\\n
    payload

``KIND`` is ``t`` (text), ``j`` (text that is JSON) or ``b`` (binary); ``ID`` is the message's id,
or ``-`` where nothing is kept; ``TIME`` is when the backplane got it, in milliseconds of its own
clock; ``EXCLUDED`` has the ids of the WebSockets that are left out, with
commas between them, or ``-``; ``KEY`` is what a repeat of the send has in common with it. Another
version begins with another number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

VERSION = b"1"

TEXT, JSON, BINARY = "t", "j", "b"

#: The longest first line that is looked at: some 3,900 ids of WebSockets.
MAX_HEAD = 131_072

_HEAD = re.compile(
    r"1 ([tjb]) (-|[0-9a-f]{12}-[0-9]{1,16}-[0-9a-f]{12}) ([0-9]{1,16}) "
    r"(-|[0-9a-f]{32}(?:,[0-9a-f]{32})*) "
    r"([!-~]{1,200})"
).fullmatch

_EXCLUDED = re.compile(r"[0-9a-f]{32}").fullmatch
_KEY = re.compile(r"[!-~]{1,200}").fullmatch

NOBODY: frozenset[str] = frozenset()


class WireError(ValueError):
    """What has come is no message: not of this version, or not of any."""


class Packet(NamedTuple):
    """A message on its way between processes."""

    kind: str
    #: As text; ``""`` where nothing is kept.
    id: str
    #: Milliseconds of the backplane's clock.
    time: int
    excluded: frozenset[str]
    key: str
    payload: bytes

    @property
    def message(self) -> str | bytes:
        """The message as the application sent it."""
        return self.payload if self.kind == BINARY else self.payload.decode()


def halves(kind: str, excluded: Iterable[str], key: str, payload: bytes) -> tuple[bytes, bytes]:
    """What stands before id and time and what stands behind: those the backplane fills in.

    Raises ``ValueError`` for a key or an id that does not fit in.
    """
    ids = [checked_id(each) for each in sorted(excluded)]
    checked_key(key)
    head = f"1 {kind} ".encode()
    tail = f" {','.join(ids) or '-'} {key}\n".encode()
    if len(tail) > MAX_HEAD - 64:
        raise ValueError(f"exclude has {len(ids)} WebSockets: more than fit into a message")
    return head, tail + payload


def checked_key(key: str) -> str:
    """``key``, if a send can have it; else a ``ValueError``."""
    if not _KEY(key):
        raise ValueError(f"key = {key!r}: it must be 1 to 200 visible ASCII characters")
    return key


def checked_id(id: str) -> str:
    """``id``, if a WebSocket can have it; else a ``ValueError``."""
    if not _EXCLUDED(id):
        raise ValueError(f"exclude has {id!r}, which is no id of a WebSocket")
    return id


def decode(raw: bytes, limit: int) -> Packet:
    """The message in ``raw``, whose payload has at most ``limit`` bytes; else a ``WireError``."""
    if not raw.startswith(b"1 "):
        raise WireError(f"of version {raw[:8].partition(b' ')[0]!r}, and version 1 is understood")
    end = raw.find(b"\n", 0, MAX_HEAD)
    found = _HEAD(raw[:end].decode("latin-1")) if end > 0 else None
    if found is None:
        raise WireError("its first line is none")
    payload = raw[end + 1 :]
    if len(payload) > limit:
        raise WireError(f"its {len(payload)} bytes are more than stargate.max_send_size, {limit}")
    kind, id, time, excluded, key = found.groups()
    if kind != BINARY:
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise WireError("its text is not UTF-8") from None
    return Packet(
        kind,
        "" if id == "-" else id,
        int(time),
        NOBODY if excluded == "-" else frozenset(excluded.split(",")),
        key,
        payload,
    )
