"""``make losses``: a trial for as long as is asked, and then each fault planted into its record.

1 where something was lost, came twice or in the wrong order, or where a planted fault was
overlooked. ``--volatile``: Redis forgets when it is killed, and that has to be told.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence

from stargate_tests.losses.planted import FAULTS, plant
from stargate_tests.losses.trial import Dials, Outcome, line, run
from stargate_tests.losses.verdict import judge


def overlooked(outcome: Outcome) -> list[str]:
    """The planted faults that the checker does not find."""
    found = []
    for name in FAULTS:
        story = plant(name, outcome.stories)
        if story is None:
            print(f"planted {name}: this record has no place for it")
        elif not judge(outcome.ledger, [story]).wrongs:
            found.append(name)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--websockets", type=int, default=500)
    parser.add_argument("--volatile", action="store_true", help="Redis keeps nothing on a disk")
    parser.add_argument("--log", default="", help="where to write what the workers have logged")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    dials = Dials(
        seed,
        options.seconds,
        options.websockets,
        durable=not options.volatile,
        log=options.log,
    )
    print(f"begins: {dials}", flush=True)
    outcome = run(dials)
    print(line(dials, outcome), flush=True)
    for sentence in outcome.verdict.wrongs:
        print(f"WRONG: {sentence}", file=sys.stderr)
    missed = overlooked(outcome)
    for name in missed:
        print(f"WRONG: {name} was planted, and overlooked", file=sys.stderr)
    return int(bool(outcome.verdict.wrongs or missed))


if __name__ == "__main__":
    sys.exit(main())
