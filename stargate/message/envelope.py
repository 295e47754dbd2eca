"""The subprotocol ``stargate.v1``: each message in a JSON object with its id; no I/O.

What the objects are is specified in the documentation, with test vectors.
"""

from __future__ import annotations

from base64 import b64encode
from json import dumps

#: The name by which a browser asks for it.
SUBPROTOCOL = "stargate.v1"


def envelope(payload: bytes, id: str | None, *, json: bool = False, binary: bool = False) -> bytes:
    """The object for one message: its id, where it has one, and what was sent.

    ``data`` is the value itself where it is JSON, the text as a string, or bytes in base64.
    """
    head = f'{{"id":"{id}","data":'.encode() if id else b'{"data":'
    if json:
        return head + payload + b"}"
    if binary:
        return head + b'"' + b64encode(payload) + b'","encoding":"base64"}'
    return head + dumps(payload.decode(), ensure_ascii=False).encode() + b"}"


def recovered(complete: bool, position: str | None) -> str:
    """What a listener that came back is told: whether it has got all that it missed.

    ``position`` is where it stands now, so that it can come back even if nothing more is sent.
    """
    return dumps({"recovered": complete, **({"id": position} if position else {})})


def missed(count: int) -> str:
    """What a listener is told that did not get ``count`` messages because it read too slowly."""
    return dumps({"missed": count})
