"""The application that the tests start under gunicorn: it says which process serves it."""

import os

from pyramid.response import Response

from stargate_tests.functional.tree import Node, make_app


def pid(context, request):
    return Response(f"{os.getpid()} {request.environ['wsgi.multiprocess']}")


def send(context, request):
    context.send(request.params["message"])
    return Response(str(os.getpid()))


def count(context, request):
    return Response(str(context.listener_count()))


def stick(context, request):
    """Hold up the hub, and so everything in this process."""
    from eventlet.patcher import original

    original("time").sleep(600)


def patched(context, request):
    from eventlet.patcher import is_monkey_patched

    return Response(str(is_monkey_patched("thread")))


def configure(config):
    for view in (pid, send, count, stick, patched):
        config.add_view(view, context=Node, name=view.__name__)


def main(global_config, **settings):
    return make_app(configure, **settings)


def made():
    """An application without an ini file, for workers that are told to have memory each."""
    return main({}, **{"stargate.memory_in_many_workers": "true"})
