"""What breaks, when, and for how long: a plan that a seed makes, and how each fault is brought about."""

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum

from tests.simulation.nodes import Node, Process
from tests.simulation.router import Router
from tests.simulation.world import Away, World

MINUTE, HOUR = 60.0, 3600.0


class Fault(StrEnum):
    """Kinds of faults."""

    NODE_PROCESS_DIES = "a node's process dies, its Jobs live on"
    NODE_DIES = "a node is gone with its Jobs, for longer than anybody waits for it"
    NODE_FORGETS = "a node is back at once, without its Jobs"
    NODE_HANGS = "a node's process hangs"
    NODE_REMOVED = "a node is gone, and an administrator removes it"
    CUT_OFF = "a node is cut off from the routers"
    ALL_CUT_OFF = "every node is cut off from the routers"
    LOSSY = "messages and answers to and from a node are lost"
    REPEATED = "heartbeats of a node come again, later"
    SPOILS = "a node fails what it is given at once"
    EVICTS = "a pod is evicted"
    DRAINED = "a node is drained for a while"
    ROUTER_DIES = "a router dies"
    ROUTER_HANGS = "a router hangs"
    ALL_ROUTERS_DIE = "every router dies"
    POSTGRES_AWAY = "Postgres is away"


RATES: dict[Fault, float] = {
    Fault.NODE_PROCESS_DIES: 0.20,
    Fault.NODE_DIES: 0.05,
    Fault.NODE_FORGETS: 0.05,
    Fault.NODE_HANGS: 0.12,
    Fault.NODE_REMOVED: 0.02,
    Fault.CUT_OFF: 0.15,
    Fault.ALL_CUT_OFF: 0.04,
    Fault.LOSSY: 0.15,
    Fault.REPEATED: 0.15,
    Fault.SPOILS: 0.04,
    Fault.EVICTS: 0.20,
    Fault.DRAINED: 0.05,
    Fault.ROUTER_DIES: 0.15,
    Fault.ROUTER_HANGS: 0.12,
    Fault.ALL_ROUTERS_DIE: 0.03,
    Fault.POSTGRES_AWAY: 0.08,
}
"""How often each happens in an hour, in the whole federation."""

LENGTHS: dict[Fault, tuple[tuple[float, float], ...]] = {
    Fault.NODE_DIES: ((7 * HOUR, 12 * HOUR),),
    Fault.NODE_REMOVED: ((10 * MINUTE, 3 * HOUR),),
    Fault.NODE_FORGETS: ((2.0, 30.0), (MINUTE, 8 * MINUTE)),
    Fault.EVICTS: ((1.0, 1.0),),
    Fault.POSTGRES_AWAY: ((5.0, 90.0), (2 * MINUTE, 30 * MINUTE)),
    Fault.ROUTER_DIES: ((5.0, 60.0), (MINUTE, 30 * MINUTE)),
    Fault.ALL_ROUTERS_DIE: ((20.0, 10 * MINUTE), (10 * MINUTE, 40 * MINUTE)),
    Fault.LOSSY: ((5 * MINUTE, 90 * MINUTE),),
    Fault.REPEATED: ((5 * MINUTE, 90 * MINUTE),),
    Fault.SPOILS: ((20 * MINUTE, 2 * HOUR),),
    Fault.DRAINED: ((20 * MINUTE, 2 * HOUR),),
}
"""Ranges of seconds of which one is picked; short enough to be missed, or long enough to be told."""
USUAL_LENGTHS = ((5.0, 60.0), (MINUTE, 9 * MINUTE), (9 * MINUTE, 15 * MINUTE), (15 * MINUTE, 3 * HOUR))


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault of a plan."""

    at: float
    fault: Fault
    target: int
    """Which node or router, modulo how many there are."""
    seconds: float


def plan(seed: int, until: float, faults: Collection[Fault]) -> list[Planned]:
    """What breaks until then; of the given kinds."""
    dice = random.Random(seed ^ 0x5EED)
    found = []
    for fault in Fault:
        if fault not in faults:
            continue
        at = dice.expovariate(RATES[fault] / HOUR)
        while at < until:
            seconds = dice.uniform(*dice.choice(LENGTHS.get(fault, USUAL_LENGTHS)))
            found.append(Planned(at, fault, dice.randrange(1_000_000), seconds))
            at += dice.expovariate(RATES[fault] / HOUR)
    return sorted(found, key=lambda each: each.at)


class Breaker:
    """Brings faults about, and mends what they broke."""

    def __init__(self, world: World) -> None:
        """Of this world."""
        self._world = world
        self.broken = 0
        """How much is to be mended yet."""

    def bring(self, each: Planned) -> None:
        """Let it happen now, unless what it would break is broken already."""
        world = self._world
        node = list(world.nodes.values())[each.target % len(world.nodes)]
        router = world.routers[each.target % len(world.routers)]
        world.disturb()
        world.tally.faults += 1
        world.say(f"fault: {each.fault} ({node.id}, {router.name}, {each.seconds:.0f} s)")
        match each.fault:
            case Fault.NODE_PROCESS_DIES:
                self._end_process(node, each.seconds, with_jobs=False)
            case Fault.NODE_DIES | Fault.NODE_FORGETS:
                self._end_process(node, each.seconds, with_jobs=True)
            case Fault.NODE_REMOVED:
                if self._end_process(node, each.seconds, with_jobs=True):
                    world.later(each.seconds / 2, lambda: self._remove(node))
            case Fault.NODE_HANGS:
                self._hang_node(node, each.seconds)
            case Fault.CUT_OFF:
                self._cut([node], each.seconds)
            case Fault.ALL_CUT_OFF:
                self._cut(list(world.nodes.values()), each.seconds)
            case Fault.LOSSY:
                self._worsen(node, each.seconds, loss=0.25)
            case Fault.REPEATED:
                self._worsen(node, each.seconds, repeats=0.3)
            case Fault.SPOILS:
                node.spoils_s = 3.0
                self._after(each.seconds, lambda: setattr(node, "spoils_s", None))
            case Fault.EVICTS:
                for uuid in sorted(node.jobs)[:1]:
                    node.evict(uuid)
            case Fault.DRAINED:
                self._drain(node, each.seconds)
            case Fault.ROUTER_DIES:
                self._end_router(router, each.seconds)
            case Fault.ALL_ROUTERS_DIE:
                for one in world.routers:
                    self._end_router(one, each.seconds)
            case Fault.ROUTER_HANGS:
                self._hang_router(router, each.seconds)
            case Fault.POSTGRES_AWAY:
                self._take_postgres(each.seconds)

    def _after(self, seconds: float, mend: Callable[[], None]) -> None:
        def mended() -> None:
            self._world.disturb()
            self.broken -= 1
            mend()

        self.broken += 1
        self._world.later(seconds, mended)

    def _end_process(self, node: Node, seconds: float, with_jobs: bool) -> bool:
        if node.process is not Process.UP:
            return False
        node.die(with_jobs)
        self._after(seconds, node.start)
        return True

    def _hang_node(self, node: Node, seconds: float) -> None:
        if node.process is Process.UP:
            node.hang()
            self._after(seconds, node.resume)

    def _cut(self, nodes: list[Node], seconds: float) -> None:
        cut = [node for node in nodes if not node.link.is_cut]
        for node in cut:
            node.link.is_cut = True

        def mend() -> None:
            for node in cut:
                node.link.is_cut = False

        self._after(seconds, mend)

    def _worsen(self, node: Node, seconds: float, loss: float = 0.0, repeats: float = 0.0) -> None:
        if node.link.loss or node.link.repeats:
            return
        node.link.loss, node.link.repeats = loss, repeats

        def mend() -> None:
            node.link.loss = node.link.repeats = 0.0

        self._after(seconds, mend)

    def _drain(self, node: Node, seconds: float) -> None:
        row = self._world.database.nodes.get(node.id)
        if row is not None:
            row.draining = True
            self._after(seconds, lambda: setattr(row, "draining", False))

    def _remove(self, node: Node) -> None:
        for router in self._world.alive_routers():
            try:
                router.remove(node.id)
            except (Away, KeyError):
                return
            self._world.say(f"{node.id} is removed")
            return

    def _end_router(self, router: Router, seconds: float) -> None:
        if router.answers:
            router.die()
            self._after(seconds, router.start)

    def _hang_router(self, router: Router, seconds: float) -> None:
        if router.answers:
            router.hang()
            self._after(seconds, router.resume)

    def _take_postgres(self, seconds: float) -> None:
        database = self._world.database
        if database.is_away:
            return
        database.is_away = True

        def mend() -> None:
            database.is_away = False
            for router in self._world.routers:
                router.receive(router.load)

        self._after(seconds, mend)
