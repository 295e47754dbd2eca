import json
from base64 import b64decode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stargate.message.envelope import SUBPROTOCOL, envelope, missed, recovered

ID = "0123456789ab-42-ba9876543210"


def test_the_subprotocol_has_this_name():
    assert SUBPROTOCOL == "stargate.v1"


def test_a_text_is_a_string_with_its_id():
    assert envelope("ü\n".encode(), ID) == f'{{"id":"{ID}","data":"ü\\n"}}'.encode()


@pytest.mark.parametrize("id", [None, ""])
def test_where_nothing_is_kept_there_is_no_id(id):
    assert envelope(b"x", id) == b'{"data":"x"}'


def test_json_is_the_value_itself_as_it_was_written():
    assert envelope(b'{"a": 1.0}', ID, json=True) == (
        f'{{"id":"{ID}","data":{{"a": 1.0}}}}'.encode()
    )


def test_bytes_are_base64_and_say_so():
    assert envelope(b"\xff\x00", None, binary=True) == b'{"data":"/wA=","encoding":"base64"}'


@given(st.text())
def test_any_text_is_read_back(text):
    assert json.loads(envelope(text.encode(), ID)) == {"id": ID, "data": text}


@given(st.binary())
def test_any_bytes_are_read_back(payload):
    found = json.loads(envelope(payload, ID, binary=True))
    assert b64decode(found["data"], validate=True) == payload


def test_who_comes_back_is_told_whether_it_has_all_and_where_it_stands():
    assert json.loads(recovered(True, ID)) == {"recovered": True, "id": ID}
    assert json.loads(recovered(False, None)) == {"recovered": False}


def test_what_was_missed_is_a_number():
    assert missed(3) == '{"missed": 3}'


VECTORS = json.loads(
    (Path(__file__).parents[2] / "docs" / "topics" / "stargate-v1.json").read_text("utf-8")
)


def written(kind, sent, id):
    if kind == "recovered":
        return recovered(sent, id)
    if kind == "missed":
        return missed(sent)
    if kind == "binary":
        return envelope(bytes.fromhex(sent), id, binary=True)
    if kind == "json":
        return envelope(json.dumps(sent).encode(), id, json=True)
    return envelope(sent.encode(), id)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["about"] for vector in VECTORS])
def test_the_objects_are_those_of_the_specification(vector):
    found = json.loads(written(vector["kind"], vector["sent"], vector["id"]))
    assert found == vector["object"]
    assert list(found) == list(vector["object"])


def test_text_beyond_ascii_is_not_made_longer():
    assert "Grüße".encode() in envelope("Grüße".encode(), None)
