from resource import RLIM_INFINITY

import pytest
from pyramid.exceptions import ConfigurationError

from stargate.settings.application import (
    APPLICATION,
    Limits,
    Setting,
    at_least,
    flag,
    limits,
    one_of,
    read,
    read_application,
    spare_descriptors,
    without_password,
)
from stargate.settings.parsers import words

DEFAULTS = {
    "allowed_origins": (),
    "max_connections": spare_descriptors(),
    "max_connections_per_address": 0,
    "max_message_size": 1_048_576,
    "max_fragments": 16_384,
    "max_message_rate": 0,
    "compression": "off",
    "inbox_length": 64,
    "outbox_size": 4_194_304,
    "outbox_high_water": 262_144,
    "outbox_total": 268_435_456,
    "outbox_progress": 16_384,
    "outbox_progress_timeout": 10.0,
    "max_send_size": 1_048_576,
    "close_timeout": 5.0,
    "drain_period": 0.0,
    "ping_interval": 20.0,
    "ping_timeout": 20.0,
    "backplane": "memory",
    "namespace": "",
    "backplane_timeout": 2.0,
    "backplane_replicas": 0,
    "backplane_on_error": "raise",
    "memory_in_many_workers": False,
    "recover_limit": 16_777_216,
    "presence": True,
}


def test_the_defaults_are_these():
    assert read_application({}) == DEFAULTS


def test_every_setting_has_a_reason():
    assert all(setting.reason for setting in APPLICATION)
    assert len({setting.name for setting in APPLICATION}) == len(APPLICATION)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("allowed_origins", "https://a.com\n http://b.com", ("https://a.com", "http://b.com")),
        ("allowed_origins", ["https://a.com"], ("https://a.com",)),
        ("allowed_origins", "", ()),
        ("max_connections", "0", 0),
        ("max_connections", "5", 5),
        ("max_connections_per_address", "5", 5),
        ("max_message_size", "1", 1),
        ("max_message_size", 2048, 2048),
        ("max_message_rate", "0", 0),
        ("max_message_rate", "100", 100),
        ("compression", "deflate", "deflate"),
        ("compression", "off", "off"),
        ("inbox_length", " 8 ", 8),
        ("outbox_total", "1", 1),
        ("outbox_progress", "1", 1),
        ("outbox_progress_timeout", "0", 0.0),
        ("max_send_size", "5", 5),
        ("max_send_size", "4194304", 4_194_304),
        ("ping_interval", "0", 0.0),
        ("ping_timeout", "0.5", 0.5),
        ("outbox_high_water", "0", 0),
        ("close_timeout", "0", 0.0),
        ("close_timeout", "2.5", 2.5),
        ("backplane", "memory", "memory"),
    ],
)
def test_a_good_value_is_read(name, text, value):
    found = read_application({f"stargate.{name}": text})
    assert found == {**DEFAULTS, name: value}


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("max_connections", "-1", "at least 0"),
        ("max_connections_per_address", "many", "a whole number"),
        ("max_message_size", "0", "at least 1"),
        ("max_message_size", "1 MB", "a whole number"),
        ("max_message_size", "", "a whole number"),
        ("max_message_size", None, "a whole number"),
        ("max_message_rate", "-1", "at least 0"),
        ("max_message_rate", "0.5", "a whole number"),
        ("compression", "on", "'off' or 'deflate'"),
        ("compression", True, "'off' or 'deflate'"),
        ("inbox_length", "0", "at least 1"),
        ("inbox_length", "1.5", "a whole number"),
        ("outbox_size", "-1", "at least 1"),
        ("outbox_high_water", "-1", "at least 0"),
        ("close_timeout", "-0.1", "at least 0"),
        ("close_timeout", "soon", "a number"),
        ("close_timeout", "nan", "at least 0"),
        ("close_timeout", "inf", "at most 86400"),
        ("close_timeout", "1e10", "at most 86400"),
        ("backplane", "redis://", "'memory'"),
    ],
)
def test_a_bad_value_names_the_setting_the_value_and_why(name, text, why):
    with pytest.raises(ConfigurationError) as caught:
        read_application({f"stargate.{name}": text})
    assert str(caught.value).startswith(f"stargate.{name} = {text!r}: it must be ")
    assert why in str(caught.value)


def test_a_list_that_is_none_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match="stargate.allowed_origins = 5"):
        read_application({"stargate.allowed_origins": 5})


@pytest.mark.parametrize(
    ("soft", "most"), [(1024, 896), (20_000, 17_500), (1, 1), (RLIM_INFINITY, 0)]
)
def test_seven_eighths_of_the_descriptors_are_for_websockets(monkeypatch, soft, most):
    monkeypatch.setattr("stargate.settings.application.getrlimit", lambda _kind: (soft, soft))
    assert read_application({})["max_connections"] == most


def test_settings_of_others_are_left_alone():
    assert read_application({"pyramid.reload": "x", "stargatex.y": "z"}) == DEFAULTS


@pytest.mark.parametrize(("size", "most"), [("400", 100), ("1", 1), ("8388608", 2_097_152)])
def test_the_longest_send_is_a_quarter_of_the_outbox_where_nothing_else_is_said(size, most):
    found = read_application({"stargate.outbox_size": size})
    assert found["max_send_size"] == most


def test_a_send_longer_than_the_outbox_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match=r"max_send_size = 401.*outbox_size, 400"):
        read_application({"stargate.outbox_size": "400", "stargate.max_send_size": "401"})


def test_an_unknown_setting_is_a_configuration_error_with_a_hint():
    with pytest.raises(ConfigurationError) as caught:
        read_application({"stargate.outbox_sise": "1"})
    assert str(caught.value) == (
        "stargate.outbox_sise is no setting of stargate; did you mean stargate.outbox_size?"
    )


def test_an_unknown_setting_like_none_has_no_hint():
    with pytest.raises(ConfigurationError) as caught:
        read_application({"stargate.zzz": "1"})
    assert str(caught.value) == "stargate.zzz is no setting of stargate"


def test_the_limits_of_a_connection_are_a_part_of_the_settings():
    found = limits(read_application({"stargate.inbox_length": "3"}))
    assert found == Limits(inbox_length=3, max_connections=spare_descriptors())


def test_limits_have_the_defaults_of_the_table():
    assert limits(read_application({})) == Limits(max_connections=spare_descriptors())


def test_a_table_is_read_with_any_prefix_or_none():
    table = (Setting("size", 1, at_least(1), "", ""),)
    assert read(table, {"size": "2"}) == {"size": 2}
    with pytest.raises(ConfigurationError, match=r"^size = '0'"):
        read(table, {"size": "0"})


@pytest.mark.parametrize("value", ["true", "yes", "on", "1", True])
def test_a_flag_may_be_on(value):
    assert flag(value) is True


@pytest.mark.parametrize("value", ["false", "no", "off", "0", False])
def test_a_flag_may_be_off(value):
    assert flag(value) is False


@pytest.mark.parametrize("value", ["ture", "maybe", "2"])
def test_a_flag_that_is_neither_is_a_value_error(value):
    """Design, section 2: a bad setting is a ConfigurationError."""
    with pytest.raises(ValueError):
        flag(value)


def test_words_have_white_space_between_them():
    assert words(" a\tb\n c ") == ("a", "b", "c")


def test_one_of_a_few_words_is_taken_and_no_other():
    assert one_of("a", "b")("b") == "b"
    with pytest.raises(ValueError, match="it must be 'a' or 'b'"):
        one_of("a", "b")("c")


# The backplane.


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "rediss://:secret@redis.example:6380/1",
        "unix:///run/redis.sock",
        "redis+sentinel://one:26379,two:26379/main",
        "redis+cluster://one:6379",
        "rediss+cluster://one",
    ],
)
def test_a_backplane_is_the_url_of_a_redis(url):
    found = read_application({"stargate.backplane": f" {url}\n", "stargate.namespace": "shop"})
    assert (found["backplane"], found["namespace"]) == (url, "shop")


@pytest.mark.parametrize(
    "url", ["Memory", "", "localhost:6379", "redis", "redis:", "memory://x", "a b://c"]
)
def test_what_is_no_url_is_a_configuration_error(url):
    with pytest.raises(ConfigurationError, match="it must be 'memory' or a URL as in redis://"):
        read_application({"stargate.backplane": url})


def test_with_a_redis_a_namespace_is_required():
    with pytest.raises(ConfigurationError) as caught:
        read_application({"stargate.backplane": "redis://:secret@localhost"})
    assert str(caught.value) == (
        "stargate.namespace is not set: with redis:// it must be the name of this application "
        "there, as in stargate.namespace = shop"
    )


def test_without_a_redis_a_namespace_may_be_there_and_need_not():
    assert read_application({"stargate.namespace": "shop"})["namespace"] == "shop"


@pytest.mark.parametrize("name", ["a b", "x" * 65, "{shop}", "shop:1", "sh\u00f6p", "a\nb"])
def test_a_namespace_that_does_not_fit_into_a_key_is_a_configuration_error(name):
    with pytest.raises(ConfigurationError, match="it must be 1 to 64 letters, digits"):
        read_application({"stargate.namespace": name})


@pytest.mark.parametrize(
    "value",
    [
        "http://user:secret@host/",
        "amqp://:secret@host",
        "amqp://:sec/secret@host",
        "amqp://:secret@secret@host",
        "user:secret@host:6379",
        "redi://:secret\nsecret@host",
        "memory?password=secret&x=1",
        "x://host?PASSWORD=secret",
    ],
)
def test_a_password_in_a_bad_url_does_not_show(value):
    with pytest.raises(ConfigurationError) as caught:
        read_application({"stargate.backplane": value})
    assert "secret" not in str(caught.value)
    assert str(caught.value).startswith("stargate.backplane = '")


def test_what_has_no_password_shows_whole():
    assert without_password("amqp://host/1?x=2") == "amqp://host/1?x=2"
    assert without_password("amqp://u:p@host/1") == "amqp://***@host/1"
    assert without_password(5) == 5


def test_a_password_in_a_list_does_not_show():
    with pytest.raises(ConfigurationError) as caught:
        read_application({"stargate.allowed_origins": ["https://b", "https://me:secret@a"]})
    assert "secret" not in str(caught.value)
    assert without_password(("x://u:p@h", 5)) == ("x://***@h", 5)


def test_who_comes_back_may_be_sent_what_is_set():
    assert limits(read_application({"stargate.recover_limit": "5"})).recover_limit == 5
