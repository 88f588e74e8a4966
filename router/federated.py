"""The NodeODM API answered from the whole federation: Postgres and memory, never by asking a node."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

from sqlmodel.ext.asyncio.session import AsyncSession

from common.federation import Capacity
from common.nodeodm.intake import automatic, is_same_request, task_from
from common.nodeodm.messages import first_line, node_info
from common.nodeodm.options import Option, Setting
from common.nodeodm.refusals import Refused
from common.nodeodm.routes import API_VERSION, now_ms
from common.nodeodm.surface import OpenUpload, Submission
from common.references import Reference, staged_images, staged_root
from common.storage import Storage
from common.tasks import ENDED, State, Task, again, canceled
from common.tokens import Caller
from router import queries
from router.consoles import Consoles
from router.database import Database
from router.inbox import TableInbox
from router.loop import Loop
from router.placement import Choice, choose
from router.registry import Registry
from router.snapshot import Snapshot
from router.tables import TaskRow

logger = logging.getLogger(__name__)

NO_NODE = (
    "No node has joined this router, so nothing can process a task. Start one with SCALEODM_NODE_ROUTER_URL set to "
    "this router (see `scaleodm node` in the README), then submit again."
)


class FederatedTasks:
    """Tasks of the federation."""

    def __init__(
        self,
        database: Database,
        snapshot: Snapshot,
        registry: Registry,
        loop: Loop,
        storage: Storage,
        staging: Reference,
    ) -> None:
        """`loop` is woken when there is something to place."""
        self._database = database
        self._snapshot = snapshot
        self._registry = registry
        self._loop = loop
        self._storage = storage
        self._staging = staging
        self._consoles = Consoles(database)

    async def node_info(self) -> dict[str, object]:
        """`GET /info`: the federation as if it were one node (contract 2.3)."""
        nodes = self._registry.nodes()
        capacities = [Capacity.model_validate(node.capacity) for node in nodes]
        limits = [node.max_images for node in nodes]
        largest = None if not limits or None in limits else max(limit for limit in limits if limit is not None)
        engines = {(node.engine, node.engine_version) for node in nodes}
        engine, version = engines.pop() if len(engines) == 1 else ("odm", "federation")
        return node_info(
            version=API_VERSION,
            task_queue_count=sum(task.state not in ENDED for task in self._snapshot.all()),
            total_memory=sum(each.total_memory_bytes for each in capacities),
            available_memory=sum(each.available_memory_bytes for each in capacities),
            cpu_cores=sum(each.cpu_cores for each in capacities),
            max_images=largest,
            max_parallel_tasks=sum(each.slots for each in capacities),
            engine=engine,
            engine_version=version,
        )

    def catalogue(self) -> Sequence[Option]:
        """Every option that some node knows."""
        return self._registry.catalogue()

    async def open_upload(self, caller: Caller, uuid: str | None, submission: Submission) -> str:
        """Begin an upload, or take new fields for one that is open; its files stay."""
        self._check_nodes()
        uuid = uuid or str(uuid4())
        task = task_from(caller, uuid, replace(submission, read=None), self._staging, tuple(self.catalogue()))
        async with self._database.transaction() as session:
            row = await queries.task_row(session, uuid)
            if row is None:
                row = TaskRow.of(task)
                session.add(row)
            elif row.state != State.UPLOADING or not caller.may_see(row.tenant):
                raise Refused(f"Invalid set-uuid: {uuid}")
            row.take(task)
        return uuid

    async def upload(self, caller: Caller, uuid: str) -> OpenUpload:
        """The upload that is open under this uuid."""
        async with self._database.statement() as session:
            tenant = await queries.tenant_of_upload(session, uuid)
        if tenant is None or not caller.may_see(tenant):
            raise Refused("Invalid uuid (not found)")
        return OpenUpload(TableInbox(self._database, uuid), staged_images(self._staging, uuid))

    async def discard_upload(self, caller: Caller, uuid: str) -> None:
        """Forget an upload and its files."""
        async with self._database.transaction() as session:
            row = await queries.task_row(session, uuid)
            if row is None or row.state != State.UPLOADING or not caller.may_see(row.tenant):
                return
            await session.delete(row)
        await self._empty_staging(uuid)

    async def commit(self, caller: Caller, uuid: str) -> str:
        """Make a task of an upload. Committing again answers the same (design 4.5)."""
        async with self._database.transaction() as session:
            row = await queries.task_row(session, uuid)
            if row is None or not caller.may_see(row.tenant):
                raise Refused("Invalid uuid (not found)")
            if row.state != State.UPLOADING:
                return uuid
            files = await queries.staged_files(session, uuid)
            if files:
                row.take(replace(row.task(), state=State.STAGING, images_count=len(files)))
                row.committed_at = await queries.now(session)
                await queries.forget_staged_files(session, uuid)
        if not files:
            await self.discard_upload(caller, uuid)
            raise Refused("Need at least 1 file.")
        self._taken(row)
        return uuid

    async def submit(self, caller: Caller, uuid: str | None, submission: Submission) -> str:
        """A task by S3 reference. The same again under the same uuid answers the same (design 4.5)."""
        self._check_nodes()
        asked, uuid = uuid, uuid or str(uuid4())
        submission = replace(submission, attempt=0, tenant=None, images_count=0, input_bytes=0)
        task = task_from(caller, uuid, submission, self._staging, tuple(self.catalogue()))
        async with self._database.transaction() as session:
            row = await queries.task_row(session, uuid)
            if row is not None:
                if caller.may_see(row.tenant) and is_same_request(row.task(), task):
                    return uuid
                raise Refused(f"Invalid set-uuid: {asked}")
            row = TaskRow.of(task)
            row.committed_at = await queries.now(session)
            session.add(row)
        self._taken(row)
        return uuid

    async def uuids(self, caller: Caller) -> list[str]:
        """Every task that the caller may see, oldest first."""
        return [task.uuid for task in self._snapshot.all() if caller.may_see(task.tenant)]

    def peek(self, uuid: str) -> Task | None:
        """The task, from memory."""
        return self._snapshot.get(uuid)

    async def task(self, caller: Caller, uuid: str) -> Task:
        """The task: from memory, or for a task that another replica took a moment ago from Postgres."""
        task = self._snapshot.get(uuid) or await self._read(uuid)
        if task is None or not caller.may_see(task.tenant):
            raise Refused(f"{uuid} not found")
        return task

    async def _read(self, uuid: str) -> Task | None:
        async with self._database.transaction() as session:
            row = await session.get(TaskRow, uuid)
        return None if row is None or row.state == State.UPLOADING else row.task()

    async def lines(self, caller: Caller, uuid: str, start: str) -> list[str]:
        """Console lines of the current attempt, as far as its node has told them."""
        task = await self.task(caller, uuid)
        first = first_line(start, task.console_lines)
        if first >= task.console_lines:
            return []
        lines = await self._consoles.lines(uuid, task.attempt, task.console_lines)
        return lines[first : task.console_lines]

    async def cancel(self, caller: Caller, uuid: str) -> None:
        """Canceled from this answer on, whatever a node still reports (I7); the node is told at once."""
        async with self._database.transaction() as session:
            row = await self._locked(session, caller, uuid)
            if row.state != State.CANCELED:
                await queries.end_attempt(session, uuid, row.attempt, State.CANCELED, "canceled by a user")
                row.take(canceled(row.task()))
        self._snapshot.put(row)
        self._loop.let_go(uuid, row.attempt)

    async def remove(self, caller: Caller, uuid: str) -> None:
        """End and forget; what the client uploaded goes too, what it keeps in its own S3 stays."""
        async with self._database.transaction() as session:
            row = await self._locked(session, caller, uuid)
            node = await queries.node_of(session, uuid, row.attempt)
            await session.delete(row)
        self._snapshot.drop(uuid)
        self._loop.let_go(uuid, row.attempt, node)
        if row.staged:
            await self._empty_staging(uuid)

    async def restart(self, caller: Caller, uuid: str, settings: tuple[Setting, ...] | None) -> None:
        """Back to the queue under the same uuid; the number of its next attempt goes on counting."""
        async with self._database.transaction() as session:
            row = await self._locked(session, caller, uuid)
            if State(row.state) not in ENDED:
                raise Refused("Task cannot be restarted", success=False)
            task = again(row.task(), row.attempt, now_ms())
            if settings is not None:
                task = replace(task, options=automatic(settings, tuple(self.catalogue()), task.skip_post_processing))
            row.take(task)
            row.committed_at = await queries.now(session)
        self._taken(row)

    async def why(self, caller: Caller, uuid: str) -> dict[str, object]:
        """Which node has the task and why, or why it waits (design 7)."""
        task = await self.task(caller, uuid)
        async with self._database.transaction() as session:
            attempts = await queries.attempts_of(session, uuid)
            choice = choose(self._loop.need_of(task), await queries.node_states(session), 0.0)
        current = next(((attempt, node) for attempt, node in attempts if attempt.number == task.attempt), None)
        if current is None or task.state in (State.STAGING, State.QUEUED):
            return _told(task, None, choice)
        attempt, node = current
        return {
            "uuid": uuid,
            "state": task.state.value,
            "node": node.name,
            "attempt": attempt.number,
            "text": attempt.why,
            "reasons": attempt.reasons,
        }

    async def _locked(self, session: AsyncSession, caller: Caller, uuid: str) -> TaskRow:
        row = await queries.task_row(session, uuid)
        if row is None or row.state == State.UPLOADING or not caller.may_see(row.tenant):
            raise Refused(f"{uuid} not found", success=False)
        return row

    def _check_nodes(self) -> None:
        if not self._registry.nodes():
            raise Refused(NO_NODE)

    def _taken(self, row: TaskRow) -> None:
        self._snapshot.put(row)
        self._loop.wake()

    async def _empty_staging(self, uuid: str) -> None:
        await self._storage.run(self._storage.delete_prefix, staged_root(self._staging, uuid))


def _told(task: Task, node: str | None, choice: Choice) -> dict[str, object]:
    return {
        "uuid": task.uuid,
        "state": task.state.value,
        "node": node,
        "attempt": task.attempt,
        "text": choice.text,
        "reasons": choice.reasons_document(),
    }
