"""One run: a federation, its users, what breaks; then calm, until everything has ended."""

import random
from collections.abc import Collection
from dataclasses import dataclass, replace

from common.tasks import ENDED, State, Task, Wishes
from common.tokens import Limits
from tests.simulation.faults import HOUR, MINUTE, Breaker, Fault, plan
from tests.simulation.invariants import Invariants, Violation
from tests.simulation.nodes import Node
from tests.simulation.router import Refused, Router
from tests.simulation.world import Away, Tally, Truth, World

CALM_S = 250 * HOUR
"""So long everything may take to end, once nothing breaks any more."""
LOAD = 0.75
"""Share of all slots that the tasks would fill if nothing broke."""
MEAN_S = 3.4 * HOUR
"""How long a task runs in the mean; half of them take two thirds of it or less."""
TENANTS = {"survey": 1.0, "forest": 2.0, "city": 0.5}
TOKENS = {"survey": Limits(), "forest": Limits(running=3), "city": Limits()}


class Failed(AssertionError):
    """A run in which something did not hold. The text says what, and how to see it again."""

    def __init__(self, seed: int, hours: float, trouble: Exception, tail: list[str]) -> None:
        name = type(trouble).__name__
        told = str(trouble) if isinstance(trouble, Violation) else f"{name}: {trouble}"
        last = "\n  ".join(tail)
        super().__init__(
            f"seed {seed}: {told}\nThe last events:\n  {last}\n"
            f"To see it again: python -m tests.simulation --seed {seed} --hours {hours:g} --trace"
        )
        self.trouble = trouble


@dataclass(frozen=True, slots=True)
class Ran:
    """A run that went well."""

    seed: int
    tally: Tally
    digest: str
    lines: list[str]


class Users:
    """Clients that submit, cancel, restart; and ask again where nobody answers."""

    def __init__(self, world: World, invariants: Invariants, until: float) -> None:
        """They submit until then."""
        self._world, self._invariants, self._until = world, invariants, until
        self._dice = random.Random(world.random.random())
        slots = sum(node.slots for node in world.nodes.values())
        self._between_s = MEAN_S / (slots * LOAD)
        self._number = 0
        self._children: set[str] = set()
        world.later(MINUTE, self._submit)

    def _submit(self) -> None:
        world, dice = self._world, self._dice
        if world.now > self._until:
            return
        burst = 1 if dice.random() < 0.8 else dice.randrange(2, 12)
        for _ in range(burst):
            self._number += 1
            self._ask_submit(self._task(f"t{self._number}"))
        world.later(dice.expovariate(1 / (self._between_s * 2.1)), self._submit)

    def _task(self, uuid: str) -> Task:
        dice, nodes = self._dice, list(self._world.nodes)
        tenant = dice.choice(list(TENANTS))
        wishes = Wishes(replaceable=dice.random() > 0.03, priority=int(dice.random() < 0.05))
        if dice.random() < 0.06:
            wishes = replace(wishes, avoid=(dice.choice(nodes),))
        elif dice.random() < 0.04:
            wishes = replace(wishes, nodes=tuple(dice.sample(nodes, min(2, len(nodes)))))
        elif dice.random() < 0.04:
            wishes = replace(wishes, labels=(("region", "eu"),))
        kind = dice.random()
        self._world.truths[uuid] = Truth(
            seconds=min(20 * HOUR, dice.lognormvariate(9.0, 0.9)),
            memory=dice.choice((1.5, 2.25, 9.0)) if dice.random() < 0.06 else 1.0,
            bad_input=kind < 0.03,
            bad_engine=0.03 < kind < 0.06,
            refused_by=frozenset({dice.choice(nodes)}) if dice.random() < 0.03 else frozenset(),
        )
        return Task(
            uuid=uuid,
            tenant=tenant,
            token=tenant,
            name=uuid,
            created_ms=self._world.now_ms,
            state=State.STAGING,
            input=f"s3://imagery/{uuid}/",
            output=f"s3://outputs/{uuid}/",
            images_count=dice.choice((20, 100, 400, 900)),
            child=dice.random() < 0.05,
            wishes=wishes,
        )

    def _reached(self) -> Router:
        """A replica that answers. Raises `Away`."""
        routers = list(self._world.alive_routers())
        if not routers:
            raise Away("no router answers")
        return self._dice.choice(routers)

    def _ask_submit(self, task: Task) -> None:
        try:
            self._reached().submit(task)
        except Away:
            self._world.later(self._dice.uniform(3, 60), lambda: self._ask_submit(task))
            return
        if self._dice.random() < 0.05:
            # The answer is lost, and the client asks again.
            self._world.later(1, lambda: self._ask_submit(task))
            return
        if task.uuid not in self._invariants.promised:
            self._world.tally.submitted += 1
            self._invariants.promised.add(task.uuid)
            self._world.say(f"submitted {task.uuid}")
            self._plan_whims(task.uuid)

    def _plan_whims(self, uuid: str) -> None:
        if self._dice.random() < 0.08:
            self._world.later(self._dice.expovariate(1 / HOUR), lambda: self._ask_cancel(uuid))
        if self._dice.random() < 0.10:
            self._world.later(self._dice.uniform(0.5 * HOUR, 12 * HOUR), lambda: self._ask_restart(uuid))

    def _ask_cancel(self, uuid: str) -> None:
        try:
            self._reached().cancel(uuid)
        except Away:
            self._world.later(self._dice.uniform(3, 60), lambda: self._ask_cancel(uuid))
            return
        self._invariants.canceled.add(uuid)
        self._world.say(f"canceled {uuid}")

    def _ask_restart(self, uuid: str) -> None:
        if self._world.now > self._until:
            return
        was_canceled = uuid in self._invariants.canceled
        self._invariants.canceled.discard(uuid)
        try:
            self._reached().restart(uuid)
        except (Away, Refused):
            if was_canceled:
                self._invariants.canceled.add(uuid)
            return
        self._world.tally.count("restarted")
        self._world.say(f"restarted {uuid}")


def federation(world: World, dice: random.Random, replicas: int) -> None:
    """Nodes and routers, started."""
    for name in range(replicas):
        world.routers.append(Router(world, f"router{name}", TOKENS, TENANTS))
    shapes = [(1, 500, 64), (2, 1000, 64), (2, None, 128), (4, None, 256), (1, 100, 32), (3, 1000, 128)]
    for place in range(dice.randrange(2, 6)):
        slots, max_images, memory = shapes[(place + 2) % len(shapes)]
        node = world.nodes[f"n{place}"] = Node(world, f"n{place}", slots, max_images, memory)
        node.speed, node.flaky = dice.uniform(0.6, 1.8), dice.choice((0.0, 0.0, 0.04))
        node.labels = {"region": dice.choice(("eu", "us"))} if place else {"region": "eu"}
    for router in world.routers:
        router.start()
    for node in world.nodes.values():
        node.start()


def simulate(
    seed: int,
    hours: float,
    faults: Collection[Fault] = frozenset(Fault),
    whole_trace: bool = False,
) -> Ran:
    """Run a federation for so long with faults, then until everything has ended. Raises `Failed`."""
    world = World(seed, whole_trace)
    try:
        _run(world, seed, hours, faults)
    except Exception as trouble:
        raise Failed(seed, hours, trouble, list(world.trace.lines)) from trouble
    return Ran(seed, world.tally, world.trace.digest, list(world.trace.lines))


def _run(world: World, seed: int, hours: float, faults: Collection[Fault]) -> None:
    dice = random.Random(seed ^ 0xFEDE)
    until = hours * HOUR
    federation(world, dice, dice.choice((1, 2, 2, 3)))
    invariants = Invariants(world)
    world.run(30.0)
    Users(world, invariants, until)
    breaker = Breaker(world)
    for each in plan(seed, until, faults):
        world.later(each.at, lambda each=each: breaker.bring(each))  # type: ignore[misc]
    world.run(until)
    tasks = world.database.tasks
    while world.now < until + CALM_S:
        world.run(world.now + HOUR / 2)
        if not breaker.broken and all(row.task.state in ENDED for row in tasks.values()):
            break
    invariants.end()
    tally = world.tally
    tally.hours = world.now / HOUR
    tally.completed, tally.failed, tally.canceled = (
        sum(row.task.state is state for row in tasks.values())
        for state in (State.COMPLETED, State.FAILED, State.CANCELED)
    )
    for rows in world.database.attempts.values():
        for row in rows.values():
            if row.cause is not None:
                tally.count(f"ended: {row.cause}")
