"""What is measured on stargate for its own sake: shapes of fan-out, latency, compression.

How cost grows with listeners and resources is in ``growth.py``.
"""

from __future__ import annotations

from benchmarks.catalogue import FLOOR
from benchmarks.measure import Faulty, Load, Server, faults
from benchmarks.measurements import (
    NO_END,
    PEERS,
    Bench,
    Measurement,
    cost,
    medians,
    phases,
    size_name,
)
from benchmarks.rounds import Figures

#: Goes before a phase with listeners that do not read: 512 KiB each, so that nothing more fits into
#: the kernel's buffers, and far less than what closes them.
FILL = "k=16,b=32768,tag=fill"

#: Listeners that are excluded from every broadcast of the shape of that name.
EXCLUDED = 100

#: What is asked of a server that is at work on other things, so many times a second.
PROBES = 100


def shapes(bench: Bench) -> Measurement:
    """Fan-outs that are not plain, beside the plain one of the same round."""
    many = bench.effort.many
    phase = f"{NO_END},b=64,secs={bench.effort.secs * 2},tag=64 B"
    runs = {
        "plain": (),
        "1 % do not read": ("--slow", many // 100),
        "100 excluded": ("--pub", "/pub-exclude"),
        "1 in 10 by websocket.send": ("--pub", "/pub-mixed"),
        f"{many // 10:,} resources": (
            *("--path", "/resources", "--paths", many // 10, "--pub", "/pub-all"),
        ),
    }

    def run(shape: str) -> Figures:
        options = ("--n", many, "--conn-timeout", 180, *runs[shape])
        with bench.server("stargate") as server:
            if shape == "100 excluded":
                found = beside_excluded(bench, server, phase, *options)
            elif "--slow" in options:
                found = filled(bench, server, phase, *options)
            else:
                found = cost(bench, server, "fanout", [phase], *options)
            bench.keep(server, f"shapes, {shape}")
        return found

    title = (
        f"Shapes of fan-out to {many:,} listeners: CPU a delivered message, beside the plain one"
    )
    names = tuple(name for name in runs if name != "plain")
    return Measurement("shapes", title, "us", names, "plain", run, servers=False)


def filled(bench: Bench, server: Server, phase: str, *options: object) -> Figures:
    """The cost of a phase for those who read, while the buffers of those who do not are full."""
    repeat = bench.effort.repeat
    with Load(server, "fanout", *options, *phases(FILL, *[phase] * repeat)) as load:
        load.phase()
        return medians(load.phases(repeat))


def beside_excluded(bench: Bench, server: Server, phase: str, *options: object) -> Figures:
    """The cost of a phase, while others listen that are excluded and get nothing."""
    with Load(server, "idle", "--n", EXCLUDED, "--path", "/excluded") as excluded:
        excluded.ready()
        found = cost(bench, server, "fanout", [phase], *options)
        result = excluded.go()
    wrong = faults(result)  # Whatever one of them is sent counts as stale.
    if wrong:
        raise Faulty(server.subject.name, "100 excluded", wrong, result.get("error", ""))
    return found


def latency(bench: Bench) -> Measurement:
    """From a send to its last listener, when the server has time between two broadcasts."""
    many, secs = bench.effort.many, bench.effort.latency_secs

    def run(server_name: str) -> Figures:
        found: Figures = {}
        with bench.server(server_name) as server:
            for listeners, rate in ((1_000, 20), (many, 2)):
                if listeners > 1_000 and server.subject.heavy:
                    continue  # It would be further behind with every broadcast.
                phase = f"{NO_END},b=64,rate={rate},secs={secs},tag=last"
                options = ("--n", listeners, "--conn-timeout", 180)
                with Load(server, "fanout", *options, *phases(phase)) as load:
                    last = load.phase()["last_us"]
                for part in ("p50", "p99"):
                    found[f"{listeners:,} {part}"] = last[part] / 1e3
            bench.keep(server, "latency")
        return found

    names = (*PEERS[:2], "stargate-deflate", *PEERS[2:]) if bench.effort.peers else PEERS[:1]
    title = "Latency: from a send of 64 B to the last listener, 20 a second, and 2 a second to many"
    return Measurement("latency", title, "ms", names, FLOOR, run)


def interference(bench: Bench) -> Measurement:
    """What else the server does while broadcasts go on: a send to one listener, and a page."""
    many, secs = bench.effort.many, bench.effort.latency_secs
    crowds = {"10": (10, 5), f"{many:,}": (many, 5)}
    probes = {"a send": ("--probe-ws", "/probe"), "a page": ("--probe-http", "/page")}

    def run(server_name: str) -> Figures:
        found: Figures = {}
        with bench.server(server_name) as server:
            for probe, option in probes.items():
                for crowd, (listeners, rate) in crowds.items():
                    phase = f"{NO_END},b=64,rate={rate},secs={secs},tag={probe}"
                    options = ["--n", listeners, "--conn-timeout", 180, *option]
                    options += ["--probe-rate", PROBES]
                    with Load(server, "fanout", *options, *phases(phase)) as load:
                        took = load.phase()["probe_us"]
                    for part in ("p50", "p99", "max"):
                        found[f"{probe}, {crowd}, {part}"] = took[part] / 1e3
            bench.keep(server, "interference")
        return found

    title = (
        "Latency of a send to one listener and of a page, "
        f"while 64 B go 5 times a second to 10 and to {many:,}"
    )
    return Measurement("latency-beside", title, "ms", ("stargate", "stargate-deflate"), None, run)


def deflate(bench: Bench) -> Measurement:
    """A message compressed once for all, beside the same compressed for each listener."""
    ways = {
        "once for all": ("stargate-deflate", "/pub"),
        "for each listener": ("stargate-deflate", "/pub-each"),
        "uncompressed": ("stargate", "/pub"),
    }
    sizes = (1024,)
    each = [f"{NO_END},b={size},secs={bench.effort.secs},tag={size_name(size)}" for size in sizes]

    def run(way: str) -> Figures:
        name, pub = ways[way]
        with bench.server(name) as server:
            found = cost(bench, server, "fanout", each, "--n", 1_000, "--pub", pub)
            bench.keep(server, f"deflate, {way}")
            return found

    title = "permessage-deflate to 1,000 listeners: CPU a delivered message"
    names = ("for each listener", "uncompressed")
    return Measurement("deflate", title, "us", names, "once for all", run, servers=False)
