import logging

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationConflictError, ConfigurationError, URLDecodeError
from pyramid.request import Request
from pyramid.response import Response
from pyramid.view import view_config
from webtest import TestApp
from zope.interface import Interface, implementer

from stargate import (
    BackplaneError,
    ConnectionClosed,
    StargateError,
    WebSocketAwareContext,
    WebSocketView,
    is_websocket,
    websocket_view_config,
)
from stargate.application.gates import gate
from stargate.config import check_view
from stargate.testing import FakeWebSocket

HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


class IThing(Interface):
    pass


@implementer(IThing)
class Base(WebSocketAwareContext):
    __name__ = ""
    __parent__ = None


class Thing(Base):
    pass


class View(WebSocketView):
    """Remembers whether it was made; its socket is never opened in these tests."""

    made = 0

    def __init__(self, request):
        super().__init__(request)
        type(self).made += 1

    def __call__(self):
        return Response("the socket's view")


@pytest.fixture(autouse=True)
def nothing_made():
    View.made = 0


class Permits:
    """A security policy that permits what it is told to."""

    def __init__(self, *permissions):
        self.permissions = permissions

    def identity(self, request):
        return None

    def authenticated_userid(self, request):
        return None

    def permits(self, request, context, permission):
        return permission in self.permissions


def configured(**settings):
    config = Configurator(settings=settings, root_factory=lambda request: Thing())
    config.include("stargate")
    return config


def served(config, socket=True):
    """The application in a WebTest; with ``socket`` as if its server had one to give."""
    environ = {"SERVER_PROTOCOL": "HTTP/1.1"}
    if socket:
        environ["stargate.take_over"] = lambda: None
    return TestApp(config.make_wsgi_app(), extra_environ=environ)


def page(text="the page"):
    return lambda request: Response(text)


def introspected(config, category="views"):
    config.commit()
    return [item["introspectable"] for item in config.introspector.get_category(category, [])]


# Including it.


def test_including_it_adds_the_directive():
    assert callable(configured().add_websocket_view)


def test_including_it_makes_the_gate_of_the_application():
    config = configured()
    assert gate(config.registry).settings["backplane"] == "memory"


def test_including_it_twice_is_once():
    config = configured()
    config.include("stargate")
    config.commit()


def test_the_settings_are_read_and_show_in_introspection():
    config = configured(**{"stargate.outbox_size": "1000"})
    (intr,) = introspected(config, "stargate")
    assert intr["outbox_size"] == 1000
    assert gate(config.registry).limits.outbox_size == 1000


def test_a_bad_setting_is_a_configuration_error_at_once():
    with pytest.raises(ConfigurationError, match=r"stargate\.outbox_size = 'x'"):
        configured(**{"stargate.outbox_size": "x"})


@pytest.mark.parametrize("origin", ["example.com", "null", "https://example.com/"])
def test_an_allowed_origin_that_is_none_is_a_configuration_error(origin):
    with pytest.raises(ConfigurationError, match="stargate.allowed_origins = ") as caught:
        configured(**{"stargate.allowed_origins": f"https://good.com {origin}"})
    assert repr(origin) in str(caught.value)


@pytest.mark.parametrize("origins", ["*", "https://a.com http://b.com:81", ["https://a.com"]])
def test_allowed_origins_are_a_list_with_white_space(origins):
    configured(**{"stargate.allowed_origins": origins})


def test_the_protocols_own_log_is_quiet_unless_somebody_set_it():
    configured()
    log = logging.getLogger("stargate.protocol")
    assert log.level == logging.WARNING
    log.setLevel(logging.DEBUG)
    try:
        configured()
        assert log.level == logging.DEBUG
    finally:
        log.setLevel(logging.WARNING)


# request.is_websocket and the predicates.


@pytest.mark.parametrize(("headers", "answer"), [(HANDSHAKE, b"True"), ({}, b"False")])
def test_the_request_says_whether_it_asks_for_a_websocket(headers, answer):
    config = configured()
    config.add_view(lambda request: Response(str(request.is_websocket)))
    assert served(config).get("/", headers=headers).body == answer


@pytest.mark.parametrize(("headers", "answer"), [(HANDSHAKE, True), ({}, False)])
def test_what_the_request_says_is_a_bool(headers, answer):
    config, found = configured(), []
    config.add_view(lambda request: found.append(request.is_websocket) or Response())
    served(config).get("/", headers=headers)
    assert found == [answer] and type(found[0]) is bool


def test_no_class_is_made_for_a_request():
    config, found = configured(), []
    config.add_view(lambda request: found.append(type(request)) or Response())
    served(config).get("/", headers=HANDSHAKE)
    assert found == [Request]


def test_the_request_says_it_beside_the_extensions_of_others():
    config, found = configured(), []
    config.add_request_method(lambda request: "theirs", "other", reify=True)
    config.add_view(
        lambda request: found.append((request.other, request.is_websocket)) or Response()
    )
    served(config).get("/", headers=HANDSHAKE)
    assert found == [("theirs", True)]


def test_is_websocket_can_be_asked_of_any_request():
    config = configured()
    config.add_view(page("plain"))
    found = []
    config.add_view(lambda request: Response(str(found)), name="look")
    config.add_subscriber(
        lambda event: found.append(is_websocket(None, event.request)), "pyramid.events.NewRequest"
    )
    assert served(config).get("/look", headers=HANDSHAKE).body == b"[True]"


def test_a_page_and_a_socket_share_one_address():
    config = configured()
    config.add_view(page(), context=Thing)
    config.add_websocket_view(View, context=Thing)
    app = served(config)
    assert app.get("/").body == b"the page"
    assert app.get("/", headers=HANDSHAKE).body == b"the socket's view"


def test_the_predicate_true_goes_with_view_config_as_well():
    config = configured()
    config.add_view(View, context=Thing, websocket=True)
    app = served(config)
    assert app.get("/", headers=HANDSHAKE).body == b"the socket's view"
    assert app.get("/", status=426)


def test_the_predicate_false_is_for_plain_requests_only():
    config = configured()
    config.add_view(page(), context=Thing, websocket=False)
    app = served(config)
    assert app.get("/").body == b"the page"
    app.get("/", headers=HANDSHAKE, status=404)


@pytest.mark.parametrize("value", ["true", 1, 0, None.__class__, "yes"])
def test_another_value_of_the_predicate_is_a_configuration_error(value):
    config = configured()
    config.add_view(page(), context=Thing, websocket=value)
    with pytest.raises(ConfigurationError, match="it must be True or False"):
        config.commit()


@pytest.mark.parametrize("value", [False, "true", 1])
def test_the_directive_is_for_true_only(value):
    with pytest.raises(ConfigurationError, match=r"websocket=True; use add_view\(\)"):
        configured().add_websocket_view(View, websocket=value)


# The directive.


def test_the_directive_takes_a_dotted_name():
    config = configured()
    config.add_websocket_view("stargate_tests.test_config.View", context=Thing)
    assert served(config).get("/", headers=HANDSHAKE).body == b"the socket's view"


def test_the_directive_without_a_view_listens():
    config = configured()
    config.add_websocket_view(context=Thing)
    (intr,) = [intr for intr in introspected(config) if intr["context"] is Thing]
    assert intr["callable"] is WebSocketView


@pytest.mark.parametrize(
    "options", [{"name": "socket"}, {"context": IThing}, {"route_name": "there"}]
)
def test_the_directive_takes_what_add_view_takes(options):
    config = configured()
    config.add_route("there", "/there")
    config.add_websocket_view(View, **options)
    url = {"name": "/socket", "route_name": "/there"}.get(next(iter(options)), "/")
    assert served(config).get(url, headers=HANDSHAKE).body == b"the socket's view"


def test_the_view_shows_in_introspection_with_its_predicate():
    config = configured()
    config.add_websocket_view(View, context=Thing, permission="view", subprotocols=("chat",))
    (intr,) = [intr for intr in introspected(config) if intr["context"] is Thing]
    assert (intr["callable"], intr["websocket"], intr["subprotocols"]) == (View, True, ("chat",))


def test_ids_show_in_introspection():
    config = configured()
    config.add_websocket_view(View, context=Thing, ids=True)
    (intr,) = [intr for intr in introspected(config) if intr["context"] is Thing]
    assert intr["ids"] is True


@pytest.mark.parametrize("subprotocols", ["stargate.v1", ("other", "stargate.v1")])
def test_ids_go_with_no_subprotocols_of_ones_own(subprotocols):
    config = configured()
    config.add_websocket_view(View, context=Thing, ids=True, subprotocols=subprotocols)
    with pytest.raises(ConfigurationError, match=r"subprotocols = .*, and no other"):
        config.commit()


@pytest.mark.parametrize("ids", [1, "true", None])
def test_ids_are_true_or_false(ids):
    config = configured()
    config.add_websocket_view(View, context=Thing, ids=ids)
    with pytest.raises(ConfigurationError, match=f"ids = {ids!r}: it must be True or False"):
        config.commit()


def test_two_socket_views_for_one_context_are_a_conflict():
    config = configured()
    config.add_websocket_view(View, context=Thing)
    config.add_websocket_view(WebSocketView, context=Thing)
    with pytest.raises(ConfigurationConflictError):
        config.commit()


def test_a_page_and_a_socket_are_no_conflict():
    config = configured()
    config.add_view(page(), context=Thing)
    config.add_websocket_view(View, context=Thing)
    config.commit()


def test_the_conflict_names_where_it_was_written():
    config = configured()
    config.add_websocket_view(View, context=Thing)
    config.add_websocket_view(WebSocketView, context=Thing)
    with pytest.raises(ConfigurationConflictError, match="test_config.py"):
        config.commit()


def styles():
    class Both(WebSocketView):
        def handler(self, websocket):
            pass

        def on_message(self, websocket, message):
            pass

    return Both


def test_both_styles_at_once_are_a_configuration_error_that_names_them():
    both = styles()
    with pytest.raises(ConfigurationError, match="overrides handler and on_message") as caught:
        configured().add_websocket_view(both)
    assert "Both" in str(caught.value)


def test_both_styles_are_an_error_through_view_config_too():
    config = configured()
    config.add_view(styles(), websocket=True)
    with pytest.raises(ConfigurationError, match="overrides handler and on_message"):
        config.commit()


def test_one_style_is_none_and_neither_is_something_else():
    class Handler(WebSocketView):
        def handler(self, websocket):
            pass

    for view in (Handler, WebSocketView, View, page(), object):
        check_view(view)


@pytest.mark.parametrize("option", ["subprotocols", "allowed_origins"])
def test_its_options_are_for_sockets_only(option):
    config = configured()
    config.add_view(page(), **{option: "https://a.com"})
    with pytest.raises(ConfigurationError, match=f"{option}.* goes with websocket=True only"):
        config.commit()


def test_a_views_own_allowed_origins_are_checked():
    config = configured()
    config.add_websocket_view(View, allowed_origins="example.com")
    with pytest.raises(ConfigurationError, match="allowed_origins = 'example.com'"):
        config.commit()


# The decorator.


@websocket_view_config(name="scanned")
@websocket_view_config(context=Thing, permission="view")
class Scanned(View):
    pass


def test_the_decorator_is_found_by_a_scan_and_may_be_stacked():
    config = configured()
    config.scan("stargate_tests.test_config", categories=["pyramid"])
    found = {
        (intr["name"], intr["context"])
        for intr in introspected(config)
        if intr["callable"] is Scanned
    }
    assert found == {("scanned", None), ("", Thing)}


@websocket_view_config(name="speaking", ids=True, _category="ids")
class Speaking(View):
    pass


def test_the_decorator_takes_ids():
    config = configured()
    config.scan("stargate_tests.test_config", categories=["ids"])
    (intr,) = [intr for intr in introspected(config) if intr["callable"] is Speaking]
    assert intr["ids"] is True


def test_the_decorator_leaves_the_class_as_it_is():
    assert isinstance(Scanned, type) and Scanned.__name__ == "Scanned"


def test_the_decorator_may_have_a_category_of_its_own():
    @websocket_view_config(context=Thing, _category="other")
    class Hidden(View):
        pass

    assert Hidden.__venusian_callbacks__.keys() == {"other"}


@view_config(name="by-view-config", websocket=True)
class ByViewConfig(View):
    pass


def test_view_config_goes_as_well():
    config = configured()
    config.scan("stargate_tests.test_config")
    app = served(config)
    assert app.get("/by-view-config", headers=HANDSHAKE).body == b"the socket's view"


# What is refused before the view.


def refused(config, status, socket=True, **headers):
    answer = served(config, socket).get("/", headers={**HANDSHAKE, **headers}, status=status)
    assert View.made == 0, "the view was made before the handshake was judged"
    return answer


def test_a_permission_is_checked_before_the_handshake_is_judged():
    config = configured()
    config.set_security_policy(Permits())
    config.add_websocket_view(View, context=Thing, permission="view")
    headers = {"Sec-WebSocket-Version": "8", "Origin": "https://evil.com"}
    refused(config, 403, **headers)


def test_who_has_the_permission_gets_in():
    config = configured()
    config.set_security_policy(Permits("view"))
    config.add_websocket_view(View, context=Thing, permission="view")
    assert served(config).get("/", headers=HANDSHAKE).body == b"the socket's view"


def test_a_foreign_origin_is_refused_before_the_views_init():
    config = configured()
    config.add_websocket_view(View, context=Thing)
    refused(config, 403, Origin="https://evil.com")


def test_another_version_is_426_before_the_views_init():
    config = configured()
    config.add_websocket_view(View, context=Thing)
    answer = refused(config, 426, **{"Sec-WebSocket-Version": "8"})
    assert answer.headers["Sec-WebSocket-Version"] == "13"


def test_on_a_server_that_would_keep_the_connection_a_refusal_closes_it():
    config = configured()
    config.add_websocket_view(View, context=Thing)
    posthooks = []
    app = TestApp(
        config.make_wsgi_app(),
        extra_environ={
            "SERVER_PROTOCOL": "HTTP/1.1",
            "eventlet.input": None,
            "eventlet.posthooks": posthooks,
        },
    )
    headers = {**HANDSHAKE, "Origin": "https://evil.com"}
    assert app.get("/", headers=headers, status=403).headers["Connection"] == "close"
    assert len(posthooks) == 1


def test_a_subprotocol_that_is_not_spoken_is_refused():
    config = configured()
    config.add_websocket_view(View, context=Thing, subprotocols=["chat"])
    refused(config, 400, **{"Sec-WebSocket-Protocol": "other"})


@pytest.mark.parametrize(
    ("settings", "options", "origin", "status"),
    [
        ({"stargate.allowed_origins": "https://good.com"}, {}, "https://good.com", 200),
        ({"stargate.allowed_origins": "https://good.com"}, {}, "https://evil.com", 403),
        ({"stargate.allowed_origins": "*"}, {}, "https://evil.com", 200),
        ({"pyramid.csrf_trusted_origins": ".good.com"}, {}, "https://a.good.com", 200),
        ({"pyramid.csrf_trusted_origins": "good.com"}, {}, "https://a.good.com", 403),
        ({}, {"allowed_origins": "https://good.com"}, "https://good.com", 200),
        ({"stargate.allowed_origins": "*"}, {"allowed_origins": ()}, "https://good.com", 403),
        (
            {"stargate.allowed_origins": "https://good.com"},
            {"allowed_origins": ["https://other.com"]},
            "https://good.com",
            403,
        ),
        ({}, {}, "http://localhost", 200),
    ],
)
def test_origins_are_those_of_the_settings_or_of_the_view(settings, options, origin, status):
    config = configured(**settings)
    config.add_websocket_view(View, context=Thing, **options)
    headers = {**HANDSHAKE, "Origin": origin, "Host": "localhost"}
    served(config).get("/", headers=headers, status=status)


def test_compression_is_agreed_on_when_the_setting_says_so():
    found = []

    class Looks(View):
        def __call__(self):
            found.append(self.request.environ["stargate.handshake"].extensions)
            return super().__call__()

    for setting in ("off", "deflate"):
        config = configured(**{"stargate.compression": setting})
        config.add_websocket_view(Looks, context=Thing)
        offer = {**HANDSHAKE, "Sec-WebSocket-Extensions": "permessage-deflate"}
        served(config).get("/", headers=offer)
    assert [len(extensions) for extensions in found] == [0, 1]


def test_a_server_with_no_socket_is_a_501_that_names_it_and_what_to_use(caplog):
    config = configured()
    config.add_websocket_view(View, context=Thing)
    with caplog.at_level(logging.ERROR):
        app = served(config, socket=False)
        answer = app.get(
            "/", headers=HANDSHAKE, status=501, extra_environ={"SERVER_SOFTWARE": "waitress"}
        )
    assert View.made == 0
    for text in (answer.text, caplog.records[0].getMessage()):
        assert "waitress" in text and "use = egg:stargate#eventlet" in text


def test_a_server_with_no_name_is_a_501_too():
    config = configured()
    config.add_websocket_view(View, context=Thing)
    assert "use = egg:stargate#eventlet" in refused(config, 501, socket=False).text


@pytest.mark.parametrize("path", ["/%ff", "/%e2%82", "/%ed%a0%80"])
def test_a_path_that_is_not_utf8_is_400_for_a_websocket(path):
    config = configured()
    config.add_websocket_view(View, context=Thing)
    answer = served(config).get(path, headers=HANDSHAKE, status=400)
    assert "the path is not UTF-8" in answer.text
    assert gate(config.registry).stats().refusals == {"malformed": 1}


def test_a_path_that_is_not_utf8_is_left_to_the_application_for_a_page():
    config = configured()
    config.add_websocket_view(View, context=Thing)
    config.add_exception_view(lambda request: Response("mended"), context=URLDecodeError)
    assert served(config).get("/%ff").body == b"mended"


def test_the_log_line_of_a_refusal_at_an_odd_path_is_one_line(caplog):
    config = configured()
    config.add_websocket_view(View, context=Thing)
    with caplog.at_level(logging.INFO, "stargate"):
        served(config).get("/%0aforged%ff", headers=HANDSHAKE, status=400)
    (line,) = [r.getMessage() for r in caplog.records if "refused" in r.getMessage()]
    assert line.startswith("refused a WebSocket at /%0Aforged%FF: the path is not UTF-8")


# A plain GET where only a WebSocket is served.


def test_a_plain_get_is_426_and_says_what_to_ask_for():
    config = configured()
    config.add_websocket_view(View, context=Thing)
    answer = served(config).get("/", status=426)
    assert answer.headers["Upgrade"] == "websocket"
    assert answer.headers["Sec-WebSocket-Version"] == "13"


def test_a_plain_get_that_is_426_is_counted():
    config = configured()
    config.add_websocket_view(View, context=Thing)
    served(config).get("/", status=426)
    assert gate(config.registry).stats().refusals == {"upgrade": 1}


def test_a_plain_get_of_what_is_not_there_is_still_404():
    config = configured()
    config.add_websocket_view(View, context=Thing)
    app = served(config)
    app.get("/nothing", status=404)


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_another_method_is_no_426(method):
    config = configured()
    config.add_websocket_view(View, context=Thing)
    getattr(served(config), method)("/", status=404)


@pytest.mark.parametrize(
    "options",
    [{"context": Thing}, {"context": Base}, {"context": IThing}, {}],
    ids=["same", "base class", "interface", "any"],
)
@pytest.mark.parametrize("predicates", [{}, {"request_method": "GET"}, {"xhr": False}])
def test_no_page_is_shadowed(options, predicates):
    config = configured()
    config.add_websocket_view(View, context=Thing)
    config.add_view(page(), **options, **predicates)
    app = served(config)
    assert app.get("/").body == b"the page"
    assert app.get("/", headers=HANDSHAKE).body == b"the socket's view"


def test_a_page_with_accept_does_not_take_the_handshakes_of_the_socket():
    """A browser's handshake has no Accept header, which Pyramid takes for any."""
    config = configured()
    config.add_websocket_view(View, context=Thing)
    config.add_view(page(), context=Thing, accept="text/html")
    app = served(config)
    assert app.get("/", headers={"Accept": "text/html"}).body == b"the page"
    assert app.get("/", headers=HANDSHAKE).body == b"the socket's view"


@pytest.mark.parametrize(
    "predicates",
    [{}, {"request_method": "GET", "xhr": False}, {"accept": "text/html"}],
    ids=["none", "several", "accept"],
)
def test_no_page_takes_a_handshake_even_on_a_more_specific_context(predicates):
    config = configured()
    config.add_websocket_view(View, context=Base)
    config.add_view(page(), context=Thing, **predicates)
    app = served(config)
    assert app.get("/").body == b"the page"
    assert app.get("/", headers=HANDSHAKE).body == b"the socket's view"


def test_a_page_answers_a_handshake_that_no_socket_would_take():
    config = configured()
    config.add_websocket_view(View, context=Thing, request_param="a")
    config.add_view(page(), context=Thing)
    app = served(config)
    assert app.get("/", headers=HANDSHAKE).body == b"the page"
    assert app.get("/?a=1", headers=HANDSHAKE).body == b"the socket's view"


def test_no_page_is_shadowed_by_a_less_specific_socket():
    config = configured()
    config.add_websocket_view(View, context=Base)
    config.add_view(page(), context=Thing)
    assert served(config).get("/").body == b"the page"


def test_no_page_for_another_method_is_shadowed():
    config = configured()
    config.add_websocket_view(View, context=Thing)
    config.add_view(page(), context=Thing, request_method="POST")
    app = served(config)
    assert app.post("/").body == b"the page"
    app.get("/", status=426)


def test_an_applications_own_not_found_view_still_answers_what_is_not_for_sockets():
    config = configured()
    config.add_websocket_view(View, context=Thing)
    config.add_view(page(), context=Thing, name="form", request_method="POST")
    config.add_notfound_view(lambda request: Response("own", status=404))
    app = served(config)
    assert app.get("/form", status=404).body == b"own"
    assert app.get("/nothing", status=404).body == b"own"
    app.get("/", status=426)


def test_a_mismatch_of_a_page_is_404_as_ever():
    config = configured()
    config.add_view(page(), context=Thing, request_method="POST")
    served(config).get("/", status=404)


def test_a_socket_that_other_predicates_rule_out_is_404():
    """426 only where an upgrade is what was missing."""
    config = configured()
    config.add_websocket_view(View, context=Thing, request_param="token")
    app = served(config)
    app.get("/", headers=HANDSHAKE, status=404)
    app.get("/?token=1", status=426)


def test_an_application_with_an_exception_view_of_its_own_keeps_it():
    config = configured()

    class Wrong(Exception):
        pass

    def fails(request):
        raise Wrong

    config.add_view(fails, context=Thing)
    config.add_websocket_view(View, context=Thing)
    config.add_exception_view(lambda request: Response("mended"), context=Wrong)
    assert served(config).get("/").body == b"mended"


def test_a_head_is_answered_as_a_get():
    config = configured()
    config.add_websocket_view(View, context=Thing)
    served(config).head("/", status=426)


# A BackplaneError that nobody catches.


def fails(context, request):
    raise BackplaneError("not sent", "localhost:6379: Connection refused", "k")


def failing(*configure, view=fails):
    config = configured()
    config.add_view(view, context=Thing)
    for each in configure:
        each(config)
    return config


def own(kind):
    """A configuration function with an exception view for ``kind``."""

    def configure(config):
        config.add_exception_view(
            lambda error, request: Response("the application's"), context=kind
        )

    configure.__name__ = f"own_{kind.__name__}"
    return configure


def test_a_page_that_fails_for_want_of_the_backplane_is_503_and_a_line_of_log(caplog):
    with caplog.at_level(logging.INFO):
        answer = served(failing()).get("/", status=503)
    assert answer.headers["Retry-After"] == "1"
    assert "Try again later" in answer.text and "6379" not in answer.text
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("ERROR", "stargate.config")
    assert record.exc_info is None
    assert record.getMessage() == "GET / failed: not sent: localhost:6379: Connection refused"


def test_its_line_of_log_is_bounded_and_one_line(caplog):
    config = failing()
    config.add_view(fails, context=Thing, name="page")
    served(config).get("/page/%0a" + "x" * 3000, status=503)
    (record,) = caplog.records
    assert len(record.getMessage()) < 250 and "\n" not in record.getMessage()


@pytest.mark.parametrize("include", [False, True])
def test_an_exception_view_of_the_application_takes_its_place(include, caplog):
    """There is no conflict though both are included."""
    configure = own(BackplaneError)
    config = failing((lambda config: config.include(configure)) if include else configure)
    assert served(config).get("/").body == b"the application's"
    assert caplog.records == []


@pytest.mark.parametrize("kind", [Exception, OSError, StargateError])
def test_an_exception_view_for_all_kinds_of_errors_does_not(kind):
    def fails_otherwise(context, request):
        raise ConnectionClosed(FakeWebSocket(), 1006) if kind is not Exception else ValueError

    assert served(failing(own(kind))).get("/", status=503)
    config = failing(own(kind), view=fails_otherwise)
    assert served(config).get("/").body == b"the application's"


def test_a_handshake_that_fails_for_want_of_the_backplane_is_503():
    class NeedsIt(View):
        def __init__(self, request):
            fails(None, request)

    config = configured()
    config.add_websocket_view(NeedsIt, context=Thing)
    answer = served(config).get("/", headers=HANDSHAKE, status=503)
    assert (answer.headers["Retry-After"], answer.headers.get("Connection")) == ("1", None)


def test_a_handshake_that_so_fails_where_the_connection_would_be_kept_closes_it():
    class NeedsIt(View):
        def __init__(self, request):
            fails(None, request)

    config = configured()
    config.add_websocket_view(NeedsIt, context=Thing)
    config.add_view(fails, context=Thing, name="page")
    environ = {"eventlet.input": None, "eventlet.posthooks": [], "SERVER_PROTOCOL": "HTTP/1.1"}
    app = TestApp(config.make_wsgi_app(), extra_environ=environ)
    answer = app.get("/", headers=HANDSHAKE, status=503)
    assert answer.headers["Connection"] == "close"
    assert "Connection" not in app.get("/page", status=503).headers


@pytest.mark.parametrize("veto", [None, "pyramid_tm.default_commit_veto"])
def test_the_transaction_of_a_page_that_so_fails_is_aborted(veto):
    ends = []

    def begins(context, request):
        transaction = request.tm.get()
        transaction.addAfterCommitHook(lambda done: ends.append("committed"))
        transaction.addAfterAbortHook(lambda: ends.append("aborted"))
        fails(context, request)

    config = failing(view=begins)
    config.add_settings(
        {"tm.manager_hook": "pyramid_tm.explicit_manager"}
        | ({"tm.commit_veto": veto} if veto else {})
    )
    config.include("pyramid_tm")
    served(config).get("/", status=503)
    assert ends == ["aborted"]
