import pytest

from stargate.backplane.redis import scripts
from stargate.backplane.redis.scripts import Script, keys_of
from stargate_tests.redis_groups import key_slot


def test_a_script_is_known_by_its_hash(redis_server):
    script = Script("return 1")
    assert redis_server.ask("SCRIPT", "LOAD", script.text) == script.sha


@pytest.mark.parametrize("name", ["PUBLISH", "TOUCH", "READ"])
def test_ours_are_scripts(redis_server, name):
    script = getattr(scripts, name)
    assert redis_server.ask("SCRIPT", "LOAD", script.text) == script.sha


@pytest.mark.parametrize("address", ["/", "/a%7Bb", "}{", "{x}", "/ü", "a}b}c", "}"])
def test_all_names_of_an_address_are_in_one_place_and_begin_alike(address):
    found = keys_of("shop", address)
    names = [*found, found.once("k")]
    assert len({key_slot(each.encode()) for each in names}) == 1
    assert all(each.startswith("stargate:{shop:") for each in names)


def test_no_two_addresses_have_one_name():
    addresses = ["/a", "/a/", "/A", "}", "{", "}}", "/a:once:x", "/a}:history"]
    names = [each for address in addresses for each in keys_of("shop", address)]
    assert len(set(names)) == len(names)


def test_namespaces_are_apart():
    assert not {*keys_of("shop", "/a")} & {*keys_of("shop2", "/a")}
