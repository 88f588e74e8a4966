"""ScaleODM's policy: one queue, bound late; the production functions, called as `router/loop.py` calls them."""

import random
from collections import Counter
from datetime import timedelta

from router.estimates import Estimates, Finished
from router.fairness import UNKNOWN_S, Waiting, order
from router.lifecycle import REST, Health, Held, health, lost, patience
from router.loop import LOOK_EVERY_S
from router.placement import Fleet, Need, NodeState
from tests.study.floor import Floor
from tests.study.workload import Job

ENGINE, OPTIONS = "odm", ""


class Central:
    """The queue, and the router's turns over it."""

    def __init__(self, floor: Floor, turn_s: float = 0.0, learning: bool = True) -> None:
        """`turn_s`: least time between two turns, in which all that has come is decided together.

        Without `learning` no run time and no speed is ever known, and nothing is guessed.
        """
        self._floor = floor
        self._turn_s = turn_s
        self._learning = learning
        self._waiting: dict[int, Job] = {}
        self._held: Counter[str] = Counter()
        self._resting: dict[int, dict[str, float]] = {}
        """By task: nodes that could not be given it, and until when they are not tried again."""
        self._estimates = Estimates()
        self._states = [self._state(node) for node in range(len(floor.world.machines))]
        self._died_at = 0.0
        self._patience_ends: list[float] = []
        """When runs of dead nodes are to be given up, the last one first."""
        self._next_turn = 0.0
        self._chance = random.Random(f"policy {floor.world.seed}")

    def look(self, now: float) -> None:
        """It polls nobody."""

    def arrived(self, job: Job, now: float) -> None:  # noqa: ARG002
        """It waits in the router."""
        self._waiting[job.number] = job

    def ended(self, job: Job, node: int, seconds: float, now: float) -> None:  # noqa: ARG002
        """What it took is learned."""
        self._held[job.tenant] -= 1
        if self._learning:
            self._estimates.learn(Finished(str(node), ENGINE, OPTIONS, job.images, seconds))
        self._states[node] = self._state(node)

    def died(self, nodes: frozenset[int], now: float) -> None:
        """Nobody tells the router: it hears nothing more from them, and in time gives up what they held."""
        self._died_at = now
        worked = [now - began for node in nodes for began in self._floor.running[node].values()]
        ends = {now + patience(timedelta(seconds=seconds)).total_seconds() + LOOK_EVERY_S for seconds in worked}
        self._patience_ends = sorted(ends, reverse=True)
        for when in self._patience_ends:
            self._floor.wake_at(when)

    def settle(self, now: float) -> None:
        """Take a turn, unless the last one is too near."""
        while self._patience_ends and now >= self._patience_ends[-1]:
            self._patience_ends.pop()
            self._replace_lost(now)
        if not self._waiting or not self._floor.free:
            return
        if now < self._next_turn:
            self._floor.wake_at(self._next_turn)
            return
        self._next_turn = now + self._turn_s
        if not self._turn(now):
            self._next_turn = now + LOOK_EVERY_S
            self._floor.wake_at(self._next_turn)

    def _turn(self, now: float) -> bool:
        """Place what waits; False when some node could not be given its task, and another look is due."""
        fleet = Fleet([state for node, state in enumerate(self._states) if self._is_open(node, now)])
        hopeless: set[Need] = set()
        delivered = True
        for each in order((self._asking(job, now) for job in self._waiting.values()), self._held):
            job = self._waiting[int(each.uuid)]
            need = Need(resting=self._resting_of(job, now))
            if need in hopeless:
                continue
            choice = fleet.choose(need, self._chance.random())
            if choice.node_id is None:
                hopeless.add(need)
                if not need.resting:
                    break
                continue
            fleet.take(choice.node_id)
            delivered = self._deliver(job, int(choice.node_id), now) and delivered
        return delivered

    def _deliver(self, job: Job, node: int, now: float) -> bool:
        if node in self._floor.dead:
            self._resting.setdefault(job.number, {})[str(node)] = now + REST.total_seconds()
            return False
        del self._waiting[job.number]
        self._held[job.tenant] += 1
        self._floor.begin(job, node, now)
        self._states[node] = self._state(node)
        return True

    def _replace_lost(self, now: float) -> None:
        held = [
            Held(str(number), 1, str(node), timedelta(seconds=self._died_at - began))
            for node in sorted(self._floor.dead)
            for number, began in self._floor.running[node].items()
        ]
        silences = {str(node): self._silence(node, now) for node in range(len(self._states))}
        for each in lost(held, silences):
            job = self._floor.world.jobs[int(each.uuid)]
            self._floor.give_up(job, int(each.node_id))
            self._held[job.tenant] -= 1
            self._waiting[job.number] = job

    def _asking(self, job: Job, now: float) -> Waiting:
        estimate = self._estimates.predict(job.images, OPTIONS)
        seconds = estimate.seconds if estimate is not None else UNKNOWN_S
        return Waiting(str(job.number), job.tenant, now - job.at, seconds)

    def _resting_of(self, job: Job, now: float) -> frozenset[str]:
        resting = self._resting.get(job.number)
        return frozenset(node for node, until in resting.items() if until > now) if resting else frozenset()

    def _silence(self, node: int, now: float) -> timedelta:
        return timedelta(seconds=now - self._died_at) if node in self._floor.dead else timedelta(0)

    def _is_open(self, node: int, now: float) -> bool:
        """Nodes that `Fleet` would find closed are left out, which changes no choice and saves time."""
        if self._floor.used[node] >= self._floor.world.machines[node].slots:
            return False
        return node not in self._floor.dead or health(self._silence(node, now)) is Health.HEALTHY

    def _state(self, node: int) -> NodeState:
        machine = self._floor.world.machines[node]
        speed = self._estimates.speed(str(node), ENGINE)
        return NodeState(
            str(node), machine.name, Health.HEALTHY, machine.slots, placed=self._floor.used[node], speed=speed
        )
