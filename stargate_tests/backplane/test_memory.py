from stargate.backplane.memory import MemoryBackplane


def test_what_is_published_is_delivered_at_once_and_in_order():
    delivered = []
    backplane = MemoryBackplane(lambda *args: delivered.append(args))
    backplane.publish("/a", "one", frozenset())
    backplane.publish("/b", "two", frozenset("x"))
    assert delivered == [("/a", "one", frozenset()), ("/b", "two", frozenset("x"))]
