"""An asyncio program that sends: each call in a thread, so that the loop goes on meanwhile.

python asyncio_program.py redis://localhost:6379/0 shop /jobs/1 /jobs/2
"""

import asyncio
import sys

import stargate


async def watch(publisher, path):
    for number in range(3):
        await asyncio.sleep(0)  # In the place of what an asyncio program waits for.
        await asyncio.to_thread(publisher.send, path, f"reading {number}")


async def main(url, namespace, *paths):
    with stargate.connect(url, namespace) as publisher:
        await asyncio.gather(*(watch(publisher, path) for path in paths))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
