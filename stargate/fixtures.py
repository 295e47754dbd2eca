"""The pytest fixtures of stargate: ``pytest_plugins = ["stargate.fixtures"]`` in a conftest.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from weakref import WeakSet

import pytest

from stargate.application import gates as application
from stargate.testing import LiveServer


@pytest.fixture
def no_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """For unit tests of resources: each object keeps its listeners to itself.

    That is so by itself in a process with no application. Where other tests have made one, and it
    is still about, a resource would find that.
    """
    monkeypatch.setattr(application, "_gates", WeakSet())


@pytest.fixture
def live_server() -> Iterator[Callable[..., LiveServer]]:
    """``live_server(application, **settings)``: a :class:`~stargate.testing.LiveServer`, running.

    As many as the test asks for; all are stopped after it.
    """
    with ExitStack() as stack:

        def start(application: Callable[..., Any], **settings: Any) -> LiveServer:
            return stack.enter_context(LiveServer(application, **settings))

        yield start
