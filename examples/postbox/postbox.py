"""A backplane for one process that serves: other programs drop letters into a folder for it.

stargate.backplane = postbox:///var/lib/shop/letters
"""

import json
import threading
from base64 import b64decode, b64encode
from pathlib import Path
from time import time_ns
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from stargate.backplane.memory import MemoryBackplane
from stargate.exceptions import BackplaneError
from stargate.message import BINARY, Message, Sent


def make_backplane(settings, receiver):
    """That of an application: called once, when it is configured."""
    return Postbox(folder_of(settings), receiver)


def make_publisher(settings):
    """That of any other program, for ``stargate.connect()`` and the ``stargate`` command."""
    return Sender(folder_of(settings))


def folder_of(settings):
    """The folder of the namespace; what is wrong with a URL is a ``ValueError``."""
    url = urlsplit(settings["backplane"])
    if url.netloc or url.path in ("", "/"):
        raise ValueError("a postbox has a folder, as in postbox:///var/lib/shop/letters")
    return Path(unquote(url.path), settings["namespace"])


class Postbox(MemoryBackplane):
    """Does what ``memory`` does, and sends what is in the letters."""

    def __init__(self, folder, receiver):
        super().__init__(receiver)
        self._folder, self._counters = folder, receiver.counters
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def _collect(self):
        while not self._closed.wait(0.02):
            for path in sorted(self._folder.glob("*.letter")):
                letter = json.loads(path.read_text())
                path.unlink()
                payload = b64decode(letter["payload"])
                message = payload if letter["binary"] else payload.decode()
                message = Message(message, json=letter["json"])
                excluded = frozenset(letter["excluded"])
                self.publish(letter["topic"], message, excluded, None, letter["key"])
                self._counters.received += 1

    def close(self):
        self._closed.set()
        self._thread.join()


class Sender:
    """Drops letters; it gets no answer, and so can't be asked."""

    def __init__(self, folder):
        self._folder = folder

    def publish(self, topic, message, excluded, key=None):
        letter = {
            "topic": topic,
            "payload": b64encode(message.payload).decode(),
            "binary": message.opcode == BINARY,
            "json": message.json,
            "excluded": sorted(excluded),
            "key": key,
        }
        name = f"{time_ns():020}-{uuid4().hex}"
        try:
            draft = self._folder / f"{name}.draft"
            draft.write_text(json.dumps(letter))
            draft.rename(draft.with_suffix(".letter"))
        except OSError as error:
            raise BackplaneError("not sent", f"{self._folder}: {error.strerror}") from error
        return Sent(id=None, processes=1, repeated=False)

    def history(self, topic, since=None, limit=100):
        raise BackplaneError("not sent", "nobody answers letters")

    def presence(self, topic):
        raise BackplaneError("not sent", "nobody answers letters")

    def listener_count(self, topic):
        raise BackplaneError("not sent", "nobody answers letters")

    def close(self):
        pass
