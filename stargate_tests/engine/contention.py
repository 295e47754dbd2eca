"""Greenlets and OS threads that want one thing at once; for a process that has been patched.

Each case is a function that is called many times, by greenlets in the patched thread and by real
OS threads beside them; it gives way, or takes its time, while it has what is wanted.
"""

import concurrent.futures
import functools
import importlib
import io
import logging.handlers
import os
import queue
import random
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
from contextlib import suppress

from eventlet import patcher

real_threading, real_time = patcher.original("threading"), patcher.original("time")

GREENLETS = THREADS = 4
ROUNDS = 100
DEADLINE = 20


def pause():
    """Give way in a greenlet; let the other OS threads have the interpreter in a thread."""
    if in_thread():
        real_time.sleep(0.0002)
    else:
        time.sleep(0)


def in_thread():
    return real_threading.current_thread() is not real_threading.main_thread()


class Inside:
    """Counts who is inside at once, which must be one at most."""

    def __init__(self):
        self.who = []

    def __enter__(self):
        self.who.append(1)
        assert len(self.who) == 1, "two at once"
        pause()

    def __exit__(self, *_error):
        self.who.pop()


class SlowStream(io.StringIO):
    """Gives way while it is written to, as a socket does."""

    def write(self, text):
        pause()
        return len(text)


def case_logging_made_before():
    """The program that is run has configured the log before it patches."""
    logger = logging.getLogger("early")
    logger.handlers[0].stream = SlowStream()
    logger.propagate = False
    return lambda: logger.warning("said")


def case_logging_made_after():
    logger = logging.getLogger("late")
    logger.propagate = False
    logger.addHandler(logging.StreamHandler(SlowStream()))
    return lambda: logger.warning("said")


def case_logging_to_a_socket():
    """A handler that gives way while it holds its lock, since its peer reads slowly."""
    ours, peer = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    class Handler(logging.handlers.SocketHandler):
        def makeSocket(self, timeout=1):  # noqa: N802
            return ours

    def read():
        while peer.recv(4096):
            real_time.sleep(0.0001)

    real_threading.Thread(target=read, daemon=True).start()
    logger = logging.getLogger("socket")
    logger.propagate = False
    logger.addHandler(Handler("localhost", 1))
    return lambda: logger.warning("x" * 500)


def case_logging_configured():
    """``logging._lock``: loggers made, levels asked for, handlers made and closed."""
    count = iter(range(10**6))

    def call():
        logger = logging.getLogger(f"made.{next(count)}")
        handler = logging.StreamHandler(SlowStream())
        logger.addHandler(handler)
        pause()
        logger.setLevel(logging.ERROR)
        logger.removeHandler(handler)
        handler.close()

    return call


def case_lock():
    lock, inside = threading.Lock(), Inside()

    def call():
        with lock, inside:
            pass

    return call


def case_rlock():
    lock, inside = threading.RLock(), Inside()

    def call():
        with lock, lock, inside:
            pass

    return call


def case_lock_with_timeout():
    lock, inside = threading.Lock(), Inside()

    def call():
        while not lock.acquire(timeout=0.001):
            pass
        try:
            with inside:
                pass
        finally:
            lock.release()

    return call


def case_semaphore():
    semaphore, inside = threading.Semaphore(1), Inside()

    def call():
        with semaphore, inside:
            pass

    return call


def case_condition():
    """One half waits for the other; each round is one of either."""
    condition, there = threading.Condition(), []

    def call():
        with condition:
            there.append(1)
            condition.notify()
            pause()
        with condition:
            assert condition.wait_for(lambda: there, DEADLINE)
            there.pop()

    return call


def case_event():
    """Every event is set from the other kind."""
    events = {True: [], False: []}

    def call():
        mine, event = in_thread(), threading.Event()
        events[mine].append(event)
        while not event.is_set():
            others = events[not mine] or events[mine]
            with suppress(IndexError):
                others.pop(0).set()
            event.wait(0.01)

    return call


def case_queue():
    jobs, answers = queue.Queue(3), queue.Queue()

    def call():
        jobs.put(1)
        pause()
        answers.put(jobs.get())
        answers.get()

    return call


def case_simple_queue():
    jobs = queue.SimpleQueue()

    def call():
        jobs.put(1)
        pause()
        jobs.get()

    return call


def case_queue_to_a_thread():
    """Each asks a consumer, a real thread, and waits for its answer."""
    jobs = queue.Queue(2)

    def consume():
        while True:
            jobs.get().put(1)

    real_threading.Thread(target=consume, daemon=True).start()

    def call():
        answer = queue.Queue(1)
        jobs.put(answer)
        assert answer.get() == 1

    return call


def case_queue_to_a_greenlet():
    jobs = queue.Queue(2)

    def consume():
        while True:
            jobs.get().put(1)

    threading.Thread(target=consume, daemon=True).start()

    def call():
        answer = queue.Queue(1)
        jobs.put(answer)
        assert answer.get() == 1

    return call


def case_executor():
    """One executor, made by greenlets and used by all."""
    executor = concurrent.futures.ThreadPoolExecutor(2)
    for each in [executor.submit(time.sleep, 0.001) for _ in range(2)]:
        each.result()

    def call():
        assert executor.submit(pause).result() is None

    return call


def case_warnings():
    def call():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.warn("said", stacklevel=2)
            pause()

    return call


def case_imports():
    """Modules that give way while they are imported, each imported by several at once."""
    folder = tempfile.mkdtemp()
    sys.path.insert(0, folder)
    for number in range(ROUNDS):
        with open(f"{folder}/slow_{number}.py", "w") as out:
            out.write("import time; time.sleep(0.0001); done = True")
    importlib.invalidate_caches()
    mine = threading.local()

    def call():
        mine.number = getattr(mine, "number", -1) + 1
        importlib.import_module(f"slow_{mine.number}")

    return call


def case_cached_property():
    class Thing:
        @functools.cached_property
        def value(self):
            pause()
            return 1

    def call():
        assert Thing().value == 1

    return call


def case_random():
    return lambda: (random.random(), random.getrandbits(64), pause())


def case_tempfile():
    def call():
        with tempfile.TemporaryFile():
            pause()

    return call


def case_sqlalchemy_pool():
    from sqlalchemy.pool import QueuePool

    class Connection:
        def rollback(self):
            pause()

        def close(self):
            pass

        commit = cursor = rollback

    pool = QueuePool(Connection, pool_size=1, max_overflow=1, timeout=DEADLINE)

    def call():
        connection = pool.connect()
        pause()
        connection.close()

    return call


def case_redis_pool():
    from redis.connection import BlockingConnectionPool, ConnectionPool

    class Connection:
        def __init__(self, **_settings):
            self.pid = os.getpid()

        def connect(self):
            pause()

        disconnect = connect

        def can_read(self, *_args, **_named):
            return False

        def should_reconnect(self):
            return False

        def __getattr__(self, name):
            return lambda *args, **named: None

    blocking = BlockingConnectionPool(2, timeout=DEADLINE, connection_class=Connection)
    plain = ConnectionPool(Connection)

    def call():
        for pool in (blocking, plain):
            connection = pool.get_connection()
            pause()
            pool.release(connection)

    return call


def case_mutex():
    """As prometheus_client guards its counters and histograms: a Lock around a few additions."""
    lock, total = threading.Lock(), [0]

    def call():
        for _ in range(10):
            with lock:
                value = total[0]
                if not in_thread():
                    pause()
                total[0] = value + 1

    return call


def main(name):
    """Put one case to the trial: ends the process, with 0 if it holds."""
    # Where even the hub is stuck, nobody else would end this.
    real_threading.Timer(DEADLINE + 5, os._exit, [3]).start()
    try:
        contend(globals()["case_" + name]())
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def contend(call):
    failed, done = [], []

    def work():
        try:
            for _ in range(ROUNDS):
                call()
        except BaseException as error:
            failed.append(error)
        done.append(1)

    threads = [real_threading.Thread(target=work, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for _ in range(GREENLETS):
        threading.Thread(target=work, daemon=True).start()
    end = time.monotonic() + DEADLINE
    while len(done) < THREADS + GREENLETS and time.monotonic() < end:
        time.sleep(0.005)
    if failed:
        raise failed[0]
    missing = THREADS + GREENLETS - len(done)
    assert not missing, f"{missing} of {THREADS + GREENLETS} have not come to an end"


CASES = [name.removeprefix("case_") for name in list(globals()) if name.startswith("case_")]
