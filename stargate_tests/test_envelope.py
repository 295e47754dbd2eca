import json
from pathlib import Path

import pytest

from stargate.envelope import envelope, missed, recovered

VECTORS = json.loads(
    (Path(__file__).parents[1] / "docs" / "topics" / "stargate-v1.json").read_text("utf-8")
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
