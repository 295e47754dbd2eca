"""Views that do to their requests what no answer will carry: each such line says what it does."""

import time

from pyramid.authentication import AuthTktCookieHelper
from pyramid.config import Configurator
from pyramid.renderers import render, render_to_response
from pyramid.response import Response
from pyramid.security import remember
from pyramid.session import SignedCookieSessionFactory
from pyramid.view import render_view

from stargate import WebSocketView
from stargate_tests.functional.tree import Node


class Part:
    """What no WebSocket is opened on."""


def too_late(request):
    request.session["late"] = request.session.get("late", 0) + 1  # the session is changed
    request.session.flash("late")  # the session is changed
    request.session.changed()  # the session is changed
    request.session.get_csrf_token()  # the session is changed
    request.response.set_cookie("late", "x")  # request.response is used
    request.response.status = 201  # request.response is used
    request.add_response_callback(lambda request, response: None)  # a response callback is added
    request.add_finished_callback(lambda request: None)  # a finished callback is added


def in_time(request):
    """What is read, rendered, or changed while the handshake is answered."""
    found = request.session.get("early"), "early" in request.session, len(request.session)
    page = render_to_response("json", [2], request=request).text
    part = render_view(Part(), request, "part").decode()
    return f"{found} {render('json', [1], request=request)} {page} {part}"


class Ticket:
    """The cookie of AuthTkt, which is renewed a second after it was made, by whoever reads it."""

    def __init__(self):
        self._cookies = AuthTktCookieHelper("secret", reissue_time=0, timeout=600)

    def identity(self, request):
        # As if time had passed since the handshake.
        vars(request).pop("_authtkt_reissued", None)
        self._cookies.now = time.time() + 60
        return self._cookies.identify(request)

    def authenticated_userid(self, request):
        return (self.identity(request) or {}).get("userid")

    def remember(self, request, userid, **kw):
        return self._cookies.remember(request, userid, **kw)


def enter(request):
    return Response(headerlist=remember(request, "anne"))


class Changes(WebSocketView):
    def __init__(self, request):
        super().__init__(request)
        request.session["early"] = "yes"
        request.response.set_cookie("first", "x")
        request.response.headers["X-Early"] = "x"
        request.add_response_callback(lambda request, response: response.set_cookie("early", "y"))


class Handler(Changes):
    def handler(self, websocket):
        for _ in websocket:
            too_late(self.request)
            websocket.send(in_time(self.request))


class Methods(Changes):
    def on_open(self, websocket):
        pass

    def on_message(self, websocket, message):
        too_late(self.request)
        websocket.send(in_time(self.request))


class Late(WebSocketView):
    """Its session is made when the handshake is over."""

    def on_message(self, websocket, message):
        websocket.send(in_time(self.request))
        self.request.session["late"] = "x"  # the session is changed


class Keeps(WebSocketView):
    """It has the response from before."""

    def __init__(self, request):
        super().__init__(request)
        self.response = request.response

    def on_message(self, websocket, message):
        websocket.send(self.request.authenticated_userid)
        self.response.set_cookie("late", "x")  # request.response is used


class Closes(WebSocketView):
    def on_close(self, websocket):
        self.request.response.headers["X-Late"] = "x"  # request.response is used


def main(global_config, **settings):
    root = Node()
    with Configurator(root_factory=lambda request: root, settings=settings) as config:
        config.include("stargate")
        # Whoever reads it has its cookie sent as well.
        config.set_session_factory(SignedCookieSessionFactory("secret", reissue_time=-1))
        config.add_view(lambda request: [3], context=Part, name="part", renderer="json")
        config.set_security_policy(Ticket())
        config.add_view(enter, name="enter")
        for view in (Handler, Methods, Late, Keeps, Closes):
            config.add_websocket_view(view, context=Node, name=view.__name__)
        return config.make_wsgi_app()
