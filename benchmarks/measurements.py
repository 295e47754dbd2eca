"""What is measured on stargate and its peers alike: fan-out, bursts, echo, handshakes, memory.

Each is a :class:`Measurement`, whose run starts fresh processes. What concerns stargate alone is in
``behaviour.py`` and ``growth.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.build import Programs
from benchmarks.catalogue import CATALOGUE, FLOOR, Subject
from benchmarks.measure import Faulty, Load, Result, Server, faults, pss
from benchmarks.rounds import Figures

SIZES = (64, 1024, 16384)

#: Enough for every phase: it ends by its time.
NO_END = "k=1000000"

#: What all measurements compare, in the order of the tables.
PEERS = ("stargate", "stargate-handler", "pyraw", "websockets", "uvicorn", "socketio")

#: Opened before memory is measured, so that what is made once is not counted.
WARM = 1_000


@dataclass(frozen=True)
class Effort:
    """How long and how often things are measured."""

    rounds: int = 3
    #: Seconds of a phase, and how often a phase is repeated in a round.
    secs: float = 0.5
    repeat: int = 3
    #: Listeners of the large fan-outs.
    many: int = 10_000
    #: WebSockets whose memory is measured.
    sockets: int = 5_000
    handshakes: int = 1_500
    #: Seconds of the phases with a rate.
    slow_secs: float = 8
    latency_secs: float = 12
    #: Whether peers take part in what takes long.
    peers: bool = True


QUICK = Effort(
    rounds=1,
    secs=0.25,
    repeat=2,
    sockets=2_000,
    handshakes=800,
    latency_secs=4,
    peers=False,
)


@dataclass(frozen=True)
class Measurement:
    """One table: whose figures, in which unit, and how they come about."""

    name: str
    title: str
    unit: str
    #: Who is measured; servers of the catalogue, or ways to use one.
    names: tuple[str, ...]
    #: Whose figures the others' are divided by, in the same round.
    reference: str | None
    run: Callable[[str], Figures]
    #: Whether ``names`` are servers of the catalogue.
    servers: bool = True
    #: The figures whose ratios are worth a look; ``None`` for all of them.
    compared: tuple[str, ...] | None = None


class Bench:
    """What all measurements need: the programs, the effort, and where results are kept."""

    def __init__(self, programs: Programs, effort: Effort) -> None:
        self.programs, self.effort = programs, effort
        #: Every result of every phase, briefly.
        self.raw: list[Result] = []

    def server(self, subject: Subject | str) -> Server:
        """A fresh server; a name is one of the catalogue's."""
        found = CATALOGUE[subject] if isinstance(subject, str) else subject
        return Server(found, self.programs)

    def keep(self, server: Server, measurement: str) -> None:
        """Remember what the phases of ``server`` gave."""
        for result in server.results:
            kept = {name: result[name] for name in KEPT if result.get(name) is not None}
            self.raw.append({"measurement": measurement, "server": server.subject.name, **kept})


#: What is kept of a result, to be looked at when a figure surprises.
KEPT = (
    *("tag", "n", "delivered", "expected", "cpu_us", "msgs_per_s", "gen_busy", "machine_busy"),
    *("lat_us", "last_us", "gap_us", "probe_us", "slow_closed", "slow_close_codes", "stalled"),
)


def medians(results: Iterable[Result], field: str = "cpu_us") -> Figures:
    """The median of ``field`` for each tag."""
    by_tag: dict[str, list[float]] = {}
    for result in results:
        by_tag.setdefault(result["tag"], []).append(result[field])
    return {tag: median(values) for tag, values in by_tag.items()}


def phases(*each: str) -> list[str]:
    """The options of the load generator for some phases."""
    return [word for phase in each for word in ("--phase", phase)]


def size_name(size: int) -> str:
    """``16 KiB`` for 16384."""
    return f"{size} B" if size < 1024 else f"{size // 1024} KiB"


def cost(bench: Bench, server: Server, mode: str, each: Sequence[str], *options: Any) -> Figures:
    """Run phases in turn, several times, and return the median CPU time a message of each."""
    repeat = 1 if server.subject.heavy else bench.effort.repeat
    with Load(server, mode, *options, *phases(*each), "--repeat", repeat) as load:
        return medians(load.phases(len(each) * repeat))


def fanout(bench: Bench, listeners: int, sizes: Sequence[int] = SIZES) -> Measurement:
    """Broadcasts to many, the next when the last listener has the whole previous one."""
    name, secs = f"fanout-{listeners}", bench.effort.secs
    each = [f"{NO_END},b={size},secs={secs},tag={size_name(size)}" for size in sizes]

    def run(server_name: str) -> Figures:
        with bench.server(server_name) as server:
            options = ("--n", listeners, "--conn-timeout", 180)
            found = cost(bench, server, "fanout", each, *options)
            bench.keep(server, name)
            return found

    many = listeners > 1_000
    names = PEERS if bench.effort.peers or not many else ("stargate", "stargate-handler", "pyraw")
    title = f"Fan-out to {listeners:,} listeners: CPU a delivered message"
    return Measurement(name, title, "us", names, FLOOR, run)


def burst(bench: Bench, sizes: Sequence[int] = (64, 1024)) -> Measurement:
    """Broadcasts to 1,000, 16 of them in flight: what leaves together costs less."""
    secs = bench.effort.secs
    each = [f"{NO_END},b={size},secs={secs},win=16,tag={size_name(size)}" for size in sizes]

    def run(server_name: str) -> Figures:
        with bench.server(server_name) as server:
            found = cost(bench, server, "fanout", each, "--n", 1_000)
            bench.keep(server, "burst")
            return found

    names = tuple(name for name in PEERS if name != "stargate-handler")
    title = "Burst: 16 broadcasts in flight to 1,000 listeners: CPU a delivered message"
    return Measurement("burst", title, "us", names, FLOOR, run)


def echo(bench: Bench, sizes: Sequence[int] = (64, 16384)) -> Measurement:
    """Every message comes back: 100 WebSockets with one in flight, 10 with 16 in flight each."""

    def run(server_name: str) -> Figures:
        found: Figures = {}
        with bench.server(server_name) as server:
            for sockets, depth in ((100, 1), (10, 16)):
                each = [
                    f"{NO_END}00,b={size},d={depth},secs={bench.effort.secs},"
                    f"tag={sockets}x{depth} {size_name(size)}"
                    for size in sizes
                ]
                found |= cost(bench, server, "echo", each, "--n", sockets)
            bench.keep(server, "echo")
        return found

    return Measurement("echo", "Echo: CPU a message and its reply", "us", PEERS, FLOOR, run)


def connect(bench: Bench) -> Measurement:
    """Handshakes, each with its closing handshake, beside eventlet's own."""
    effort = bench.effort

    def run(server_name: str) -> Figures:
        with bench.server(server_name) as server:
            options = ("--total", effort.handshakes, "--conc", 32, "--repeat", effort.repeat)
            with Load(server, "connect", *options) as load:
                results = list(load.phases(effort.repeat))
            bench.keep(server, "connect")
            return {"32 at a time": median(result["cpu_us"] for result in results)}

    names = ("stargate", "floor", "pyraw", "websockets", "uvicorn")
    title = "Handshake with closing handshake: CPU each, and beside eventlet's own WebSocket"
    return Measurement("connect", title, "us", names, "eventlet", run)


def memory(bench: Bench) -> Measurement:
    """How much the server's memory grows for each listener that waits."""
    count = bench.effort.sockets

    def run(server_name: str) -> Figures:
        with bench.server(server_name) as server, Load(server, "idle", "--n", WARM) as warm:
            warm.ready()
            server.settle()
            before = pss(server.pids())
            with Load(server, "idle", "--n", count, "--conn-timeout", 180) as load:
                load.ready()
                server.settle()
                grown = pss(server.pids()) - before
                result = load.go()
            wrong = faults(result)
            if wrong:
                raise Faulty(server_name, "memory", wrong, result.get("error", ""))
            return {"a listener": grown / count / 1024}

    names = ("stargate", "stargate-events", "stargate-handler", *PEERS[2:], "eventlet", "floor")
    title = f"Memory: PSS of the server for each of {count:,} WebSockets"
    return Measurement("memory", title, "KiB", names, None, run)


def slow(bench: Bench) -> Measurement:
    """5 of 50 listeners never read, while 32 KiB are broadcast 30 times a second.

    Afterwards little is broadcast for a while: a server that closes waits for the peer's answer.
    """
    secs = bench.effort.slow_secs
    phase = f"k={secs * 30:.0f},b=32768,rate=30,secs={secs + 4},tag=slow"
    afterwards = "k=50,b=64,rate=5,secs=14,tag=afterwards"

    def run(server_name: str) -> Figures:
        # That others stall is what this measures; of stargate it is a fault.
        tolerant = server_name not in ("stargate", "stargate-handler", FLOOR)
        with bench.server(server_name) as server:
            options = ("--n", 50, "--slow", 5, "--timeout", 4)
            with Load(server, "fanout", *options, *phases(phase, afterwards)) as load:
                result = load.phase(tolerant=tolerant)
                if not result["stalled"]:
                    later = load.phase(tolerant=tolerant)
                    result |= ended_later(result, later) | load.slow_ones()
            bench.keep(server, "slow")
        return slow_figures(result)

    names = (*PEERS[:2], *PEERS[3:], "eventlet") if bench.effort.peers else ("stargate", "eventlet")
    title = "Slow listeners: 5 of 50 never read, 32 KiB 30 times a second; the other 45, in ms"
    return Measurement("slow", title, "", names, FLOOR, run, compared=("p50",))


def ended_later(result: Result, later: Result) -> Result:
    """When the first slow listener was closed, where that was in the phase behind."""
    if result["slow_first_close_s"] or not later["slow_first_close_s"]:
        return {}
    return {"slow_first_close_s": result["secs"] + later["slow_first_close_s"]}


def slow_figures(result: Result) -> Figures:
    """What the healthy listeners got, what the slow ones cost, and how they ended."""
    figures = {
        "delivered %": 100 * result["delivered"] / result["expected"],
        "p50": result["lat_us"]["p50"] / 1e3,
        "p99": result["lat_us"]["p99"] / 1e3,
        "max": result["lat_us"]["max"] / 1e3,
    }
    if "gap_us" in result:
        figures["longest gap"] = result["gap_us"]["max"] / 1e3
    figures["RSS + MB"] = result["rss_growth"] / 1e6
    figures["slow closed"] = result["slow_closed"]
    if result["slow_first_close_s"]:
        figures["after s"] = result["slow_first_close_s"]
    codes = result.get("slow_close_codes")
    if codes:
        figures["close code"] = int(max(codes, key=codes.__getitem__))
    return figures
