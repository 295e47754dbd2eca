"""What the commands print: lines on standard output, remarks on standard error, and nothing else.

Whatever text comes from elsewhere is made harmless here: it neither ends its line nor gives orders
to a terminal, also where it goes through a pipe. What the encoding can't say is escaped as well.
"""

from __future__ import annotations

import json
import os
import re
import sys
from base64 import b64encode
from contextlib import suppress
from datetime import datetime
from errno import EAGAIN
from typing import Any

from stargate.scripts.targets import Failed

#: What stands in the place of a message's id, or of a name, where there is none.
NONE = "-"

#: What would end the line, give orders to a terminal, turn the direction of what stands beside it
#: (U+202A to U+202E, U+2066 to U+2069), or is half a character.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Unwritten(Failed):
    """Standard output has not taken a line."""

    status = 4


class Abandoned(Exception):
    """Whoever read standard output has gone, and has seen enough."""


def put(text: str) -> None:
    """Print one line; when this returns it is where standard output leads, and not in a buffer.

    Raises :class:`Unwritten` with the reason, or :class:`Abandoned`.
    """
    page(escaped(text) + "\n")


def page(text: str) -> None:
    """Print ``text``, which is our own, as it stands; as :func:`put` in all else."""
    if sys.stdout is None:
        raise Unwritten("standard output is closed")
    try:
        _write(sys.stdout, text)
    except BrokenPipeError:
        raise Abandoned from None
    except OSError as error:
        raise Unwritten(f"standard output: {error.strerror}") from error


def tell(text: str) -> None:
    """Say what is wrong; its second line and those behind it can't be taken for another's first."""
    remark("stargate: " + "\n    ".join(map(escaped, text.split("\n"))))


def remark(text: str) -> None:
    """Say ``text``, which is our own, on standard error; where that is not to be had, say nothing.

    The exit status says it then.
    """
    if sys.stderr is not None:
        with suppress(OSError):
            _write(sys.stderr, text + "\n")


def escaped(text: str) -> str:
    r"""``text`` as it may be shown in one line: ``\n`` for the end of one."""
    return _UNSAFE.sub(_escape, text)


def message_line(time: float, id: str | None, message: str | bytes) -> str:
    """One line for a message: local time, id, and the message itself."""
    shown = message if isinstance(message, str) else "base64:" + b64encode(message).decode()
    at = datetime.fromtimestamp(time).astimezone().isoformat(timespec="milliseconds")
    return f"{at} {id or NONE} {shown}"


def json_line(value: Any) -> str:
    """One line of JSON, in ASCII where it could not be shown; a ``ValueError`` for NaN."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    with suppress(UnicodeEncodeError):
        text.encode(getattr(sys.stdout, "encoding", "utf-8"))
        if not _UNSAFE.search(text):
            return text
    return json.dumps(value, allow_nan=False)


def _write(stream: Any, text: str) -> None:
    """Write all of ``text``, or raise an ``OSError``: then nothing more can be written there.

    Not by the stream itself: where it has no buffer (``PYTHONUNBUFFERED``) it takes what was
    written in part, as by a disk that becomes full, for the whole.
    """
    left = memoryview(text.encode(stream.encoding, "backslashreplace"))
    try:
        while left:
            count = stream.buffer.write(left)
            if count is None:
                raise BlockingIOError(EAGAIN, os.strerror(EAGAIN))
            left = left[count:]
        stream.buffer.flush()
    except OSError:
        _forget(stream)
        raise


def _forget(stream: Any) -> None:
    """Let what is left in the buffer go nowhere: at its end Python would try it again, and fail."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
