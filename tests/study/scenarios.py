"""Which policies meet which worlds, and the figures that come of it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial

import numpy as np

from tests.study.central import Central
from tests.study.floor import Dispatcher, Floor, Outcome
from tests.study.push import STALE_S, Choose, ClusterOdm, LeastLoaded, Push, Random, RoundRobin
from tests.study.workload import HOUR, World, all_at_once, bursts, dying, flooded, smooth

OURS = "ScaleODM"
BLIND = "ScaleODM, no estimates"
RANDOM, ROUND_ROBIN, CLUSTERODM = "random", "round robin", "ClusterODM's rule"
STALE, FRESH = f"least loaded, {STALE_S:.0f} s stale", "least loaded, fresh"
TURN_S = 30.0
"""With a thousand nodes: time between two turns of the simulated router, so that the study ends in minutes.

The router itself takes a turn within a fraction of a second. The difference counts against ours.
"""


def _push(make: Callable[[World], Choose]) -> Callable[[Floor], Dispatcher]:
    return lambda floor: Push(floor, make(floor.world))


_OTHERS: dict[str, Callable[[Floor], Dispatcher]] = {
    RANDOM: _push(lambda _: Random()),
    ROUND_ROBIN: _push(RoundRobin),
    CLUSTERODM: _push(lambda _: ClusterOdm()),
    STALE: _push(lambda _: LeastLoaded(STALE_S)),
    FRESH: _push(lambda _: LeastLoaded()),
}
FEW_NODES = {**_OTHERS, BLIND: lambda floor: Central(floor, learning=False), OURS: Central}
"""The policies, the best expected last."""
MANY_NODES = {**_OTHERS, OURS: lambda floor: Central(floor, TURN_S)}


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run shows. Hours, of the counted tasks that began at all; a wait ends when a task first begins."""

    mean: float
    median: float
    p95: float
    worst: float
    makespan: float
    """From the first arrival until the last task is finished."""
    idle: float
    """Hours of slots that were free while tasks waited, per task."""
    others: float
    """Mean wait of the tasks that are not counted."""
    stranded: float
    """Tasks that never began, because they wait behind dead nodes."""
    unfinished: float
    """Tasks that never ended: these, and those that ran on dead nodes and were not run again."""
    again: float
    """Tasks that were run again."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over several seeds."""

    mean: float
    deviation: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of world, and who meets it."""

    key: str
    title: str
    world: Callable[[int], World]
    policies: Mapping[str, Callable[[Floor], Dispatcher]]

    def figures(self, policy: str, seed: int) -> Figures:
        """Of one run. The same seed gives the same world to every policy, and the same figures again."""
        floor = Floor(self.world(seed))
        return figures(floor.world, floor.run(self.policies[policy](floor)))


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is simulated."""

    few: int = 10
    jobs: int = 4_000
    many: int = 1_000
    calm_jobs: int = 10_000
    """On many nodes, in the worlds in which hardly any policy makes a task wait."""
    many_jobs: int = 20_000
    pile: int = 330
    flood: int = 500


def scenarios(scale: Scale) -> list[Scenario]:
    """All, by key and title."""
    few, jobs, many, calm, many_jobs = scale.few, scale.jobs, scale.many, scale.calm_jobs, scale.many_jobs
    large = 2 * many
    return [
        Scenario("few-smooth", f"{few} nodes, smooth", lambda seed: smooth(seed, few, jobs), FEW_NODES),
        Scenario("few-bursts", f"{few} nodes, bursts of 20", lambda seed: bursts(seed, few, jobs, 20), FEW_NODES),
        Scenario("many-smooth", f"{many:,} nodes, smooth", lambda seed: smooth(seed, many, calm), MANY_NODES),
        Scenario("many-bursts", f"{many:,} nodes, bursts of 20", lambda seed: bursts(seed, many, calm, 20), MANY_NODES),
        Scenario(
            "many-large-bursts",
            f"{many:,} nodes, bursts of {large:,}",
            lambda seed: bursts(seed, many, many_jobs, large),
            MANY_NODES,
        ),
        Scenario(
            "pile", f"{few} nodes, {scale.pile} tasks at once", lambda s: all_at_once(s, few, scale.pile), FEW_NODES
        ),
        Scenario("few-dying", f"{few} nodes, one dies", lambda seed: dying(seed, few, jobs, 20), FEW_NODES),
        Scenario(
            "many-dying",
            f"{many:,} nodes, {many // 10} die",
            lambda seed: dying(seed, many, many_jobs, large),
            MANY_NODES,
        ),
        Scenario(
            "flooded",
            f"{few} nodes, a flood of {scale.flood}",
            lambda seed: flooded(seed, few, scale.flood, 6 * HOUR, 24 * HOUR),
            FEW_NODES,
        ),
    ]


Results = dict[str, dict[str, list[Figures]]]
"""By scenario and policy, for each seed."""
RunAll = Callable[[Callable[[tuple[str, int]], Figures], Sequence[tuple[str, int]]], Iterable[Figures]]
"""Like `map`."""


def study(scale: Scale, seeds: Sequence[int], tell: Callable[[str], None], run_all: RunAll = map) -> Results:
    """Run everything. `run_all` may use several processes: the figures are the same."""
    results: Results = {}
    for each in scenarios(scale):
        runs = [(policy, seed) for policy in each.policies for seed in seeds]
        found = zip(runs, run_all(partial(_run, scale, each.key), runs), strict=True)
        results[each.key] = {policy: [] for policy in each.policies}
        for (policy, _), seen in found:
            results[each.key][policy].append(seen)
        tell(each.title)
    return results


def _run(scale: Scale, key: str, run: tuple[str, int]) -> Figures:
    scenario = next(each for each in scenarios(scale) if each.key == key)
    return scenario.figures(*run)


def figures(world: World, outcome: Outcome) -> Figures:
    """What the outcome comes to."""
    began = [job for job in world.jobs if job.number in outcome.began]
    counted = np.array([outcome.began[job.number] - job.at for job in began if job.counted]) / HOUR
    others = [outcome.began[job.number] - job.at for job in began if not job.counted]
    return Figures(
        mean=float(counted.mean()),
        median=float(np.median(counted)),
        p95=float(np.percentile(counted, 95)),
        worst=float(counted.max()),
        makespan=(max(outcome.finished.values()) - world.jobs[0].at) / HOUR,
        idle=outcome.idle_s / HOUR / len(world.jobs),
        others=sum(others) / max(1, len(others)) / HOUR,
        stranded=len(world.jobs) - len(outcome.began),
        unfinished=len(world.jobs) - len(outcome.finished),
        again=outcome.runs - len(outcome.began),
    )


def spreads(runs: Sequence[Figures]) -> dict[str, Spread]:
    """By figure, over the seeds."""
    found = {}
    for each in fields(Figures):
        values = np.array([getattr(run, each.name) for run in runs])
        deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        found[each.name] = Spread(float(values.mean()), deviation, float(values.min()), float(values.max()))
    return found
