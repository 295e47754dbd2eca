"""An application that leaves something behind which would hold up its process for a minute."""

import atexit
import logging
import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import eventlet.tpool
from eventlet.patcher import original
from pyramid.config import Configurator
from pyramid.response import Response

from stargate_tests.functional.tree import Echo, Node

real_sleep = original("time").sleep
log = logging.getLogger(__name__)

MINUTE = 60


def sleep_in_pool():
    eventlet.spawn(eventlet.tpool.execute, real_sleep, MINUTE)
    time.sleep(0.1)


def sleep_in_executor():
    ThreadPoolExecutor(thread_name_prefix="executor").submit(time.sleep, MINUTE)


def sleep_in_thread():
    threading.Thread(target=time.sleep, args=(MINUTE,), name="green-thread").start()


def sleep_in_os_thread():
    original("threading").Thread(target=real_sleep, args=(MINUTE,), name="os-thread").start()


def sleep_in_child():
    multiprocessing.get_context("spawn").Process(target=time.sleep, args=(MINUTE,)).start()


def hold_log():
    """Have an OS thread keep a lock that every line of the log needs."""
    held = original("threading").Event()

    def hold(handler):
        with handler.lock:
            held.set()
            real_sleep(MINUTE)

    handler = logging.getLogger().handlers[0]
    original("threading").Thread(target=hold, args=(handler,), daemon=True).start()
    held.wait()


def slow_goodbye():
    print("a slow handler begins")  # Held in a buffer where that is no terminal.
    real_sleep(MINUTE)


def green_goodbye():
    time.sleep(MINUTE)


def sleep_in_handler():
    atexit.register(slow_goodbye)


def sleep_in_green_handler():
    atexit.register(green_goodbye)


class Slow:
    def __del__(self, sleep=real_sleep, seconds=MINUTE):
        sleep(seconds)  # No global is there any more.


def sleep_in_destructor():
    globals()["slow"] = Slow()


def quick_goodbye():
    time.sleep(0.3)
    log.info("a quick handler has ended")


def quick_handler():
    atexit.register(quick_goodbye)


def sleep_in_page():
    atexit.register(quick_goodbye)
    log.info("a page sleeps")
    time.sleep(MINUTE)


def leave(context, request):
    globals()[request.params["how"]]()
    return Response("left")


def main(global_config, **settings):
    root = Node()
    with Configurator(root_factory=lambda request: root, settings=settings) as config:
        config.include("stargate")
        config.add_websocket_view(Echo, context=Node)
        config.add_view(leave, context=Node, name="leave")
        return config.make_wsgi_app()
