"""The pytest fixtures of stargate: ``pytest_plugins = ["stargate.fixtures"]`` in a conftest.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from stargate.testing import LiveServer


@pytest.fixture
def live_server() -> Iterator[Callable[..., LiveServer]]:
    """``live_server(application, **settings)``: a :class:`~stargate.testing.LiveServer`, running.

    As many as the test asks for; all are stopped after it.
    """
    with ExitStack() as stack:

        def start(application: Callable[..., Any], **settings: Any) -> LiveServer:
            return stack.enter_context(LiveServer(application, **settings))

        yield start
