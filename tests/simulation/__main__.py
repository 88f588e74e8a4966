"""`python -m tests.simulation --hours N`: as long as you like, seed after seed; or one seed again, with its trace."""

import argparse
import itertools
import sys
import time
from collections import Counter

from tests.simulation.run import Failed, Ran, simulate

HOURS_OF_A_SEED = 40.0


def main() -> int:
    """Simulate; 1 when something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--hours", type=float, default=1000.0, help="simulated hours; with --seed, those with faults")
    parser.add_argument("--seed", type=int, help="only this seed (without: from 1000 on, until the hours are over)")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    arguments = parser.parse_args()
    began = time.perf_counter()
    try:
        ran = _one(arguments.seed, arguments.hours, arguments.trace) if arguments.seed is not None else _many(arguments)
    except Failed as failed:
        print(failed)
        return 1
    _summary(ran, time.perf_counter() - began)
    return 0


def _one(seed: int, hours: float, trace: bool) -> list[Ran]:
    try:
        ran = simulate(seed, hours, whole_trace=trace)
    except Failed as failed:
        raise failed from None
    if trace:
        print("\n".join(ran.lines))
    return [ran]


def _many(arguments: argparse.Namespace) -> list[Ran]:
    ran: list[Ran] = []
    for seed in itertools.count(1000):
        done = sum(each.tally.hours for each in ran)
        if done >= arguments.hours:
            break
        ran += _one(seed, min(HOURS_OF_A_SEED, arguments.hours), arguments.trace)
    return ran


def _summary(ran: list[Ran], seconds: float) -> None:
    tallies = [each.tally for each in ran]
    hours = sum(each.hours for each in tallies)
    print(
        f"{hours:,.0f} hours of {len(ran)} seeds in {seconds:.0f} s ({hours / max(seconds, 0.001):,.0f} hours a second)"
    )
    for name in ("submitted", "completed", "failed", "canceled", "attempts", "faults", "looks", "heartbeats"):
        print(f"  {name:<32}{sum(getattr(each, name) for each in tallies):>9,}")
    happened: Counter[str] = Counter()
    for each in tallies:
        happened.update(each.happened)
    for name, count in sorted(happened.items()):
        print(f"  {name:<32}{count:>9,}")
    print("every invariant held")


if __name__ == "__main__":
    sys.exit(main())
