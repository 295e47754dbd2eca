"""Every contract of stargate, as zope.interface interfaces; this imports nothing of ours."""

from pyramid.interfaces import IException
from zope.interface import Attribute, Interface


class IWebSocketAwareContext(Interface):
    """A resource that browsers listen to and any code sends to."""

    path = Attribute("The address of the resource, a string.")
    listeners = Attribute("The WebSockets of this process that listen: a snapshot with len().")

    def stargate_address():
        """``/jobs/1`` or ``acme:/jobs/1``: what all objects that mean this resource have."""

    history_size = Attribute("How many messages are kept for those who come back; 0: none.")
    history_ttl = Attribute("How many seconds a message is kept.")

    def add_listener(websocket, *, when_slow=None, since=None, who=None):
        """From here on ``websocket`` gets what is sent; twice is once."""

    def history(since=None, limit=100):
        """What is kept of its messages."""

    def presence():
        """Who listens, over all processes, and with how many WebSockets each."""

    def listener_count():
        """How many WebSockets listen, over all processes."""

    def remove_listener(websocket):
        """Undo ``add_listener``; without one do nothing."""

    def send(message, *, exclude=None, key=None):
        """Send ``str`` or ``bytes`` to every listener but those in ``exclude``."""

    def send_json(value, *, exclude=None, key=None):
        """Send ``value`` as text, written once by the application's JSON renderer."""


class IBackplaneError(IException):
    """What ``BackplaneError`` provides: pages that let one through answer 503.

    A view for the class itself is the more specific one, wherever it is registered, and takes its
    place.
    """


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

    def send(target, message, *, exclude=None, key=None):
        """Send ``message`` to the listeners of ``target``."""

    def send_json(target, value, *, exclude=None, key=None):
        """Send ``value`` as text, written once by the application's JSON renderer."""

    def listeners(target):
        """The listeners of ``target`` in this process: a snapshot."""

    def add_listener(target, websocket, *, when_slow=None, since=None, who=None):
        """Make ``websocket`` a listener of ``target``."""

    def history(target, since=None, limit=100):
        """What is kept of the messages of ``target``."""

    def presence(target):
        """Who listens to ``target``, over all processes, and with how many WebSockets each."""

    def listener_count(target):
        """How many WebSockets listen to ``target``, over all processes."""

    def remove_listener(target, websocket):
        """Undo ``add_listener``."""

    def address(target):
        """The address of a resource."""

    def stats():
        """What has happened to the application's WebSockets in this process, as one object."""


class IBackplane(Interface):
    """What carries messages from the process that sends to the processes that listen.

    A topic is an address. All methods but the last three may wait and raise ``BackplaneError``;
    none is called on the hub. What it has for the listeners of this process it hands, in the
    engine's own thread, to the ``receiver`` it was made with (``IReceiver``).
    """

    networked = Attribute("Whether publish and the reading methods wait for a network.")

    def publish(topic, message, excluded, keep=None, key=None):
        """Deliver ``message`` to the listeners of ``topic`` everywhere, in one order a topic.

        Not to the WebSockets whose ids are in ``excluded``. ``keep`` says how much of the topic is
        kept (``None``: as is known), ``key`` is what a repeat of this call has in common with it.
        Returns the message's id where it is kept, else ``None``.
        """

    def subscribe(topic, keep=None, since=None):
        """Have the messages of ``topic`` delivered here from now on.

        Whoever attaches a listener when this has returned, before it gives way, has it get every
        message that is sent from then on, each once. Returns a ``History``: with ``since``, an id
        or ``"last"``, what came after it and before those; else an empty one.
        """

    def history(topic, since=None, limit=100):
        """The first ``limit`` messages after ``since``, or the newest ones: a ``History``."""

    def presence(topic):
        """Who listens to ``topic`` anywhere: their names, and how many WebSockets each."""

    def listener_count(topic):
        """How many WebSockets listen to ``topic`` anywhere."""

    def unsubscribe(topic):
        """The last listener of ``topic`` in this process has gone; in the engine's thread."""

    def enter(topic, who):
        """A listener has come to ``topic``; ``who`` may be ``None``. In the engine's thread."""

    def leave(topic, who):
        """A listener of ``topic`` has gone. In the engine's thread."""

    def close():
        """This process is about to end: say so, and let go of everything."""


class IPublisher(Interface):
    """What sends to the listeners of a namespace from a program that serves nothing.

    ``stargate.connect()`` and the ``stargate`` command use it, from any thread, and after a fork in
    parent and child. What waits raises ``BackplaneError``.
    """

    def publish(topic, message, excluded, key=None):
        """As ``IBackplane`` has it, kept as the application said; returns a ``message.Sent``."""

    def history(topic, since=None, limit=100):
        """As ``IBackplane`` has it."""

    def presence(topic):
        """As ``IBackplane`` has it."""

    def listener_count(topic):
        """As ``IBackplane`` has it."""

    def close():
        """Close its connections; twice is once."""


class IReceiver(Interface):
    """The side of an application that a backplane speaks to, in the engine's own thread."""

    counters = Attribute(
        "What ``stats()`` shows: ``published`` and ``received`` are yours to count."
    )

    def deliver(topic, message, excluded):
        """Send ``message`` to the listeners of ``topic`` in this process. From any thread."""

    def ask(function, *args):
        """Call ``function`` in the engine's own thread, and wait. From any thread."""

    def tell(function, *args, size=0):
        """Call ``function`` in the engine's own thread, soon. From any thread."""

    def listener_count(topic):
        """How many WebSockets listen to ``topic`` in this process."""

    def interrupted(topic, complete, position):
        """Deliveries of ``topic`` had stopped and go on; ``complete``: and nothing was missed.

        ``position`` is the id of the newest message, or ``None`` where none are kept.
        """

    def came(topic, who, id):
        """The first WebSocket of ``who`` anywhere has come to ``topic``; repeats have one id."""

    def went(topic, who, id):
        """The last WebSocket of ``who`` anywhere has left ``topic``; repeats have one id."""


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

    patched = Attribute("Whether what waits for a network gives way to other greenlets.")

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

    def when_ending(function):
        """Have ``function`` called when what is served comes to its end."""

    def in_own_thread():
        """Whether the caller is in this engine's OS thread."""

    def call_from_thread(function, *args):
        """Call ``function`` on the hub soon, from any OS thread."""

    def ask_from_thread(function, *args):
        """Run ``function`` in a greenlet, from any OS thread, and wait for what it returns."""

    def run_in_thread(function):
        """Call ``function`` in an OS thread, wait in a greenlet, and return what it returns."""

    def interrupt(function, *args):
        """Call ``function`` on the hub soon, from a signal handler."""
