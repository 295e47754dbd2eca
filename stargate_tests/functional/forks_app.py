"""An application that forks: each way is a view, and the same ways are open in ``on_message``.

A child begins with a message to ``/news``, says its number there, and ends when there is a file.
"""

import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import pty
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from pyramid.config import Configurator
from pyramid.response import Response

from stargate import WebSocketView, gate
from stargate.exceptions import ConnectionClosed
from stargate_tests.functional.tree import Echo, Listen, Node

FORK = multiprocessing.get_context("fork")

STATES = {}


def work(folder):
    """What a child does: it tells of itself, and ends when it is told to."""
    folder = Path(folder)
    told, inbox = [], queue.Queue()
    threading.Thread(target=lambda: (time.sleep(0.01), inbox.put("green"))).start()
    told.append(inbox.get(timeout=30))
    with socket.socket() as listening, socket.socket() as out:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        out.connect(listening.getsockname())
        listening.accept()[0].close()
        told.append(out.recv(1).decode())
    try:
        id = gate(STATES["registry"]).send("/news", f"from the child {os.getpid()}")
    except Exception as error:
        id = repr(error)
    found = {
        "pid": os.getpid(),
        "told": told,
        "id": id,
        "files": files(),
        "handlers": {name: str(signal.getsignal(getattr(signal, name))) for name in SIGNALS},
    }
    (folder / "child.tmp").write_text(json.dumps(found))
    (folder / "child.tmp").rename(folder / "child.json")
    while not (folder / "end").exists():
        time.sleep(0.02)
    return os.getpid()


SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGCHLD")


def files():
    """What this process has open: names as ``socket:[123]``."""
    names = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
    return names


def os_fork(folder):
    pid = os.fork()
    if not pid:
        try:
            work(folder)
        finally:
            os._exit(0)
    return pid


def returning(folder):
    """A child that forgets to end."""
    return os.fork() or work(folder)


def process(folder):
    child = FORK.Process(target=work, args=(folder,))
    child.start()
    STATES["process"] = child
    return child.pid


def executor(folder):
    pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=FORK)
    STATES["future"] = pool.submit(work, folder)
    pool.shutdown(wait=False)
    return 0


def pool(folder):
    STATES["pool"] = each = FORK.Pool(1)
    STATES["result"] = each.apply_async(work, (folder,))
    each.close()
    return 0


def terminal(folder):
    pid, STATES["terminal"] = pty.fork()
    if not pid:
        try:
            work(folder)
        finally:
            os._exit(0)
    return pid


def preexec(folder):
    """A program that is started with some code of the application's before it."""
    command = f"until [ -e {folder}/end ]; do sleep 0.02; done"
    STATES["program"] = subprocess.Popen(
        ["/bin/sh", "-c", command], preexec_fn=lambda: tell(folder), close_fds=False
    )
    return STATES["program"].pid


def tell(folder):
    found = {"pid": os.getpid(), "told": ["green", ""], "id": None, "files": files()}
    found["handlers"] = {name: str(signal.getsignal(getattr(signal, name))) for name in SIGNALS}
    Path(folder, "child.tmp").write_text(json.dumps(found))
    Path(folder, "child.tmp").rename(Path(folder, "child.json"))


def real_thread(folder):
    from eventlet.patcher import original

    original("threading").Thread(target=os_fork, args=(folder,), daemon=True).start()
    return 0


def timer(folder):
    threading.Timer(0.01, os_fork, (folder,)).start()
    return 0


def hub(folder):
    """On eventlet's own hub, as what a signal interrupts."""
    import eventlet

    eventlet.hubs.get_hub().schedule_call_global(0, returning, folder)
    return 0


WAYS = {
    each.__name__: each
    for each in (
        *(os_fork, returning, process, executor, pool, terminal, preexec),
        *(real_thread, timer, hub),
    )
}


def fork(context, request):
    return Response(str(WAYS[request.params["way"]](request.params["folder"])))


def joined(context, request):
    """What became of the work of a pool, or of a process."""
    if "process" in STATES:
        STATES["process"].join(30)
        return Response(str(STATES["process"].exitcode))
    if "future" in STATES:
        return Response(str(STATES["future"].result(30)))
    if "result" in STATES:
        return Response(str(STATES["result"].get(30)))
    return Response("")


def page(context, request):
    return Response(f"page {os.getpid()}")


def send(context, request):
    context.send(request.params["message"])
    return Response("sent")


def count(context, request):
    return Response(str(context.listener_count()))


def obey(websocket, message):
    """Fork where ``message`` says how, and answer with the process."""
    way, _, folder = message.partition(" ")
    if folder:
        WAYS[way](folder)
    else:
        print("heard", message, file=sys.stderr, flush=True)
    with contextlib.suppress(ConnectionClosed):
        websocket.send(str(os.getpid()))


class Forking(WebSocketView):
    """Forks where a message says so, and answers with its process."""

    def on_open(self, websocket):
        pass

    def on_message(self, websocket, message):
        obey(websocket, message)

    def on_close(self, websocket):
        print("closed in", os.getpid(), file=sys.stderr, flush=True)


class ForkingHandler(WebSocketView):
    def handler(self, websocket):
        for message in websocket:
            obey(websocket, message)


def main(global_config, **settings):
    root = Node()
    with Configurator(root_factory=lambda request: root, settings=settings) as config:
        config.include("stargate")
        config.add_websocket_view(Listen, context=Node)
        config.add_websocket_view(Echo, context=Node, name="echo")
        config.add_websocket_view(Forking, context=Node, name="forking")
        config.add_websocket_view(ForkingHandler, context=Node, name="handler")
        for view in (fork, joined, page, send, count):
            config.add_view(view, context=Node, name=view.__name__)
        app = config.make_wsgi_app()
    STATES["registry"] = config.registry
    return app
