"""Why there is no connection; what each is for real is in test_docs_when_it_fails.py."""

import pytest

from stargate.scripts.targets import Misused
from stargate.scripts.unreachable import cause, checked


@pytest.mark.parametrize("url", ["ws://h", "wss://h:65535/a?b=c", "ws://u:p@[::1]:1/"])
def test_a_url_that_may_be_one_is_left_as_it_is(url):
    assert checked(url) == url


@pytest.mark.parametrize("url", ["http://h", "ws:///a", "ws://h:x", "ws://h:0", "h", "ws://[h/"])
def test_one_that_can_be_none_is_refused_and_no_password_shown(url):
    with pytest.raises(Misused, match="must begin with ws://") as found:
        checked(url.replace("://", "://u:sesame@"))
    assert "sesame" not in str(found.value)


def test_what_nobody_has_thought_of_is_told_in_the_words_of_the_system():
    assert cause(OSError(101, "Network is unreachable"), "ws://h", 1) == "Network is unreachable"
    assert cause(OSError("odd"), "ws://h", 1) == "odd"


def test_a_name_that_cannot_be_one_is_not_known():
    with pytest.raises(UnicodeError) as found:
        ("a" * 70 + ".example").encode("idna")
    assert (
        cause(found.value, "ws://aa.example", 1) == "nobody knows the host 'aa.example' of the URL"
    )
