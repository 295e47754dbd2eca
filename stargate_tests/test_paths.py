import string
from contextlib import suppress
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyramid.traversal import PATH_SEGMENT_SAFE, resource_path

from stargate.exceptions import BadAddress
from stargate.paths import MAX_ADDRESS, SAFE, check_address


class Place:
    def __init__(self, name="", parent=None):
        self.__name__, self.__parent__ = name, parent


def place(*names):
    found = Place()
    for each in names:
        found = Place(each, found)
    return found


def test_what_is_safe_is_what_pyramid_says_is_safe():
    assert set(SAFE + "_.-" + string.ascii_letters + string.digits) == set(
        PATH_SEGMENT_SAFE + "_.-" + string.ascii_letters + string.digits
    )


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(st.lists(text, max_size=5))
def test_what_pyramid_writes_for_a_resource_is_right(names):
    address = resource_path(place(*names))
    assert check_address(address) == address


@pytest.mark.parametrize("letter", [chr(code) for code in range(128)], ids=repr)
def test_each_ascii_character_is_quoted_where_pyramid_does_it(letter):
    right = resource_path(place(f"a{letter}b", "c"))
    assert check_address(right) == right
    raw = f"/a{letter}b/c"
    if letter == "/":
        return  # Three segments, all of them right.
    if raw == right:
        assert check_address(raw) == raw
    elif letter != "%":
        with pytest.raises(BadAddress) as caught:
            check_address(raw)
        assert repr(right) in str(caught.value)


@given(text)
def test_what_is_right_is_what_pyramid_writes(path):
    """Whatever is let through is the address of some resource."""
    try:
        address = check_address("/" + path)
    except BadAddress:
        return
    names = [unquote_to_bytes(each) for each in address.split("/") if each]
    assert resource_path(place(*names)) == address


@pytest.mark.parametrize(
    ("address", "right"),
    [
        ("/jobs/", "/jobs"),
        ("//", "/"),
        ("//jobs", "/jobs"),
        ("/jobs//1", "/jobs/1"),
        ("/a b", "/a%20b"),
        ("/ü", "/%C3%BC"),
        ("/%c3%bc", "/%C3%BC"),
        ("/%41", "/A"),
        ("/100%", "/100%25"),
        ("/%2", "/%252"),
        ("/jobs?x=1", "/jobs%3Fx=1"),
        ("/jobs#1", "/jobs%231"),
        ("/🛰", "/%F0%9F%9B%B0"),
        ("/a\n", "/a%0A"),
    ],
)
def test_a_path_that_reaches_nobody_is_refused_and_the_right_one_named(address, right):
    with pytest.raises(BadAddress) as caught:
        check_address(address)
    assert str(caught.value).endswith(f"it must be {right!r}")
    assert check_address(right) == right


@pytest.mark.parametrize("address", ["/", "/jobs", "/a/b/c", "/a%20b", "/%FF", "/..", "/@@x"])
def test_a_path_that_pyramid_writes_is_let_through(address):
    assert check_address(address) == address


@pytest.mark.parametrize("address", ["tenant.example/jobs", "x", "with spaces", "ünï 🛰", "%"])
def test_an_address_of_the_applications_own_making_is_let_through(address):
    assert check_address(address) == address


@pytest.mark.parametrize("address", ["a\n", "a\x00", "a\ud800", "/a\ud800", "/\udcff"])
def test_what_is_no_text_is_refused(address):
    with pytest.raises(BadAddress, match="it has a character that is no text"):
        check_address(address)


def test_no_address_is_refused():
    with pytest.raises(BadAddress, match="it must be a path as in '/jobs/1'"):
        check_address("")


def test_an_address_may_have_2048_bytes_and_not_one_more():
    longest = "/" + "x" * (MAX_ADDRESS - 1)
    assert check_address(longest) == longest
    for address in (longest + "x", "ü" * 1024 + "x", "\ud800" * 1000):
        with pytest.raises(BadAddress, match="bytes, more than 2048") as caught:
            check_address(address)
        assert len(str(caught.value)) < 400


@given(st.text(st.characters()))
def test_whatever_is_given_is_let_through_or_is_a_bad_address(address):
    with suppress(BadAddress):
        assert check_address(address) == address
