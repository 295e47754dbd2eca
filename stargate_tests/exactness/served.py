"""The server of a trial: views, greenlets and OS threads send, join and leave at random.

Run as a program. Senders use the public API alone; that a message is taken in, and that a
connection ends, is noted by two hooks, since both happen inside. All chance comes from the seed.
"""

from __future__ import annotations

import argparse
import gc
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from string import ascii_letters, digits

import stargate

stargate.patch()

import eventlet  # noqa: E402
from eventlet.patcher import original  # noqa: E402
from pyramid.config import Configurator  # noqa: E402

from stargate import WebSocketAwareContext, WebSocketView  # noqa: E402
from stargate.engine import current_engine  # noqa: E402
from stargate.exceptions import ConnectionClosed  # noqa: E402
from stargate.server.process import serve  # noqa: E402
from stargate.websocket import walk  # noqa: E402
from stargate.websocket.websocket import WebSocket  # noqa: E402
from stargate_tests.exactness.faults import FAULTS  # noqa: E402
from stargate_tests.exactness.ledger import (  # noqa: E402
    BIG,
    HEAVY,
    RESOURCES,
    SMALL,
    Ledger,
    key,
    message_in,
    when_slow,
)

#: Bytes that may be under way to all peers together, and what a message counts beyond its own.
#: More would be unfair: a healthy peer on a busy machine must not be closed as a slow one.
UNDER_WAY, OVERHEAD = 500_000, 60

#: How far an OS thread may be ahead of what the engine has taken in of it.
AHEAD = 50

#: What every message is filled up with, as far as its size wants; it hardly shrinks when deflated.
FILLER = "".join(random.Random(0).choices(ascii_letters + digits, k=100_000))

GREENLETS, THREADS = 3, 2

#: Peers that have died are found out within seconds, in each of the ways that there are.
SETTINGS = {
    "stargate.compression": "deflate",
    "stargate.outbox_size": "800000",
    "stargate.outbox_progress_timeout": "3",
    "stargate.close_timeout": "3",
    "stargate.ping_interval": "1",
    "stargate.ping_timeout": "3",
}


class Pace:
    """Lets senders send as fast as the peers read."""

    def __init__(self) -> None:
        self.spent = self.read = 0

    @property
    def full(self) -> bool:
        return self.spent - self.read > UNDER_WAY


class Trial:
    """What all senders share."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.ledger, self.pace = Ledger(), Pace()
        self.stopping = False
        self.running = GREENLETS + THREADS
        #: Whatever a sender that is not a view has raised.
        self.errors: list[str] = []

    def hook(self, gate) -> None:
        """Note each message where the engine takes it, and each end where it happens."""
        ledger, pace = self.ledger, self.pace

        def walk(address, message, exclude):
            resource = address.rpartition("/")[2]
            ledger.sent(resource, message.payload)
            pace.spent += ledger.crowd[resource] * (len(message.payload) + OVERHEAD)

        def send(websocket, buffer):
            message = message_in(buffer)
            if b" " in message:  # Else it is the pacer's.
                ledger.sent_to(websocket, message)

        def end(websocket):
            ledger.ended(websocket, websocket.close_code, websocket.missed)

        note_before(gate._delivery, "_walk", walk)
        note_before(WebSocket, "_send_now", send)
        note_before(WebSocket, "_stream", send)
        note_before(WebSocket, "_on_end", end)


def note_before(owner: object, name: str, note: Callable[..., None]) -> None:
    """Call ``note`` with what the method ``name`` of ``owner`` is called with, right before it."""
    method = getattr(owner, name)

    def noted(*args):
        note(*args)
        return method(*args)

    setattr(owner, name, noted)


class Sender:
    """Sends under a name and numbers that, in the very step of the sending.

    Of an OS thread, numbering and sending are one step of its own, and no other has its name.
    """

    def __init__(self, trial: Trial, name: str, gate, root, thread: bool = False) -> None:
        self._trial, self._ledger, self._name = trial, trial.ledger, name
        self._gate, self._root, self._thread = gate, root, thread
        self._number = self._ledger.numbered.get(name, 0)
        self._rng = random.Random(f"{trial.seed} {name} {self._number}")
        self._sleep = original("time").sleep if thread else eventlet.sleep

    def send(self, resource: str, size: int | None = None) -> None:
        """One message to a resource; one in eight leaves some listeners out."""
        text, excluded = self._next(self._size() if size is None else size), []
        if self._rng.random() < 0.125:
            excluded = self._some(self._rng.randint(1, 3))
            self._ledger.excluded[key(self._name, self._number)] = [each for each, _ in excluded]
        websockets = [websocket for _listener, websocket in excluded]
        if self._thread:
            self._gate.send(f"/{resource}", text, exclude=websockets)
        else:
            self._root[resource].send(text, exclude=websockets)

    def send_to(self, websocket: WebSocket) -> None:
        """One message to one listener alone."""
        if websocket.closed:
            return
        text = self._next(self._size())
        with suppress(ConnectionClosed):
            websocket.send(text)
            return
        if self._thread:  # In the meantime: nothing was sent, and the number is free again.
            self._count(self._number - 1)

    def run(self) -> None:
        """One random thing after the other, until the trial stops."""
        while not self._trial.stopping:
            while not self._trial.stopping and (self._trial.pace.full or self._is_ahead()):
                self._sleep(0.002)
            self.act()
            self._sleep(0 if self._rng.random() < 0.7 else self._rng.random() * 0.01)

    def _is_ahead(self) -> bool:
        return self._number - self._ledger.taken.get(self._name, 0) > AHEAD

    def act(self) -> None:
        rng, roll = self._rng, self._rng.random()
        if roll < 0.5:
            self.send(rng.choice(SMALL))
        elif roll < 0.7:
            self.burst(rng.randint(2, 30))
        elif roll < 0.87:
            self.send(BIG)
            for _ in range(rng.randint(1, 4)):
                self.send(rng.choice(SMALL))
        elif roll < 0.97:
            self.burst(0)
        else:
            self.send(HEAVY, rng.randint(20_000, 40_000))

    def burst(self, count: int) -> None:
        """To any resource and to single listeners, with no pause."""
        for _ in range(count):
            self.send(self._rng.choice((*SMALL, BIG)))
            if self._rng.random() < 0.2:
                self.burst(0)
        if not count:
            for _listener, websocket in self._some(1):
                self.send_to(websocket)

    def _some(self, count: int) -> list[tuple[int, WebSocket]]:
        connected = list(self._ledger.websockets.items())
        return self._rng.sample(connected, min(count, len(connected)))

    def _size(self) -> int:
        roll, rng = self._rng.random(), self._rng
        most = 100 if roll < 0.8 else 1_000 if roll < 0.98 else 8_000 if roll < 0.9998 else 70_000
        return rng.randint(0, most)

    def _next(self, size: int) -> str:
        self._count(self._number + 1)
        return f"{self._name} {self._number} {FILLER[:size]}"

    def _count(self, number: int) -> None:
        self._number = self._ledger.numbered[self._name] = number


class Node(WebSocketAwareContext):
    def __init__(self, name="", parent=None):
        self.__name__, self.__parent__ = name, parent
        self.children = {}

    def __getitem__(self, name):
        return self.children[name]


class Root(Node):
    """``/``: its views are the trial's, and ``/r0`` and on are what is listened to."""


class Member(WebSocketView):
    """One of the crowd: it joins, leaves and sends as its peer says."""

    def attach(self, websocket):
        """Become listener ``n``, of the resources in ``at``."""
        params, settings = self.request.params, self.request.registry.settings
        self.trial, self.listener = settings["trial"], int(params["n"])
        self.root, gate = self.request.root, stargate.gate(self.request.registry)
        self.sender = Sender(self.trial, f"c{self.listener}", gate, self.root)
        if websocket.closed:
            return
        self.trial.ledger.opened(self.listener, websocket)
        for resource in params["at"].split(","):
            self.join(websocket, resource)

    def obey(self, websocket, message):
        word, _, rest = message.partition(" ")
        getattr(self, word)(websocket, rest)

    def join(self, websocket, resource):
        node, policy = self.root[resource], when_slow(self.listener, resource)
        node.add_listener(websocket, when_slow=policy)
        if self.listener % 3 == 0:
            node.add_listener(websocket)  # Twice is once, and the policy stays.
        self.trial.ledger.joined(self.listener, resource)

    def leave(self, websocket, resource):
        self.root[resource].remove_listener(websocket)
        self.trial.ledger.left(self.listener, resource)

    def rejoin(self, websocket, resource):
        """Leave and join again between two sends, with no pause: two attachments."""
        self.sender.send(resource)
        self.leave(websocket, resource)
        self.sender.send(resource)
        self.join(websocket, resource)
        self.sender.send(resource)

    def say(self, websocket, resource):
        """To its own and to itself in turn."""
        for _ in range(4):
            self.sender.send(resource)
            self.sender.send_to(websocket)
            self.sender.send(BIG)
            if websocket.closed:
                break

    def quit(self, websocket, _rest):
        self.sender.send(BIG)
        websocket.close(1000, "as asked")
        self.sender.send(BIG)


class Events(Member):
    def on_open(self, websocket):
        self.attach(websocket)

    def on_message(self, websocket, message):
        self.obey(websocket, message)


class Handler(Member):
    def handler(self, websocket):
        self.attach(websocket)
        for message in websocket:
            if message.startswith("quit"):
                self.sender.send(BIG)
                return
            self.obey(websocket, message)


class Pacer(WebSocketView):
    """Asks its peer, which is one with all others, how far it has come."""

    def handler(self, websocket):
        pace = self.request.registry.settings["trial"].pace
        while True:
            websocket.send(str(pace.spent))
            pace.read = int(websocket.wait())
            eventlet.sleep(0.002)


# The pages.


def say(context, request):
    """A view that sends."""
    sender = Sender(
        request.registry.settings["trial"],
        request.params["sender"],
        stargate.gate(request.registry),
        context,
    )
    for _ in range(int(request.params["count"])):
        sender.act()
    return {}


def fill(context, request):
    """Send more to ``heavy`` than an outbox takes."""
    trial, gate = request.registry.settings["trial"], stargate.gate(request.registry)
    sender = Sender(trial, "fill", gate, context)
    for _ in range(30):
        while trial.pace.full and not trial.stopping:
            eventlet.sleep(0.002)
        sender.send(HEAVY, 40_000)
    return {}


def begin(context, request):
    """Start the greenlets and the OS threads."""
    trial, gate = request.registry.settings["trial"], stargate.gate(request.registry)
    trial.hook(gate)
    engine = current_engine()

    def run(sender, ended):
        try:
            sender.run()
        except BaseException as error:
            trial.errors.append(repr(error))
        finally:
            ended(done)

    def done():
        trial.running -= 1

    for number in range(GREENLETS):
        sender = Sender(trial, f"g{number}", gate, context)
        eventlet.spawn(run, sender, lambda call: call())
    for number in range(THREADS):
        sender = Sender(trial, f"t{number}", gate, context, thread=True)
        # Behind all that the thread has sent, so that nothing is under way when it is done.
        arguments = sender, engine.call_from_thread
        original("threading").Thread(target=run, args=arguments, daemon=True).start()
    return {}


def stop(context, request):
    """Let the senders end, and wait until all they have sent was taken in."""
    trial = request.registry.settings["trial"]
    trial.stopping = True
    while trial.running:
        eventlet.sleep(0.01)
    return {"errors": trial.errors}


def connected(context, request):
    """The listeners that have not ended."""
    return list(request.registry.settings["trial"].ledger.websockets)


def left(context, request):
    """What is still there of everything that must be gone at the end."""
    engine, gate = current_engine(), stargate.gate(request.registry)
    gc.collect()
    return {
        "connections": len(engine.connections),
        "views": engine.running,
        "topics": len(gate._topics),
        "walks": len(gate._delivery.walks._queue),
        "listeners": sum(len(context[name].listeners) for name in RESOURCES),
        "websockets": sum(type(each) is WebSocket for each in gc.get_objects()),
    }


def tell(context, request):
    """The ledger."""
    return request.registry.settings["trial"].ledger.told()


def application(trial):
    root = Root()
    for name in RESOURCES:
        root.children[name] = Node(name, root)
    with Configurator(settings=SETTINGS, root_factory=lambda request: root) as config:
        config.include("stargate")
        config.registry.settings["trial"] = trial
        for view in (Events, Handler, Pacer):
            config.add_websocket_view(view, context=Root, name=view.__name__.lower())
        for page in (say, fill, begin, stop, connected, left, tell):
            config.add_view(page, context=Root, name=page.__name__, renderer="json")
        return config.make_wsgi_app()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--slice", type=int, default=walk.SLICE)
    parser.add_argument("--short", type=int, default=walk.SHORT)
    parser.add_argument("--fault", choices=list(FAULTS))
    options = parser.parse_args()
    if options.fault:
        FAULTS[options.fault]()
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("stargate.server").setLevel(logging.INFO)
    walk.SLICE, walk.SHORT = options.slice, options.short
    serve(application(Trial(options.seed)), listen="127.0.0.1:0", access_log=False)


if __name__ == "__main__":
    main()
