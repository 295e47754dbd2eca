"""What renderers write, those of Pyramid and those of applications."""

import json

import pytest
from pyramid.config import Configurator
from pyramid.renderers import JSON, JSONP

from stargate.application.rendering import Writer

NAN, INFINITY = float("nan"), float("inf")


class Money:
    def __init__(self, cents):
        self.cents = cents


def own(value, **_given):
    """A serializer of the application's own."""
    return json.dumps(value)


def in_bytes(_info):
    return lambda value, system: json.dumps(value).encode()


class Derived(JSON):
    """A renderer of the application's own."""


RENDERERS = {
    "pyramid's": None,
    "indented": JSON(indent=2),
    "lenient": JSON(allow_nan=True),
    "serializer": JSON(serializer=own),
    "derived": Derived(),
    "jsonp": lambda info: JSONP(param_name="callback")(info) and in_bytes(info),
    "bytes": in_bytes,
}


def registry_with(renderer):
    config = Configurator()
    if renderer is not None:
        config.add_renderer("json", renderer)
    config.commit()
    return config.registry


@pytest.fixture(params=RENDERERS)
def write(request):
    registry, writer = registry_with(RENDERERS[request.param]), Writer()
    return lambda value: writer.write(registry, value)


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY, {"a": [1, {"b": NAN}]}, [NAN, "NaN"]])
def test_what_no_browser_reads_is_refused_whatever_the_renderer(write, value):
    with pytest.raises(ValueError, match="JSON"):
        write(value)


@pytest.mark.parametrize(
    "value", ["NaN", {"Infinity": ["-Infinity"]}, [1e308, -0.0, None], "\ud800"]
)
def test_what_a_browser_reads_is_not(write, value):
    assert json.loads(write(value)) == value


def test_a_key_is_a_text_whatever_it_was(write):
    assert json.loads(write({NAN: 1, INFINITY: 2})) == {"NaN": 1, "Infinity": 2}
    with pytest.raises(ValueError, match="JSON"):
        write({NAN: NAN})


def test_what_is_no_value_is_the_renderers_own_error(write):
    circle = []
    circle.append(circle)
    with pytest.raises(ValueError, match="Circular"):
        write(circle)
    with pytest.raises(TypeError):
        write(object())


def test_adapters_that_are_added_later_are_asked_and_what_they_say_is_judged():
    renderer, writer = JSON(), Writer()
    registry = registry_with(renderer)
    assert writer.write(registry, 1) == "1"
    renderer.add_adapter(Money, lambda money, request: money.cents / 100)
    assert writer.write(registry, Money(150)) == "1.5"
    with pytest.raises(ValueError, match="it has NaN"):
        writer.write(registry, Money(NAN))


def test_the_renderer_itself_stays_as_it_is_for_pages():
    renderer, writer = JSON(), Writer()
    with pytest.raises(ValueError, match="it has NaN"):
        writer.write(registry_with(renderer), NAN)
    assert renderer(None)(NAN, {}) == "NaN"


def test_without_an_application_it_is_pyramids_own():
    writer = Writer()
    assert writer.write(None, {"a": 1}) == '{"a": 1}'
    assert writer.write(None, [None]) == "[null]"
    with pytest.raises(ValueError, match="it has Infinity"):
        writer.write(None, INFINITY)
