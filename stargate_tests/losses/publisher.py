"""A publisher of a trial: sends until its standard input ends, each message until acknowledged.

``python -m stargate_tests.losses.publisher``. Its ledger is what it prints at the end, as JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import select
import sys
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from stargate import BackplaneError, connect
from stargate_tests.losses.ledger import RESOURCES, identity

#: Seconds for which one send is repeated: after a minute its key is forgotten.
GIVES_UP = 50.0

#: Seconds between two repeats.
PAUSE = 0.1

#: Seconds that the view is waited for: longer than its own send takes.
ANSWERS_WITHIN = 5.0

UNKNOWN = "unknown"


class Doubtful(Exception):
    """Not acknowledged; ``key`` is what to repeat it with."""

    def __init__(self, outcome: str, key: str | None) -> None:
        super().__init__(outcome)
        self.outcome, self.key = outcome, key


class ByConnect:
    """Sends with ``stargate.connect``; the key of a repeat is the error's."""

    def __init__(self, redis: str, namespace: str) -> None:
        self._publisher = connect(redis, namespace)

    def send(self, path: str, kind: str, text: str, key: str | None) -> str | None:
        try:
            if kind == "json":
                return self._publisher.send_json(path, text, key=key)
            message = text.encode() if kind == "binary" else text
            return self._publisher.send(path, message, key=key)
        except BackplaneError as error:
            raise Doubtful(error.outcome, error.key) from error

    def close(self) -> None:
        self._publisher.close()


class ByView:
    """Sends with a view of the application, whose worker may die before it answers."""

    def __init__(self, url: str) -> None:
        self._where = urlsplit(url).netloc
        self._connection = http.client.HTTPConnection(self._where, timeout=ANSWERS_WITHIN)

    def send(self, path: str, kind: str, text: str, key: str | None) -> str | None:
        key = key or "-".join(map(str, identity(text)))
        try:
            self._connection.request("POST", f"{path}/@@send?kind={kind}&key={key}", text.encode())
            answer = self._connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()  # The next request opens it again.
            raise Doubtful(UNKNOWN, key) from error
        if answer.status == 200:
            id: str | None = json.loads(body)["id"]
            return id
        if answer.status != 503:
            raise RuntimeError(f"{answer.status} for {text[:20]!r}: {body!r}")
        known = answer.headers.get_content_type() == "application/json"
        raise Doubtful(json.loads(body)["outcome"] if known else UNKNOWN, key)

    def close(self) -> None:
        self._connection.close()


class Publishing:
    """One publisher's work, and what it notes of it."""

    def __init__(self, way: Any, name: str, seed: int, rate: float) -> None:
        self._way, self._name, self._rate = way, name, rate
        self._rng = random.Random(f"{seed} {name}")
        self.acknowledged: list[tuple[str, str | None, str]] = []
        #: How many sends were not acknowledged, by what was known of them.
        self.doubtful: Counter[str] = Counter()

    def run(self, wait: Callable[[float], bool]) -> None:
        """Send, until ``wait(seconds)`` says that it is time to end."""
        number = 0
        while not wait(self._rng.random() * 2 / self._rate):
            number += 1
            resource = self._rng.choice(list(RESOURCES))
            kind = self._rng.choice(("text", "text", "json", "binary"))
            text = f"{self._name} {number} ".ljust(self._rng.choice((20, 40, 300)), "x")
            id = self._send(f"/{resource}", kind, text, wait)
            self.acknowledged.append((resource, id, text))

    def _send(self, path: str, kind: str, text: str, wait: Callable[[float], bool]) -> str | None:
        key, end = None, monotonic() + GIVES_UP
        while True:
            try:
                found: str | None = self._way.send(path, kind, text, key)
                return found
            except Doubtful as error:
                self.doubtful[error.outcome] += 1
                key = error.key
                if monotonic() > end:
                    raise
            wait(PAUSE)

    def told(self) -> dict[str, Any]:
        """What is printed at the end."""
        return {"acknowledged": self.acknowledged, "doubtful": self.doubtful}


def over(seconds: float) -> bool:
    """Wait for so long; whether the standard input has ended."""
    readable, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(readable)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="messages a second")
    parser.add_argument("--redis", default="")
    parser.add_argument("--namespace", default="")
    parser.add_argument("--view", default="", help="the URL of the application, to send by that")
    options = parser.parse_args()
    way = ByView(options.view) if options.view else ByConnect(options.redis, options.namespace)
    publishing = Publishing(way, options.name, options.seed, options.rate)
    try:
        publishing.run(over)
    finally:
        way.close()
    json.dump(publishing.told(), sys.stdout)


if __name__ == "__main__":
    main()
