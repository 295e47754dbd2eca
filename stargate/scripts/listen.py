"""``stargate listen``: print what is sent to a WebSocket, over all interruptions."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import threading
import time
from base64 import b64decode
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from stargate.message.envelope import SUBPROTOCOL
from stargate.message.jsontext import read
from stargate.scripts.output import Unwritten, escaped, message_line, put, tell
from stargate.scripts.targets import Failed, Misused
from stargate.scripts.unreachable import cause, checked
from stargate.settings.origins import origin
from stargate.settings.parsers import is_token

HELP = "print what is sent to a WebSocket"

DESCRIPTION = """\
Print each message that comes, after the time and its id, until Ctrl-C. An
interrupted connection is opened again; where the view speaks stargate.v1
(ids=True) it goes on behind the last message, with ?since=, and what could not
be had is told on standard error.
"""

#: Seconds before it connects again: at first, and at most. Doubled each time, with jitter.
FIRST, MOST = 0.5, 30.0

#: Seconds for the opening and for the closing handshake.
OPENING, CLOSING = 10, 2

#: The longest message, in bytes.
MAX_SIZE = 67_108_864

#: Close codes (RFC 6455, section 7.4) after which it makes sense to connect again.
AGAIN = (1001, 1006, 1011, 1012, 1013, 1014)

#: Close codes by which the other side says that all has been said.
OVER = (1000, 1005)

#: Answers to a handshake that another one may not get.
BUSY = (408, 425, 429)


#: An object of ours, for what Python can't take apart, as with a thousand levels.
_OURS = re.compile(r'\{(?:"id":"([^"\\]*)",)?"data":(.*)\}', re.DOTALL).fullmatch


class Refused(Failed):
    """The server does not want this listener, and another try would not change that."""

    status = 6


#: Answers of a server that does not know whom it talks to, and what is said of them; besides these
#: a page in the place of a WebSocket, or the way to one, is mostly one to log in.
WHO = (401, 403)
LOG_IN = " (who you are is told with --header, as in --header 'Cookie: a=b')"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may stand behind ``stargate listen``."""
    parser.add_argument("url", metavar="URL", help="as in ws://localhost:6543/jobs/1, or wss://")
    parser.add_argument("--count", metavar="N", type=int, help="end after so many messages")
    parser.add_argument(
        "--header", metavar="'NAME: VALUE'", action="append", default=[], type=_header,
        help="send this header with the handshake, such as a cookie; more than once for more",
    )  # fmt: skip
    parser.add_argument("--origin", type=_origin, help="come from a page of this origin")
    parser.add_argument(
        "--subprotocol", metavar="NAME", action="append", type=_subprotocol,
        help="offer this in the place of stargate.v1; more than once for more, best first",
    )  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """Print what comes; returns when that is over."""
    checked(options.url)
    if options.count is not None and options.count < 1:
        raise Misused("--count must be at least 1")
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
    try:
        with suppress(KeyboardInterrupt):  # The way to end it.
            _Listening(options).run()
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupted(number: int, frame: object) -> None:
    """Say good-bye and end; end anyhow where the library was interrupted while it held a lock."""
    last = threading.Timer(CLOSING, os._exit, (0,))
    last.daemon = True
    last.start()
    raise KeyboardInterrupt


class _Listening:
    """One run: how many messages there were, and where to go on."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._printed = 0
        #: The id of the last message, where the peer has told one.
        self._last: str | None = None
        self._pause = FIRST
        #: Whether there has been a connection, and whether there was one the last time.
        self._was_open = self._interrupted = False

    def run(self) -> None:
        """Connect and listen until all has been said, or enough has come."""
        from websockets.exceptions import (
            ConnectionClosed,
            InvalidHandshake,
            InvalidProxy,
            InvalidURI,
        )

        while True:
            try:
                return self._listen()
            except InvalidProxy as error:
                raise Misused(str(error)) from error
            except ConnectionClosed as error:
                code = error.rcvd.code if error.rcvd is not None else 1006
                why = f"the connection has ended with {code}{_said(error)}"
                if code in OVER:
                    return
                if code not in AGAIN:
                    raise Refused(why) from error
            except (InvalidHandshake, InvalidURI, OSError, UnicodeError, ImportError) as error:
                known = _refusal(error) or cause(error, self._options.url, OPENING)
                why = f"no connection: {known}"
                if _is_final(error):
                    raise Refused(why) from error
                if not self._was_open:
                    raise Failed(why) from error
            self._wait(why)

    def _wait(self, why: str) -> None:
        pause = self._pause * random.uniform(0.5, 1.0)
        self._pause = min(MOST, self._pause * 2)
        self._interrupted = True
        tell(f"{why}: again in {pause:.1f} s")
        threading.Event().wait(pause)

    def _listen(self) -> None:
        """Print what comes over one connection; returns when that was all that was asked for."""
        from websockets.sync.client import connect

        options = self._options
        offered = options.subprotocol or [SUBPROTOCOL]
        with connect(
            with_since(options.url, self._last),
            origin=options.origin,
            additional_headers=options.header,
            subprotocols=offered,
            open_timeout=OPENING,
            close_timeout=CLOSING,
            max_size=MAX_SIZE,
        ) as websocket:
            if self._interrupted:
                unsure = "" if self._last else ", and something may have been missed"
                tell(f"connected again{unsure}")
            self._was_open, self._interrupted = True, False
            while True:
                message = websocket.recv()
                self._pause = FIRST
                if websocket.subprotocol == SUBPROTOCOL:
                    self._take(str(message))
                else:
                    self._print(None, message)
                if self._printed == options.count:
                    return

    def _take(self, text: str) -> None:
        """One object of ``stargate.v1``; what it has besides of later versions is passed over."""
        found = _taken_apart(text)
        id = found.get("id")
        id = id if isinstance(id, str) else None
        if "data" in found:
            self._print(id, found["data"])
            self._last = id or self._last  # Not before it is printed: it would be lost.
        elif "recovered" in found:
            if not found["recovered"]:
                tell("something that was sent in the meantime is gone")
            self._last = id
        elif "missed" in found:
            count = escaped(str(found["missed"]))
            tell(f"{count} message(s) missed: they came faster than they were read")

    def _print(self, id: str | None, message: str | bytes) -> None:
        try:
            put(message_line(time.time(), id, message))
        except Unwritten as error:
            again = f"; ?since={self._last} goes on behind what is printed" if self._last else ""
            raise Unwritten(f"{error}{again}") from error
        self._printed += 1


def with_since(url: str, last: str | None) -> str:
    """``url``, to go on behind the message with the id ``last``."""
    if last is None:
        return url
    parts = urlsplit(url)
    query = [
        (name, value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if name != "since"
    ]
    return urlunsplit(
        parts._replace(query=urlencode([*query, ("since", last)], errors="replace"), fragment="")
    )


def _taken_apart(text: str) -> dict[str, Any]:
    """An object of ``stargate.v1``, and its ``data`` as it is shown."""
    try:
        found = dict(read(text))
        if "data" in found:
            found["data"] = _message(found)
    except (ValueError, TypeError, RecursionError) as error:
        ours = _OURS(text)
        if ours is None:
            raise Failed(f"what has come is no {SUBPROTOCOL}: {text[:40]!r}") from error
        return {"id": ours[1], "data": ours[2]}
    return found


def _message(found: dict[str, Any]) -> str | bytes:
    value = found["data"]
    if found.get("encoding") == "base64":
        return b64decode(value)
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not is_token(name.strip()) or not value.strip().isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not as in 'Cookie: a=b'")
    return name.strip(), value.strip()


def _origin(text: str) -> str:
    """As a browser would send it; ``null`` is what it sends for a page without one."""
    if "*" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no origin of one page")
    try:
        return text if text == "null" else origin(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _subprotocol(text: str) -> str:
    if not is_token(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of one subprotocol")
    return text


def _said(error: Any) -> str:
    reason = error.rcvd.reason if error.rcvd is not None else ""
    return f" ({escaped(reason)})" if reason else ""


def _refusal(error: BaseException) -> str:
    """The answer to a handshake that was none: also that which led to where no WebSocket can be."""
    response = _response(error)
    if response is None or type(error).__name__ == "InvalidProxyStatus":
        return ""
    where = response.headers.get("Location")
    there = f", to {where}" if where else ""
    said = f"the answer was {response.status_code} {response.reason_phrase}{there}"
    return said + LOG_IN if response.status_code < 400 or response.status_code in WHO else said


def _is_final(error: BaseException) -> bool:
    from websockets.exceptions import SecurityError

    response = _response(error)
    if response is None:
        return isinstance(error, SecurityError)
    status = int(response.status_code)
    return status < 500 and status not in BUSY


def _response(error: BaseException) -> Any:
    return getattr(error, "response", None) or getattr(error.__context__, "response", None)
