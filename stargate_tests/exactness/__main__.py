"""``make endurance``: trials one after the other, for as long as is asked; 1 on a fault.

Before them each of ``faults.py`` is planted: a checker that overlooks one fails the run as well.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence

from stargate_tests.exactness.faults import FAULTS
from stargate_tests.exactness.trial import Dials, line, run

#: Seconds that one trial takes at most.
TRIAL = 20.0


def trials(seed: int, seconds: float) -> list[Dials]:
    """Trials of ``seconds`` together: small walks in one, real ones in the next."""
    count = max(2, round(seconds / TRIAL))
    kinds = {"crowd": 150, "slice": 24, "short": 6}, {"crowd": 800, "slice": 512, "short": 64}
    return [
        Dials(seed=seed + number, seconds=seconds / count, **kinds[number % 2])
        for number in range(count)
    ]


def sees_every_fault(seed: int) -> bool:
    """Whether the checker finds something wrong with each fault that there is to plant."""
    overlooked = []
    for name in FAULTS:
        verdict = run(Dials(seed=seed, seconds=1.0, fault=name))
        print(f"planted {name}: {verdict.counts['faults']} faults found", flush=True)
        if not verdict.faults:
            overlooked.append(name)
            print(f"FAULT: {name} was overlooked", file=sys.stderr)
    return not overlooked


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    failed = not sees_every_fault(seed)
    for dials in trials(seed, options.seconds):
        print(f"begins: {dials}", flush=True)
        verdict = run(dials)
        print(line(dials, verdict), flush=True)
        for fault in verdict.faults:
            print(f"FAULT: {fault}", file=sys.stderr)
        failed = failed or bool(verdict.faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
