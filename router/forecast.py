"""Where a task stands in the queue and when it may start, told as a range that is honest. Pure."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router.estimates import Estimate


@dataclass(frozen=True, slots=True)
class Outlook:
    """A waiting task's place, and seconds until its start; None where nobody can know."""

    position: int
    """1 is next."""
    waiting: int
    """How many wait in all."""
    low_s: float | None = None
    high_s: float | None = None

    def text(self) -> str:
        """As people say it: `3rd of 12; starts in 20 to 70 minutes`."""
        place = f"{_ordinal(self.position)} of {self.waiting}"
        if self.low_s is None or self.high_s is None:
            return f"{place}; when it starts cannot be said before tasks like those ahead of it have run here"
        if self.high_s < 60:
            return f"{place}; starts within a minute"
        return f"{place}; starts in {_span(self.low_s, self.high_s)}"


def outlooks(
    queue: Sequence[str],
    estimates: Mapping[str, Estimate | None],
    running: Sequence[tuple[Estimate | None, float]],
    slots: int,
) -> dict[str, Outlook]:
    """The outlook of every task of `queue`, in its order.

    `running`: of each task under way its estimate and the seconds it has run. `slots`: of all healthy nodes together.
    The low end lets every task end early, the high end lets every one end late; what is unknown ahead of a task makes
    its start unknown.
    """
    low = _starts(queue, estimates, running, slots, early=True)
    high = _starts(queue, estimates, running, slots, early=False)
    waiting = len(queue)
    return {uuid: Outlook(place + 1, waiting, low[place], high[place]) for place, uuid in enumerate(queue)}


def _starts(
    queue: Sequence[str],
    estimates: Mapping[str, Estimate | None],
    running: Sequence[tuple[Estimate | None, float]],
    slots: int,
    early: bool,
) -> list[float | None]:
    """Seconds until each start, as if every slot took every task; from the first that cannot be known on, None."""
    if slots < 1:
        return [None] * len(queue)
    free = [0.0] * max(0, slots - len(running))
    unknown = 0
    for estimate, ran_s in running:
        if estimate is None:
            unknown += 1
        else:
            free.append(remaining(estimate, ran_s, early))
    heapq.heapify(free)
    found: list[float | None] = []
    for uuid in queue:
        if not free or (unknown and not early and free[0] > 0):
            break
        start = heapq.heappop(free)
        found.append(start)
        estimate = estimates.get(uuid)
        if estimate is None:
            unknown += 1
        else:
            heapq.heappush(free, start + (estimate.low if early else estimate.high))
    return found + [None] * (len(queue) - len(found))


def remaining(estimate: Estimate, ran_s: float, early: bool) -> float:
    """Seconds that a task still runs. One that is over its time may end now, or take half as long again."""
    if early:
        return max(0.0, estimate.low - ran_s)
    return max(estimate.high - ran_s, ran_s * 0.5)


def _ordinal(number: int) -> str:
    if 10 <= number % 100 <= 20:
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def _span(low_s: float, high_s: float) -> str:
    """Two figures of one unit, rounded outwards: false precision would be a lie."""
    for unit, seconds in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if high_s >= 3 * seconds or unit == "minutes":
            low, high = int(low_s // seconds), -int(-high_s // seconds)
            return f"{low} to {max(high, low + 1)} {unit}"
    raise AssertionError("minutes always fit")
