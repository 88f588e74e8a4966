"""Whose task is next (design 7). Pure.

Priority first; among equals the tenant that holds the fewest slots for its weight; of one tenant's tasks the parts of
its split tasks, then the one whose wait is longest for its size, so that short ones pass long ones and none is passed
for ever. Parts count to their tenant as any task does: whoever splits gets no more than its share.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LONGEST_WAIT_S = 8 * 3600.0
"""Whoever has waited longer goes first of its tenant's tasks, in order of arrival: the bound on being passed.

A shorter one makes nearly every task overdue once the backlog is as long, and with that the order one of arrival.
"""
UNKNOWN_S = 1800.0
"""The run time that is assumed where none was ever seen; all tasks alike then go in order of arrival."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task that waits for a slot."""

    uuid: str
    tenant: str
    waited_s: float
    estimate_s: float = UNKNOWN_S
    """How long it may run, as far as anybody knows; it only matters beside other tasks of the same tenant."""
    priority: int = 0
    child: bool = False
    """It is one part of a split task, for whose parts a slot is held already: it goes before its tenant's others."""
    parent_waited_s: float = 0.0
    """How long ago the task that it is a part of came: what was begun first is to be done first, and frees its slot."""


def order(
    waiting: Iterable[Waiting], slots_held: Mapping[str, int], weights: Mapping[str, float] | None = None
) -> list[Waiting]:
    """Every waiting task, the next one first.

    `slots_held`: by tenant, what already runs; `weights`: by tenant, its share beside others, 1.0 where none is given.
    Deterministic: the same question has the same answer on every replica.
    """
    levels: defaultdict[int, defaultdict[str, list[Waiting]]] = defaultdict(lambda: defaultdict(list))
    for each in waiting:
        levels[each.priority][each.tenant].append(each)
    held = dict(slots_held)
    ordered: list[Waiting] = []
    for priority in sorted(levels, reverse=True):
        ordered += _shared(levels[priority], held, weights or {})
    return ordered


def _shared(lines: Mapping[str, list[Waiting]], held: dict[str, int], weights: Mapping[str, float]) -> list[Waiting]:
    """Tenants of one priority take turns: each slot goes to whoever holds the least for its weight."""
    queues = {tenant: sorted(line, key=_urgency) for tenant, line in lines.items()}
    heap = [_turn(tenant, queues[tenant], 0, held, weights) for tenant in queues]
    heapq.heapify(heap)
    ordered = []
    while heap:
        _, _, tenant, place = heapq.heappop(heap)
        ordered.append(queues[tenant][place])
        held[tenant] = held.get(tenant, 0) + 1
        if place + 1 < len(queues[tenant]):
            heapq.heappush(heap, _turn(tenant, queues[tenant], place + 1, held, weights))
    return ordered


def _turn(
    tenant: str, queue: Sequence[Waiting], place: int, held: Mapping[str, int], weights: Mapping[str, float]
) -> tuple[float, float, str, int]:
    """Sorts before another tenant's turn when this tenant holds less, and of equal ones when it has waited longer."""
    return (held.get(tenant, 0) + 1) / max(weights.get(tenant, 1.0), 1e-6), -queue[place].waited_s, tenant, place


def _urgency(each: Waiting) -> tuple[bool, float, bool, float, float, str]:
    """Parts of split tasks by their parents' age, then overdue tasks by age, then the highest response ratio:
    (wait + run) / run."""
    overdue = each.waited_s > LONGEST_WAIT_S
    ratio = (each.waited_s + each.estimate_s) / max(each.estimate_s, 1.0)
    return (
        not each.child,
        -each.parent_waited_s if each.child else 0.0,
        not overdue,
        0.0 if overdue else -round(ratio, 6),
        -each.waited_s,
        each.uuid,
    )
