"""Listening sockets: connections are accepted, wait, and have their requests answered in turn.

``eventlet.wsgi`` has a loop for this as well. It ends when descriptors run out, and it has a
greenlet for each connection, whether it says anything or not. What one connection does is in
``conversation.py``.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from stargate.engine import STOPPING, current_engine
from stargate.engine.conversation import Conversation, TlsConversation
from stargate.engine.forked import let_go
from stargate.engine.head import Malformed
from stargate.engine.hub import READ
from stargate.engine.peerlog import peerlog
from stargate.engine.quiet import eventlet
from stargate.engine.spare import EXHAUSTED, UNAVAILABLE, Spare
from stargate.engine.waiting import Waiting
from stargate.engine.wsgi import HttpProtocol, Log
from stargate.settings.application import spare_descriptors
from stargate.settings.proxies import trusted
from stargate.stats import count_refusal

if TYPE_CHECKING:
    from stargate.settings.server import ServerSettings

wsgi = eventlet.wsgi

log = logging.getLogger("stargate.server")

#: Seconds between two looks for connections that have waited for too long: at most, and at least.
SWEEP_SECONDS, SWEEP_AGAIN = 1.0, 0.05

#: Seconds that a refused peer is heard before its connection is closed.
LINGER_SECONDS = 2.0

#: What a request gets that has found no place.
BUSY = Malformed(503, "there are too many requests: try again later")

#: Connections accepted in one turn of the hub.
ACCEPTED_AT_ONCE = 64

#: Errors of ``accept`` that are those of one connection, which has gone.
PASSING = frozenset(
    (
        errno.ECONNABORTED,
        errno.EPERM,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
    )
)

#: Seconds without accepting when a connection can not even be refused.
ACCEPT_PAUSE = 1.0

#: What an environ says of a connection with TLS.
SECURE = {"wsgi.url_scheme": "https", "HTTPS": "on"}


class HttpServer:
    """Accepts connections on listening sockets and serves an application on them.

    With ``tls``, a context, every connection begins with a TLS handshake. Of requests that are
    being answered there are ``connection_limit`` at most. Connections that have none cost
    nothing but their descriptors, and give them up when those run short.
    """

    def __init__(
        self,
        application: Callable[..., Any],
        listening: list[Any],
        settings: ServerSettings,
        tls: Any = None,
    ) -> None:
        self.engine = current_engine()
        self.settings = settings
        self._listening = listening
        self._tls = tls
        self._open: set[Conversation] = set()
        #: Those whose first request, or next one, is not there as a whole: in their TLS handshake,
        #: silent, or in the midst of a head; and how many bytes of it each has sent.
        self._young = Waiting(settings.header_timeout)
        self._heads: dict[Conversation, int] = {}
        self._heads_size = 0
        self._most_of_heads = settings.connection_limit * (
            settings.max_request_line + settings.max_header_size
        )
        #: Those between two requests; those that ask, while there is no place; those with one.
        self._idle = Waiting(settings.keepalive_timeout)
        self._asking = Waiting(settings.header_timeout)
        self._served: set[Conversation] = set()
        #: Those that were refused, and may be sending still.
        self._leaving = Waiting(LINGER_SECONDS)
        self._descriptors = spare_descriptors()
        self._sweeping = False
        self._accepting = False
        self._stopping = False
        self._spare = Spare(self.engine, UNAVAILABLE if tls is None else b"")
        self._servers = {sock.fileno(): self._server(sock, application) for sock in listening}
        self.engine.when_forked(self._disown)

    def _server(self, sock: Any, application: Callable[..., Any]) -> Any:
        """What eventlet wants to know of a server: nothing of it listens or accepts."""
        settings = self.settings
        server = wsgi.Server(
            sock,
            sock.getsockname(),
            application,
            log=Log(),
            environ={STOPPING: self.is_stopping, **(SECURE if self._tls is not None else {})},
            protocol=HttpProtocol,
            keepalive=settings.keepalive_timeout,
            url_length_limit=settings.max_request_line,
            socket_timeout=settings.socket_timeout,
            debug=False,
        )
        server.settings = settings
        server.proxies = trusted(settings.trusted_proxy, settings.trusted_proxy_headers)
        server.log_output = settings.access_log
        return server

    def __len__(self) -> int:
        """How many connections speak HTTP at this moment."""
        return len(self._open)

    def start(self) -> None:
        """Accept from here on."""
        if self._accepting or not self._listening:
            return
        self._accepting = True
        for sock in self._listening:
            self.engine.watch(sock.fileno(), READ, partial(self._accept, sock))

    def pause(self) -> None:
        """Leave new connections in the kernel's queue."""
        if self._accepting:
            self._accepting = False
            for sock in self._listening:
                self.engine.unwatch(sock.fileno())

    def listen_no_more(self) -> None:
        """Close the listening sockets; whoever has been accepted is served."""
        self.pause()
        for sock in self._listening:
            sock.close()
        self._listening = []
        self._spare.close()

    def is_stopping(self) -> bool:
        """Whether it is ending: requests are answered still, but nothing new is to be opened."""
        return self._stopping

    def stop(self) -> None:
        """Accept no more, close the listening sockets, and idle connections with them."""
        self._stopping = True
        self.listen_no_more()
        for conversation in list(self._open):
            conversation.stop()

    def cut(self) -> None:
        """End what is still being served."""
        for conversation in list(self._open):
            conversation.cut()

    def _disown(self) -> None:
        """In a forked child: nothing is accepted here, and nobody answered."""
        self._spare.close()
        let_go([each.fileno() for each in (*self._listening, *self._open)])
        for server in self._servers.values():
            server.log_output = False

    def _accept(self, sock: Any, _events: int) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                accepted, address = sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in PASSING and not self._refuse(sock, error):
                    return
                continue
            self._admit(accepted, address, self._servers[sock.fileno()])

    def _refuse(self, sock: Any, error: OSError) -> bool:
        """Make room, or refuse a connection for want of it; false to leave it at that."""
        try:
            if error.errno not in EXHAUSTED:
                raise error
            accepted, address = self._spare.accept(sock)
            if self._make_room():
                self._spare.take()
                self._admit(accepted, address, self._servers[sock.fileno()])
            else:
                self._spare.refuse(accepted, error)
        except BlockingIOError:
            return False
        except OSError:
            text = "accept failed, pausing for a second: %s"
            self.engine.spawn(peerlog.error, log, text, error)
            self.pause()
            self.engine.call_later(ACCEPT_PAUSE, self.start)
            return False
        return True

    def _make_room(self) -> bool:
        """Close one that has no request: refused, longest idle, or slowest with its first.

        Rather that than refuse a newcomer: who comes in good faith sends a request at once.
        """
        for waiting in (self._leaving, self._idle, self._young):
            while (found := waiting.longest()) is not None:
                found.make_room()
                if found not in self._open:
                    return True
        return False

    def _admit(self, accepted: Any, address: Any, server: Any) -> None:
        """Wait for a request on a connection; where there is no room for it, close it."""
        connections = len(self._open) + len(self.engine.connections)
        if self._descriptors and connections >= self._descriptors:
            self._make_room()  # The rest of the descriptors is for the application.
        try:
            accepted.setblocking(False)
            if self._tls is None:
                conversation = Conversation(self, accepted, address, server)
            else:
                conversation = TlsConversation(self, accepted, address, server, context=self._tls)
            conversation.park()
        except (OSError, MemoryError) as error:
            accepted.close()
            count_refusal(self.engine.refusals, "memory")
            text = "no room for a connection from %s: %r"
            self.engine.spawn(peerlog.error, log, text, address, error)
            return
        self._open.add(conversation)
        self._wait(self._young, conversation)

    # What conversations tell.

    def shaken(self, conversation: Conversation) -> None:
        """The TLS handshake is over: a request has as long as it has without TLS."""
        self._young.add(conversation)

    def unfit(self, address: Any, why: object) -> None:
        """A peer at ``address`` does not speak TLS as it should."""
        count_refusal(self.engine.refusals, "tls")
        self.engine.spawn(peerlog.info, log, "%s refused: TLS: %s", address, why)

    def hears(self, conversation: Conversation, size: int) -> None:
        """The first bytes of a head have come, or more: it has a time as a whole."""
        before = self._heads.get(conversation)
        if before is None:
            self._idle.discard(conversation)
            self._wait(self._young, conversation)
        self._heads[conversation] = size
        self._heads_size += size - (before or 0)
        if self._heads_size > self._most_of_heads:
            self._bound_heads()

    def asks(self, conversation: Conversation) -> None:
        """A request is there: serve it, or let it wait for a place."""
        self.forget(conversation)
        if len(self._served) < self.settings.connection_limit:
            self._serve(conversation)
        else:
            self._wait(self._asking, conversation)

    def answered(self, conversation: Conversation) -> None:
        """A request needs its place no more, though its peer may be sending still."""
        self._served.discard(conversation)
        self._serve_next()

    def lingers(self, conversation: Conversation) -> None:
        """It has been refused: the peer is heard to its end, or not for long."""
        self._wait(self._leaving, conversation)

    def rests(self, conversation: Conversation) -> None:
        """A request has been answered, and another may come on the same connection."""
        self._served.discard(conversation)
        self._wait(self._idle, conversation)
        self._serve_next()

    def ended(self, conversation: Conversation) -> None:
        """``conversation`` speaks HTTP no more: it is closed, or a WebSocket now."""
        self._open.discard(conversation)
        self.forget(conversation)
        self._served.discard(conversation)
        self._serve_next()

    def _serve(self, conversation: Conversation) -> None:
        self._served.add(conversation)
        conversation.serve()

    def _serve_next(self) -> None:
        while len(self._served) < self.settings.connection_limit:
            found = self._asking.longest()
            if found is None:
                return
            self.forget(found)
            self._serve(found)

    def forget(self, conversation: Conversation) -> None:
        """It waits for nothing any more."""
        for waiting in (self._young, self._idle, self._asking, self._leaving):
            waiting.discard(conversation)
        self._heads_size -= self._heads.pop(conversation, 0)

    def _bound_heads(self) -> None:
        """Refuse the longest of the heads, so that they hold no more than the requests may."""
        found = max(self._heads, key=self._heads.__getitem__)
        found.refuse(BUSY)

    # Whoever has waited for too long.

    def _wait(self, waiting: Waiting, conversation: Conversation) -> None:
        waiting.add(conversation)
        if not self._sweeping:
            self._sweep_in(waiting.left())

    def _sweep_in(self, seconds: float) -> None:
        delay = min(SWEEP_SECONDS, max(SWEEP_AGAIN, seconds))
        self.engine.call_later(delay, self._sweep)
        self._sweeping = True  # Not before: without memory for it, the next who waits tries again.

    def _sweep(self) -> None:
        """End the waiting of those for whom it is over; the longest wait comes first."""
        every = (self._young, self._idle, self._leaving, self._asking)
        self._sweeping = False
        try:
            for waiting in every:
                for conversation in waiting.overdue():
                    self._expire(conversation, asks=waiting is self._asking)
        finally:
            left = [each.left() for each in every if each]
            if left and not self._sweeping:
                self._sweep_in(min(left))

    def _expire(self, conversation: Conversation, *, asks: bool) -> None:
        self.forget(conversation)  # First: whatever fails, the next sweep comes to the others.
        try:
            if asks:
                conversation.refuse(BUSY)
            else:
                conversation.expire()
        except Exception as error:
            conversation.close()
            self.engine.spawn(partial(peerlog.error, log, "a sweep failed", exc_info=error))
