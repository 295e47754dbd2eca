"""A process with listeners: ``python -m ... URL NAMESPACE ADDRESS NAME [NAME...]``.

It prints what it tells of, and ends when its standard input does.
"""

import sys

from stargate.backplane.redis.address import parse
from stargate.backplane.redis.commands import Commands
from stargate.backplane.redis.lease import Times
from stargate.backplane.redis.presence import Presence

#: A tenth of what they are.
TIMES = Times(*(each / 10 for each in Times()))


def main(url, namespace, topic, *names):
    commands = Commands(parse(url), 2.0)
    presence = Presence(commands, namespace, tell, TIMES)
    for who in names:
        presence.change(topic, who, 1)
    presence.catch_up(10.0)
    print("ready", flush=True)
    sys.stdin.read()
    presence.close(2.0)


def tell(event):
    print(f"{'+' if event.came else '-'}{event.who}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
