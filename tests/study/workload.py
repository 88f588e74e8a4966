"""What arrives, and what it may run on: nodes, tasks and disasters, drawn from a seed."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

SLOTS = (1, 2, 4, 8)
"""The nodes' sizes, in turn."""
SLOWEST, FASTEST = 0.6, 1.5
"""Speeds beside the nominal one, log-uniform."""
MEDIAN_IMAGES, MOST_IMAGES, SPREAD_IMAGES = 300, 12_000, 1.1
"""Images of a task: log-normal."""
MEDIAN_S, EXPONENT, SPREAD_RUN = 36 * 60.0, 1.15, 0.45
"""Run time at nominal speed: a power of the images, times log-normal chance. The mean is near 87 minutes."""
LOAD = 0.8
WARM_UP = 0.2
"""Share of the tasks, the first ones, that fill the empty nodes and are not counted."""
SUBMIT_EVERY_S = 0.1
"""Between the tasks of one burst: no client submits a thousand at the very same moment."""
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Machine:
    """A node."""

    name: str
    slots: int
    speed: float


@dataclass(frozen=True, slots=True)
class Job:
    """A task. Times in seconds since the beginning; `work_s` is its run time at speed 1."""

    number: int
    at: float
    images: int
    work_s: float
    tenant: str = "a"
    counted: bool = True


@dataclass(frozen=True, slots=True)
class World:
    """All that a policy has to cope with."""

    seed: int
    machines: tuple[Machine, ...]
    jobs: tuple[Job, ...]
    """In order of arrival."""
    dying: frozenset[int] = frozenset()
    """Places in `machines` of those that are gone for good at `die_at`, with all they run."""
    die_at: float = 0.0

    @property
    def slots(self) -> int:
        """Of all nodes together."""
        return sum(machine.slots for machine in self.machines)


def machines(seed: int, count: int) -> tuple[Machine, ...]:
    """Nodes of uneven size and speed."""
    chance = random.Random(f"machines {seed}")
    low, high = math.log(SLOWEST), math.log(FASTEST)
    return tuple(
        Machine(f"node-{place:04d}", SLOTS[place % len(SLOTS)], math.exp(chance.uniform(low, high)))
        for place in range(count)
    )


def smooth(seed: int, nodes: int, jobs: int) -> World:
    """Single tasks, at random and independent of each other."""
    return _arriving(seed, nodes, jobs, 1)


def bursts(seed: int, nodes: int, jobs: int, size: int) -> World:
    """Projects of `size` tasks, submitted one right after the other, at random times."""
    return _arriving(seed, nodes, jobs, size)


def all_at_once(seed: int, nodes: int, jobs: int) -> World:
    """One pile of work, at the beginning: the question is when the last of it is done."""
    sizes = islice(_sizes(random.Random(f"jobs {seed}")), jobs)
    return World(
        seed,
        machines(seed, nodes),
        tuple(Job(number, number * SUBMIT_EVERY_S, images, work) for number, (images, work) in enumerate(sizes)),
    )


def dying(seed: int, nodes: int, jobs: int, size: int) -> World:
    """Bursts, in the middle of which every tenth node dies."""
    world = _arriving(seed, nodes, jobs, size)
    return World(seed, world.machines, world.jobs, frozenset(range(2, nodes, 10)), world.jobs[jobs // 2].at)


def flooded(seed: int, nodes: int, flood: int, flood_at: float, until: float) -> World:
    """Tenant `small` asks for an eighth of the fleet, steadily; tenant `flood` submits `flood` tasks in one burst.

    Counted are the small tenant's tasks from then on.
    """
    fleet = machines(seed, nodes)
    chance = random.Random(f"jobs {seed}")
    sizes = _sizes(chance)
    mean = sum(work for _, work in islice(_sizes(random.Random(f"mean {seed}")), 10_000)) / 10_000
    between = mean / (_capacity(fleet) / 8)
    flood_at += chance.uniform(0.0, 60.0)
    drawn = [(flood_at + number * SUBMIT_EVERY_S, "flood") for number in range(flood)]
    now = chance.expovariate(1 / between)
    while now < until:
        drawn.append((now, "small"))
        now += chance.expovariate(1 / between)
    drawn.sort()
    jobs = tuple(
        Job(number, at, images, work, tenant, tenant == "small" and at >= flood_at)
        for number, ((at, tenant), (images, work)) in enumerate(zip(drawn, sizes, strict=False))
    )
    return World(seed, fleet, jobs)


def _arriving(seed: int, nodes: int, jobs: int, size: int) -> World:
    """Load is the work of just these tasks over what just these nodes can do, so seeds differ in nothing but order."""
    fleet = machines(seed, nodes)
    chance = random.Random(f"jobs {seed}")
    sizes = list(islice(_sizes(chance), jobs))
    between = sum(work for _, work in sizes) / jobs * size / (LOAD * _capacity(fleet))
    times: list[float] = []
    now = 0.0
    while len(times) < jobs:
        now += chance.expovariate(1 / between)
        times += [now + number * SUBMIT_EVERY_S for number in range(min(size, jobs - len(times)))]
    drawn = enumerate(zip(sorted(times), sizes, strict=True))
    counted_from = WARM_UP * jobs
    return World(
        seed,
        fleet,
        tuple(Job(number, at, *drawn_size, counted=number >= counted_from) for number, (at, drawn_size) in drawn),
    )


def _sizes(chance: random.Random) -> Iterator[tuple[int, float]]:
    """Images and seconds of work, without end."""
    while True:
        drawn = MEDIAN_IMAGES * math.exp(chance.gauss(0.0, SPREAD_IMAGES))
        images = max(5, min(MOST_IMAGES, round(drawn)))
        noise = math.exp(chance.gauss(0.0, SPREAD_RUN))
        yield images, MEDIAN_S * (images / MEDIAN_IMAGES) ** EXPONENT * noise


def _capacity(fleet: tuple[Machine, ...]) -> float:
    """Seconds of work that the nodes do in a second."""
    return sum(machine.slots * machine.speed for machine in fleet)
