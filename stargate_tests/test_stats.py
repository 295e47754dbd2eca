from stargate.stats import Counters, count_refusal


def test_a_refusal_is_counted_for_its_cause():
    counters = Counters()
    counters.refuse("origin")
    counters.refuse("origin")
    counters.refuse("version")
    assert counters.refusals == {"origin": 2, "version": 1}


def test_refusals_of_a_server_are_counted_in_the_same_way():
    refusals = {}
    count_refusal(refusals, "descriptors")
    assert refusals == {"descriptors": 1}
