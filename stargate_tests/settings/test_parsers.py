import pytest
from pyramid.settings import aslist, falsey, truthy

from stargate.settings.parsers import FALSE, TRUE, at_least, flag, one_of, seconds, words


def test_the_words_for_yes_and_no_are_those_of_pyramid():
    assert (set(TRUE), set(FALSE)) == (truthy, falsey)


@pytest.mark.parametrize("value", [True, "true", " Yes ", "1"])
def test_a_flag_that_is_set(value):
    assert flag(value) is True


@pytest.mark.parametrize("value", [False, "false", "OFF", "0"])
def test_a_flag_that_is_not(value):
    assert flag(value) is False


@pytest.mark.parametrize("value", ["", "perhaps", None])
def test_a_flag_is_never_guessed(value):
    with pytest.raises(ValueError, match="it must be true or false"):
        flag(value)


@pytest.mark.parametrize("value", ["", "a", "a b\n c\n", ["a", "b c"], ("a",), []])
def test_words_are_taken_apart_as_by_pyramid(value):
    assert list(words(value)) == aslist(value)


@pytest.mark.parametrize("value", [5, None, [5]])
def test_what_is_no_words(value):
    with pytest.raises(ValueError, match="white space"):
        words(value)


def test_a_number_has_its_bounds():
    parse = at_least(1, most=3)
    assert [parse("1"), parse(3)] == [1, 3]
    for value, why in (("0", "at least 1"), ("4", "at most 3"), ("x", "a whole number")):
        with pytest.raises(ValueError, match=why):
            parse(value)


def test_a_time_is_at_most_a_day():
    assert seconds(0)("0.5") == 0.5
    with pytest.raises(ValueError, match="at most 86400"):
        seconds(0)(86_401)


def test_one_of_a_few_words():
    assert one_of("a", "b")("b") == "b"
    with pytest.raises(ValueError, match="'a' or 'b'"):
        one_of("a", "b")("c")
