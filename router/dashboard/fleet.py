"""The nodes as the dashboard shows them: how they stand, what runs on them, when a slot may be free."""

import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import col, select

from common.tasks import ACTIVE, Task
from router.dashboard.live import Pulse, Shared
from router.database import Database
from router.estimates import Estimate
from router.forecast import remaining
from router.lifecycle import Health
from router.nodes import Nodes
from router.queue import Queue
from router.snapshot import Snapshot
from router.tables import AttemptRow

STATES = ("healthy", "late", "lost", "locked", "draining", "quarantined", "probation")
"""In the order in which a filter lists them."""
_ACTIVE = [state.value for state in ACTIVE]


@dataclass(frozen=True, slots=True)
class Shown:
    """A node, and what runs there."""

    node: Mapping[str, Any]
    """As `Nodes.documents` tells it."""
    tasks: Sequence[Task] = field(default_factory=tuple)
    free_in: str = ""
    """When a slot may be free."""

    @property
    def state(self) -> str:
        """The one word that matters most."""
        return state_of(self.node)


def state_of(node: Mapping[str, Any]) -> str:
    """The one word that matters most about a node."""
    if node["health"] != Health.HEALTHY:
        return str(node["health"])
    marks = (
        ("locked", "locked"),
        ("draining", "draining"),
        ("quarantine", "quarantined"),
        ("onProbation", "probation"),
    )
    return next((word for mark, word in marks if node[mark]), "healthy")


def wanted(nodes: Sequence[Mapping[str, Any]], text: str, state: str) -> list[Mapping[str, Any]]:
    """The nodes in this state that have this text in name, engine, address or labels."""
    text = text.casefold()
    return [node for node in nodes if (not state or state_of(node) == state) and text in _searched(node)]


def _searched(node: Mapping[str, Any]) -> str:
    labels = " ".join(f"{name}={value}" for name, value in node["labels"].items())
    return f"{node['name']} {node['engine']} {node['engineVersion']} {node['url']} {labels}".casefold()


def free_in(node: Mapping[str, Any], running: Sequence[tuple[Estimate | None, float]]) -> tuple[float, float] | None:
    """Seconds until a slot is free, the least and the most; None where nobody can know.

    `running`: of each task the estimate, and the seconds for which it has run.
    """
    if node["placed"] + node["direct"] < node["slots"]:
        return (0.0, 0.0)
    known = [(estimate, ran_s) for estimate, ran_s in running if estimate is not None]
    if not known:
        return None
    # One that is not known may be the first to end.
    has_unknown = len(known) < node["placed"] + node["direct"]
    low = 0.0 if has_unknown else min(remaining(estimate, ran_s, early=True) for estimate, ran_s in known)
    return low, min(remaining(estimate, ran_s, early=False) for estimate, ran_s in known)


class Fleet:
    """Every node, for all open pages together."""

    def __init__(self, nodes: Nodes, database: Database, snapshot: Snapshot, queue: Queue, pulse: Pulse) -> None:
        """`pulse` tells when what was read is old."""
        self._database = database
        self._snapshot = snapshot
        self._queue = queue
        self._documents = Shared(pulse, nodes.documents)

    async def documents(self) -> list[dict[str, Any]]:
        """Every node, by name."""
        return await self._documents.get()

    async def shown(self, nodes: Sequence[Mapping[str, Any]]) -> list[Shown]:
        """These nodes, with what runs there."""
        tasks = await self._tasks_on({node["id"] for node in nodes})
        return [
            Shown(node, tasks.get(node["id"], []), self._free_in(node, tasks.get(node["id"], []))) for node in nodes
        ]

    async def _tasks_on(self, ids: Collection[str]) -> Mapping[str, list[Task]]:
        async with self._database.statement() as session:
            found = await session.exec(
                select(AttemptRow.node_id, AttemptRow.task_uuid, AttemptRow.number).where(
                    col(AttemptRow.node_id).in_(ids), col(AttemptRow.state).in_(_ACTIVE)
                )
            )
        tasks: defaultdict[str, list[Task]] = defaultdict(list)
        for node_id, uuid, number in found:
            task = self._snapshot.get(uuid)
            if task is not None and task.attempt == number and task.state in ACTIVE:
                tasks[node_id].append(task)
        return {node_id: sorted(each, key=lambda task: (-task.progress, task.uuid)) for node_id, each in tasks.items()}

    def _free_in(self, node: Mapping[str, Any], tasks: Sequence[Task]) -> str:
        now_ms = time.time_ns() // 1_000_000
        running = [(self._queue.estimate(task), max(0, task.processing_time_ms(now_ms)) / 1000) for task in tasks]
        return free_text(free_in(node, running))


def free_text(seconds: tuple[float, float] | None) -> str:
    """As a range that is honest: whole minutes, outwards."""
    if seconds is None:
        return "unknown"
    low, high = int(seconds[0] // 60), -int(-seconds[1] // 60)
    if high == 0:
        return "now"
    if high >= 180:
        low, high, unit = low // 60, -(-high // 60), "h"
    else:
        unit = "min"
    return f"in {low} to {high} {unit}" if 0 < low < high else f"within {high} {unit}"
