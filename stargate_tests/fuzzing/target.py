"""The servers that are fuzzed: what their views were given, and what went wrong in them."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from itertools import count

from pyramid.exceptions import URLDecodeError
from pyramid.httpexceptions import HTTPBadRequest

from stargate import WebSocketView
from stargate.testing import LiveServer
from stargate_tests.functional.tree import Node, make_app
from stargate_tests.waiting import DEADLINE

#: The bounds of the fuzzed servers: small, so that they are met.
LIMIT, MOST_FRAGMENTS = 200, 4

SETTINGS = {
    "stargate.max_message_size": str(LIMIT),
    "stargate.max_fragments": str(MOST_FRAGMENTS),
    "stargate.ping_interval": "0",
}


class Record:
    """The messages that one view was given, and whether its WebSocket has ended."""

    def __init__(self):
        self.messages = []
        self.code = None
        self._ended = threading.Event()

    def end(self, websocket):
        self.code = websocket.close_code
        self._ended.set()

    def wait(self):
        assert self._ended.wait(DEADLINE), "the view has not ended"
        return self


class Recording(WebSocketView):
    """A view that writes down what it is given, under the ``id`` of its address."""

    records: dict[str, Record] = {}

    @property
    def record(self):
        return self.records[self.request.params["id"]]


class Events(Recording):
    def on_open(self, websocket):
        pass

    def on_message(self, websocket, message):
        self.record.messages.append(message)

    def on_close(self, websocket):
        self.record.end(websocket)


class Handler(Recording):
    def handler(self, websocket):
        self.record.messages.extend(websocket)
        self.record.end(websocket)


def bad_page(error, request):
    """What an application does with a page at such a path, if it does not want a 500."""
    return HTTPBadRequest()


def configure(config):
    config.add_websocket_view(Events, context=Node, name="events")
    config.add_websocket_view(Handler, context=Node, name="blocking")
    config.add_exception_view(bad_page, context=URLDecodeError, websocket=False)


class Errors(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.found = []

    def emit(self, record):
        self.found.append(self.format(record))


class Target:
    """Two servers, one of which compresses. A context manager."""

    VIEWS = ("events", "blocking")

    def __init__(self):
        self._stack = ExitStack()
        self._ids = count()
        self._errors = Errors()

    def __enter__(self):
        logging.getLogger().addHandler(self._errors)
        self._stack.callback(logging.getLogger().removeHandler, self._errors)
        self.plain = self._serve("off")
        self.deflating = self._serve("deflate")
        return self

    def __exit__(self, *_error):
        self._stack.close()

    def _serve(self, compression):
        app = make_app(configure, **SETTINGS, **{"stargate.compression": compression})
        return self._stack.enter_context(LiveServer(app, header_timeout="5"))

    def record(self):
        """A new record, and the query of the address that it is kept under."""
        number = str(next(self._ids))
        record = Recording.records[number] = Record()
        return record, f"?id={number}"

    def check_log(self):
        """Fail where something was logged as an error since the last time."""
        found, self._errors.found = self._errors.found, []
        assert not found, "\n".join(found)
