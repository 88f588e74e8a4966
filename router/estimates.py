"""How long tasks run, learned from those that ended well. Pure.

Seconds per image vary by an order of magnitude with options and machines, and their logarithms are near enough to
normal: so a mean and a spread of log seconds per image are kept per node and class of options, falling back on the
engine, then on everything. Nothing correct depends on an estimate: without one, the queue is one of arrival.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from common.nodeodm.options import Setting

FIXED_IMAGES = 10
"""A task of no images would still take as long as so many: start, download, merging."""
PRIOR_WEIGHT = 2.0
"""How many observations the wider class counts for beside the narrower one's own."""
SPREAD_UNKNOWN = 0.8
"""Standard deviation of log seconds that is assumed before it is known: a factor of 2.2."""
FORGETTING = 0.98
"""Weight that an observation loses with each newer one: engines, machines and habits change."""
_SHAPING = (
    "fast-orthophoto",
    "dsm",
    "dtm",
    "skip-3dmodel",
    "skip-orthophoto",
    "feature-quality",
    "pc-quality",
    "split",
)
"""Options that change the run time by more than machines do (ODM's documentation of its stages)."""
_Z80 = 1.2816


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds that a task will run: the middle, and the range in which four of five such tasks end."""

    seconds: float
    low: float
    high: float
    samples: int


@dataclass(frozen=True, slots=True)
class Finished:
    """One run that ended well."""

    node_id: str
    engine: str
    options: str
    """`options_class` of the task."""
    images_count: int
    seconds: float


def options_class(options: Iterable[Setting]) -> str:
    """The options that shape the run time, as a key."""
    found = {each.name: str(each.value).lower() for each in options if each.name in _SHAPING}
    return ",".join(f"{name}={value}" for name, value in sorted(found.items()) if value not in ("false", "none"))


@dataclass(slots=True)
class _Seen:
    """Weighted mean and variance of log seconds per image, in one pass (West 1979)."""

    weight: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    samples: int = 0

    def add(self, value: float) -> None:
        self.weight = self.weight * FORGETTING + 1.0
        self.squares *= FORGETTING
        difference = value - self.mean
        self.mean += difference / self.weight
        self.squares += difference * (value - self.mean)
        self.samples += 1


class Estimates:
    """What was learned so far."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._seen: dict[tuple[str, ...], _Seen] = {}

    def learn(self, run: Finished) -> None:
        """Take in one more run."""
        if run.seconds <= 0 or run.images_count <= 0:
            return
        value = math.log(run.seconds / (run.images_count + FIXED_IMAGES))
        for key in _keys(run.node_id, run.engine, run.options):
            self._seen.setdefault(key, _Seen()).add(value)

    def predict(self, images_count: int, options: str, engine: str = "", node_id: str = "") -> Estimate | None:
        """How long such a task runs: on that node, or on any where none is named. None where nothing was ever seen."""
        mean, variance, weight, samples = 0.0, SPREAD_UNKNOWN**2, 0.0, 0
        for key in reversed(_keys(node_id, engine, options)):
            seen = self._seen.get(key)
            if seen is None:
                continue
            prior = PRIOR_WEIGHT if weight else 0.0
            spread = (seen.squares + SPREAD_UNKNOWN**2) / (seen.weight + 1.0)
            variance = (spread * seen.weight + variance * PRIOR_WEIGHT) / (seen.weight + PRIOR_WEIGHT)
            mean = (seen.mean * seen.weight + mean * prior) / (seen.weight + prior)
            weight, samples = seen.weight, seen.samples
        if not weight:
            return None
        middle = math.log(images_count + FIXED_IMAGES) + mean
        # The mean itself is only known to within its own error.
        error = math.sqrt(variance * (1.0 + 1.0 / weight))
        return Estimate(math.exp(middle), math.exp(middle - _Z80 * error), math.exp(middle + _Z80 * error), samples)

    def speed(self, node_id: str, engine: str) -> float:
        """How fast a node is beside all nodes of its engine, 1.0 being like them; from all its runs, of any options."""
        own, all_of_them = self._seen.get(("node", node_id)), self._seen.get(("engine", engine))
        if own is None or all_of_them is None:
            return 1.0
        trust = own.weight / (own.weight + PRIOR_WEIGHT)
        return math.exp((all_of_them.mean - own.mean) * trust)


def _keys(node_id: str, engine: str, options: str) -> list[tuple[str, ...]]:
    """From the narrowest class to the widest."""
    narrow = [("node", node_id, options), ("node", node_id)] if node_id else []
    wide = [("engine", engine, options), ("engine", engine)] if engine else []
    return [*narrow, *wide, ("options", options), ("all",)]
