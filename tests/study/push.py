"""Policies that choose a node when a task is submitted: it then waits in that node's own queue.

All are told more than in life: a node that has died is never chosen again, from that very moment.
"""

import random
from collections import deque
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tests.study.floor import Floor
from tests.study.workload import Job, World

STALE_S = 60.0
"""How old what is known of the nodes may be: ClusterODM's and WebODM's pollers take so long and half as long."""


class View:
    """The nodes' own `/info`."""

    def __init__(self, world: World) -> None:
        """Nothing runs yet."""
        self.slots = np.array([machine.slots for machine in world.machines], dtype=np.int64)
        self.load = np.zeros(len(world.machines), dtype=np.int64)
        """Running and queued tasks."""
        self.is_dead = np.zeros(len(world.machines), dtype=np.bool_)
        self.chance = random.Random(f"policy {world.seed}")


class Choose(Protocol):
    """A policy."""

    def look(self, view: View, now: float) -> None:
        """Nothing has happened since the last event: what a poll in between would have found is here."""

    def choose(self, view: View) -> int:
        """The place of the node that gets the next task."""


class Random:
    """Any node, the likelier the more slots it has. (Were all as likely, small nodes would never catch up.)"""

    def look(self, view: View, now: float) -> None:
        """It knows nothing of the nodes' load."""

    def choose(self, view: View) -> int:
        """By chance."""
        weights = np.where(view.is_dead, 0, view.slots).cumsum()
        return int(weights.searchsorted(view.chance.random() * weights[-1], side="right"))


class RoundRobin:
    """Each node in turn, as often as it has slots."""

    def __init__(self, world: World) -> None:
        """The first node is next."""
        most = max(machine.slots for machine in world.machines)
        self._order = [
            place for round_ in range(most) for place, machine in enumerate(world.machines) if machine.slots > round_
        ]
        self._next = 0

    def look(self, view: View, now: float) -> None:
        """It knows nothing of the nodes' load."""

    def choose(self, view: View) -> int:
        """The next that lives."""
        while True:
            place = self._order[self._next]
            self._next = (self._next + 1) % len(self._order)
            if not view.is_dead[place]:
                return place


class ClusterOdm:
    """ClusterODM's rule: most free slots, then the shortest queue, whatever the node's size, then in turn.

    At its best: it asks every node before each placement, and counts what it has just handed out.
    """

    _FREE = 1 << 32

    def __init__(self) -> None:
        """The first node is next."""
        self._last = -1

    def look(self, view: View, now: float) -> None:
        """It asks when it chooses."""

    def choose(self, view: View) -> int:
        """The first in its order; of equal ones the one after the last that was taken."""
        key = view.load - np.maximum(view.slots - view.load, 0) * self._FREE
        best = _least(key, view)
        self._last = int(best[int(best.searchsorted(self._last, side="right")) % len(best)])
        return self._last


class LeastLoaded:
    """The fewest tasks per slot, as it was known at the last poll; of equal ones any."""

    def __init__(self, every_s: float = 0.0) -> None:
        """`every_s`: time between polls; 0 asks every node before each placement."""
        self._every_s = every_s
        self._polls = -1
        self._load: NDArray[np.int64] | None = None

    def look(self, view: View, now: float) -> None:
        """Poll when it is time."""
        if self._every_s and int(now // self._every_s) > self._polls:
            self._polls = int(now // self._every_s)
            self._load = view.load.copy()

    def choose(self, view: View) -> int:
        """The least loaded, as far as is known."""
        load = view.load if self._load is None else self._load
        best = _least((load + 1) / view.slots, view)
        return int(best[int(view.chance.random() * len(best))])


def _least(key: NDArray[np.int64] | NDArray[np.float64], view: View) -> NDArray[np.intp]:
    """The places of the living whose key is least."""
    living = np.where(view.is_dead, np.inf, key)
    return np.flatnonzero(living == living.min())


class Push:
    """Hands tasks to nodes as a policy chooses; each node works through its own queue in order of arrival."""

    def __init__(self, floor: Floor, policy: Choose) -> None:
        """All queues are empty."""
        self._floor = floor
        self._policy = policy
        self._view = View(floor.world)
        self._queues: list[deque[Job]] = [deque() for _ in floor.world.machines]

    def look(self, now: float) -> None:
        """The policy may poll."""
        self._policy.look(self._view, now)

    def arrived(self, job: Job, now: float) -> None:
        """To the node that is chosen, for good."""
        node = self._policy.choose(self._view)
        self._view.load[node] += 1
        self._queues[node].append(job)
        self._fill(node, now)

    def ended(self, job: Job, node: int, seconds: float, now: float) -> None:  # noqa: ARG002
        """The node goes on with its next."""
        self._view.load[node] -= 1
        self._fill(node, now)

    def died(self, nodes: frozenset[int], now: float) -> None:  # noqa: ARG002
        """What waits there waits for ever."""
        self._view.is_dead[list(nodes)] = True

    def settle(self, now: float) -> None:
        """All is done already."""

    def _fill(self, node: int, now: float) -> None:
        while self._queues[node] and self._floor.used[node] < self._floor.world.machines[node].slots:
            self._floor.begin(self._queues[node].popleft(), node, now)
