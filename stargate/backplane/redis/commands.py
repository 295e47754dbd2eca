"""Commands to a Redis: one deadline over all that a call waits for, and nothing is sent twice.

Plain blocking code, safe in threads and after a fork. What a call was certain of when it failed is
in ``BackplaneError.outcome``.
"""

from __future__ import annotations

import os
import queue
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from stargate.backplane.redis.address import Address
from stargate.backplane.redis.errors import reason
from stargate.backplane.redis.scripts import Script
from stargate.exceptions import BackplaneError

NOT_SENT, UNKNOWN = "not sent", "unknown"

#: Connections of one process to one server. Each is in use for a round trip.
CONNECTIONS = 32

#: Commands that are sent before the first answer is read.
PIPELINED = 100

Command = tuple[Any, ...]

#: Where a server is: host and port, or nothing where there is but one.
Place = tuple[Any, ...]

HERE: Place = ()


class Deadline:
    """Seconds that are left of the time that a call may take."""

    __slots__ = ("_end", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = monotonic() + seconds

    def left(self) -> float:
        """What is left, in seconds, and above 0; raises ``TimeoutError`` when it has passed."""
        left = self._end - monotonic()
        if left <= 0:
            raise TimeoutError(f"not within {self.seconds:g} s")
        return left

    def pause(self, seconds: float) -> bool:
        """Let ``seconds`` pass; false, and at once, where so many are not left."""
        if self._end - monotonic() <= seconds:
            return False
        time.sleep(seconds)
        return True


class Pool:
    """Connections to one server, opened when they are needed."""

    def __init__(self, make: Callable[[float], Any], size: int = CONNECTIONS) -> None:
        self._make, self._size = make, size
        self._closed = False
        self._begin()
        _pools.add(self)

    def _begin(self) -> None:
        self._closed = False
        # The newest is taken first, so that those that nobody needs stay where they are.
        self._free: queue.LifoQueue[Any] = queue.LifoQueue()
        for _ in range(self._size):
            self._free.put(None)

    def take(self, deadline: Deadline) -> Any:
        """An open connection, for nobody else; raises what ``failed`` makes a text of."""
        try:
            connection = self._free.get(timeout=deadline.left())
        except queue.Empty:
            raise TimeoutError(
                f"all {self._size} connections are in use for {deadline.seconds:g} s"
            ) from None
        try:
            if connection is not None and not connection.is_open():
                connection.disconnect()
                connection = None
            return connection if connection is not None else self._make(deadline.left())
        except BaseException:
            self._free.put(None)
            raise

    def give(self, connection: Any) -> None:
        """Take back a connection that nothing is awaited on; ``None`` for one that is closed."""
        if self._closed and connection is not None:
            connection.disconnect()
            connection = None
        self._free.put(connection)

    def close(self) -> None:
        """Close those that nobody is using, and the others when they are given back."""
        self._closed = True
        free = []
        with suppress(queue.Empty):
            while True:
                free.append(self._free.get_nowait())
        for connection in free:
            if connection is not None:
                connection.disconnect()
            self._free.put(None)


#: Those that begin anew in a child of this process: the parent's connections are the parent's.
_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


#: What their greenlets wait for in the parent: let go of, it would have them go on in the child.
_parents: list[Any] = []


def _begin_anew() -> None:
    for pool in list(_pools):
        _parents.append(pool._free)
        pool._begin()


# A look at the process id in each call would be too late for two threads of the child at a time.
os.register_at_fork(after_in_child=_begin_anew)


def opened(connection: Any) -> Any:
    """``connection``, opened and logged in."""
    connection.connect()
    return connection


def answer(connection: Any, deadline: Deadline, *command: Any) -> Any:
    """The answer to one command over a connection of its own."""
    connection.send_command(*command)
    return connection.read(deadline)


def was_answered(error: BaseException) -> bool:
    """Whether ``error`` is what the server said, and not that nothing came.

    Some of its errors are connection errors to redis-py (``-LOADING``, ``-NOAUTH``): those are of
    classes of their own.
    """
    if isinstance(error, RedisConnectionError):
        return type(error) is not RedisConnectionError
    return isinstance(error, ResponseError)


class Commands:
    """One Redis, through a pool of connections."""

    #: The commands that publish and subscribe.
    publish, subscribe, unsubscribe = "PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE"

    #: Whether what is at one place may be at another later.
    moves = False

    #: Another number each time that something has moved.
    version = 0

    def __init__(self, address: Address, timeout: float) -> None:
        self.address, self.timeout = address, timeout
        self._shown = str(address)
        self._pools: dict[Place, Pool] = {}

    # Where it is: for those who subscribe.

    def where(self, _channel: str) -> Place:
        """The same for channels that are heard on one connection; may raise ``BackplaneError``."""
        return HERE

    def slot(self, _channel: bytes) -> int:
        """The same for channels that one command may subscribe to."""
        return 0

    def open_subscriber(self, where: Place, timeout: float) -> Any:
        """A connection of its own to where messages are to be heard."""
        return self._open(where, timeout)

    def look_again(self, *, now: bool = False) -> None:
        """See whether something has moved; ``now``: it is likely."""

    def learn(self, slot: int, where: Place) -> None:
        """A server has said that ``slot`` is there."""

    # What is asked of it.

    def script(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Any],
        *,
        replicas: int = 0,
        key: str | None = None,
    ) -> Any:
        """What ``script`` returns; raises ``BackplaneError``, which has ``key``.

        With ``replicas``, as many must have what it wrote before this returns.
        """
        command = ("EVALSHA", script.sha, len(keys), *keys, *args)
        whole = ("EVAL", script.text, len(keys), *keys, *args)

        def act(call: Call) -> Any:
            try:
                reply = call.ask(command)
            except NoScriptError:
                reply = call.ask(whole)
            if replicas:
                call.wait_for(replicas)
            return reply

        return self._carry_out(keys[0], act, key)

    def scripts(
        self, script: Script, calls: Iterable[tuple[Sequence[str], Sequence[Any]]]
    ) -> list[Any]:
        """What ``script`` returns for each of several, or the error that there was for it.

        Raises ``BackplaneError`` where nothing can be reached.
        """
        replies: list[Any] = []
        for some in portions(list(calls), PIPELINED):
            replies += self._carry_out(some[0][0][0], pipeline(script, some))
        return replies

    def command(self, key: str, *command: Any) -> Any:
        """The answer to one command that concerns ``key``; raises ``BackplaneError``."""
        return self._carry_out(key, lambda call: call.ask(command))

    def close(self) -> None:
        """Close the connections that are not in use."""
        for pool in list(self._pools.values()):
            pool.close()

    # How it is reached.

    def _carry_out(self, _place: str, act: Callable[[Call], Any], key: str | None = None) -> Any:
        """What ``act`` returns with a connection to where the key ``place`` is."""
        return self._at(HERE, Deadline(self.timeout), act, key)

    def _at(
        self, where: Place, deadline: Deadline, act: Callable[[Call], Any], key: str | None = None
    ) -> Any:
        with Call(self._pool(where), deadline, key, self._name(where)) as call:
            return act(call)

    def _name(self, where: Place) -> str:
        return f"{self._shown}{', {}:{}'.format(*where) if where else ''}"

    def _pool(self, where: Place) -> Pool:
        found = self._pools.get(where)
        if found is None:
            found = self._pools.setdefault(where, Pool(partial(self._open, where)))
        return found

    def _open(self, where: Place, timeout: float) -> Any:
        return opened(self.address.connection(timeout, *where))

    def _forget(self, where: Place) -> None:
        """Close the connections to a server that nothing is to be asked of any more."""
        pool = self._pools.pop(where, None)
        if pool is not None:
            pool.close()


def portions(all: list[Any], size: int) -> Iterable[list[Any]]:
    """``all``, ``size`` at a time."""
    return (all[begin : begin + size] for begin in range(0, len(all), size))


def pipeline(
    script: Script, calls: list[tuple[Sequence[str], Sequence[Any]]]
) -> Callable[[Call], list[Any]]:
    """Run ``script`` for all ``calls``, and read the answers afterwards."""
    commands = [("EVALSHA", script.sha, len(keys), *keys, *args) for keys, args in calls]

    def act(call: Call) -> list[Any]:
        call.ask(("SCRIPT", "LOAD", script.text))
        return call.ask_all(commands)

    return act


class Call:
    """The use of one connection under one deadline; leaves it fit for the next, or closed."""

    def __init__(self, pool: Pool, deadline: Deadline, key: str | None, name: str) -> None:
        self._pool, self._deadline, self._key, self._name = pool, deadline, key, name
        self._outcome = NOT_SENT
        #: Whether the server is asked for what is about to be its own.
        self.asking = False
        #: Whether something has been written that a later failure does not undo.
        self._done = False
        self._connection: Any = None

    def __enter__(self) -> Call:
        try:
            self._connection = self._pool.take(self._deadline)
        except (RedisError, OSError) as error:
            raise self._failed(error) from error
        return self

    def __exit__(self, kind: object, error: BaseException | None, _traceback: object) -> None:
        connection = self._connection
        clean = error is None or isinstance(error, ResponseError)
        if not clean or is_moved_away(error):
            connection.disconnect()
            connection = None
        self._pool.give(connection)
        if isinstance(error, RedisError | OSError) and not isinstance(error, BackplaneError):
            if was_answered(error) and not self._done:
                self._outcome = NOT_SENT
            raise self._failed(error) from error

    def _failed(self, error: BaseException) -> BackplaneError:
        why = reason(error)
        if isinstance(error, RedisTimeoutError) or why == "timed out":
            why = f"no answer within {self._deadline.seconds:g} s"
        return BackplaneError(self._outcome, f"{self._name}: {why}", self._key)

    def ask(self, command: Command) -> Any:
        """The answer to ``command``; raises the server's error, or the connection's."""
        if self.asking:  # That holds for one command.
            self._send(self._connection.pack_commands([("ASKING",), command]))
            self._read()
        else:
            self._send(self._connection.pack_command(*command))
        return self._read()

    def ask_all(self, commands: list[Command]) -> list[Any]:
        """The answers to ``commands``, errors of the server among them."""
        self._send(self._connection.pack_commands(commands))
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(self._read())
            except ResponseError as error:
                replies.append(error)
        return replies

    def wait_for(self, replicas: int) -> None:
        """Wait until as many replicas have what was written."""
        self._done, self._outcome = True, UNKNOWN
        left = self._deadline.left()
        # A little before the deadline: Redis looks at its clock ten times a second.
        seconds = max(left / 2, left - 0.2)
        have = self.ask(("WAIT", replicas, max(1, int(seconds * 1000))))
        if have < replicas:
            raise BackplaneError(
                UNKNOWN,
                f"{self._name}: {have} replica(s) have it, and stargate.backplane_replicas is "
                f"{replicas}",
                self._key,
            )

    def _send(self, commands: bytes) -> None:
        # What is not written to its end is not carried out: the connection is closed.
        self._outcome = UNKNOWN if self._done else NOT_SENT
        self._connection.write(commands, self._deadline)

    def _read(self) -> Any:
        self._outcome = UNKNOWN
        return self._connection.read(self._deadline)


def is_moved_away(error: BaseException | None) -> bool:
    """Whether the server says that it is no primary any more: ask elsewhere the next time."""
    return isinstance(error, ReadOnlyError | MasterDownError)


def is_out_of_reach(error: BackplaneError) -> bool:
    """Whether it may be another server that has to be asked from now on."""
    cause = error.__cause__
    return cause is not None and (is_moved_away(cause) or not was_answered(cause))
