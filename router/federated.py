"""The NodeODM API answered from the whole federation: Postgres and memory, never by asking a node."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

from sqlmodel.ext.asyncio.session import AsyncSession

from common.families import Family, is_current
from common.nodeodm.intake import (
    automatic,
    check_boundary,
    check_upload_link,
    is_same_request,
    keep_link,
    keep_upload_link,
    task_from,
)
from common.nodeodm.messages import first_line, node_info
from common.nodeodm.options import Option, Setting
from common.nodeodm.refusals import Refused
from common.nodeodm.routes import API_VERSION, now_ms
from common.nodeodm.surface import OpenUpload, Submission
from common.outputs import delete_output
from common.references import Reference, is_link, staged_images, staged_root
from common.storage import Storage
from common.tasks import ACTIVE, ENDED, WAITING, State, Task, again, canceled
from common.tokens import TOKEN_REFUSED, Caller, Kind
from common.webhooks import shown
from router import queries
from router.access import Access
from router.consoles import Consoles
from router.database import Database
from router.endings import change
from router.events import Action, Actor, Subject, named, record
from router.facts import Accepted, tell
from router.families import part_of
from router.inbox import TableInbox
from router.lifecycle import Health
from router.loop import Loop
from router.placement import Choice, choose
from router.queries import Standing
from router.registry import Registry
from router.snapshot import Snapshot
from router.tables import AttemptRow, NodeRow, TaskRow

logger = logging.getLogger(__name__)

NO_NODE = (
    "No node has joined this router, so nothing can process a task. Start one with SCALEODM_NODE_ROUTER_URL set to "
    "this router (docs/joining.md), then submit again."
)
_UPLOADS_REMEMBERED = 1000


class FederatedTasks:
    """Tasks of the federation."""

    def __init__(
        self,
        database: Database,
        snapshot: Snapshot,
        registry: Registry,
        loop: Loop,
        access: Access,
        storage: Storage,
        staging: Reference,
        hooks: Sequence[str] = (),
    ) -> None:
        """`loop` is woken when there is something to place."""
        self._database = database
        self._snapshot = snapshot
        self._registry = registry
        self._loop = loop
        self._access = access
        self._hooks = hooks
        self._storage = storage
        self._staging = staging
        self._consoles = Consoles(database)
        self._owners: dict[str, tuple[str, str]] = {}
        """Tenant and family of uploads that were open when they were last looked at."""

    def node_info(self) -> dict[str, object]:
        """`GET /info`: the federation as if it were one node (contract 2.3)."""
        whole = self._registry.whole()
        limits = (whole.max_images, self._access.most_images())
        return node_info(
            version=API_VERSION,
            task_queue_count=self._snapshot.count(*WAITING, *ACTIVE),
            total_memory=whole.total_memory_bytes,
            available_memory=whole.available_memory_bytes,
            cpu_cores=whole.cpu_cores,
            max_images=min((each for each in limits if each is not None), default=None),
            max_parallel_tasks=whole.slots,
            engine=whole.engine,
            engine_version=whole.engine_version,
        )

    def catalogue(self) -> Sequence[Option]:
        """Every option that some node knows."""
        return self._registry.catalogue()

    async def open_upload(self, caller: Caller, uuid: str | None, submission: Submission) -> str:
        """Begin an upload, or take new fields for one that is open; its files stay."""
        await self._check_nodes()
        self._check_waiting(caller)
        check_upload_link(caller, submission)
        uuid = uuid or str(uuid4())
        task = task_from(caller, uuid, replace(submission, read=None), self._staging, tuple(self.catalogue()))
        async with self._database.transaction() as session:
            task = await self._as_part(session, caller, task)
            row = await queries.task_row(session, uuid)
            was_open = row is not None
            if row is None:
                row = TaskRow.of(task)
                session.add(row)
            elif row.state != State.UPLOADING or row.leaving or not caller.may_see(row.tenant, row.family):
                raise Refused(f"Invalid set-uuid: {uuid}")
            row.take(task)
        await self._storage.run(keep_upload_link, self._storage, task, submission, was_open)
        return uuid

    async def upload(self, caller: Caller, uuid: str, from_memory: bool = False) -> OpenUpload:
        """The upload that is open under this uuid."""
        owner = self._owners.get(uuid) if from_memory else None
        if owner is None:
            async with self._database.statement() as session:
                owner = await queries.owner_of_upload(session, uuid)
        if owner is None or not caller.may_see(*owner):
            raise Refused("Invalid uuid (not found)")
        self._remember(uuid, owner)
        return OpenUpload(TableInbox(self._database, uuid), staged_images(self._staging, uuid))

    def _remember(self, uuid: str, owner: tuple[str, str]) -> None:
        self._owners[uuid] = owner
        if len(self._owners) > _UPLOADS_REMEMBERED:
            del self._owners[next(iter(self._owners))]

    async def discard_upload(self, caller: Caller, uuid: str) -> None:
        """Forget an upload and its files."""
        self._owners.pop(uuid, None)
        async with self._database.transaction() as session:
            row = await queries.task_row(session, uuid)
            if row is None or row.state != State.UPLOADING or not caller.may_see(row.tenant, row.family):
                return
            await session.delete(row)
        await self._empty_staging(uuid)

    async def commit(self, caller: Caller, uuid: str) -> str:
        """Make a task of an upload. Committing again answers the same (design 4.5)."""
        self._owners.pop(uuid, None)
        images = staged_images(self._staging, uuid)
        # There may be one link among the files, and it is none.
        found = await self._storage.run(self._storage.some, images, 2)
        anything = not all(is_link(each) for each in found)
        async with self._database.transaction() as session:
            row = await queries.task_row(session, uuid)
            if row is None or row.leaving or not caller.may_see(row.tenant, row.family):
                raise Refused("Invalid uuid (not found)")
            if row.state != State.UPLOADING:
                return uuid
            if anything:
                # Names that came to nothing may be among them, where a replica was lost: the survey counts anew.
                files = await queries.forget_staged_files(session, uuid)
                row.take(replace(row.task(), state=State.STAGING, images_count=max(files, 1)))
                row.committed_at = await queries.now(session)
                tell(session, Accepted(uuid, "upload", opened_at=row.opened_at))
        if not anything:
            await self.discard_upload(caller, uuid)
            raise Refused("Need at least 1 file.")
        self._taken(row)
        return uuid

    async def submit(self, caller: Caller, uuid: str | None, submission: Submission) -> str:
        """A task by S3 reference. The same again under the same uuid answers the same (design 4.5)."""
        await self._check_nodes()
        if uuid is None or self._snapshot.get(uuid) is None:
            self._check_waiting(caller)
        asked, uuid = uuid, uuid or str(uuid4())
        submission = replace(
            submission, attempt=0, tenant=None, images_count=0, input_bytes=0, first_attempt=1, memory_factor=1.0
        )
        task = task_from(caller, uuid, submission, self._staging, tuple(self.catalogue()))
        await self._storage.run(keep_link, self._storage, task, submission)
        async with self._database.transaction() as session:
            row = await queries.task_row(session, uuid)
            if row is not None:
                if caller.may_see(row.tenant, row.family) and is_same_request(row.task(), task):
                    return uuid
                raise Refused(f"Invalid set-uuid: {asked}")
            row = TaskRow.of(task)
            row.committed_at = await queries.now(session)
            session.add(row)
            tell(session, Accepted(uuid, "reference"))
        self._taken(row)
        return uuid

    async def uuids(self, caller: Caller) -> list[str]:
        """Every task that the caller may see, oldest first."""
        return [task.uuid for task in self._snapshot.all() if caller.may_see(task.tenant, task.family)]

    def peek(self, uuid: str) -> Task | None:
        """The task, from memory."""
        known = self._snapshot.known(uuid)
        return None if known is None or self._loop.is_given_back(known) else known.task

    async def task(self, caller: Caller, uuid: str) -> Task:
        """The task: from memory, or for a task that another replica took a moment ago from Postgres."""
        task = self._snapshot.get(uuid) or await self._read(uuid)
        if task is None or not caller.may_see(task.tenant, task.family):
            raise Refused(f"{uuid} not found")
        known = self._snapshot.known(uuid) if caller.kind is Kind.PART else None
        if known is not None and self._loop.is_given_back(known):
            raise Refused(f"{uuid} was lost, and nothing runs it any more. Process it yourself, or send it again.")
        return task

    async def _as_part(self, session: AsyncSession, caller: Caller, task: Task) -> Task:
        """What a split task's run sends goes where its parent may go, and no further."""
        family = Family.parse(caller.family)
        if family is None:
            return task
        parent = await queries.parent_of(session, family)
        if parent is None or not is_current(family, parent.task()):
            raise Refused(TOKEN_REFUSED)
        return part_of(parent.task(), task)

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
                _tell(session, caller, Action.TASK_CANCELED, row, "canceled", before=row.state)
                await queries.end_attempt(session, uuid, row.attempt, State.CANCELED, "canceled by a user")
                change(session, row, canceled(row.task()), self._hooks)
        self._snapshot.put(row)
        self._loop.let_go(uuid, row.attempt)

    async def remove(self, caller: Caller, uuid: str, with_output: bool = False) -> None:
        """End and forget; what the client uploaded goes too, what it keeps in its own S3 stays."""
        async with self._database.transaction() as session:
            row = await self._locked(session, caller, uuid)
            node = await queries.node_of(session, uuid, row.attempt)
            _tell(session, caller, Action.TASK_REMOVED, row, "removed", before=row.state, with_output=with_output)
            if State(row.state) not in ENDED:
                await queries.end_attempt(session, uuid, row.attempt, State.CANCELED, "removed by a user")
                change(session, row, canceled(row.task()), self._hooks)
            await session.delete(row)
        self._snapshot.drop(uuid)
        self._loop.let_go(uuid, row.attempt, node)
        if with_output:
            await self._storage.run(delete_output, self._storage, Reference.parse(row.output), uuid)
        if row.staged:
            await self._empty_staging(uuid)

    async def restart(self, caller: Caller, uuid: str, settings: tuple[Setting, ...] | None) -> None:
        """Back to the queue under the same uuid; the number of its next attempt goes on counting."""
        async with self._database.transaction() as session:
            row = await self._locked(session, caller, uuid)
            if State(row.state) not in ENDED or row.family or row.leaving:
                raise Refused("Task cannot be restarted", success=False)
            # Not the current one's number: a late original may have won over a later attempt.
            last = await queries.last_number(session, uuid)
            task = again(row.task(), last, last + 1, now_ms())
            if settings is not None:
                check_boundary(caller, settings)
                task = replace(task, options=automatic(settings, tuple(self.catalogue()), task.skip_post_processing))
            _tell(
                session, caller, Action.TASK_RESTARTED, row, "restarted", before=row.state, new_options=bool(settings)
            )
            row.take(task)
            row.committed_at = await queries.now(session)
            tell(session, Accepted(uuid, "restart", last + 1))
        self._taken(row)

    async def why(self, caller: Caller, uuid: str) -> dict[str, object]:
        """Which node has the task and why, or why it waits; and every attempt (design 7)."""
        task = await self.task(caller, uuid)
        async with self._database.transaction() as session:
            attempts = await queries.attempts_of(session, uuid)
            past = (await queries.past_attempts(session, [uuid])).get(uuid, [])
            standings = await queries.standings(session)
        told: dict[str, object] = {
            "uuid": uuid,
            "state": task.state.value,
            "node": None,
            "attempt": task.attempt,
            "parent": family.uuid if (family := Family.parse(task.family)) is not None else None,
            "parts": [{"uuid": part.uuid, "state": part.state.value} for part in self._snapshot.parts(uuid)],
            "attempts": [_attempt_document(attempt, node) for attempt, node in attempts],
        }
        current = next(((attempt, node) for attempt, node in attempts if attempt.number == task.attempt), None)
        if current is None or task.state in WAITING:
            choice = choose(self._loop.need(task, past, standings), self._loop.node_states(standings), 0.0)
            text = choice.text if choice.node_id is None else self._why_waiting(task, choice)
            return told | {"text": text, "reasons": choice.document(), "queue": self._outlook(task, standings)}
        attempt, node = current
        return told | {"node": node.name, "text": attempt.why, "reasons": attempt.reasons}

    def _why_waiting(self, task: Task, choice: Choice) -> str:
        if task.input_bytes == 0:
            return "its input is being looked at"
        if not self._loop.queue.turn().may_start(task):
            most = self._access.limits(task.token).running
            return f"its token may have {most} tasks running at once; {choice.text}"
        return f"others go before it; {choice.text}"

    async def queue(self, caller: Caller, uuid: str) -> dict[str, object]:
        """Where a waiting task stands and when it may start; null for one that does not wait."""
        task = await self.task(caller, uuid)
        async with self._database.transaction() as session:
            standings = await queries.standings(session)
        return {"uuid": uuid, "state": task.state.value, "queue": self._outlook(task, standings)}

    def _outlook(self, task: Task, standings: dict[str, Standing]) -> dict[str, object] | None:
        states = self._loop.node_states(standings)
        slots = sum(state.slots for state in states if state.health is Health.HEALTHY and not state.draining)
        outlook = self._loop.queue.outlook(task.uuid, slots) if task.state in WAITING else None
        if outlook is None:
            return None
        starts = None if outlook.high_s is None or outlook.low_s is None else [outlook.low_s, outlook.high_s]
        return {
            "position": outlook.position,
            "waiting": outlook.waiting,
            "startsInSeconds": starts,
            "text": outlook.text(),
        }

    async def webhooks(self, uuid: str) -> list[dict[str, object]]:
        """What is on record of a task's webhooks. Of the URL the host alone: its path may be a secret."""
        async with self._database.transaction() as session:
            rows = await queries.webhooks_of(session, uuid)
        return [
            row.model_dump(include={"id", "tries", "created_at", "due_at", "delivered_at", "given_up_at", "error"})
            | {"host": shown(row.url)}
            for row in rows
        ]

    async def _locked(self, session: AsyncSession, caller: Caller, uuid: str) -> TaskRow:
        row = await queries.task_row(session, uuid)
        if row is None or row.state == State.UPLOADING or not caller.may_see(row.tenant, row.family):
            raise Refused(f"{uuid} not found", success=False)
        return row

    def _check_waiting(self, caller: Caller) -> None:
        """A token may have a limit of tasks that wait; the limit of those that run makes the rest wait instead.

        Parts of a split task are none of them: their parent was let in, and would fail without them.
        """
        most = caller.limits.waiting
        if most is None or caller.kind is Kind.PART:
            return
        waiting = (known.task for known in self._snapshot.within(*WAITING))
        held = sum(task.token == caller.name and not task.family for task in waiting)
        if held >= most:
            raise Refused(f"{held} tasks of this token wait already, and it may have {most}. Submit again later.")

    async def _check_nodes(self) -> None:
        """Nobody is refused by what a replica may not have heard yet: that there is no node, the record alone knows."""
        if not self._registry.nodes():
            await self._registry.load()
        if not self._registry.nodes():
            raise Refused(NO_NODE)

    def _taken(self, row: TaskRow) -> None:
        self._snapshot.put(row)
        self._loop.wake()

    async def _empty_staging(self, uuid: str) -> None:
        await self._storage.run(self._storage.delete_prefix, staged_root(self._staging, uuid))


def _tell(session: AsyncSession, by: Caller, action: Action, row: TaskRow, what: str, **details: object) -> None:
    """An event of a task; what the run of a split task does with its own parts is none."""
    if by.kind is not Kind.PART:
        record(session, Actor.of(by), action, Subject.task(row), f"Task {named(row.name)} was {what}.", **details)


def _attempt_document(attempt: AttemptRow, node: NodeRow) -> dict[str, object]:
    return {
        "number": attempt.number,
        "node": node.name,
        "state": attempt.state,
        "why": attempt.why,
        "cause": attempt.cause,
        "error": attempt.error,
        "placed": attempt.placed_at,
        "began": attempt.began_at,
        "ended": attempt.ended_at,
    }
