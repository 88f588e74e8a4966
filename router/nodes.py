"""What an administrator sees of the nodes, and does with them: drain, lock, remove."""

import logging
from datetime import timedelta
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from common.tokens import Caller
from router import queries
from router.database import Database
from router.events import Action, Actor, Subject, record
from router.foreign import Asked
from router.loop import Loop
from router.placement import Choice, Fleet, Need, NodeState, can_ever_fit, why_never
from router.queries import Standing
from router.registry import Registry
from router.tables import NodeRow

logger = logging.getLogger(__name__)


class NodeMissing(Exception):
    """There is no node of that name."""


class NodeBusy(Exception):
    """The node still has work, which removing it would interrupt."""


class Nodes:
    """The nodes, by name."""

    def __init__(self, database: Database, registry: Registry, loop: Loop) -> None:
        """A view of what these hold."""
        self._database = database
        self._registry = registry
        self._loop = loop

    async def states(self) -> list[NodeState]:
        """Every node as placement sees it now."""
        async with self._database.transaction() as session:
            return self._loop.node_states(await queries.standings(session))

    async def documents(self) -> list[dict[str, Any]]:
        """Every node, for people and programs."""
        async with self._database.transaction() as session:
            standings = await queries.standings(session)
        states = self._loop.node_states(standings)
        # Read after that: nodes come and go meanwhile.
        rows = {row.id: row for row in self._registry.nodes()}
        return [_document(state, rows[state.id], standings[state.id]) for state in states if state.id in rows]

    async def dry_run(self, need: Need) -> Choice:
        """Where a task of this need would go now, and why; nothing is reserved."""
        states = await self.states()
        choice = Fleet(states).choose(need, 0.0)
        if choice.node_id is None and states and not can_ever_fit(need, states):
            return Choice(None, why_never(need, states), choice.reasons, choice.others)
        return choice

    async def add_foreign(self, asked: Asked, *, by: Caller) -> dict[str, Any]:
        """Take a foreign node in, or take over what has changed of it. Raises `NodeUnusable`, `NameTaken`."""
        await self._loop.foreign.add(asked, by=by)
        self._loop.wake()
        return next(each for each in await self.documents() if each["name"] == asked.name)

    async def set_draining(self, name: str, draining: bool, *, by: Caller) -> dict[str, Any]:
        """No new work from now on; what runs there ends there. Or work as before."""
        what = "drains" if draining else "drains no more"
        async with self._database.transaction() as session:
            row = await self._row(session, name)
            if row.draining != draining:
                row.draining = draining
                _tell(session, by, Action.NODE_DRAINED if draining else Action.NODE_UNDRAINED, row, what)
        return await self._changed(name, what)

    async def set_locked(self, name: str, locked: bool, *, by: Caller) -> dict[str, Any]:
        """No new work until it is unlocked, also when the node joins again meanwhile."""
        what = "is locked" if locked else "is unlocked"
        async with self._database.transaction() as session:
            row = await self._row(session, name)
            if row.locked != locked:
                row.locked = locked
                _tell(session, by, Action.NODE_LOCKED if locked else Action.NODE_UNLOCKED, row, what)
        return await self._changed(name, what)

    async def trust(self, name: str, *, by: Caller) -> dict[str, Any]:
        """End a node's quarantine and probation: somebody has looked at it."""
        what = "is trusted again"
        async with self._database.transaction() as session:
            row = await self._row(session, name)
            if row.quarantines:
                _tell(session, by, Action.NODE_TRUSTED, row, what)
            await queries.set_quarantine(session, row.id, 0, timedelta(0))
        return await self._changed(name, what)

    async def remove(self, name: str, force: bool, *, by: Caller) -> None:
        """Take a node out of the federation. With work only by `force`; the work begins anew elsewhere."""
        async with self._database.transaction() as session:
            row = await self._row(session, name)
            held = await queries.held_by(session, [row.id])
            if held and not force:
                raise NodeBusy(
                    f"Node {name} still has {len(held)} tasks. Drain it and wait until they have ended, or remove it "
                    "by force, and they begin anew on other nodes."
                )
            row.removed_at = await queries.now(session)
            what = f"is removed with {len(held)} tasks, which begin anew elsewhere" if held else "is removed"
            _tell(session, by, Action.NODE_REMOVED, row, what, tasks=len(held))
        await self._registry.load()
        self._loop.wake()
        logger.info("node %s was removed with %d tasks", name, len(held))

    async def _row(self, session: AsyncSession, name: str) -> NodeRow:
        row = await queries.node_named(session, name)
        if row is None or row.removed_at is not None:
            known = ", ".join(sorted(each.name for each in self._registry.nodes())) or "none"
            raise NodeMissing(f"There is no node {name}; the nodes are: {known}.")
        return row

    async def _changed(self, name: str, what: str) -> dict[str, Any]:
        logger.info("node %s %s", name, what)
        await self._registry.load()
        self._loop.wake()
        return next(each for each in await self.documents() if each["name"] == name)


def _tell(session: AsyncSession, by: Caller, action: Action, row: NodeRow, what: str, **details: int) -> None:
    record(session, Actor.of(by), action, Subject.node(row), f"Node {row.name} {what}.", **details)


def _document(state: NodeState, row: NodeRow, standing: Standing) -> dict[str, Any]:
    return {
        "id": state.id,
        "name": state.name,
        "url": row.url,
        "kind": row.kind,
        "capabilities": row.capabilities,
        "engine": row.engine,
        "engineVersion": row.engine_version,
        "health": state.health.value,
        "healthSince": standing.health_since,
        "heardAt": standing.heard_at,
        "silentSeconds": round(standing.silence.total_seconds(), 1),
        "draining": state.draining,
        "locked": state.locked,
        "quarantine": state.quarantine or None,
        "onProbation": state.on_probation,
        "slots": state.slots,
        "placed": state.placed,
        "direct": state.direct,
        "cpuCores": standing.capacity.get("cpu_cores"),
        "totalMemoryBytes": state.total_memory_bytes,
        "freeMemoryBytes": state.free_memory_bytes,
        "freeDiskBytes": standing.capacity.get("free_disk_bytes"),
        "maxImages": state.max_images,
        "labels": dict(state.labels),
        "speed": round(state.speed, 2),
    }
