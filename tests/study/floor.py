"""The simulated clock and what runs on the nodes; who decides is a `Dispatcher`."""

import heapq
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from tests.study.workload import Job, World


class _Event(IntEnum):
    """What happens at the same moment happens in this order."""

    DEATH = 0
    END = 1
    ARRIVAL = 2
    WAKE = 3


class Dispatcher(Protocol):
    """A policy at work."""

    def look(self, now: float) -> None:
        """Time has come to `now`, and nothing has happened yet since the last event."""

    def arrived(self, job: Job, now: float) -> None:
        """A task was submitted."""

    def ended(self, job: Job, node: int, seconds: float, now: float) -> None:
        """A run is over and its slot is free."""

    def died(self, nodes: frozenset[int], now: float) -> None:
        """These nodes are gone, with what they run."""

    def settle(self, now: float) -> None:
        """All that happens at this moment has happened."""


@dataclass(slots=True)
class Outcome:
    """What became of the tasks."""

    began: dict[int, float] = field(default_factory=dict)
    """By task, when it began first."""
    finished: dict[int, float] = field(default_factory=dict)
    runs: int = 0
    cut_off: int = 0
    """Runs that were under way on nodes that died."""
    idle_s: float = 0.0
    """Seconds of slots that were free while tasks waited somewhere."""


class Floor:
    """The nodes, and time."""

    def __init__(self, world: World) -> None:
        """Nothing runs yet."""
        self.world = world
        self.used = [0] * len(world.machines)
        self.dead: frozenset[int] = frozenset()
        self.running: list[dict[int, float]] = [{} for _ in world.machines]
        """By node: tasks and when these runs began. A dead node's runs stay here until somebody gives them up."""
        self.free = world.slots
        """Free slots of the living."""
        self.waiting = 0
        self.outcome = Outcome()
        self._events: list[tuple[float, int, int, int]] = []

    def begin(self, job: Job, node: int, now: float) -> None:
        """A run begins."""
        machine = self.world.machines[node]
        assert node not in self.dead, f"{machine.name} is dead"
        assert self.used[node] < machine.slots, f"{machine.name} has no free slot"
        self.used[node] += 1
        self.free -= 1
        self.waiting -= 1
        self.running[node][job.number] = now
        self.outcome.runs += 1
        self.outcome.began.setdefault(job.number, now)
        heapq.heappush(self._events, (now + job.work_s / machine.speed, _Event.END, job.number, node))

    def give_up(self, job: Job, node: int) -> None:
        """A dead node's run is given up, and its task waits again."""
        del self.running[node][job.number]
        self.used[node] -= 1
        self.waiting += 1

    def wake_at(self, when: float) -> None:
        """`settle` is called then, if not before."""
        heapq.heappush(self._events, (when, _Event.WAKE, 0, 0))

    def run(self, dispatcher: Dispatcher) -> Outcome:
        """From the first arrival until nothing more happens."""
        self._events += [(job.at, _Event.ARRIVAL, job.number, 0) for job in self.world.jobs]
        if self.world.dying:
            self._events.append((self.world.die_at, _Event.DEATH, 0, 0))
        heapq.heapify(self._events)
        before = 0.0
        while self._events:
            now = self._events[0][0]
            self.outcome.idle_s += min(self.free, self.waiting) * (now - before)
            before = now
            dispatcher.look(now)
            while self._events and self._events[0][0] == now:
                _, kind, number, node = heapq.heappop(self._events)
                self._happen(_Event(kind), number, node, now, dispatcher)
            dispatcher.settle(now)
        return self.outcome

    def _happen(self, kind: _Event, number: int, node: int, now: float, dispatcher: Dispatcher) -> None:
        if kind is _Event.ARRIVAL:
            self.waiting += 1
            dispatcher.arrived(self.world.jobs[number], now)
        elif kind is _Event.END and node not in self.dead:
            self.used[node] -= 1
            self.free += 1
            self.outcome.finished[number] = now
            dispatcher.ended(self.world.jobs[number], node, now - self.running[node].pop(number), now)
        elif kind is _Event.DEATH:
            self.dead = self.world.dying
            self.free -= sum(self.world.machines[place].slots - self.used[place] for place in self.dead)
            self.outcome.cut_off = sum(len(self.running[place]) for place in self.dead)
            dispatcher.died(self.dead, now)
