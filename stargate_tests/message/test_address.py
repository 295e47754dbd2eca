import string
from contextlib import suppress
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyramid.exceptions import URLDecodeError
from pyramid.traversal import PATH_SEGMENT_SAFE, resource_path, traverse

from stargate.exceptions import BadAddress
from stargate.message.address import MAX_ADDRESS, SAFE, check_address, fault_of
from stargate.settings.server import table

[REQUEST_LINE] = [each for each in table() if each.name == "max_request_line"]


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
    assert check_address("acme:" + address)
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


@pytest.mark.parametrize("address", ["/", "/jobs", "/a/b/c", "/a%20b", "/..", "/@@x"])
def test_a_path_that_pyramid_writes_is_let_through(address):
    assert check_address(address) == address


@pytest.mark.parametrize("scope", ["acme", "one.example", "A-1_b.c", "7", "x" * 64])
@pytest.mark.parametrize("path", ["/", "/jobs/1", "/a%20b", "/b:/c"])
def test_a_path_may_have_a_scope_before_it(scope, path):
    assert check_address(f"{scope}:{path}") == f"{scope}:{path}"


@pytest.mark.parametrize("code", range(128))
def test_each_byte_is_quoted_in_one_way(code):
    right = resource_path(place(bytes([code])))
    for written in {f"/%{code:02X}", f"/%{code:02x}", "/" + chr(code)} - {"//"}:
        assert (fault_of(written) == "") == (written == right), written


@pytest.mark.parametrize("letter", ["\x80", "ü", "\u07ff", "\u0800", "\uffff", "\U0010ffff"])
def test_each_character_is_quoted_in_one_way(letter):
    right = resource_path(place(letter))
    assert fault_of(right) == ""
    assert fault_of(right.lower()) == (f"it must be {right!r}" if right != right.lower() else "")


@pytest.mark.parametrize(
    "path", ["%FF", "%80", "%C3", "%C3/%BC", "%ED%A0%80", "a%C3b", "%F5%80%80%80"]
)
def test_quoted_bytes_that_are_no_text_are_refused(path):
    """Pyramid writes no such path, and answers no such URL."""
    with pytest.raises(URLDecodeError):
        traverse(Place(), f"/{path}")
    for address in (f"/{path}", f"acme:/{path}"):
        assert fault_of(address) == "it has a character that is no text"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("", "it begins with neither a slash nor a scope"),
        ("jobs/demo", "'/jobs/demo' is one"),
        ("one.example/", "'/one.example' is one"),
        ("with spaces", "'/with%20spaces' is one"),
        ("jobs", "'/jobs' is one"),
        ("ünï 🛰", "'/%C3%BCn%C3%AF%20%F0%9F%9B%B0' is one"),
        ("user:5", "it begins with neither a slash nor a scope"),
        ("acme:jobs/1", "it begins with neither a slash nor a scope"),
        (":/jobs", "'' is no scope: 1 to 64 letters, digits and '.', '_', '-'"),
        ("x" * 65 + ":/jobs", f"'{'x' * 65}' is no scope: 1 to 64"),
        ("ümlaut:/jobs", "'ümlaut' is no scope: 1 to 64"),
        ("http://example.com/jobs", None),
        ("a b:/jobs", "'a b' is no scope"),
        ("one.example:6543:/jobs", "'one.example:6543' is no scope"),
        ("[::1]:/jobs", "'[::1]' is no scope"),
        ("acme:/jobs/", "it must be 'acme:/jobs'"),
        ("acme://jobs", "it must be 'acme:/jobs'"),
        ("acme:/ü", "it must be 'acme:/%C3%BC'"),
        ("acme:/a\n", "it must be 'acme:/a%0A'"),
    ],
)
def test_what_is_neither_a_path_nor_one_with_a_scope_is_refused(address, why):
    with pytest.raises(BadAddress) as caught:
        check_address(address)
    assert (why or "it must be 'http:/example.com/jobs'") in str(caught.value)
    if address:
        assert fault_of(address) in str(caught.value)
    assert caught.value.address == address


@pytest.mark.parametrize("address", ["a\ud800", "/a\ud800", "/\udcff", "acme:/\udcff", "\ud800:/a"])
def test_what_is_no_text_is_refused(address):
    with pytest.raises(BadAddress, match="it has a character that is no text"):
        check_address(address)


def test_whoever_says_neither_is_told_both_forms():
    with pytest.raises(BadAddress) as caught:
        check_address("jobs/demo")
    assert str(caught.value) == (
        "'jobs/demo' is the address of no resource: it must be a path as in '/jobs/1', or one with "
        "a scope before it as in 'acme:/jobs/1'; '/jobs/demo' is one"
    )


@pytest.mark.parametrize("scope", ["", "acme:", "x" * 64 + ":"])
def test_an_address_may_be_as_long_as_a_request_line_and_not_one_byte_more(scope):
    longest = f"{scope}/" + "x" * (MAX_ADDRESS - 1 - len(scope))
    assert MAX_ADDRESS == REQUEST_LINE.default == len(longest)
    assert check_address(longest) == longest
    with pytest.raises(BadAddress, match="it has 8193 bytes, more than 8192") as caught:
        check_address(longest + "x")
    assert len(str(caught.value)) < 250
    assert caught.value.address == longest + "x"


@pytest.mark.parametrize("address", ["/" + "ü" * 8000, "jobs" * 2000, "/" + "\ud800" * 9000])
def test_what_is_long_and_wrong_is_said_shortly(address):
    with pytest.raises(BadAddress) as caught:
        check_address(address)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("end", ["//", "\n", "%", "%4", "%41", " "])
def test_what_is_wrong_at_its_end_is_found_in_one_go(end):
    """Nothing is gone back over: it would take years."""
    for beginning in ("x" * 4000, "%20" * 1300, "/x" * 2000, "x%20" * 1000):
        assert fault_of("/" + beginning + end)


@given(st.text(st.characters()))
def test_whatever_is_given_is_let_through_or_is_a_bad_address(address):
    with suppress(BadAddress):
        assert check_address(address) == address
