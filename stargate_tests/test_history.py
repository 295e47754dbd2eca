import pytest
from hypothesis import given
from hypothesis import strategies as st

from stargate.history import DEFAULT_TTL, NO_TAG, NOT_KEPT, History, Keep, Kept, MessageId
from stargate.history import random_part as part

ID = MessageId("0123456789ab", 42, "ba9876543210")

hexadecimal = st.text("0123456789abcdef", min_size=12, max_size=12)


@given(hexadecimal, st.integers(0, 10**15), hexadecimal)
def test_an_id_as_text_is_read_back(epoch, offset, tag):
    assert MessageId.parse(str(MessageId(epoch, offset, tag))) == MessageId(epoch, offset, tag)


def test_an_id_is_written_in_three_parts():
    assert str(ID) == "0123456789ab-42-ba9876543210"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "last",
        "0123456789ab-42",
        "0123456789ab-42-ba987654321",
        "0123456789ab-42-ba98765432100",
        "0123456789AB-42-ba9876543210",
        "0123456789ab--1-ba9876543210",
        "0123456789ab-042-ba9876543210",
        "0123456789ab-+1-ba9876543210",
        "0123456789ab-٣-ba9876543210",
        "0123456789ab-12345678901234567-ba9876543210",
        " 0123456789ab-42-ba9876543210",
        "0123456789ab-42-ba9876543210\n",
        "\ud800",
        b"0123456789ab-42-ba9876543210",
        42,
        None,
    ],
)
def test_what_is_no_id_is_none(text):
    assert MessageId.parse(text) is None


@given(st.text() | st.binary() | st.none() | st.integers())
def test_whatever_a_browser_sends_is_an_id_or_none(text):
    found = MessageId.parse(text)
    assert found is None or str(found) == text


def test_the_place_before_the_first_message_is_an_id_as_well():
    start = MessageId("0123456789ab", 0, NO_TAG)
    assert MessageId.parse(str(start)) == start


def test_a_random_part_is_a_part_of_an_id_and_never_the_same():
    parts = {part() for _ in range(100)}
    assert len(parts) == 100
    assert all(MessageId.parse(f"{each}-1-{each}") for each in parts)


def test_messages_are_kept_for_a_day_where_nothing_is_said():
    assert Keep(5).ttl == DEFAULT_TTL == 24 * 60 * 60
    assert NOT_KEPT.size == 0


def test_a_history_is_a_list_that_says_whether_it_is_all_and_where_it_stands():
    kept = Kept(str(ID), "x", 0.0)
    found = History([kept], complete=False, position="here")
    assert (found, found.complete, found.position) == ([kept], False, "here")
    assert (History(), History().complete, History().position) == ([], True, None)
