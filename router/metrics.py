"""The router's figures for Prometheus. What needs the database is read when somebody asks, in bounded time."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from common.counting import WAITS_S, Durations
from common.metrics import LEADER, OWN, SAME, Figure, Metrics, Sample, by_state, cause_label, ends
from common.tasks import WAITING, Cause, State
from router.database import MOST_CONNECTIONS, Database
from router.facts import Accepted, AttemptEnded, Fact, Placed, TaskEnded
from router.lifecycle import Health
from router.loop import Loop
from router.placement import NodeState, closed
from router.queries import Standing
from router.registry import Registry
from router.snapshot import Snapshot, SnapshotKeeper

logger = logging.getLogger(__name__)

LOOK_WITHIN_S = 2.0
GOOD_FOR_S = 1.0
"""How long what was read from the database is good: whoever may scrape must not keep it busy."""
_ASKED = f"Not told while the database does not answer. {SAME}"
_HEARTBEATS = ("taken", "repeated", "removed", "unknown")
_WAYS = ("upload", "reference", "restart")
_UNPLACED = ("input", "no_free_slot", "no_fitting_node", "token_limit")
Nodes = Sequence[tuple[NodeState, Standing]]
"""How they stand."""
_HELD_BACK: dict[str, Callable[[NodeState], bool]] = {
    "draining": lambda node: node.draining,
    "locked": lambda node: node.locked,
    "quarantine": lambda node: bool(node.quarantine),
    "probation": lambda node: node.on_probation and not node.quarantine,
}


FIGURES = (
    Figure(
        "scaleodm_router_tasks",
        "Tasks that are remembered, by state: staging and queued wait, placed and running hold a slot, the others are "
        f"over. {SAME}",
        ("state",),
    ),
    Figure(
        "scaleodm_router_oldest_wait_seconds",
        f"How long the task has waited that waits longest; 0 where none does. {SAME}",
    ),
    Figure(
        "scaleodm_router_unplaced_tasks",
        "Tasks that wait, by what for: input, which is being looked at; no_free_slot; no_fitting_node, where a slot is "
        "free, but none of a node that could take it now; token_limit, where its token has as many running as it may. "
        "All but input are 0 on replicas that do not lead: take the largest, not the sum.",
        ("reason",),
    ),
    Figure(
        "scaleodm_router_tasks_accepted_total",
        f"Tasks that took their place in the queue, by how they came. {OWN}",
        ("way",),
    ),
    Figure(
        "scaleodm_router_tasks_ended_total",
        f"Tasks that ended, by outcome. One that is restarted may end again. {OWN}",
        ("outcome",),
    ),
    Figure(
        "scaleodm_router_task_wait_seconds",
        "How long tasks waited from their commit until a slot was reserved for their first attempt; retries are not "
        f"among them. {LEADER}",
        is_histogram=True,
    ),
    Figure("scaleodm_router_placements_total", f"Slots reserved for attempts. {LEADER}"),
    Figure(
        "scaleodm_router_attempts_ended_total",
        "Attempts that ended, by outcome and cause. Two causes are refusals: refused, where the node would not have "
        "the task, and undelivered, where it could not be given it. One that was given up and finishes after all ends "
        f"twice. {OWN}",
        ("outcome", "cause"),
    ),
    Figure(
        "scaleodm_router_retries_total",
        f"Tasks that went back to the queue after an attempt had failed, by the cause of that. {OWN}",
        ("cause",),
    ),
    Figure("scaleodm_router_nodes", f"Nodes, by what their last heartbeat says. {_ASKED}", ("health",)),
    Figure(
        "scaleodm_router_nodes_held_back",
        "Nodes that get no work, or on probation one task at a time, whatever they have free, by why. " + _ASKED,
        ("reason",),
    ),
    Figure("scaleodm_router_slots", f"Slots of nodes that are healthy. {_ASKED}"),
    Figure(
        "scaleodm_router_slots_used",
        f"Slots taken on healthy nodes, by tasks of this router and by those that came to nodes directly. {_ASKED}",
        ("by",),
    ),
    Figure(
        "scaleodm_router_slots_free",
        f"Slots that could take a task now: of nodes that are healthy and not held back. {_ASKED}",
    ),
    Figure(
        "scaleodm_router_node_silence_seconds",
        f"How long ago each node was heard, by the database's clock. {_ASKED}",
        ("node",),
    ),
    Figure("scaleodm_router_node_slots", f"Slots of each node. {_ASKED}", ("node",)),
    Figure("scaleodm_router_node_slots_used", f"Slots taken of each node. {_ASKED}", ("node",)),
    Figure(
        "scaleodm_router_heartbeats_total",
        "Heartbeats that came: taken; repeated, late or for the second time; removed, from one that an "
        f"administrator has taken out; unknown, from one that is to join again. {OWN}",
        ("result",),
    ),
    Figure("scaleodm_router_joins_total", f"Nodes that joined, again too. {OWN}"),
    Figure(
        "scaleodm_router_leading",
        f"1 on the replica that leads, and so places, delivers and calls webhooks. {OWN}",
    ),
    Figure(
        "scaleodm_router_deaf_seconds",
        "For how long this replica has not heard what others change, so that it may answer what was true then; 0 while "
        "it hears. Each replica tells of itself: take the largest.",
    ),
    Figure("scaleodm_router_database_up", f"1 if Postgres has just answered this replica. {OWN}"),
    Figure("scaleodm_router_database_connections", f"Connections of the pool to Postgres, by use. {OWN}", ("use",)),
    Figure(
        "scaleodm_router_database_connections_limit",
        f"How many there may be; who needs one more waits. One further connection listens. {OWN}",
    ),
)
"""Those of the router alone."""


class RouterMetrics(Metrics):
    """Counts what transactions have settled, and reads the rest from those who know it."""

    def __init__(self) -> None:
        """Nothing yet; `ask` and `watch` say who knows."""
        super().__init__("router", FIGURES)
        self._accepted: Counter[str] = Counter()
        self._placed = 0
        self._waits = Durations(WAITS_S)
        self._attempts: Counter[tuple[State, Cause | None]] = Counter()
        self._ended: Counter[str] = Counter()
        self._retries: Counter[str] = Counter()
        self._nodes: Nodes | None = None
        """None where the database does not say."""
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()
        self._loop: Loop | None = None
        self._read_what_was_heard()
        self._read_what_nodes_have()

    def hear(self, facts: Sequence[Fact]) -> None:
        """A transaction was committed."""
        over = {fact.uuid for fact in facts if isinstance(fact, TaskEnded)}
        for fact in facts:
            match fact:
                case Accepted():
                    self._accepted[fact.way] += 1
                case Placed():
                    self._placed += 1
                    if fact.waited_s is not None:
                        self._waits.count(fact.waited_s)
                case AttemptEnded():
                    self._attempts[fact.state, fact.cause] += 1
                    if fact.state is State.FAILED and fact.uuid not in over:
                        self._retries[cause_label(fact.cause)] += 1
                case TaskEnded():
                    self._ended[fact.state.value] += 1

    def ask(
        self, database: Database, keeper: SnapshotKeeper, snapshot: Snapshot, loop: Loop, registry: Registry
    ) -> None:
        """From now on these are asked."""
        self._loop = loop
        readings = self.readings
        readings.read("scaleodm_router_tasks", lambda: by_state({state: snapshot.count(state) for state in State}))
        readings.read_one(
            "scaleodm_router_oldest_wait_seconds",
            lambda: _oldest_wait_s(snapshot),
        )
        readings.read("scaleodm_router_unplaced_tasks", lambda: self._unplaced(loop, snapshot))
        readings.read_counts("scaleodm_router_heartbeats_total", registry.heartbeats, _HEARTBEATS)
        readings.read_one("scaleodm_router_joins_total", lambda: registry.joins)
        readings.read_one("scaleodm_router_leading", lambda: loop.leadership.is_leading)
        readings.read_one("scaleodm_router_deaf_seconds", lambda: keeper.deaf_s)
        readings.read("scaleodm_router_database_connections", lambda: _connections(database))
        readings.read_one("scaleodm_router_database_connections_limit", lambda: MOST_CONNECTIONS)

    async def look(self) -> None:
        """Read from the database how nodes stand. Where it does not answer, what it knows is not told."""
        async with self._looking:
            if self._loop is None or time.monotonic() - self._looked_at < GOOD_FOR_S:
                return
            try:
                async with asyncio.timeout(LOOK_WITHIN_S):
                    standings = await self._loop.standings()
            except (OSError, SQLAlchemyError, TimeoutError) as trouble:
                logger.warning("the figures are told without those of nodes (%s)", type(trouble).__name__)
                self._nodes = None
            else:
                self._nodes = [(state, standings[state.id]) for state in self._loop.node_states(standings)]
            self._looked_at = time.monotonic()

    def _unplaced(self, loop: Loop, snapshot: Snapshot) -> list[Sample]:
        """What waits, by what for; of those that wait for a slot only the leader knows."""
        unseen = sum(known.task.input_bytes == 0 for known in snapshot.within(*WAITING))
        found = Counter({"input": unseen}) + (loop.unplaced if loop.leadership.is_leading else Counter())
        return [((reason,), found[reason]) for reason in _UNPLACED]

    def _read_what_was_heard(self) -> None:
        readings = self.readings
        readings.read_counts("scaleodm_router_tasks_accepted_total", self._accepted, _WAYS)
        readings.read_counts("scaleodm_router_tasks_ended_total", self._ended, ("completed", "failed", "canceled"))
        readings.read_durations("scaleodm_router_task_wait_seconds", lambda: [((), self._waits)])
        readings.read_one("scaleodm_router_placements_total", lambda: self._placed)
        readings.read("scaleodm_router_attempts_ended_total", lambda: ends(self._attempts))
        readings.read_counts("scaleodm_router_retries_total", self._retries, map(cause_label, Cause))

    def _read_what_nodes_have(self) -> None:
        self.readings.read_one("scaleodm_router_database_up", lambda: self._nodes is not None)
        for name, samples in _OF_NODES.items():
            self.readings.read(name, self._of_nodes(samples))

    def _of_nodes(self, samples: Callable[[Nodes], Iterable[Sample]]) -> Callable[[], Iterable[Sample]]:
        return lambda: () if self._nodes is None else samples(self._nodes)


def _oldest_wait_s(snapshot: Snapshot) -> float:
    came = [known.committed_at for known in snapshot.within(*WAITING) if known.committed_at is not None]
    return max(0.0, (datetime.now(UTC) - min(came)).total_seconds()) if came else 0.0


def _connections(database: Database) -> list[Sample]:
    pool = database.engine.pool
    assert isinstance(pool, QueuePool)
    return [(("busy",), pool.checkedout()), (("idle",), pool.checkedin())]


def _by_health(nodes: Nodes) -> list[Sample]:
    counts = Counter(state.health for state, _ in nodes)
    return [((health.value,), counts[health]) for health in Health]


def _by_reason(nodes: Nodes) -> list[Sample]:
    return [((reason,), sum(is_so(state) for state, _ in nodes)) for reason, is_so in _HELD_BACK.items()]


def _healthy(nodes: Nodes, what: str) -> Iterable[int]:
    return (getattr(state, what) for state, _ in nodes if state.health is Health.HEALTHY)


def _free(node: NodeState) -> int:
    return 0 if closed(node, node.used) else node.open_slots - node.used


_OF_NODES: dict[str, Callable[[Nodes], Iterable[Sample]]] = {
    "scaleodm_router_nodes": _by_health,
    "scaleodm_router_nodes_held_back": _by_reason,
    "scaleodm_router_slots": lambda nodes: [((), sum(_healthy(nodes, "slots")))],
    "scaleodm_router_slots_used": lambda nodes: [
        (("router",), sum(_healthy(nodes, "placed"))),
        (("direct",), sum(_healthy(nodes, "direct"))),
    ],
    "scaleodm_router_slots_free": lambda nodes: [((), sum(_free(state) for state, _ in nodes))],
    "scaleodm_router_node_silence_seconds": lambda nodes: [
        ((state.name,), each.silence.total_seconds()) for state, each in nodes
    ],
    "scaleodm_router_node_slots": lambda nodes: [((state.name,), state.slots) for state, _ in nodes],
    "scaleodm_router_node_slots_used": lambda nodes: [((state.name,), state.used) for state, _ in nodes],
}
"""What is told of nodes, from how they stand."""
