"""The backplane of a worker: what comes over Pub/Sub goes to its listeners, whole and in order.

Waiting is done in threads, which a patched standard library makes greenlets of; what is known of an
address is looked at in the engine's own thread alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from stargate.backplane.packet import JSON, Packet, WireError, decode
from stargate.backplane.redis import upkeep
from stargate.backplane.redis.commands import NOT_SENT, is_out_of_reach
from stargate.backplane.redis.feed import Lack
from stargate.backplane.redis.kinds import commands_to
from stargate.backplane.redis.links import Links
from stargate.backplane.redis.presence import Presence
from stargate.backplane.redis.publisher import Page, Publisher, as_history, kind_of
from stargate.backplane.redis.subscription import Subscription, offset_of
from stargate.backplane.redis.turns import Turns
from stargate.backplane.redis.upkeep import Upkeep
from stargate.backplane.redis.who import Reader
from stargate.engine.peerlog import peerlog
from stargate.exceptions import BackplaneError, shortened
from stargate.history import LAST, History, Keep, MessageId
from stargate.interfaces import IBackplane
from stargate.message.message import Message

if TYPE_CHECKING:
    from stargate.backplane.redis.sweep import Event
    from stargate.stats import Counters

log = logging.getLogger("stargate.backplane")

#: Seconds that an address stays subscribed when its last listener has gone.
LINGER = 5.0

#: Seconds between two looks at whether an address that is kept stands where it is thought to.
LOOK = 25.0

#: How often a join reads what came meanwhile before it gives up.
TRIES = 20


#: How many join at a time, which leaves connections for those who send; and how long the others
#: wait for their turn, in seconds: a restart brings all browsers back at once.
JOINS, JOIN_PATIENCE = 24, 30.0


@implementer(IBackplane)
class RedisBackplane:
    """Carries messages between the processes of one namespace, and keeps those that are kept."""

    networked = True

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
        namespace, told = settings["namespace"], settings["presence"]
        #: ``None`` where nobody is to know who is here.
        self._presence = Presence(self.commands, namespace, self._tell_of) if told else None
        self._reader = Reader(self.commands, namespace)
        self._joins = Turns(JOINS, JOIN_PATIENCE)
        self._topics: dict[str, Subscription] = {}
        self._channels: dict[bytes, Subscription] = {}
        self._links = Links(
            self.commands,
            on_message=self._on_message,
            on_lost=self._on_lost,
            on_back=self._on_back,
        )
        self._upkeep = Upkeep(self._catch_up_later, self._look_around)

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
        try:
            id = self.publisher.publish(
                topic, kind_of(message), message.payload, excluded, keep, key
            )
        except BackplaneError as error:
            if not self._local or error.outcome != NOT_SENT:
                raise
            text = "a message for %s reaches this process alone: %s"
            peerlog.warning(log, text, topic, error)
            self._receiver.deliver(topic, message, excluded)
            return None
        self._counters.published += 1
        return id

    # Subscribing: in the engine's own thread, in a greenlet.

    def subscribe(self, topic: str, keep: Keep | None = None, since: str | None = None) -> History:
        """Have the messages of ``topic`` delivered here; see ``IBackplane``."""
        subscription = self._subscription(topic)
        subscription.joining += 1
        began = monotonic()
        try:
            if self._presence is not None:
                self._presence.begin()  # Between this and the attachment nothing may give way.
            with self._joins.take(f"a listener of {shortened(topic)}"):
                self._links.stand(subscription.channel)
                self._begin(subscription, keep)
                return self._since(subscription, since)
        except BackplaneError as error:
            if is_out_of_reach(error):
                self._links.doubt(subscription.channel, began)
            raise
        finally:
            subscription.joining -= 1
            if not subscription.joining:
                subscription.forget()
            if not self._receiver.listener_count(topic):
                subscription.idle = monotonic()
            elif not subscription.feed.flows:
                self._upkeep.add(subscription)

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
            self._upkeep.begin()
        return found

    def _begin(self, subscription: Subscription, keep: Keep | None) -> None:
        """See where the address stands, if anything of it is kept, and go on from there."""
        feed = subscription.feed
        if feed.position is None and (keep is None or keep.size):
            feed.hold()  # Nothing is known to be kept, and that is looked at now.
        lack = feed.lack()
        if keep is not None and keep.size and subscription.keep != keep:
            position = self.publisher.touch(subscription.topic, keep)
            subscription.keep, subscription.looked = keep, monotonic()
            if lack.position is None:
                self._fill(subscription, lack, Page(position, True, []))
        elif keep is not None and lack.position is None and not feed.flows:
            self._fill(subscription, lack, Page(None, True, []))
        for _ in range(TRIES):
            if feed.flows:
                return
            self._catch_up(subscription)
        raise BackplaneError(
            NOT_SENT,
            f"{self.commands.address}: no place in the messages of {shortened(subscription.topic)}",
        )

    def _since(self, subscription: Subscription, since: str | None) -> History:
        """What a listener gets that is attached now, and came back from ``since``."""
        feed = subscription.feed
        if feed.position is None or since is None:
            position = str(feed.position) if feed.position is not None else None
            return History(complete=since is None, position=position)
        id = MessageId.parse(since)
        for _ in range(TRIES):
            if since == LAST:
                found = self._newest(subscription)
            elif id is not None:
                found = self._behind(subscription, id)
            else:
                break
            if found is not None:
                return as_history(found)
            self._catch_up(subscription)
        return as_history(Page(feed.position, False, []))

    def _newest(self, subscription: Subscription) -> Page | None:
        """The newest message, unless a newer one has been kept that was not given out here."""
        for _ in range(2):
            here, recent = subscription.feed.position, subscription.recent
            if recent and here is not None and offset_of(recent[-1]) == here.offset:
                return Page(here, True, [recent[-1]])
            page = self.publisher.read(subscription.topic, None, 1)
            if page.position == subscription.feed.position:
                return page
        return None

    def _behind(self, subscription: Subscription, since: MessageId) -> Page | None:
        """What came after ``since`` up to what has been given out here: what is attached goes on.

        What is read goes up to one place, and what is given out goes on from another. ``None``
        where what is given out is not as far as ``since``.
        """
        feed = subscription.feed
        page = self.publisher.behind(subscription.topic, since, self._recover_limit)
        if not page.holds or page.position is None:
            return Page(feed.position, False, [])
        here, read = feed.position, page.position
        if here is None or not feed.flows or here.epoch != read.epoch:
            return None
        if since.offset <= here.offset < read.offset:
            self._fill(subscription, feed.lack(), page)
            return page if feed.position == read else None
        recent = [each for each in subscription.recent if offset_of(each) > read.offset]
        if len(recent) != here.offset - read.offset:
            return None
        return Page(here, True, page.packets + recent)

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
        text = "skipped a message for %s from the backplane: it is %s"
        peerlog.warning(log, text, subscription.topic, why)

    def _take(self, subscription: Subscription, packet: Packet) -> None:
        self._counters.received += 1
        self._counters.lag = max(0.0, time() - packet.time / 1000)
        feed = subscription.feed
        flowed = feed.flows
        self._give_out(subscription, feed.take(packet))
        if flowed and not feed.flows:
            self._counters.gaps += 1
            self._upkeep.add(subscription)

    def _give_out(self, subscription: Subscription, packets: Iterable[Packet]) -> None:
        for packet in packets:
            if subscription.joining:
                subscription.remember(packet)
            message = Message(packet.message, json=packet.kind == JSON, id=packet.id or None)
            self._receiver.deliver(subscription.topic, message, packet.excluded)

    def _on_lost(self, channels: list[bytes]) -> None:
        self._receiver.tell(self._hold, channels)

    def _hold(self, channels: list[bytes]) -> None:
        for channel in channels:
            subscription = self._channels.get(channel)
            if subscription is not None and subscription.feed.position is not None:
                subscription.feed.hold()

    def _on_back(self, channel: bytes) -> None:
        self._receiver.tell(self._back, channel)

    def _back(self, channel: bytes) -> None:
        subscription = self._channels.get(channel)
        if subscription is None:
            return
        self._counters.resubscribed += 1
        if subscription.feed.position is not None:
            self._upkeep.add(subscription)
        elif self._receiver.listener_count(subscription.topic):
            text = "messages for %s may have been missed: none are kept"
            peerlog.warning(log, text, subscription.topic)
            self._receiver.interrupted(subscription.topic, False, None)

    # What is lacking.

    def _catch_up(self, subscription: Subscription) -> None:
        """Read what the address has beyond what was given out here, and give that out."""
        topic = subscription.topic
        lack = self._receiver.ask(subscription.feed.lack)
        if lack.position is None:
            page = self.publisher.read(topic, None, 0)._replace(holds=True)
        else:
            page = self.publisher.behind(topic, lack.position, self._recover_limit)
        if page.position is None and subscription.keep is not None:
            # A Redis that has forgotten everything: there must be a place to come back to.
            page = page._replace(position=self.publisher.touch(topic, subscription.keep))
        self._receiver.ask(self._fill, subscription, lack, page)

    def _fill(self, subscription: Subscription, lack: Lack, page: Page) -> None:
        found = subscription.feed.fill(lack, page)
        if found is not None:
            complete, packets = found
            if not complete:
                text = "messages for %s are lost: they are kept no more"
                peerlog.warning(log, text, subscription.topic)
                # Not where the address stands: what was held, and leads there, comes behind this.
                here = subscription.feed.position
                position = str(here) if here is not None else None
                self._receiver.interrupted(subscription.topic, False, position)
            self._give_out(subscription, packets)
        if not subscription.feed.flows:
            self._upkeep.add(subscription)

    def _catch_up_later(self, subscription: Subscription) -> None:
        if not subscription.feed.flows and self._topics.get(subscription.topic) is subscription:
            self._catch_up(subscription)

    def _look_around(self) -> None:
        self._receiver.ask(self._let_go)
        self._look()

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
            if each.feed.position is None or now - each.looked < LOOK:
                continue
            each.looked = now
            if each.keep is not None:
                due.append((each, each.keep))
            else:
                page = self.publisher.read(each.topic, None, 0)
                self._receiver.ask(self._compare, each, page.position)
        if due:
            places = self.publisher.touch_all([(each.topic, keep) for each, keep in due])
            for (each, _keep), position in zip(due, places, strict=True):
                self._receiver.ask(self._compare, each, position)

    def _compare(self, subscription: Subscription, position: MessageId | None) -> None:
        feed = subscription.feed
        if not feed.flows or feed.position is None or position is None:
            return
        here = feed.position
        if here.epoch == position.epoch and here.offset >= position.offset:
            subscription.behind = None
        elif subscription.behind == here:
            subscription.behind = None  # It was there a second ago, and has not come since.
            self._counters.gaps += 1
            feed.hold()
            self._upkeep.add(subscription)
        else:
            subscription.behind = here
            subscription.looked = monotonic() - LOOK + upkeep.TICK

    # All else.

    def history(self, topic: str, since: str | None = None, limit: int = 100) -> History:
        """The first ``limit`` messages after ``since``, or the newest ``limit``."""
        return self.publisher.history(topic, since, limit)

    def presence(self, topic: str) -> dict[str | int, int]:
        """Who listens to ``topic`` in any process."""
        if self._presence is None:
            return {}
        self._presence.catch_up(self.commands.timeout)
        return self._reader.presence(topic)

    def listener_count(self, topic: str) -> int:
        """How many WebSockets listen to ``topic`` in any process; without presence: in this one."""
        if self._presence is None:
            return int(self._receiver.ask(self._receiver.listener_count, topic))
        self._presence.catch_up(self.commands.timeout)
        return self._reader.listener_count(topic)

    def enter(self, topic: str, who: str | int | None) -> None:
        """A listener has come to ``topic``."""
        if self._presence is not None:
            self._presence.change(topic, who, 1)

    def leave(self, topic: str, who: str | int | None) -> None:
        """A listener of ``topic`` has gone."""
        if self._presence is not None:
            self._presence.change(topic, who, -1)

    def _tell_of(self, event: Event) -> None:
        tell = self._receiver.came if event.came else self._receiver.went
        self._receiver.tell(tell, event.topic, event.who, event.id)

    def close(self) -> None:
        """Let go of every connection."""
        if self._presence is not None:
            self._presence.close(self.commands.timeout)
        self._upkeep.close()
        self._links.close()
        self.commands.close()
