import pytest

from stargate import NoAddress, WebSocketAwareContext
from stargate.application.tree import (
    LONGEST_KEPT,
    MOST_KEPT,
    Identity,
    address_of,
    keep_of,
    known_policy,
    location,
    policy_of,
)
from stargate.history import DEFAULT_TTL, NOT_KEPT, Keep
from stargate.message.address import MAX_ADDRESS, check_address, fault_of
from stargate.websocket.outbox import CLOSE, DROP_OLDEST, LATEST


class Node(WebSocketAwareContext):
    def __init__(self, name="", parent=None):
        self.__name__, self.__parent__ = name, parent


class Plain:
    """A resource that knows nothing of stargate."""

    def __init__(self, name="", parent=None):
        self.__name__, self.__parent__ = name, parent


def test_the_address_is_the_path_in_the_tree():
    root = Node()
    jobs = Node("jobs", root)
    assert [address_of(node) for node in (root, jobs, Node("a b/c", jobs))] == [
        "/", "/jobs", "/jobs/a%20b%2Fc",
    ]  # fmt: skip


def test_a_resource_that_knows_nothing_of_stargate_has_one_too():
    assert address_of(Plain("a", Plain())) == "/a"


def test_a_root_may_have_no_parent_attribute_at_all():
    class Root:
        __name__ = ""

    assert address_of(Root()) == "/"


@pytest.mark.parametrize(
    ("resource", "lack"),
    [
        (Node(None), "it has no __name__"),
        (Plain(None, Plain()), "it has no __name__"),
        (object(), "it has no __name__"),
        (Node("lonely"), "it has the __name__ 'lonely' but no __parent__"),
    ],
)
def test_a_resource_with_no_place_of_its_own_is_refused_with_the_hooks_name(resource, lack):
    with pytest.raises(NoAddress, match="stargate_address") as caught:
        address_of(resource)
    assert lack in str(caught.value)


class Own(Node):
    def __init__(self, address):
        super().__init__()
        self.address = address

    def stargate_address(self):
        return self.address


@pytest.mark.parametrize("address", [None, 1, b"/a", Plain()])
def test_an_address_that_is_no_string_is_refused(address):
    with pytest.raises(NoAddress, match=r"stargate_address\(\) returned .*, not a string"):
        address_of(Own(address))


@pytest.mark.parametrize(
    "address",
    ["", "jobs/1", "/jobs/", "/a b", "one.example/jobs", "a b:/jobs", "/\udcff", "/" + "x" * 8192],
)
def test_an_address_of_its_own_that_is_none_is_refused_and_says_why(address):
    with pytest.raises(NoAddress) as caught:
        address_of(Own(address))
    assert "its stargate_address() returned '" in str(caught.value)
    assert fault_of(address) in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("address", ["/", "/jobs/1", "acme:/", "acme:/jobs/a%20b"])
def test_an_address_of_its_own_is_a_path_or_one_with_a_scope(address):
    assert address_of(Own(address)) == address


def test_what_overrides_the_default_is_checked_though_it_calls_it():
    class Tenant(Node):
        def stargate_address(self):
            return f"not a scope:{super().stargate_address()}"

    with pytest.raises(NoAddress, match="'not a scope' is no scope"):
        address_of(Tenant())


@pytest.mark.parametrize("kind", [Node, Plain])
def test_a_path_may_be_as_long_as_a_string_and_not_one_byte_more(kind):
    longest = kind("x" * (MAX_ADDRESS - 1), kind())
    assert address_of(longest) == check_address(address_of(longest))
    quoted = kind("ü" * 1365, kind())  # Six bytes each, and the slash.
    assert len(address_of(quoted)) == 8191
    for above in (kind("x" * MAX_ADDRESS, kind()), kind("ü" * 1366, kind()), kind("x", longest)):
        with pytest.raises(NoAddress, match="bytes, more than 8192"):
            address_of(above)


class Place:
    def __init__(self, name, parent=None):
        self.__name__, self.__parent__ = name, parent


@pytest.mark.parametrize(
    ("resource", "lack"),
    [
        (Place("chat", Place(None)), "Place, above it, has no __name__"),
        (Place("chat", Place(None, Place(""))), "Place, above it, has no __name__"),
        (Place("", Place("")), "it has the __name__ '', which is the root's"),
        (Place(0, Place("")), "it has the __name__ 0, which is the root's"),
        (Place("m", Place("", Place(""))), "above it, has the __name__ ''"),
        (Place("m", Place("top")), "above it, has the __name__ 'top' but no __parent__"),
    ],
)
def test_a_node_without_a_name_lends_its_children_to_no_other(resource, lack):
    with pytest.raises(NoAddress) as caught:
        location(resource)
    assert lack in str(caught.value)


# How much is kept.


class Job(Node):
    history_size = 5


def kept(**attributes):
    return type("Kept", (), attributes)()


def test_nothing_is_kept_of_a_resource_that_says_nothing():
    assert keep_of(Node()) is NOT_KEPT


def test_of_an_address_alone_it_is_not_known_nor_of_an_object_that_has_no_word_for_it():
    assert keep_of("/jobs/1") is None
    assert keep_of(object()) is None


def test_a_resource_says_how_many_and_how_long():
    assert keep_of(Job()) == Keep(5, DEFAULT_TTL)
    assert keep_of(kept(history_size=MOST_KEPT, history_ttl=60)) == Keep(MOST_KEPT, 60.0)
    assert keep_of(kept(history_size=1, history_ttl=LONGEST_KEPT)) == Keep(1, LONGEST_KEPT)
    assert keep_of(kept(history_size=1, history_ttl=None)) == Keep(1, DEFAULT_TTL)


@pytest.mark.parametrize("size", [0, None, False])
def test_a_size_of_nothing_keeps_nothing(size):
    assert keep_of(kept(history_size=size)) is NOT_KEPT


@pytest.mark.parametrize("size", [-1, 1.5, "5", MOST_KEPT + 1])
def test_a_size_that_is_none_is_a_value_error(size):
    with pytest.raises(ValueError) as caught:
        keep_of(kept(history_size=size))
    assert str(caught.value) == (
        f"history_size = {size!r}: it must be a whole number up to {MOST_KEPT}"
    )


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), "60", LONGEST_KEPT + 1])
def test_a_time_that_is_none_is_a_value_error(ttl):
    with pytest.raises(ValueError) as caught:
        keep_of(kept(history_size=5, history_ttl=ttl))
    assert str(caught.value) == f"history_ttl = {ttl!r}: it must be seconds, at most {LONGEST_KEPT}"


# Slow listeners.


@pytest.mark.parametrize("policy", [CLOSE, DROP_OLDEST, LATEST])
def test_a_policy_is_the_very_object_that_others_compare_with(policy):
    assert known_policy("when_slow", "".join(policy)) is policy
    assert policy_of(kept(stargate_when_slow=str(policy))) is policy


def test_a_resource_may_have_no_policy():
    assert policy_of(Node()) is policy_of("/jobs/1") is None


def test_a_policy_that_is_none_is_a_value_error():
    with pytest.raises(ValueError, match="when_slow = 'drop': it must be one of close, "):
        known_policy("when_slow", "drop")
    with pytest.raises(ValueError, match="stargate_when_slow = 'drop'"):
        policy_of(kept(stargate_when_slow="drop"))


# Objects as addresses.


def test_an_identity_is_that_of_one_object():
    first, second = [], []
    assert Identity(first) == Identity(first)
    assert hash(Identity(first)) == hash(Identity(first))
    assert Identity(first) != Identity(second)
    assert Identity(first) != first
