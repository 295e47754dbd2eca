"""A small Pyramid application that says what it has seen: what test_pages.py asks three servers."""

import hashlib
import sys
from pathlib import Path

from pyramid.config import Configurator
from pyramid.response import FileResponse, Response

BLOCK = 1 << 20


def summary(blocks):
    """Length and digest of what comes in blocks."""
    size, digest = 0, hashlib.sha256()
    for block in blocks:
        size += len(block)
        digest.update(block)
    return [size, digest.hexdigest()[:12]]


#: What no application should do.
WRONG = ("silent", "twice", "closes", "recovers", "too_late", "again", "bad_pieces")


class Pages:
    """The views; ``seen`` is what they have seen, by the ``row`` of the query."""

    def __init__(self):
        self.seen = {}

    def note(self, request, **facts):
        self.seen.setdefault(request.GET["row"], {}).update(facts)

    def add_to(self, config):
        for name in (
            *("echo", "ignore", "page", "large", "read", "form", "code", "pieces", "empty"),
            *(
                "close",
                "file",
                "path",
                "headers",
                "cookies",
                "bad_header",
                "fails",
                "lost",
                "says_close",
            ),
        ):
            config.add_route(name, f"/{name}")
            config.add_view(getattr(self, name), route_name=name)
        for name in ("raises", "write", "wrapper", "short", "long", "early", "body", *WRONG):
            config.add_route(name, f"/{name}")
            config.add_view(self.as_wsgi(getattr(self, name)), route_name=name)
        config.add_route("seen", "/seen")
        config.add_view(self.what_was_seen, route_name="seen")
        config.add_route("rest", "/*rest")
        config.add_view(self.path, route_name="rest")

    def as_wsgi(self, application):
        """A view that leaves ``start_response`` to ``application``."""

        class Bare(Response):
            def __call__(self, environ, start_response):
                return application(environ, start_response)

        return lambda request: Bare()

    def what_was_seen(self, request):
        return Response(json_body=self.seen.get(request.GET["row"], {}))

    # Bodies of requests.

    def echo(self, request):
        """The body, in one go."""
        try:
            body = request.body
        except Exception as error:
            self.note(request, body=type(error).__name__)
            raise
        self.note(request, body=summary([body]))
        return Response(body, content_type="text/plain")

    def read(self, request):
        """The body, block by block."""
        found = summary(iter(lambda: request.body_file.read(BLOCK), b""))
        self.note(request, body=found)
        return Response(json_body=found)

    def form(self, request):
        fields = sorted(
            (name, summary([value.file.read()]) if hasattr(value, "file") else value)
            for name, value in request.POST.items()
        )
        self.note(request, body=fields)
        return Response(json_body=fields)

    def ignore(self, request):
        self.note(request, body="unread")
        return Response(b"unread", content_type="text/plain")

    # Answers.

    def page(self, request):
        return Response(b"page", content_type="text/plain")

    def large(self, request):
        size = int(request.GET["size"])
        blocks = [b"x" * min(BLOCK, size)] * max(1, size // BLOCK)
        return Response(app_iter=iter(blocks), content_length=size)

    def code(self, request):
        """A status, with a body whether it may have one or not."""
        response = Response(b"body", content_type="text/plain")
        response.status = int(request.GET["code"])
        return response

    def body(self, environ, start_response):
        """A status and a body, whatever the request is."""
        start_response(environ["QUERY_STRING"].split("=")[-1] + " Status", [("X-Empty", "")])
        return [b"body"]

    def says_close(self, request):
        response = Response(b"page", content_type="text/plain")
        response.headers["Connection"] = "close"
        return response

    def pieces(self, request):
        return Response(app_iter=iter((b"one,", b"", b"two,", b"three")))

    def empty(self, request):
        return Response(app_iter=iter(()))

    def raises(self, environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])

        def pieces():
            yield b"one,"
            raise ValueError("in the middle of an answer")

        return pieces()

    def close(self, request):
        """Pieces for as long as anybody reads them; ``seen`` says when they are closed."""
        self.note(request, closed=False)
        return Response(app_iter=Closing(request, self))

    def write(self, environ, start_response):
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"written,")
        write(b"written,")
        return [b"returned"]

    def wrapper(self, environ, start_response):
        file = Path(__file__).with_name("tree.py").open("rb")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return environ["wsgi.file_wrapper"](file, 100)

    def file(self, request):
        return FileResponse(Path(__file__).with_name("tree.py"), request, content_type="text/plain")

    def short(self, environ, start_response):
        start_response("200 OK", [("Content-Length", "10")])
        return [b"short"]

    def long(self, environ, start_response):
        start_response("200 OK", [("Content-Length", "4")])
        return [b"long", b", too"]

    def early(self, environ, start_response):
        start_response("200 OK", [("Content-Length", "5"), ("X-Line", "a\r\nX-Injected: b")])
        return [b"early"]

    def silent(self, environ, start_response):
        return [b"no start_response"]

    def twice(self, environ, start_response):
        start_response("200 OK", [])
        start_response("200 OK", [])

    def closes(self, environ, start_response):
        start_response("200 OK", [("Content-Length", "0")])
        return FailsToClose()

    def recovers(self, environ, start_response):
        """It finds out in time that the answer is another one."""
        start_response("200 OK", [("X-First", "1")])
        try:
            raise ValueError("in time")
        except ValueError:
            start_response("503 Service Unavailable", [], sys.exc_info())
        return [b"sorry"]

    def too_late(self, environ, start_response):
        start_response("200 OK", [])(b"written")
        try:
            raise ValueError("too late")
        except ValueError:
            start_response("503 Service Unavailable", [], sys.exc_info())
        return [b"sorry"]

    def again(self, environ, start_response):
        """How often the body says that it is none."""
        count = 0
        for _ in range(3):
            try:
                environ["wsgi.input"].read()
            except OSError:
                count += 1
        start_response("200 OK", [])
        return [b"%d errors" % count]

    def bad_pieces(self, environ, start_response):
        start_response("200 OK", [("X-Euro", "\u20ac")])
        return iter((b"one", b"two"))

    def fails(self, request):
        raise ValueError("in a view")

    def lost(self, request):
        raise ConnectionResetError("of a database, say")

    # Lines and headers.

    def path(self, request):
        environ = request.environ
        self.note(
            request, body=[environ["PATH_INFO"], environ.get("QUERY_STRING", ""), request.host]
        )
        return Response(json_body=[environ["PATH_INFO"], request.method])

    def headers(self, request):
        names = ("HTTP_X_LATIN", "HTTP_X_UTF", "HTTP_COOKIE", "HTTP_X_TWICE")
        self.note(request, body=[request.environ.get(name) for name in names])
        response = Response(b"", content_type="text/plain")
        response.headers["X-Latin"] = "caf\xe9"
        response.headers["X-Utf"] = "\u20ac".encode().decode("latin-1")
        return response

    def cookies(self, request):
        response = Response(b"", content_type="text/plain")
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    def bad_header(self, request):
        response = Response(b"", content_type="text/plain")
        response.headers["X-Euro"] = "\u20ac"
        return response


class Closing:
    """An ``app_iter`` with a ``close()``."""

    def __init__(self, request, pages):
        self._row, self._seen = request.GET["row"], pages.seen
        self._left = int(request.GET["pieces"])

    def __iter__(self):
        while self._left:
            self._left -= 1
            yield b"x" * 10_000

    def close(self):
        self._seen[self._row]["closed"] = True


class FailsToClose(list):
    def close(self):
        raise ValueError("when it is closed")


def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.add_static_view("static", str(Path(__file__).parent))
        Pages().add_to(config)
        return config.make_wsgi_app()


def made(environ, start_response):
    """The application under a name, made when it is first asked for."""
    global _app
    if _app is None:
        _app = main()
    return _app(environ, start_response)


_app = None
