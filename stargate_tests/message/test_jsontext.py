import pytest

from stargate.message.jsontext import checked, read


@pytest.mark.parametrize("text", ['"NaN"', '{"NaN": 1}', '["-Infinity", 1e999]', '"\\ud800"', "x"])
def test_what_a_browser_reads_is_as_it_was_and_nothing_else_is_looked_at(text):
    assert checked(text) == checked(text.encode()) == text


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": [-Infinity]}', '["NaN", NaN]'])
def test_what_python_alone_reads_is_refused(text):
    for refuse in (checked, read):
        with pytest.raises(ValueError, match="it has -?(NaN|Infinity), which is no JSON"):
            refuse(text)


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(ValueError, match="utf-8"):
        checked(b'"\xff"')
