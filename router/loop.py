"""Look, decide, act: surveys inputs, places what waits, delivers what was placed, ends what is no longer wanted."""

import asyncio
import logging
import random
from collections.abc import Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel.ext.asyncio.session import AsyncSession

from common.federation import AttemptKey, Forward
from common.nodeodm.client import NodeAnswerUnreadable, NodeClient, NodeRefused, NodeUnreachable
from common.nodeodm.intake import InputRefused, survey
from common.references import Reference, staged_root
from common.storage import Storage, StorageFault
from common.tasks import State, Task
from router import queries
from router.access import Access
from router.database import Database
from router.lifecycle import failed, placed, undelivered
from router.placement import Choice, Need, NodeState, can_ever_fit, choose, why_never, with_one_more
from router.snapshot import Snapshot
from router.tables import AttemptRow, NodeRow, TaskRow

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
"""The loop is woken by what happens here; it looks by itself for what happens elsewhere."""
MOST_PLACED_AT_ONCE = 100
AVOID_FOR = timedelta(seconds=30)
"""A node that could not be given a task is not tried with it again for this long, while another fits."""
AUTOMATIC = frozenset({"pc-ept", "cog", "gltf"})
"""Options that we add ourselves (contract 4.4): no reason not to use a node without them."""


class Loop:
    """The router's own work."""

    def __init__(
        self, database: Database, snapshot: Snapshot, access: Access, storage: Storage, staging: Reference
    ) -> None:
        """Nothing runs yet."""
        self._database = database
        self._snapshot = snapshot
        self._access = access
        self._storage = storage
        self._staging = staging
        self._http = httpx.AsyncClient(timeout=httpx.Timeout(15.0, connect=5.0))
        self._awake = asyncio.Event()
        self._errands: dict[str, asyncio.Task[None]] = {}

    def wake(self) -> None:
        """There is something to do."""
        self._awake.set()

    async def run(self) -> None:
        """Look, decide, act, for ever."""
        while True:
            self._awake.clear()
            try:
                await self._turn()
            except (OSError, SQLAlchemyError) as trouble:
                logger.warning("the database is away (%s); the queue waits for it", trouble)
            try:
                await asyncio.wait_for(self._awake.wait(), LOOK_EVERY_S)
            except TimeoutError:
                continue

    async def close(self) -> None:
        """End every errand."""
        for errand in self._errands.values():
            errand.cancel()
        await asyncio.gather(*self._errands.values(), return_exceptions=True)
        await self._http.aclose()

    async def _turn(self) -> None:
        async with self._database.transaction() as session:
            unsurveyed = await queries.unsurveyed(session)
        for row in unsurveyed:
            self._send(f"survey {row.uuid}", self._survey(row.task()))
        await self._place()
        async with self._database.transaction() as session:
            waiting = await queries.undelivered(session)
        for row, attempt, node in waiting:
            self._send(f"deliver {row.uuid} {attempt.number}", self._deliver(row.task(), node))

    def _send(self, name: str, errand: Coroutine[Any, Any, None]) -> None:
        """Run an errand beside the loop, unless the same one is under way."""
        if name in self._errands:
            errand.close()
            return
        running = asyncio.create_task(errand, name=name)
        self._errands[name] = running
        running.add_done_callback(lambda done: self._returned(name, done))

    def _returned(self, name: str, done: "asyncio.Task[None]") -> None:
        del self._errands[name]
        if not done.cancelled() and (trouble := done.exception()) is not None:
            logger.error("errand %s failed and will be sent again: %s", name, trouble, exc_info=trouble)

    # Surveying

    async def _survey(self, task: Task) -> None:
        """Count the input once, before placement needs it (design 4.5)."""
        try:
            found = await self._storage.run(survey, self._storage, task)
        except InputRefused as refused:
            await self._give_up(task, str(refused))
            return
        except StorageFault as fault:
            if fault.may_pass:
                logger.warning("task %s waits for S3: %s", task.uuid, fault)
                return
            await self._give_up(task, str(fault))
            return
        async with self._database.transaction() as session:
            row = await queries.task_row(session, task.uuid)
            if row is None or row.task() != task:
                return
            row.images_count, row.input_bytes = found.images_count, max(1, found.input_bytes)
        self._snapshot.put(row)
        self.wake()

    async def _give_up(self, task: Task, reason: str) -> None:
        async with self._database.transaction() as session:
            row = await queries.task_row(session, task.uuid)
            if row is None or row.task() != task:
                return
            row.take(failed(task, reason))
        self._snapshot.put(row)
        logger.info("task %s failed: %s", task.uuid, reason)
        if task.staged:
            await self._storage.run(self._storage.delete_prefix, staged_root(self._staging, task.uuid))

    # Placing

    async def _place(self) -> None:
        """Reserve slots for what waits, in one transaction that holds the nodes' rows (I4)."""
        changed: list[TaskRow] = []
        async with self._database.transaction() as session:
            rows = await queries.queue(session, MOST_PLACED_AT_ONCE)
            nodes = await queries.node_states(session, lock=True) if rows else []
            for row in rows:
                avoid = await queries.recently_unreachable(session, row.uuid, AVOID_FOR)
                need = self.need_of(row.task(), avoid)
                nodes = self._place_one(session, row, need, nodes, changed)
        for row in changed:
            self._snapshot.put(row)

    def _place_one(
        self, session: AsyncSession, row: TaskRow, need: Need, nodes: list[NodeState], changed: list[TaskRow]
    ) -> list[NodeState]:
        """Place one task if a node fits; gives the nodes as they are then."""
        task = row.task()
        choice = choose(need, nodes, random.random())  # noqa: S311 - a tie, not a secret
        if choice.node_id is not None:
            row.take(placed(task, task.attempt + 1))
            session.add(_attempt(row, choice))
            changed.append(row)
            logger.info("task %s attempt %d: %s", row.uuid, row.attempt, choice.text)
            return with_one_more(nodes, choice.node_id)
        if not can_ever_fit(need, nodes):
            row.take(failed(task, why_never(need, nodes)))
            changed.append(row)
        elif task.state is State.STAGING:
            row.take(replace(task, state=State.QUEUED))
            changed.append(row)
        return nodes

    def need_of(self, task: Task, avoid: frozenset[str] = frozenset()) -> Need:
        """What the task asks of a node."""
        names = frozenset(setting.name for setting in task.options)
        return Need(task.images_count, names - AUTOMATIC, avoid)

    # Delivering

    async def _deliver(self, task: Task, node: NodeRow) -> None:
        """Give a node the task that a slot is reserved for. Repeating it is safe (design 4.2)."""
        client = self._client(node)
        try:
            await client.submit(forward_of(task).model_dump(by_alias=True), task.uuid)
        except (NodeUnreachable, NodeAnswerUnreadable) as trouble:
            logger.warning("task %s back in the queue: %s", task.uuid, trouble)
            await self._conclude(task, undelivered(task), str(trouble))
        except NodeRefused as refused:
            logger.warning("task %s refused by node %s: %s", task.uuid, node.name, refused)
            await self._conclude(task, failed(task, str(refused)), str(refused))
        else:
            async with self._database.transaction() as session:
                attempt = await queries.attempt_row(session, task.uuid, task.attempt)
                if attempt is not None:
                    attempt.delivered = True

    async def _conclude(self, task: Task, after: Task, error: str) -> None:
        """End the attempt that could not be delivered, unless something else has happened to the task."""
        async with self._database.transaction() as session:
            row = await queries.task_row(session, task.uuid)
            if row is None or row.attempt != task.attempt or row.state != State.PLACED:
                return
            await queries.end_attempt(session, task.uuid, task.attempt, State.FAILED, error)
            row.take(after)
        self._snapshot.put(row)
        self.wake()

    # Letting go

    def let_go(self, uuid: str, attempt: int, node: NodeRow | None = None) -> None:
        """Tell the node at once that an attempt is over. If it cannot be told now, its next heartbeat is."""
        if attempt:
            self._send(f"let go {uuid} {attempt}", self._let_go(uuid, attempt, node))

    async def _let_go(self, uuid: str, attempt: int, node: NodeRow | None) -> None:
        if node is None:
            async with self._database.transaction() as session:
                node = await queries.node_of(session, uuid, attempt)
        if node is None:
            return
        try:
            await self._client(node).let_go(AttemptKey(uuid=uuid, attempt=attempt))
        except (NodeUnreachable, NodeRefused, NodeAnswerUnreadable) as trouble:
            logger.warning("task %s: %s; the node is told with its next heartbeat", uuid, trouble)
        self.wake()

    def _client(self, node: NodeRow) -> NodeClient:
        return NodeClient(node.url, self._access.node_secret(node.id), self._http)


def _attempt(row: TaskRow, choice: Choice) -> AttemptRow:
    assert choice.node_id is not None
    return AttemptRow(
        task_uuid=row.uuid,
        number=row.attempt,
        node_id=choice.node_id,
        why=choice.text,
        reasons=choice.reasons_document(),
    )


def forward_of(task: Task) -> Forward:
    """The task as its node is given it: by reference, without the webhook, which is the router's to call."""
    return Forward(
        attempt=task.attempt,
        name=task.name,
        tenant=task.tenant,
        read=task.input,
        write=task.output,
        options=[{"name": setting.name, "value": setting.value} for setting in task.options],
        outputs=list(task.outputs),
        skip_post_processing=task.skip_post_processing,
        date_created=task.created_ms,
        images_count=task.images_count,
        input_bytes=task.input_bytes,
    )
