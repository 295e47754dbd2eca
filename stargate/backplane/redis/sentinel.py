"""A Redis with replicas, and Sentinels that know which of them is the primary.

A Sentinel needs some seconds to demote a primary that it could not reach: until then that one takes
messages which are lost in the end. So the Sentinels are asked again every second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, RedisError

from stargate.backplane.redis.address import Address
from stargate.backplane.redis.commands import (
    NOT_SENT,
    Call,
    Commands,
    Deadline,
    Place,
    answer,
    is_out_of_reach,
    opened,
)
from stargate.backplane.redis.errors import reason
from stargate.exceptions import BackplaneError

log = logging.getLogger("stargate.backplane")

#: Seconds that what the Sentinels say is believed, and what is believed when none of them answers.
BELIEVED, DOUBTED = 1.0, 5.0

#: Seconds that a call whose primary is known spends on asking whether it still is.
ASKING = 0.5

#: Seconds until a primary that is out of reach is tried again, or another that there is by then.
PAUSE = 0.1


class SentinelCommands(Commands):
    """The primary that the Sentinels name, whichever that is."""

    moves = True

    def __init__(self, address: Address, timeout: float) -> None:
        super().__init__(address, timeout)
        self._sentinels = list(address.hosts)
        self._primary: Place | None = None
        self._ask_at = 0.0

    def where(self, _channel: str) -> Place:
        """The primary."""
        return self._primary or self._known(Deadline(self.timeout))

    def look_again(self, *, now: bool = False) -> None:
        """Ask the Sentinels."""
        self._ask(Deadline(self.timeout))

    def _carry_out(self, _place: str, act: Callable[[Call], Any], key: str | None = None) -> Any:
        deadline = Deadline(self.timeout)
        while True:
            where = self._known(deadline, key)
            try:
                return self._at(where, deadline, act, key)
            except BackplaneError as error:
                if not is_out_of_reach(error):
                    raise
                self._ask_at = 0.0
                if error.outcome != NOT_SENT or not deadline.pause(PAUSE):
                    raise

    def _open(self, where: Place, timeout: float) -> Any:
        connection = super()._open(where, timeout)
        try:
            role = answer(connection, Deadline(timeout), "ROLE")[0]
        except NoPermissionError:
            return connection  # It is only said more plainly than when something is written.
        except BaseException:
            connection.disconnect()
            raise
        if role != b"master":
            connection.disconnect()
            raise RedisConnectionError("it is no primary (any more)")
        return connection

    # The Sentinels.

    def _known(self, deadline: Deadline, key: str | None = None) -> Place:
        """The primary, as far as is known; raises ``BackplaneError`` where nothing is."""
        known = self._primary
        if known is not None and monotonic() < self._ask_at:
            return known
        return self._ask(deadline, key)

    def _ask(self, deadline: Deadline, key: str | None = None) -> Place:
        now, known = monotonic(), self._primary
        self._ask_at = now + BELIEVED  # Others go on with what is known.
        try:
            left = deadline.left()
            found = self._found(Deadline(min(left, ASKING) if known is not None else left))
        except OSError as error:
            self._ask_at = now + DOUBTED
            if known is not None:
                return known
            raise BackplaneError(NOT_SENT, f"{self.address}: {error}", key) from error
        if found != known:
            self._moved(known, found)
        return found

    def _moved(self, known: Place | None, found: Place) -> None:
        self._primary = found
        self.version += 1
        if known is not None:
            log.warning("%s: the primary is %s:%d now", self.address, *found)
            self._forget(known)

    def _found(self, deadline: Deadline) -> Place:
        why = []
        sentinels = list(self._sentinels)
        for number, sentinel in enumerate(sentinels):
            try:
                found = self._told(sentinel, deadline.left() / (len(sentinels) - number))
            except (RedisError, OSError) as error:
                why.append("{}:{}: {}".format(*sentinel, reason(error)))
                continue
            # Whoever answered last is asked first.
            self._sentinels = [sentinel, *(each for each in sentinels if each != sentinel)]
            return found
        raise ConnectionError("; ".join(why))

    def _told(self, sentinel: tuple[str, int], timeout: float) -> Place:
        connection = opened(self.address.sentinel(timeout, *sentinel))
        try:
            name = self.address.service
            found = answer(
                connection, Deadline(timeout), "SENTINEL", "GET-MASTER-ADDR-BY-NAME", name
            )
        finally:
            connection.disconnect()
        if found is None:
            raise ConnectionError(
                f"this Sentinel watches nothing of the name {name!r}: the URL must end with the "
                "name in its sentinel monitor, as in redis+sentinel://HOST:26379/NAME/0"
            )
        return found[0].decode(), int(found[1])
