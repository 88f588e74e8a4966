"""What waits, in the order in which it goes, within the limits of whoever asked for it."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from common.families import Family
from common.tasks import ACTIVE, WAITING, Cause, Task
from router.access import Access
from router.estimates import Estimate, options_class
from router.fairness import UNKNOWN_S, Waiting, order
from router.forecast import Outlook, outlooks
from router.history import History
from router.lifecycle import REST
from router.placement import Need
from router.queries import Past, Standing
from router.snapshot import Known, Snapshot

OUTLOOK_FOR_S = 2.0
"""How long a forecast is good: thousands may ask for it."""
AUTOMATIC = frozenset({"pc-ept", "cog", "gltf"})
"""Options that we add ourselves (contract 4.4): no reason not to use a node without them."""


class Turn:
    """Slots that tokens hold while tasks are placed, one after the other."""

    def __init__(self, access: Access, active: Sequence[Known]) -> None:
        """`active`: what holds slots already."""
        self._access = access
        self._held = Counter(known.task.token for known in active)

    def may_start(self, task: Task) -> bool:
        """Whether the task's token may have one more running."""
        most = self._access.limits(task.token).running
        return most is None or self._held[task.token] < most

    def started(self, task: Task) -> None:
        """One more runs."""
        self._held[task.token] += 1


class Queue:
    """The waiting tasks of the federation."""

    def __init__(self, snapshot: Snapshot, access: Access, history: History) -> None:
        """A view of what these hold."""
        self._snapshot = snapshot
        self._access = access
        self._history = history
        self._forecast: tuple[float, dict[str, Outlook]] = (0.0, {})

    def ordered(self) -> list[Known]:
        """Surveyed tasks that wait for a slot, the next one first."""
        known = {each.task.uuid: each for each in self._snapshot.within(*WAITING) if each.task.input_bytes > 0}
        held = Counter(each.task.tenant for each in self._snapshot.within(*ACTIVE))
        waiting = (self._waiting(each) for each in known.values())
        return [known[each.uuid] for each in order(waiting, held, self._access.weights())]

    def turn(self) -> Turn:
        """Who holds what now."""
        return Turn(self._access, self._snapshot.within(*ACTIVE))

    def waited_s(self, known: Known) -> float:
        """How long a task has waited."""
        if known.committed_at is None:
            return 0.0
        return max(0.0, (datetime.now(UTC) - known.committed_at).total_seconds())

    def estimate(self, task: Task) -> Estimate | None:
        """How long a task may run, wherever it does."""
        return self._history.estimates.predict(task.images_count, options_class(task.options))

    def outlook(self, uuid: str, slots: int) -> Outlook | None:
        """A waiting task's place in the queue and when it may start; None for one that does not wait."""
        made_at, found = self._forecast
        if time.monotonic() - made_at > OUTLOOK_FOR_S or uuid not in found:
            found = self._forecast_all(slots)
            self._forecast = (time.monotonic(), found)
        return found.get(uuid)

    def _forecast_all(self, slots: int) -> dict[str, Outlook]:
        queue = self.ordered()
        now_ms = time.time_ns() // 1_000_000
        running = [
            (self.estimate(known.task), max(0, known.task.processing_time_ms(now_ms)) / 1000)
            for known in self._snapshot.within(*ACTIVE)
        ]
        estimates = {known.task.uuid: self.estimate(known.task) for known in queue}
        return outlooks([known.task.uuid for known in queue], estimates, running, slots)

    def _waiting(self, known: Known) -> Waiting:
        task = known.task
        estimate = self.estimate(task)
        return Waiting(
            uuid=task.uuid,
            tenant=task.tenant,
            waited_s=self.waited_s(known),
            estimate_s=estimate.seconds if estimate is not None else UNKNOWN_S,
            priority=task.wishes.priority,
            child=task.child,
            parent_waited_s=self.waited_s(parent) if (parent := self._parent(task)) is not None else 0.0,
        )

    def _parent(self, task: Task) -> Known | None:
        family = Family.parse(task.family)
        return self._snapshot.known(family.uuid) if family is not None else None


def need_of(
    task: Task,
    past: Sequence[Past] = (),
    standings: Mapping[str, Standing] | None = None,
    rest: timedelta = REST,
) -> Need:
    """What a task asks of a node, after what became of its earlier attempts."""
    names = frozenset(setting.name for setting in task.options)
    memory = [
        int((standings or {})[each.node_id].capacity.get("total_memory_bytes", 0))
        for each in past
        if each.cause is Cause.MEMORY and each.node_id in (standings or {})
    ]
    return Need(
        images_count=task.images_count,
        options=names - AUTOMATIC,
        memory_factor=task.memory_factor,
        more_memory_than=max(memory, default=0),
        only=frozenset(task.wishes.nodes),
        avoid=frozenset(task.wishes.avoid),
        labels=frozenset(task.wishes.labels),
        refused=frozenset((each.node_id, each.error) for each in past if each.cause is Cause.REFUSED),
        resting=frozenset(each.node_id for each in past if each.cause is not Cause.MEMORY and each.ended_ago < rest),
    )
