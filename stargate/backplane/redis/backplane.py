"""The backplane of a worker: what comes over Pub/Sub goes to its listeners, whole and in order.

Waiting is done in threads, which a patched standard library makes greenlets of; what is known of an
address is looked at in the engine's own thread alone.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterable, Mapping
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from stargate.backplane.redis.commands import NOT_SENT, Deadline
from stargate.backplane.redis.feed import Feed
from stargate.backplane.redis.kinds import commands_to
from stargate.backplane.redis.links import Links
from stargate.backplane.redis.publisher import Page, Publisher, as_history
from stargate.exceptions import BackplaneError
from stargate.history import LAST, History, Keep, MessageId
from stargate.interfaces import IBackplane
from stargate.message import BINARY, Message
from stargate.wire import BINARY as WIRE_BINARY
from stargate.wire import JSON, TEXT, Packet, WireError, decode

if TYPE_CHECKING:
    from stargate.stats import Counters

log = logging.getLogger("stargate.backplane")

#: Seconds that an address stays subscribed when its last listener has gone.
LINGER = 5.0

#: Seconds between two looks at whether an address that is kept stands where it is thought to.
LOOK = 25.0

#: Seconds between two looks at what there is to do.
TICK = 1.0

#: How often a join reads what came meanwhile before it gives up.
TRIES = 20


@implementer(IBackplane)
class RedisBackplane:
    """Carries messages between the processes of one namespace, and keeps those that are kept."""

    def __init__(self, settings: Mapping[str, Any], receiver: Any, counters: Counters) -> None:
        self._receiver, self._counters = receiver, counters
        self._max_size = int(settings["max_send_size"])
        self._recover_limit = int(settings["recover_limit"])
        self._local = settings["backplane_on_error"] == "local"
        self.commands = commands_to(settings["backplane"], float(settings["backplane_timeout"]))
        self.publisher = Publisher(
            self.commands,
            settings["namespace"],
            replicas=int(settings["backplane_replicas"]),
            max_size=max(self._max_size, 1_048_576),
        )
        self._topics: dict[str, Subscription] = {}
        self._channels: dict[bytes, Subscription] = {}
        self._links = Links(
            self.commands,
            on_message=self._on_message,
            on_lost=self._on_lost,
            on_back=self._on_back,
        )
        self._upkeep: threading.Thread | None = None
        self._lacking: queue.SimpleQueue[Subscription | None] = queue.SimpleQueue()
        self._closed = False

    # Publishing.

    def publish(
        self,
        topic: str,
        message: Message,
        excluded: frozenset[str],
        keep: Keep | None = None,
        key: str | None = None,
    ) -> str | None:
        """Send ``message`` to the listeners of ``topic`` in every process of the namespace."""
        kind = WIRE_BINARY if message.opcode == BINARY else JSON if message.json else TEXT
        try:
            id = self.publisher.publish(topic, kind, message.payload, excluded, keep, key)
        except BackplaneError as error:
            if not self._local or error.outcome != NOT_SENT:
                raise
            log.warning("a message for %s reaches this process alone: %s", topic, error)
            self._receiver.deliver(topic, message, excluded)
            return None
        self._counters.published += 1
        return id

    # Subscribing: in the engine's own thread, in a greenlet.

    def subscribe(self, topic: str, keep: Keep | None = None, since: str | None = None) -> History:
        """Have the messages of ``topic`` delivered here; see ``IBackplane``."""
        subscription = self._subscription(topic)
        subscription.joining += 1
        try:
            self._stand(subscription)
            self._begin(subscription, keep)
            return self._since(subscription, since)
        finally:
            subscription.joining -= 1
            if not subscription.joining:
                subscription.recent.clear()
                if not self._receiver.listener_count(topic):
                    subscription.idle = monotonic()

    def unsubscribe(self, topic: str) -> None:
        """The last listener has gone: let go of ``topic`` in a while, if none comes."""
        subscription = self._topics.get(topic)
        if subscription is not None:
            subscription.idle = monotonic()

    def _subscription(self, topic: str) -> Subscription:
        found = self._topics.get(topic)
        if found is None:
            channel = self.publisher.keys(topic).channel
            found = self._topics[topic] = Subscription(topic, channel.encode())
            self._channels[found.channel] = found
            self._keep_up()
        return found

    def _stand(self, subscription: Subscription) -> None:
        deadline = Deadline(self.commands.timeout)
        try:
            stands = self._links.want(subscription.channel).wait(deadline.left())
        except TimeoutError:
            stands = False
        if not stands:
            raise BackplaneError(
                NOT_SENT,
                f"{self.commands.address}: no subscription to {subscription.topic} within "
                f"{self.commands.timeout:g} s, and so no listener",
            )

    def _begin(self, subscription: Subscription, keep: Keep | None) -> None:
        """See where the address stands, if anything of it is kept, and go on from there."""
        if keep is None and subscription.feed is None:
            page = self.publisher.read(subscription.topic, None, 1)
            if page.position is not None:
                self._start(subscription, page.position)
        elif keep is not None and keep.size and subscription.keep != keep:
            subscription.feed = subscription.feed or Feed()
            position = self.publisher.touch(subscription.topic, keep)
            subscription.keep, subscription.looked = keep, monotonic()
            self._start(subscription, position)
        feed = subscription.feed
        if feed is not None and not feed.flows:
            self._catch_up(subscription)

    def _start(self, subscription: Subscription, position: MessageId) -> None:
        feed = subscription.feed = subscription.feed or Feed()
        self._give_out(subscription, feed.begin(position))

    def _since(self, subscription: Subscription, since: str | None) -> History:
        feed = subscription.feed
        if feed is None:
            return History(complete=since is None)
        if since is None:
            return History(position=str(feed.position))
        for _ in range(TRIES):
            page = self._read_since(subscription.topic, since)
            found = self._joined(subscription, page)
            if found is not None:
                return found
            self._catch_up(subscription)
        return History(complete=False, position=str(feed.position))

    def _read_since(self, topic: str, since: str) -> Page:
        if since == LAST:
            return self.publisher.read(topic, None, 1)
        id = MessageId.parse(since)
        if id is None:
            return Page(None, False, [])
        return self.publisher.behind(topic, id, self._recover_limit)

    def _joined(self, subscription: Subscription, page: Page) -> History | None:
        """What a listener gets that is attached now; ``None`` where it has to be read again.

        What was read goes up to one place, and what is given out goes on from another.
        """
        feed = subscription.feed
        if feed is None or not feed.flows or feed.position is None:
            return None
        if not page.holds or page.position is None:
            return History(complete=page.holds, position=str(feed.position))
        here, read = feed.position, page.position
        if here.epoch != read.epoch or here.offset < read.offset:
            return None
        recent = [each for each in subscription.recent if _offset(each) > read.offset]
        if len(recent) != here.offset - read.offset:
            return None
        history = as_history(Page(here, True, page.packets + recent))
        history.position = str(here)
        return history

    # What comes.

    def _on_message(self, channel: bytes, raw: bytes) -> None:
        subscription = self._channels.get(channel)
        if subscription is None:
            return
        try:
            packet = decode(raw, self._max_size)
        except WireError as error:
            self._receiver.tell(self._skip, subscription, str(error))
        else:
            self._receiver.tell(self._take, subscription, packet, size=len(raw))

    def _skip(self, subscription: Subscription, why: str) -> None:
        self._counters.skipped += 1
        if self._counters.skipped.bit_count() == 1:  # The first, the second, the fourth...
            log.warning(
                "skipped a message for %s from the backplane: it is %s; %d so far",
                subscription.topic,
                why,
                self._counters.skipped,
            )

    def _take(self, subscription: Subscription, packet: Packet) -> None:
        self._counters.received += 1
        self._counters.lag = max(0.0, time() - packet.time / 1000)
        feed = subscription.feed
        if feed is None:
            self._give_out(subscription, (packet,))
            return
        flowed = feed.flows
        self._give_out(subscription, feed.take(packet))
        if flowed and not feed.flows:
            self._counters.gaps += 1
            self._lacking.put(subscription)

    def _give_out(self, subscription: Subscription, packets: Iterable[Packet]) -> None:
        for packet in packets:
            if subscription.joining:
                subscription.recent.append(packet)
            message = Message(packet.message, json=packet.kind == JSON, id=packet.id or None)
            self._receiver.deliver(subscription.topic, message, packet.excluded)

    def _on_lost(self, channels: list[bytes]) -> None:
        self._receiver.tell(self._hold, channels)

    def _hold(self, channels: list[bytes]) -> None:
        for channel in channels:
            subscription = self._channels.get(channel)
            if subscription is not None and subscription.feed is not None:
                subscription.feed.hold()

    def _on_back(self, channel: bytes) -> None:
        self._receiver.tell(self._back, channel)

    def _back(self, channel: bytes) -> None:
        subscription = self._channels.get(channel)
        if subscription is None:
            return
        self._counters.resubscribed += 1
        if subscription.feed is not None:
            self._lacking.put(subscription)
        elif self._receiver.listener_count(subscription.topic):
            log.warning("messages for %s may have been missed: none are kept", subscription.topic)
            self._receiver.interrupted(subscription.topic, False, None)

    # What is lacking.

    def _catch_up(self, subscription: Subscription) -> None:
        """Read what the address has beyond what was given out here, and give that out."""
        feed = subscription.feed
        if feed is None or feed.position is None:
            return
        ticket, position = feed.ticket, feed.position
        page = self.publisher.behind(subscription.topic, position, self._recover_limit)
        if page.position is None and subscription.keep is not None:
            # A Redis that has forgotten everything: there must be a place to come back to.
            begun = self.publisher.touch(subscription.topic, subscription.keep)
            page = page._replace(position=begun)
        self._receiver.ask(self._fill, subscription, ticket, page)

    def _fill(self, subscription: Subscription, ticket: int, page: Page) -> None:
        feed = subscription.feed
        if feed is None or feed.ticket != ticket:
            return  # Somebody else was quicker.
        complete, packets = feed.fill(page)
        if not complete:
            log.warning("messages for %s are lost: they are kept no more", subscription.topic)
            position = str(feed.position) if feed.position is not None else None
            self._receiver.interrupted(subscription.topic, False, position)
        self._give_out(subscription, packets)
        if not feed.flows:
            self._lacking.put(subscription)

    def _keep_up(self) -> None:
        if self._upkeep is None and not self._closed:
            self._upkeep = threading.Thread(
                target=self._run, name="stargate backplane", daemon=True
            )
            self._upkeep.start()

    def _run(self) -> None:
        look = monotonic() + TICK
        while not self._closed:
            try:
                self._do_next(max(0.0, look - monotonic()))
                if monotonic() >= look:
                    look = monotonic() + TICK
                    self._receiver.ask(self._let_go)
                    self._look()
            except BackplaneError as error:
                log.info("to be tried again: %s", error)
            except Exception:
                if not self._closed:
                    log.exception("the upkeep of the backplane failed")

    def _do_next(self, timeout: float) -> None:
        try:
            subscription = self._lacking.get(timeout=timeout)
        except queue.Empty:
            return
        if subscription is None or subscription.feed is None or subscription.feed.flows:
            return
        try:
            self._catch_up(subscription)
        except BackplaneError:
            threading.Timer(TICK, self._lacking.put, (subscription,)).start()
            raise

    def _let_go(self) -> None:
        """Unsubscribe from what nobody has listened to for a while."""
        now = monotonic()
        for topic, each in list(self._topics.items()):
            if each.joining or each.idle is None:
                continue
            if self._receiver.listener_count(topic):
                each.idle = None
            elif now - each.idle >= LINGER:
                del self._topics[topic], self._channels[each.channel]
                self._links.unwant([each.channel])

    def _look(self) -> None:
        """See whether addresses stand where they are thought to: a message may have been lost."""
        now = monotonic()
        due: list[tuple[Subscription, Keep]] = []
        for each in list(self._topics.values()):
            if each.feed is not None and each.keep is not None and now - each.looked >= LOOK:
                each.looked = now
                due.append((each, each.keep))
        if due:
            places = self.publisher.touch_all([(each.topic, keep) for each, keep in due])
            for (each, _keep), position in zip(due, places, strict=True):
                self._receiver.ask(self._compare, each, position)

    def _compare(self, subscription: Subscription, position: MessageId | None) -> None:
        feed = subscription.feed
        if feed is None or not feed.flows or feed.position is None or position is None:
            return
        here = feed.position
        if here.epoch == position.epoch and here.offset >= position.offset:
            subscription.behind = None
        elif subscription.behind == here:
            subscription.behind = None  # It was there a second ago, and has not come since.
            self._counters.gaps += 1
            feed.hold()
            self._lacking.put(subscription)
        else:
            subscription.behind = here
            subscription.looked = monotonic() - LOOK + TICK

    # All else.

    def history(self, topic: str, since: str | None = None, limit: int = 100) -> History:
        """The first ``limit`` messages after ``since``, or the newest ``limit``."""
        return self.publisher.history(topic, since, limit)

    def presence(self, topic: str) -> dict[str | int, int]:
        """Who listens to ``topic`` in any process."""
        return {}

    def listener_count(self, topic: str) -> int:
        """How many WebSockets listen to ``topic`` in any process."""
        return 0

    def enter(self, topic: str, who: str | int | None) -> None:
        """A listener has come to ``topic``."""

    def leave(self, topic: str, who: str | int | None) -> None:
        """A listener of ``topic`` has gone."""

    def close(self) -> None:
        """Let go of every connection."""
        self._closed = True
        self._lacking.put(None)
        self._links.close()
        self.commands.close()


class Subscription:
    """What is known of one address that is subscribed to."""

    __slots__ = (
        "behind",
        "channel",
        "feed",
        "idle",
        "joining",
        "keep",
        "looked",
        "recent",
        "topic",
    )

    def __init__(self, topic: str, channel: bytes) -> None:
        self.topic, self.channel = topic, channel
        #: Where it stands; ``None`` where nothing is kept.
        self.feed: Feed | None = None
        self.keep: Keep | None = None
        #: How many are joining, and what was given out since the first of them began.
        self.joining = 0
        self.recent: list[Packet] = []
        #: Since when nobody listens; ``None`` while somebody does.
        self.idle: float | None = None
        #: When it was last compared with where the address stands, and a place that was behind.
        self.looked = 0.0
        self.behind: MessageId | None = None


def _offset(packet: Packet) -> int:
    id = MessageId.parse(packet.id)
    return id.offset if id is not None else 0
