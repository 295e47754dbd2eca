"""``make autobahn``: Autobahn|Testsuite against our server, and a judgement of its report.

Two servers (``plain.ini``, ``deflate.ini``) with two views each make four agents. Everything goes
to ``build/autobahn``: ``index.html`` has each case in full. Exits with 1 where an agent fails one.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HERE, BUILD = Path(__file__).parent, ROOT / "build" / "autobahn"
WSTEST = ROOT / ".venv" / "autobahn" / "bin" / "wstest"

#: What each agent is called, by ini file and view.
AGENTS = {
    "plain": {"handler": "handler", "echo": "on_message"},
    "deflate": {"handler": "handler, deflate", "echo": "on_message, deflate"},
}

#: How many cases there are in all.
ALL = 517

BEHAVIORS = ("OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "FAILED")
PASSING = frozenset(BEHAVIORS) - {"FAILED"}
CLOSES = frozenset(("OK", "INFORMATIONAL", "UNIMPLEMENTED"))

#: Seconds that a server may take to start.
STARTING = 60

Report = Mapping[str, Mapping[str, Mapping[str, Any]]]


def table(report: Report) -> str:
    """How many cases of each agent ended how, and how many connections were closed badly."""
    heads = (*BEHAVIORS, "bad closes", "in all")
    width = max(len(agent) for agent in report) + 2
    lines = [" " * width + "  ".join(heads)]
    for agent, cases in report.items():
        found = Counter(case["behavior"] for case in cases.values())
        bad = sum(case["behaviorClose"] not in CLOSES for case in cases.values())
        counts = [*(found[each] for each in BEHAVIORS), bad, len(cases)]
        cells = (str(n).rjust(len(head)) for n, head in zip(counts, heads, strict=True))
        lines.append(agent.ljust(width) + "  ".join(cells))
    return "\n".join(lines)


def remarks(report: Report) -> tuple[list[str], list[str]]:
    """A line for each case that failed, and one for each that passed but not strictly."""
    failed, loose = [], []
    for agent, cases in report.items():
        for number, case in sorted(cases.items(), key=lambda item: in_order(item[0])):
            line = f"{agent}: {number}: {case['behavior']}, close {case['behaviorClose']}"
            if case["behavior"] not in PASSING or case["behaviorClose"] not in CLOSES:
                failed.append(line)
            elif case["behavior"] == "NON-STRICT":
                loose.append(line)
    return failed, loose


def missing(report: Report, agents: Sequence[str], least: int) -> list[str]:
    """A line for each agent that is not in the report with at least ``least`` cases."""
    return [
        f"{agent}: {len(report.get(agent, ()))} cases were run, not {least}"
        for agent in agents
        if len(report.get(agent, ())) < least
    ]


def in_order(number: str) -> list[int]:
    """A key to sort the numbers of cases by: 9.10 is behind 9.9."""
    return [int(part) for part in number.split(".")]


@contextmanager
def serving(name: str, deadline: float) -> Iterator[str]:
    """Serve what ``name.ini`` says; yields ``ws://127.0.0.1:49152``."""
    log = BUILD / f"{name}.log"
    command = [sys.executable, "-m", "pyramid.scripts.pserve", str(HERE / f"{name}.ini")]
    with log.open("w") as file, subprocess.Popen(command, stderr=file, cwd=ROOT) as process:
        try:
            end = time.monotonic() + min(STARTING, deadline)
            while "serving on " not in log.read_text():
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"the server did not start:\n{log.read_text()}")
                time.sleep(0.05)
            yield "ws" + log.read_text().partition("serving on http")[2].split()[0]
        finally:
            process.terminate()


def run(cases: Sequence[str], wstest: Path, seconds: float) -> list[str]:
    """Run ``cases`` against every agent; returns the agents' names."""
    agents = []
    with ExitStack() as stack, (BUILD / "wstest.log").open("w") as log:
        servers = []
        for ini, views in AGENTS.items():
            url = stack.enter_context(serving(ini, seconds))
            servers += [{"url": f"{url}/@@{view}", "agent": views[view]} for view in views]
            agents += views.values()
        spec = {"outdir": str(BUILD), "servers": servers, "cases": list(cases)}
        (BUILD / "spec.json").write_text(json.dumps(spec, indent=2))
        subprocess.run(
            [wstest, "-m", "fuzzingclient", "-s", BUILD / "spec.json"],
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
            timeout=seconds,
        )
    return agents


def judge(report: Report, agents: Sequence[str], least: int) -> int:
    """Print what the report says; returns the exit code."""
    failed, loose = remarks(report)
    failed += missing(report, agents, least)
    print(table(report))
    for title, lines in (("Not strict:", loose), ("Failed:", failed)):
        if lines:
            print("", title, *lines, sep="\n")
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, judge and tell; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help="numbers and patterns: 7.1.5, 9.*; all, if none")
    parser.add_argument("--minutes", type=float, default=120, help="give up after so many")
    parser.add_argument("--wstest", type=Path, default=WSTEST)
    options = parser.parse_args(arguments)
    # Or what was started here would go on without it.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "index.json").unlink(missing_ok=True)
    agents = run(options.cases or ["*"], options.wstest, options.minutes * 60)
    report = json.loads((BUILD / "index.json").read_text())
    return judge(report, agents, 1 if options.cases else ALL)


if __name__ == "__main__":
    raise SystemExit(main())
