"""Workers of a presence in this process, each with what it has reported."""

from stargate.backplane.redis.address import parse
from stargate.backplane.redis.commands import Commands
from stargate.backplane.redis.kinds import commands_to
from stargate.backplane.redis.lease import Times
from stargate.backplane.redis.presence import Presence
from stargate.backplane.redis.presence_scripts import worker_keys
from stargate.backplane.redis.scripts import keys_of
from stargate.backplane.redis.who import Reader
from stargate.exceptions import BackplaneError

DEADLINE = 10.0

#: Leases do not end while a test runs.
CALM = Times(lease=120.0, beat=0.1, gather=0.002, verify=0.6, retry=0.05)


class Worker:
    """The presence of one process, and what it has reported."""

    def __init__(self, url, namespace, times=CALM, timeout=DEADLINE, commands=None):
        self.commands = commands if commands is not None else commands_to(url, timeout)
        self.events = []
        self.presence = Presence(self.commands, namespace, self.events.append, times)
        self.keys = worker_keys(namespace)
        self.reader = Reader(self.commands, namespace)

    def enter(self, topic, *names):
        for who in names:
            self.presence.change(topic, who, 1)

    def leave(self, topic, *names):
        for who in names:
            self.presence.change(topic, who, -1)

    def told(self):
        """Wait until the Redis knows of everything."""
        self.presence.catch_up(DEADLINE)
        return self

    def here(self, topic):
        self.told()
        return self.reader.presence(topic)

    def signs(self):
        """The events so far as "+ann", "-ann"."""
        return [f"{'+' if each.came else '-'}{each.who}" for each in self.events]

    def place(self, topic):
        """The key of the presence at an address."""
        return keys_of(self.reader._namespace, topic).presence

    def vanish(self):
        """End without a word, as by kill -9."""
        self.presence._closed = True
        self.presence._news.set()
        self.presence._thread.join(DEADLINE)

    def close(self):
        self.presence.close(DEADLINE)
        self.commands.close()


class Closed:
    """A Redis that is out of reach of one worker."""

    def __init__(self, commands):
        self.address = commands.address

    def script(self, *_args, **_options):
        raise BackplaneError("not sent", "out of reach")

    scripts = command = script


class Unlucky(Commands):
    """Carries some calls out, or does not, and in both cases says that it does not know."""

    def __init__(self, url, random=None):
        super().__init__(parse(url), DEADLINE)
        self.random = random
        #: How many batches of changes lose their answers next.
        self.unlucky = 0

    def script(self, *args, **options):
        fails = self.random is not None and self.random.randrange(8) == 0
        return self._try(fails, super().script, args, options)

    def scripts(self, *args):
        fails = self.unlucky or (self.random is not None and self.random.randrange(8) == 0)
        self.unlucky = max(0, self.unlucky - 1)
        return self._try(fails, super().scripts, args, {})

    def _try(self, fails, call, args, options):
        if not fails:
            return call(*args, **options)
        if self.random is None or self.random.randrange(2):
            call(*args, **options)
        raise BackplaneError("unknown", "the answer was lost")
