import pytest


@pytest.fixture
def worker(here):
    """A worker with listeners at ``/a``."""
    here("zoe", "ann", "ann", 5, None, None, None)


def test_each_name_is_a_line_and_the_nameless_are_the_last(command, target, worker):
    assert command("presence", *target, "/a") == (0, "1 5\n2 ann\n1 zoe\n3 -\n", "")


def test_a_publisher_sees_the_same(publisher, worker):
    assert publisher.presence("/a") == {"ann": 2, "zoe": 1, 5: 1}
    assert publisher.listener_count("/a") == 7


def test_nobody_is_nothing(command, target):
    assert command("presence", *target, "/b") == (0, "", "")


def test_no_name_makes_another_line_or_passes_for_those_with_none(command, target, here):
    here("ann\n99 bob\r", "\x1b[2J\x9b", "-", "\u202eeve\ud800\0", None)
    code, out, err = command("presence", *target, "/a")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        r"1 \x1b[2J\x9b",
        r"1 \x2d",
        r"1 ann\n99 bob\r",
        r"1 \u202eeve\ud800\x00",
        "1 -",
    ]
