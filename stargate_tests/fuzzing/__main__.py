"""``make fuzz``: frames and handshakes for ``SECONDS``, all of them from one ``SEED``.

A round is a seed and ends in seconds; the next one has the next seed. What fails is made small and
printed, with what repeats it. Exits with 1 then.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
import traceback
import warnings

from hypothesis import HealthCheck, given, seed, settings

from stargate_tests.fuzzing import frames, handshakes
from stargate_tests.fuzzing.target import Target

#: What is fuzzed, and how many examples of it make a round.
KINDS = ((frames, 150), (handshakes, 400))


def one_round(target, number, kinds=KINDS):
    """Fuzz everything a little; what fails is raised, made small."""
    for kind, examples in kinds:
        search(target, number, kind, examples)


def search(target, number, kind, examples):
    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=kind.cases)
    def check(case):
        kind.check(target, case)

    check()


def fuzz(seconds, number, kinds=KINDS):
    """Rounds from the seed ``number`` on, for so many seconds; returns the exit code."""
    end, first = time.monotonic() + seconds, number
    with Target() as target:
        while True:
            try:
                one_round(target, number, kinds)
            except Exception:
                traceback.print_exc()
                print(f"failed with the seed {number}; again: make fuzz SECONDS=0 SEED={number}")
                return 1
            if time.monotonic() >= end:
                break
            number += 1
    print(f"nothing found with the seeds from {first} to {number}")
    return 0


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="begin no round after so many")
    parser.add_argument("--seed", type=int, help="of the first round; random, if none")
    options = parser.parse_args(arguments)
    number = random.randrange(10**9) if options.seed is None else options.seed
    print(f"the first seed is {number}", flush=True)
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
    return fuzz(options.seconds, number)


if __name__ == "__main__":
    raise SystemExit(main())
