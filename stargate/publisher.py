"""A publisher: sends to resources, and reads what is kept of them, from outside the application.

Plain blocking code for task queues, cron jobs and any other program: it imports nothing of Pyramid
and nothing of eventlet. (It is not ``connect.py``, or Python would put this module in the place of
the function ``stargate.connect``.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from json import dumps
from typing import Any

from stargate.backplane import make_publisher
from stargate.exceptions import MessageTooBig
from stargate.history import History
from stargate.message.address import check_address
from stargate.message.jsontext import checked
from stargate.message.message import Message, Sent
from stargate.settings.application import APPLICATION, application_values, values
from stargate.settings.inifile import read_ini

MEMORY = (
    "{0} has no stargate.backplane but the memory of the process that serves: no other process "
    "can reach its listeners. Set these two in it, and start the application again:\n"
    "    stargate.backplane = redis://localhost:6379/0\n"
    "    stargate.namespace = a-name-of-its-own\n"
    "Where the application's own code sets them, give the URL and the namespace instead of {0}"
)


def connect(
    target: str | os.PathLike[str],
    namespace: str | None = None,
    *,
    timeout: float | None = None,
    json: Callable[[Any], str | bytes] | None = None,
    max_send_size: int | None = None,
    replicas: int | None = None,
) -> Publisher:
    """A :class:`~stargate.publisher.Publisher` to the applications of one namespace.

    It must be closed at the end, by ``close()`` or ``with``.

    ``target`` is the URL of a Redis, or of another backplane, as in ``stargate.backplane``, and
    ``namespace`` the name of the application there; or ``target`` is the path of the application's
    ini file, ``production.ini`` or ``production.ini#name``, and brings its own.

    ``timeout`` is how many seconds one call may take in all: 2, or ``stargate.backplane_timeout``
    of the ini file. ``max_send_size`` is the longest message, in bytes: 1,048,576, or what holds
    for the application of the ini file; with a URL give that, if it is another: an application
    refuses what is longer. ``replicas`` is how many replicas must have a message before a send
    returns: 0, or ``stargate.backplane_replicas``. ``json`` writes a value as JSON: ``json.dumps``.

    Nothing is connected before the first call. Raises ``ValueError`` for a target that makes no
    sense, such as an ini file with the memory backplane or a scheme that no installed package has a
    backplane for, ``FileNotFoundError`` for one that is not there, and ``ModuleNotFoundError``
    where redis-py is missing.
    """
    if not isinstance(target, str | os.PathLike):
        raise TypeError(f"a target is the URL of a Redis or the path of an ini file: {target!r}")
    where = os.fspath(target)
    given = {
        "backplane_timeout": timeout,
        "backplane_replicas": replicas,
        "max_send_size": max_send_size,
    }
    given = {name: value for name, value in given.items() if value is not None}
    found = _of_url(where, namespace) if "://" in where else _of_ini(where, namespace)
    found |= {name: values(APPLICATION, given, "")[name] for name in given}
    size = int(found["max_send_size"])
    return Publisher(make_publisher(found), found["namespace"], size, json or dumps)


class Publisher:
    """One namespace of one Redis: the applications that have both in their settings.

    Made by :func:`stargate.connect`. It may be used by any number of threads, and after a fork by
    parent and child. Every call waits for the Redis, at most for the time-out, and raises
    :class:`~stargate.exceptions.BackplaneError` where it is not answered; none is tried twice.
    """

    def __init__(
        self,
        backplane: Any,
        namespace: str,
        max_send_size: int,
        json: Callable[[Any], str | bytes],
    ) -> None:
        self._backplane, self._namespace = backplane, namespace
        self._max_send_size, self._json = max_send_size, json
        self._closed = False

    def __repr__(self) -> str:
        return f"<Publisher to {self._namespace} at {self._backplane}>"

    def send(
        self,
        path: str,
        message: str | bytes,
        *,
        exclude: str | Iterable[str] = (),
        key: str | None = None,
    ) -> str | None:
        """Send ``message`` to every listener of the resource at ``path``, in every process.

        ``path`` is its address, ``resource.path``: as Pyramid writes it, ``/jobs/a%20b``, or with
        a scope before it, ``acme:/jobs/a%20b``. ``str`` goes as text, ``bytes`` as binary, anything
        else is a ``TypeError``. The WebSockets whose ids are in ``exclude`` are left out. ``key``
        is any short word of yours: a second send to the same ``path`` with the same ``key``, within
        a minute, sends nothing.

        Returns when the Redis has it: the message's id where the resource has a history, else
        ``None``. Raises :class:`~stargate.exceptions.BadAddress` for a ``path`` that no resource
        has, and :class:`~stargate.exceptions.MessageTooBig`.
        """
        return self.publish(path, message, exclude=exclude, key=key).id

    def send_json(
        self,
        path: str,
        value: Any,
        *,
        exclude: str | Iterable[str] = (),
        key: str | None = None,
    ) -> str | None:
        """Send ``value`` as text, written by ``json.dumps`` or what was given for it.

        All else is as in :meth:`send`. NaN and the infinities, which are no JSON and which no
        browser reads, are a ``ValueError``.
        """
        return self.publish(path, value, json=True, exclude=exclude, key=key).id

    def publish(
        self,
        path: str,
        message: Any,
        *,
        json: bool = False,
        exclude: str | Iterable[str] = (),
        key: str | None = None,
    ) -> Sent:
        """Send as :meth:`send` does, or with ``json`` as :meth:`send_json`, and tell more of it.

        Returns a named tuple: ``id``, as :meth:`send` returns it; ``processes``, how many listen
        there, those whose last listener has gone within five seconds included; and ``repeated``,
        whether the ``key`` is a repeat: then nothing was sent, and ``processes`` is 0.
        """
        if json:
            text = checked(self._json(message))
            message = text if isinstance(text, str) else str(text, "utf-8")
        made, address = Message(message, json=json), _checked(path)
        if len(made.payload) > self._max_send_size:
            raise MessageTooBig(address, len(made.payload), self._max_send_size)
        sent: Sent = self._open().publish(address, made, _ids(exclude), key)
        return sent

    def history(self, path: str, since: str | None = None, limit: int = 100) -> History:
        """The messages that are kept of the resource at ``path``, oldest first: a list.

        With ``since``, an id, the first ``limit`` that came after it, else the newest ``limit``.
        ``complete`` of the list is false where something that came after ``since`` is gone: then
        the list is empty.
        """
        if limit < 1:
            raise ValueError(f"limit = {limit!r}: it must be at least 1")
        found: History = self._open().history(_checked(path), since, limit)
        return found

    def presence(self, path: str) -> dict[str | int, int]:
        """Who listens to the resource at ``path``: names, and how many WebSockets each has."""
        found: dict[str | int, int] = self._open().presence(_checked(path))
        return found

    def listener_count(self, path: str) -> int:
        """How many WebSockets listen to the resource at ``path``, those with no name included."""
        found: int = self._open().listener_count(_checked(path))
        return found

    def close(self) -> None:
        """Close its connections: what is under way is finished, and no more can be done."""
        self._closed = True
        self._backplane.close()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _open(self) -> Any:
        if self._closed:
            raise ValueError("this publisher is closed")
        return self._backplane


def _of_url(url: str, namespace: str | None) -> dict[str, Any]:
    if not namespace:
        raise ValueError(
            "with a URL the namespace is needed, which is the application's name "
            "there: stargate.namespace in its settings"
        )
    return application_values({"stargate.backplane": url, "stargate.namespace": namespace})


def _of_ini(path: str, namespace: str | None) -> dict[str, Any]:
    given = read_ini(path)
    if namespace is not None:
        raise ValueError(f"{path} is an ini file, which brings its namespace: give no other")
    try:
        found = application_values(given)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if found["backplane"] == "memory":
        raise ValueError(MEMORY.format(path))
    return found


def _checked(path: str) -> str:
    if not isinstance(path, str):
        raise TypeError(
            f"a publisher sends to a path, as in '/jobs/1', not to {type(path).__name__}; "
            "that of a resource is resource.path"
        )
    return check_address(path)


def _ids(exclude: str | Iterable[str]) -> frozenset[str]:
    ids = frozenset((exclude,) if isinstance(exclude, str) else exclude or ())
    for each in ids:
        if not isinstance(each, str):
            raise TypeError(f"exclude has the ids of WebSockets, which are text, not {each!r}")
    return ids
