"""Nodes join, report and fall silent (design 4.2)."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from common.federation import (
    Acknowledged,
    AttemptKey,
    AttemptReport,
    Heartbeat,
    HeartbeatAnswer,
    JoinAnswer,
    JoinRequest,
)
from common.nodeodm.catalogue import ODM_OPTIONS
from common.nodeodm.options import Option
from common.nodeodm.routes import now_ms
from common.references import Reference, staged_root
from common.storage import Storage
from common.tasks import ENDED, State
from router import queries
from router.access import Access
from router.database import Database
from router.lifecycle import has_all_lines, is_current, reported, unseen_lines
from router.snapshot import Snapshot
from router.tables import NodeRow, TaskRow

logger = logging.getLogger(__name__)


class NodeUnknown(Exception):
    """A heartbeat came from a node that is not on record."""


class Registry:
    """The nodes of this federation, on record and in memory."""

    def __init__(
        self, database: Database, snapshot: Snapshot, access: Access, storage: Storage, staging: Reference
    ) -> None:
        """Empty until `load`."""
        self._database = database
        self._snapshot = snapshot
        self._access = access
        self._storage = storage
        self._staging = staging
        self._nodes: dict[str, NodeRow] = {}
        self._catalogue: tuple[Option, ...] = ODM_OPTIONS

    async def load(self) -> None:
        """Read the nodes on record."""
        async with self._database.transaction() as session:
            rows = await queries.node_rows(session)
        for row in rows:
            self._remember(row)

    def nodes(self) -> Sequence[NodeRow]:
        """Every node, as it joined."""
        return list(self._nodes.values())

    def catalogue(self) -> tuple[Option, ...]:
        """Every option that some node knows, in ODM's order; ODM's own list while no node has joined."""
        return self._catalogue

    async def join(self, request: JoinRequest) -> JoinAnswer:
        """Take a node in. The same name again is the same node, whatever else changed."""
        async with self._database.transaction() as session:
            row = await queries.node_named(session, request.name) or _new_node(request)
            changes = request.model_dump(exclude={"name"})
            for column, value in changes.items():
                setattr(row, column, value)
            row.heard_at = await queries.now(session)
            session.add(row)
        self._remember(row)
        self._access.admit_node(row.id)
        logger.info("node %s joined: %s, %s, %d slots", row.name, row.url, row.engine, request.capacity.slots)
        return JoinAnswer(node_id=row.id, secret=self._access.node_secret(row.id))

    async def heartbeat(self, node_id: str, heartbeat: Heartbeat) -> HeartbeatAnswer:
        """Take a node's report in, and tell it what to end."""
        stop: list[AttemptKey] = []
        acknowledged: list[Acknowledged] = []
        async with self._database.transaction() as session:
            node = await session.get(NodeRow, node_id)
            if node is None:
                raise NodeUnknown(node_id)
            await queries.hear(session, node, heartbeat.capacity)
        for report in heartbeat.attempts:
            next_line = await self._take(node_id, report)
            if next_line is None:
                stop.append(AttemptKey(uuid=report.uuid, attempt=report.attempt))
            else:
                acknowledged.append(Acknowledged(uuid=report.uuid, attempt=report.attempt, next_line=next_line))
        node.capacity = heartbeat.capacity.model_dump()
        self._remember(node)
        return HeartbeatAnswer(stop=stop, acknowledged=acknowledged, draining=node.draining)

    async def _take(self, node_id: str, report: AttemptReport) -> int | None:
        """One report on record; gives the console line that is wanted next, None when the node may let go."""
        async with self._database.transaction() as session:
            row = await queries.task_row(session, report.uuid)
            attempt = await queries.attempt_row(session, report.uuid, report.attempt)
            if row is None or attempt is None or attempt.node_id != node_id or not is_current(row.task(), report):
                return None
            new_lines = unseen_lines(report, attempt.next_line)
            next_line = attempt.next_line + len(new_lines)
            if new_lines:
                await queries.add_lines(session, report.uuid, report.attempt, attempt.next_line, new_lines)
            ended = report.state in ENDED and has_all_lines(report, next_line)
            task = replace(row.task(), console_lines=next_line)
            row.take(task if report.state in ENDED and not ended else reported(task, report, now_ms()))
            attempt.state, attempt.delivered = row.state, True
            if ended:
                await queries.end_attempt(session, report.uuid, report.attempt, State(row.state), row.error)
        self._snapshot.put(row)
        if not ended:
            return next_line
        await self._settle(row, report)
        return None

    async def _settle(self, row: TaskRow, report: AttemptReport) -> None:
        logger.info("task %s %s after attempt %d: %s", row.uuid, row.state, row.attempt, row.error or "no error")
        if row.staged and report.input_at_fault:
            # No restart could use it.
            await self._storage.run(self._storage.delete_prefix, staged_root(self._staging, row.uuid))

    def _remember(self, row: NodeRow) -> None:
        self._nodes[row.id] = row
        self._catalogue = united(row.options for row in self._nodes.values())


def _new_node(request: JoinRequest) -> NodeRow:
    return NodeRow(
        id=str(uuid4()),
        name=request.name,
        url=request.url,
        engine=request.engine,
        engine_version=request.engine_version,
    )


def united(lists: Iterable[list[dict[str, Any]]]) -> tuple[Option, ...]:
    """The options of several nodes as one list: ODM's own in ODM's order, then those of other engines."""
    by_name: dict[str, Option] = {}
    for options in lists:
        for each in options:
            by_name.setdefault(str(each["name"]), Option.from_json(each))
    order = {option.name: place for place, option in enumerate(ODM_OPTIONS)}
    return tuple(sorted(by_name.values(), key=lambda option: order.get(option.name, len(order)))) or ODM_OPTIONS
