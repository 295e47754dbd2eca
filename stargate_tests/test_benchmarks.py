"""The benchmarks: their arithmetic, what fails a run, and one tiny run of the real thing."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from benchmarks import compare, growth, run, selftest, soak
from benchmarks.build import Programs, build, missing
from benchmarks.catalogue import CATALOGUE
from benchmarks.compare import Figure, better, worse
from benchmarks.measure import Broken, Faulty, Load, Server, faults, raise_descriptors, tree
from benchmarks.measurements import Bench, Effort, Measurement, phases, slow_figures
from benchmarks.rounds import Outcome, Spread, interleave, schedule, spread
from benchmarks.tables import number, table

# Rounds and ratios.


def test_the_reference_runs_between_the_two_that_it_is_compared_with():
    assert schedule(["a", "b", "c"], "r", 0) == [["a", "r", "b"], ["c", "r"]]


def test_every_other_round_is_the_reverse():
    assert schedule(["a", "b", "c"], "r", 1) == [["r", "c"], ["b", "r", "a"]]


def test_without_a_reference_the_names_run_in_turn():
    assert schedule(["a", "b", "c"], None, 0) == [["a", "b"], ["c"]]


def test_the_reference_itself_is_no_name_beside_it():
    assert schedule(["r", "a"], "r", 0) == [["a", "r"]]


def runs(**values):
    """A run of dummies: each call for a name takes its next value."""
    left = {name: list(of) for name, of in values.items()}
    return lambda name: {"cost": left[name].pop(0)}


def test_a_ratio_is_of_a_pair_and_not_of_two_medians():
    outcome = interleave(runs(a=[2.0, 9.0, 3.0], r=[1.0, 3.0, 2.0]), ["a"], "r", 3)
    assert outcome.ratios["a"]["cost"] == [2.0, 3.0, 1.5]
    assert outcome.ratio("a", "cost") == Spread(2.0, 1.5, 3.0, 3)
    assert outcome.value("a", "cost").median == 3.0
    assert outcome.value("r", "cost") == Spread(2.0, 1.0, 3.0, 3)


def test_each_group_is_divided_by_the_reference_of_its_own():
    outcome = interleave(runs(a=[2.0], b=[2.0], c=[6.0], r=[1.0, 2.0]), ["a", "b", "c"], "r", 1)
    assert outcome.ratios == {"a": {"cost": [2.0]}, "b": {"cost": [2.0]}, "c": {"cost": [3.0]}}


def test_without_a_reference_there_are_values_and_no_ratios():
    outcome = interleave(runs(a=[2.0, 3.0]), ["a"], None, 2)
    assert (outcome.values, outcome.ratios) == ({"a": {"cost": [2.0, 3.0]}}, {})


def test_the_spread_of_values_is_their_median_and_their_ends():
    assert spread([3.0, 1.0, 2.0, 10.0]) == Spread(2.5, 1.0, 10.0, 4)


def losing(name):
    if name == "a":
        raise Faulty("a", "64 B", {"lost": 3})
    return {"cost": 1.0}


def test_a_run_that_lost_a_message_gives_no_figure_and_the_others_go_on():
    told = []
    outcome = interleave(losing, ["a", "b"], "r", 1, told.append)
    assert outcome.values == {"b": {"cost": [1.0]}, "r": {"cost": [1.0]}}
    assert outcome.failures == ["a, 64 B: lost = 3"]
    assert told == ["FAILED: a, 64 B: lost = 3"]


@pytest.mark.parametrize(
    "name",
    ["lost", "dup", "reordered", "badlen", "badbody", "stale", "failed", "proto_errors", "closed"],
)
def test_a_count_that_is_not_zero_is_a_fault(name):
    assert faults({"delivered": 10, name: 1}) == {name: 1}


def test_a_phase_that_was_given_up_is_a_fault():
    assert faults({"delivered": 10, "stalled": True}) == {"stalled": 1}


def test_a_phase_in_which_all_was_delivered_has_none():
    counts = dict.fromkeys(("lost", "dup", "closed"), 0)
    assert faults({"delivered": 10, "stalled": False, "slow_closed": 5, **counts}) == {}


LOSES_ONE = """#!/bin/sh
echo '{"event": "ready"}'
read line
echo '{"event": "result", "mode": "fanout", "tag": "64 B", "delivered": 9, "lost": 1,"error":"why"}'
"""


@pytest.fixture
def lossy(tmp_path):
    """A server with a load generator that says that one message of ten was lost."""
    script = tmp_path / "load"
    script.write_text(LOSES_ONE)
    script.chmod(0o755)
    programs = Programs(load=script, floor=script)
    return SimpleNamespace(
        subject=CATALOGUE["stargate"], programs=programs, port=1, results=[], pids=lambda: []
    )


def test_a_phase_that_lost_a_message_raises(lossy):
    with Load(lossy, "fanout") as load:
        with pytest.raises(Faulty, match=r"stargate, 64 B: lost = 1 \(why\)"):
            load.phase()


def test_a_phase_that_lost_a_message_passes_where_that_is_what_is_measured(lossy):
    with Load(lossy, "fanout") as load:
        assert load.phase(tolerant=True)["lost"] == 1


# make bench.


def measurement(measure):
    return Measurement("echo", "Echo", "us", ("stargate",), "floor", measure)


@pytest.fixture
def dry(monkeypatch, tmp_path):
    """``dry(measure, *arguments)``: ``make bench`` with one measurement, which starts nothing."""
    monkeypatch.setattr(run, "build", lambda: None)
    monkeypatch.setattr(run, "raise_descriptors", lambda wanted: None)

    def main(measure, *arguments):
        monkeypatch.setattr(run, "plan", lambda *_given: [measurement(measure)])
        results = tmp_path / "results.json"
        code = run.main([*arguments, "--results", str(results)])
        return code, json.loads(results.read_text()) if results.exists() else None

    return main


def test_a_run_writes_its_table_and_its_results(dry, capsys):
    code, results = dry(runs(stargate=[3.0, 3.3, 3.0], floor=[2.0, 2.0, 2.0]), "--rounds", "3")
    assert code == 0
    assert "3  1.50x [1.50-1.65]" in capsys.readouterr().out
    assert results["measurements"]["echo"]["ratios"] == {"stargate": {"cost": [1.5, 1.65, 1.5]}}
    assert results["effort"]["rounds"] == 3
    assert results["machine"]["kernel"]


def test_a_lost_message_fails_the_run_and_is_told(dry, capsys):
    def lose(name):
        raise Faulty(name, "64 B", {"lost": 3, "dup": 1})

    code, results = dry(lose, "--rounds", "1")
    assert code == 1
    assert "FAILED: stargate, 64 B: lost = 3, dup = 1" in capsys.readouterr().err
    assert results["measurements"]["echo"]["failures"][0].startswith("stargate, 64 B: lost = 3")


def test_a_name_that_there_is_not_is_told_before_anything_is_measured(dry, capsys):
    assert dry(None, "--only", "ecko") == (2, None)
    assert dry(None, "--servers", "stargete") == (2, None)
    told = capsys.readouterr().err
    assert "there is no measurement ecko" in told
    assert "there is no server stargete" in told


def test_a_server_that_is_not_installed_is_told_before_anything_is_measured(
    dry, capsys, monkeypatch
):
    lame = replace(CATALOGUE["stargate"], needs=("no_such_module",))
    monkeypatch.setitem(CATALOGUE, "stargate", lame)
    assert dry(None) == (2, None)
    assert "stargate lacks no_such_module" in capsys.readouterr().err


def planned():
    return run.plan(Bench(None, Effort()))


def test_only_takes_a_whole_name_or_all_that_begin_so():
    names = [each.name for each in run.chosen(planned(), ["fanout", "growth-stalled"], [])]
    assert names == ["fanout-1000", "fanout-10000", "growth-stalled"]


def test_servers_chooses_among_servers_and_leaves_other_names_alone():
    found = {each.name: each for each in run.chosen(planned(), [], ["floor", "stargate"])}
    assert found["fanout-1000"].names == ("stargate",)
    assert found["memory"].names == ("floor", "stargate")
    assert "100 excluded" in found["shapes"].names


def test_every_name_of_a_measurement_is_in_the_catalogue():
    for each in planned():
        if each.servers:
            assert {*each.names, *([each.reference] if each.reference else [])} <= set(CATALOGUE)


def test_a_table_has_a_row_a_name_and_a_dash_where_there_is_nothing():
    outcome = Outcome(
        values={"floor": {"64 B": [2.0]}, "stargate": {"64 B": [2.5], "16 KiB": [1234.5]}},
        ratios={"stargate": {"64 B": [1.25]}},
    )
    title, head, _line, floor, ours = table(measurement(None), outcome).splitlines()
    assert title == "Echo"
    assert [cell.strip() for cell in head.split("|")] == ["(us)", "64 B", "16 KiB"]
    assert [cell.strip() for cell in floor.split("|")] == ["the floor (C)", "2", "-"]
    assert [cell.strip() for cell in ours.split("|")] == ["stargate", "2.50  1.25x", "1,234"]


def test_a_number_has_three_figures_that_count():
    assert [number(value) for value in (0.123, 1.5, 12.34, 123.4, 5)] == [
        *("0.12", "1.50", "12.3", "123", "5")
    ]


def test_slow_listeners_are_told_of_in_milliseconds():
    result = {
        **{"delivered": 90, "expected": 100, "slow_closed": 5, "slow_first_close_s": 6.5},
        **{"lat_us": {"p50": 700.0, "p99": 1200.0, "max": 2000.0}, "gap_us": {"max": 40000.0}},
        "rss_growth": 3_000_000,
        "slow_close_codes": {"1006": 1, "1013": 4},
    }
    assert list(slow_figures(result).values()) == [90, 0.7, 1.2, 2, 40, 3, 5, 6.5, 1013]


# A straight line.


def test_the_end_is_compared_with_the_middle():
    assert growth.by_end({10: 9.0, 1_000: 2.0, 16_000: 3.0}) == 1.5


def test_a_line_may_rise():
    assert growth.by_line({1: 2.0, 100: 2.0 + 99 * 0.5, 10_000: 2.0 + 9_999 * 0.5}) == 1.0
    assert growth.by_line({1: 1.0, 6: 9.0, 11: 2.0, 101: 22.0}) == 2.0


def grown(*costs, floor=()):
    points = dict(zip(("10", "1,000", "16,000"), ([cost] for cost in costs), strict=True))
    beside = dict(zip(points, ([cost] for cost in floor), strict=False))
    outcome = Outcome(values={"stargate": points, "floor": beside})
    kind = replace(measurement(None), name="growth-listeners")
    return growth.verdict(kind, outcome)


def test_a_cost_that_stays_is_on_a_straight_line():
    assert grown(9.0, 2.0, 2.1) == (
        "at 16,000 it is 1.05 times the cost at 1,000: a straight line or better"
    )


def test_a_cost_that_rises_is_not():
    assert grown(9.0, 2.0, 3.0).endswith("1.50 times the cost at 1,000: worse than a straight line")


def test_resources_may_cost_as_much_more_as_their_sends_do():
    costs = {"1": [2.0], "1,000": [3.0], "10,000": [12.0]}
    kind = replace(measurement(None), name="growth-resources", reference=None)
    told = growth.verdict(kind, Outcome(values={"stargate": costs}))
    assert told == (
        "at 10,000 it is 1.00 times what the line through 1 and 1,000 leads to: "
        "a straight line or better"
    )


def test_what_the_floor_rises_by_is_not_held_against_it():
    told = grown(9.0, 2.0, 3.0, floor=(3.0, 1.0, 1.5))
    assert told.endswith("(the floor's 1.50 times): a straight line or better")


# make bench-check.


COMMITTED = {"echo 64 B": Figure(2.0, "x floor", 0.15), "memory": Figure(3.0, "KiB", 0.08)}


def found(**values):
    names = dict(zip(("echo", "memory"), COMMITTED, strict=True))
    return {
        names[name]: replace(COMMITTED[names[name]], value=value) for name, value in values.items()
    }


def test_a_ratio_that_is_worse_by_noise_passes():
    assert worse(COMMITTED, found(echo=2.29, memory=3.2)) == []


def test_a_ratio_that_is_worse_by_more_fails_with_both_numbers():
    (sentence,) = worse(COMMITTED, found(echo=2.4, memory=3.0))
    assert sentence == (
        "echo 64 B is 2.4 x floor, 20% worse than the 2.0 that is committed; up to 15% is noise."
    )


def test_each_figure_has_a_tolerance_of_its_own():
    assert len(worse(COMMITTED, found(echo=2.2, memory=3.3))) == 1


def test_a_figure_that_was_not_measured_fails():
    (sentence,) = worse(COMMITTED, found(echo=2.0))
    assert sentence == "memory was not measured; 3.0 KiB is committed."


def test_what_is_better_by_more_than_noise_is_told():
    assert better(COMMITTED, found(echo=1.6, memory=2.9)) == ["echo 64 B"]


@pytest.fixture
def check(monkeypatch, tmp_path):
    """``check(cost, *arguments)``: ``make bench-check`` with one measurement, against 2.0."""
    file = tmp_path / "baseline.json"
    compare.write(file, {"echo cost": Figure(2.0, "x floor", 0.15)})
    monkeypatch.setattr(compare, "build", lambda: None)
    monkeypatch.setattr(compare, "raise_descriptors", lambda wanted: None)

    def main(measure, *arguments):
        monkeypatch.setattr(compare, "short_list", lambda bench: [measurement(measure)])
        code = compare.main([*arguments, "--rounds", "1", "--baseline", str(file)])
        return code, compare.read(file)["echo cost"]

    return main


def cost(ratio):
    return lambda name: {"cost": 1.0 if name == "floor" else ratio}


def test_the_check_passes_within_noise(check):
    assert check(cost(2.2))[0] == 0


def test_the_check_fails_beyond_it(check, capsys):
    assert check(cost(2.5))[0] == 1
    assert "FAILED: echo cost is 2.5 x floor, 25% worse" in capsys.readouterr().err


def test_the_check_fails_when_a_message_was_lost(check, capsys):
    def lose(name):
        raise Faulty(name, "cost", {"lost": 1})

    assert check(lose)[0] == 1
    assert "FAILED: stargate, cost: lost = 1" in capsys.readouterr().err


def test_update_writes_the_ratio_and_keeps_the_tolerance(check):
    kept = Figure(2.5, "x floor", 0.15)
    assert check(cost(2.5), "--update") == (0, kept)
    assert check(cost(2.5)) == (0, kept)


def test_nothing_is_written_when_a_message_was_lost(check):
    def lose(name):
        raise Faulty(name, "cost", {"lost": 1})

    assert check(lose, "--update") == (1, Figure(2.0, "x floor", 0.15))


def test_the_committed_baseline_has_all_that_is_checked():
    bench = Bench(None, compare.EFFORT)
    measured = {each.name for each in compare.short_list(bench)}
    assert {name.partition(" ")[0] for name in compare.read(compare.BASELINE)} == measured


# Descriptors.


def limits(monkeypatch, hard):
    """A process whose soft limit is 100; returns the list of what is set."""
    given = []
    dummy = SimpleNamespace(
        RLIMIT_NOFILE=7,
        RLIM_INFINITY=-1,
        getrlimit=lambda which: (100, hard),
        setrlimit=lambda which, both: given.append(both),
    )
    monkeypatch.setattr("benchmarks.measure.resource", dummy)
    return given


def test_the_soft_limit_of_descriptors_is_raised(monkeypatch):
    given = limits(monkeypatch, 20_000)
    raise_descriptors(16_500)
    assert given == [(16_500, 20_000)]


def test_a_hard_limit_that_is_too_low_is_told_with_what_to_do(monkeypatch):
    limits(monkeypatch, 1_024)
    with pytest.raises(Broken, match=r"16500 file descriptors .*ulimit -Hn 16500"):
        raise_descriptors(16_500)


# The real thing, on a real server.


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    why = missing()
    if why:
        pytest.skip(why)
    return build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def server(programs, tmp_path_factory):
    logs = tmp_path_factory.mktemp("logs")
    with Server(CATALOGUE["stargate"], programs, logs=logs) as server:
        yield server


def measured(server, mode, *options, phase="k=20,b=64,secs=60,tag=tiny"):
    with Load(server, mode, *options, "--timeout", 30, *phases(phase)) as load:
        return load.phase()


def test_programs_are_built_once(programs):
    before = programs.load.stat().st_mtime_ns
    assert build(programs.load.parent) == programs
    assert programs.load.stat().st_mtime_ns == before


def test_fan_out_is_delivered_and_accounted(server):
    result = measured(server, "fanout", "--n", 5)
    assert (result["broadcasts"], result["delivered"]) == (20, 100)
    assert 0 < result["cpu_us"] < 1e6
    assert result in server.results


def test_echo_is_delivered_and_accounted(server):
    result = measured(server, "echo", "--n", 5)
    assert result["delivered"] == 20
    assert 0 < result["cpu_us"] < 1e6


@pytest.mark.parametrize("pub", ["/pub-exclude", "/pub-mixed", "/pub-each"])
def test_every_way_to_send_reaches_every_listener_once(server, pub):
    assert measured(server, "fanout", "--n", 25, "--pub", pub)["delivered"] == 500


def test_resources_are_made_as_they_are_asked_for(server):
    options = ("--path", "/resources", "--paths", 5, "--pub", "/pub-all")
    assert measured(server, "fanout", "--n", 10, *options)["delivered"] == 200


@pytest.mark.parametrize("probe", [("--probe-ws", "/probe"), ("--probe-http", "/page")])
def test_probes_are_answered(server, probe):
    phase = "k=20,b=64,rate=50,secs=60,tag=tiny"
    options = ("--n", 5, *probe, "--probe-rate", 50)
    assert measured(server, "fanout", *options, phase=phase)["probe_us"]["n"] > 0


def test_the_floor_serves_the_same(programs, tmp_path):
    with Server(CATALOGUE["floor"], programs, logs=tmp_path) as floor:
        assert measured(floor, "fanout", "--n", 5)["delivered"] == 100
        assert tree(floor.process.pid) == [floor.process.pid]


def test_a_server_that_does_not_start_is_told_with_its_log(programs, tmp_path):
    lame = replace(CATALOGUE["stargate"], command=("sh", "-c", "echo no such thing >&2; exit 3"))
    with pytest.raises(Broken, match="no such thing"), Server(lame, programs, logs=tmp_path):
        raise AssertionError("it listens")


def test_the_load_counts_every_fault_that_is_planted(programs):
    """Or a table of figures would say nothing about what was delivered."""
    command = [sys.executable, selftest.__file__, programs.load, programs.floor]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout
    assert "all as it should be" in done.stdout


def test_a_load_that_cannot_connect_is_told(server):
    with pytest.raises(Broken, match="load on stargate: "):
        measured(server, "fanout", "--n", 1, "--path", "/nowhere")


# The soak.


def test_a_short_soak_ends_where_it_began():
    found = soak.soak(connects=300, at_once=40, warm=200, seed=7)
    assert not set(found.grown) - {"memory"}, soak.told(found)  # So few say nothing of memory.
    assert found.after["messages"] > found.before["messages"]
    assert "300 connects and leaves" in soak.told(found)


@pytest.mark.parametrize("name", [*soak.EXACT, "memory"])
def test_what_has_grown_is_named(name):
    before = dict.fromkeys((*soak.EXACT, "memory"), 10)
    more = 1 + (soak.MEMORY_TOLERANCE if name == "memory" else 0)
    assert soak.Soak(before, {**before, name: 10 + more}).grown == [name]
    assert soak.Soak(before, before).grown == []
