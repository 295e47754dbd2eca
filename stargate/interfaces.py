"""Every contract of stargate, as zope.interface interfaces; this imports nothing of ours."""

from zope.interface import Attribute, Interface


class IWebSocketAwareContext(Interface):
    """A resource that browsers listen to and any code sends to."""

    path = Attribute("The address of the resource, a string.")
    listeners = Attribute("The WebSockets of this process that listen: a snapshot with len().")

    def stargate_address():
        """The string that all objects which mean this resource have in common."""

    def add_listener(websocket, *, when_slow=None):
        """From here on ``websocket`` gets what is sent; twice is once."""

    def remove_listener(websocket):
        """Undo ``add_listener``; without one do nothing."""

    def send(message, *, exclude=None):
        """Send ``str`` or ``bytes`` to every listener but those in ``exclude``."""

    def send_json(value, *, exclude=None):
        """Send ``value`` as text, written once by the application's JSON renderer."""


class IWebSocket(Interface):
    """One connection, as a handler holds it. All but ``wait`` may be called from any thread."""

    id = Attribute("A name that no other connection has.")
    path = Attribute("The path of the URL that was opened.")
    origin = Attribute("The Origin header, or None.")
    subprotocol = Attribute("The subprotocol agreed on, or None.")
    remote_addr = Attribute("The address of the peer.")
    userid = Attribute("The authenticated userid, captured before the request ended.")
    closed = Attribute("Whether the connection has ended.")
    close_code = Attribute("The close code that ended it, or None.")
    close_reason = Attribute("The close reason that ended it, or None.")
    pending = Attribute("How many messages are ready to be read.")
    buffered = Attribute("How many bytes wait to be taken by the peer.")
    missed = Attribute("How many messages it did not get because its peer reads too slowly.")

    def wait(timeout=None):
        """The next message, ``str`` or ``bytes``; ``ConnectionClosed`` when it has ended."""

    def __iter__():
        """The messages; stops when the connection has ended."""

    def send(message):
        """Send ``str`` or ``bytes`` to this connection alone."""

    def send_json(value):
        """Send ``value`` as text, written by the application's JSON renderer."""

    def ping(payload=b""):
        """Send a ping."""

    def flush(timeout=None):
        """Wait until all that was sent has left."""

    def close(code=1000, reason=""):
        """Start the close handshake and return."""


class IWebSocketView(Interface):
    """A view that talks to one WebSocket: ``handler``, or the three others."""

    request = Attribute("The request of the handshake; it is over.")
    context = Attribute("The resource that the URL was traversed to.")

    def handler(websocket):
        """Talk to ``websocket``; returning closes it."""

    def on_open(websocket):
        """The connection is open."""

    def on_message(websocket, message):
        """A message has come."""

    def on_close(websocket):
        """The connection has ended."""

    def __call__():
        """Answer the handshake."""


class IGate(Interface):
    """One application's way in to its listeners, by resource or by address."""

    def send(target, message, *, exclude=None):
        """Send ``message`` to the listeners of ``target``."""

    def send_json(target, value, *, exclude=None):
        """Send ``value`` as text, written once by the application's JSON renderer."""

    def listeners(target):
        """The listeners of ``target`` in this process: a snapshot."""

    def add_listener(target, websocket, *, when_slow=None):
        """Make ``websocket`` a listener of ``target``."""

    def remove_listener(target, websocket):
        """Undo ``add_listener``."""

    def address(target):
        """The address of a resource."""

    def stats():
        """What has happened to the application's WebSockets in this process, as one object."""


class IBackplane(Interface):
    """What carries messages from the process that sends to the processes that listen."""

    def publish(topic, message, exclude):
        """Deliver ``message`` to the listeners of ``topic``, everywhere, in one order a topic."""


class IEngine(Interface):
    """Descriptors, greenlets and timers of one OS thread, and the way in from others."""

    connections = Attribute("The open WebSockets.")
    greenlet = Attribute("The greenlet that runs now.")
    turns = Attribute("How often descriptors were looked for; the same number is the same turn.")

    def watch(fd, events, ready):
        """Call ``ready(events)`` whenever ``fd`` is ready."""

    def rewatch(fd, events):
        """Change what ``fd`` is watched for."""

    def unwatch(fd):
        """Stop watching ``fd``."""

    def wait_writable(fd, seconds):
        """Hold everybody up until ``fd`` takes bytes, or for ``seconds``; returns which it was."""

    def spawn(function, *args):
        """Run ``function`` in a greenlet, soon."""

    def start(function, *args):
        """Run ``function`` in a greenlet, at once where that is possible."""

    def lend(function, *args):
        """Run ``function`` soon in a greenlet that does other short work as well."""

    def park():
        """Give way until resumed."""

    def resume(greenlet, *args):
        """Go on with a parked greenlet."""

    def call_soon(function, *args):
        """Call ``function`` on the hub at its next turn."""

    def call_later(seconds, function, *args):
        """Call ``function`` on the hub after ``seconds``."""

    def in_own_thread():
        """Whether the caller is in this engine's OS thread."""

    def call_from_thread(function, *args):
        """Call ``function`` on the hub soon, from any OS thread."""

    def ask_from_thread(function, *args):
        """Run ``function`` in a greenlet, from any OS thread, and wait for what it returns."""

    def interrupt(function, *args):
        """Call ``function`` on the hub soon, from a signal handler."""
