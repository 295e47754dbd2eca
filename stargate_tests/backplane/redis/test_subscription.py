import pytest

from stargate.backplane.packet import NOBODY, TEXT, Packet
from stargate.backplane.redis import subscription as module
from stargate.backplane.redis.feed import HELD_COST
from stargate.backplane.redis.subscription import Subscription, offset_of


def packet(id="", payload=b"x"):
    return Packet(TEXT, id, 0, NOBODY, "k", payload)


@pytest.mark.parametrize("id, offset", [("0123456789ab-17-0123456789ab", 17), ("", 0)])
def test_a_message_that_is_kept_has_an_offset(id, offset):
    assert offset_of(packet(id)) == offset


def test_what_was_given_out_while_somebody_joins_is_remembered_up_to_a_size(monkeypatch):
    monkeypatch.setattr(module, "HELD_BYTES", 3 * (HELD_COST + 1))
    found = Subscription("/a", b"a")
    packets = [packet(f"0123456789ab-{number}-0123456789ab") for number in range(5)]
    for each in packets:
        found.remember(each)
    assert list(found.recent) == packets[2:]
    found.forget()
    assert not found.recent
    for each in packets[:3]:
        found.remember(each)
    assert list(found.recent) == packets[:3]
