"""The application that the tests of OS threads start; docs/howto/threads.rst shows parts of it."""

import asyncio
import logging
import queue
import threading
from threading import Thread

from eventlet import patcher
from pyramid.response import Response

import stargate
from stargate_tests.functional.tree import Node, make_app

#: Blocks the OS thread, as a driver that waits in C does.
block = patcher.original("time").sleep

log = logging.getLogger(__name__)


def read_blocking(count):
    for number in range(count):
        block(0.001)
        yield f"reading {number}"


def read_all(job, count):
    for reading in read_blocking(count):
        log.info("%s of %s", reading, job.__name__)
        job.send(reading)
    return count


def measure(job, request):
    count = stargate.run_in_thread(read_all, job, int(request.params["count"]))
    return Response(f"{count} readings")


def start(job, request):
    Thread(target=stargate.run_in_thread, args=(read_all, job, 100), daemon=True).start()
    return Response("started")


def fill(readings):
    """In an OS thread: whatever blocks."""
    for reading in read_blocking(100):
        readings.put(reading)
    readings.put(None)


def follow(job, request):
    """In a greenlet: whatever needs the request, its transaction, its database session."""
    readings = queue.Queue(10)
    Thread(target=stargate.run_in_thread, args=(fill, readings), daemon=True).start()
    for reading in iter(readings.get, None):
        log.info("for %s: %s", request.remote_addr, reading)
        job.send(reading)
    return Response("followed")


async def ask(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /@@meet HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.partition(b"\r\n\r\n")[2].decode()


async def ask_twice(port):
    return await asyncio.gather(ask(port), asyncio.wait_for(ask(port), 30))


def fetch(job, request):
    answers = stargate.run_in_thread(asyncio.run, ask_twice(request.server_port))
    return Response(" ".join(answers))


# From here on nothing is shown.


def fetch_in_a_greenlet(job, request):
    return Response(" ".join(asyncio.run(ask_twice(request.server_port))))


_met, _came = threading.Condition(), []


def meet(job, request):
    """Answers when four requests wait for it at once."""
    with _met:
        _came.append(1)
        _met.notify_all()
        assert _met.wait_for(lambda: len(_came) >= 4, 30)
    return Response("met")


def say(job, request):
    log.info(request.params["what"])
    return Response("said")


_is_stuck = threading.Event()


def _stick():
    _is_stuck.set()
    block(600)


def stuck(job, request):
    stargate.run_in_thread(_stick)


def wait_for_stuck(job, request):
    assert _is_stuck.wait(30)
    return Response("stuck")


def configure(config):
    for view in (measure, start, follow, fetch, fetch_in_a_greenlet):
        config.add_view(view, context=Node, name=view.__name__)
    for view in (meet, say, stuck, wait_for_stuck):
        config.add_view(view, context=Node, name=view.__name__)


def main(global_config, **settings):
    return make_app(configure, **settings)
