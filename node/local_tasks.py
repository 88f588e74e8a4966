"""The NodeODM API answered from this node's own backend."""

import asyncio
import json
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import psutil

from common.nodeodm.intake import InputRefused, Survey, automatic, check_limit, is_same_request, survey, task_from
from common.nodeodm.messages import first_line, node_info
from common.nodeodm.options import Option, Setting
from common.nodeodm.refusals import Refused
from common.nodeodm.routes import API_VERSION, now_ms
from common.nodeodm.surface import OpenUpload, Submission
from common.nodeodm.uploads import MemoryInbox
from common.references import Reference, staged_images, staged_root
from common.storage import ObjectMissing, Storage, StorageFault
from common.tasks import ACTIVE, ENDED, State, Task, again, canceled, check_move
from common.tokens import Caller, Kind
from node.backends import Backend
from node.engines import Engine
from node.lifecycle import Start, to_queue, to_start, used_slots, watched
from node.records import Record, Records, task_document, task_of
from node.runs import Order

logger = logging.getLogger(__name__)

WATCH_EVERY_S = 0.25
SURVEY_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class _Upload:
    """An upload that is under way: the task it will be, and the names its files have taken."""

    task: Task
    inbox: MemoryInbox


@dataclass(frozen=True, slots=True)
class Limits:
    """What this node takes on."""

    slots: int
    max_images: int | None


class LocalTasks:
    """Tasks of this node, whether clients or the router brought them."""

    def __init__(
        self,
        records: Records,
        backend: Backend,
        storage: Storage,
        staging: Reference,
        engine: Engine,
        limits: Limits,
    ) -> None:
        """Finds the tasks of an earlier life of this node again."""
        self._records = records
        self._backend = backend
        self._storage = storage
        self._staging = staging
        self._engine = engine
        self._limits = limits
        self._tasks: dict[str, Record] = {record.task.uuid: record for record in records.all()}
        self._uploads: dict[str, _Upload] = {}
        self._errands: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self.news = asyncio.Event()
        """Set when a task came or ended, for whoever reports it."""

    # What the API asks

    async def node_info(self) -> dict[str, object]:
        """`GET /info`."""
        memory = psutil.virtual_memory()
        return node_info(
            version=API_VERSION,
            task_queue_count=sum(record.task.state not in ENDED for record in self._tasks.values()),
            total_memory=memory.total,
            available_memory=memory.available,
            cpu_cores=psutil.cpu_count() or 1,
            max_images=self._limits.max_images,
            max_parallel_tasks=self._limits.slots,
            engine=self._engine.name,
            engine_version=self._engine.version,
        )

    def catalogue(self) -> Sequence[Option]:
        """The engine's options."""
        return self._engine.options

    async def open_upload(self, caller: Caller, uuid: str | None, submission: Submission) -> str:
        """Begin an upload, or take new fields for one that is open; its files stay."""
        uuid = self._free_uuid(uuid)
        opened = self._uploads.get(uuid) or await self._reopened(uuid)
        if opened is not None and not caller.may_see(opened.task.tenant):
            raise Refused(f"Invalid set-uuid: {uuid}")
        inbox = opened.inbox if opened else MemoryInbox()
        task = task_from(caller, uuid, replace(submission, read=None), self._staging, tuple(self.catalogue()))
        self._uploads[uuid] = _Upload(task, inbox)
        note = json.dumps(task_document(task)).encode()
        await self._storage.run(self._storage.write, self._upload_note(uuid), note, "application/json")
        return uuid

    async def upload(self, caller: Caller, uuid: str) -> OpenUpload:
        """The open upload, also one that an earlier life of this node opened."""
        return OpenUpload((await self._opened(caller, uuid)).inbox, staged_images(self._staging, uuid))

    async def discard_upload(self, caller: Caller, uuid: str) -> None:
        """Forget an upload and its files."""
        if uuid in self._uploads and caller.may_see(self._uploads[uuid].task.tenant):
            del self._uploads[uuid]
            await self._empty_staging(uuid)

    async def commit(self, caller: Caller, uuid: str) -> str:
        """Make a task of an upload. Committing again answers the same (design 4.5)."""
        known = self._tasks.get(uuid)
        if known is not None and caller.may_see(known.task.tenant):
            return uuid
        opened = await self._opened(caller, uuid)
        if not opened.inbox.names():
            await self.discard_upload(caller, uuid)
            raise Refused("Need at least 1 file.")
        task = replace(opened.task, state=State.STAGING, images_count=len(opened.inbox.names()), attempt=1)
        # On record before the upload's note goes: a crash in between loses nothing.
        self._accept(Record(task))
        self._uploads.pop(uuid, None)
        await self._storage.run(self._storage.delete, self._upload_note(uuid))
        return uuid

    async def submit(self, caller: Caller, uuid: str | None, submission: Submission) -> str:
        """A task by S3 reference, from a client or forwarded by the router."""
        forwarded = caller.kind is Kind.ROUTER and submission.attempt > 0
        if forwarded and uuid is not None and uuid in self._tasks:
            return await self._next_attempt(caller, uuid, submission)
        if not forwarded:
            submission = replace(submission, tenant=None, images_count=0, input_bytes=0)
        task = task_from(caller, uuid or str(uuid4()), submission, self._staging, tuple(self.catalogue()))
        known = self._tasks.get(task.uuid)
        if known is not None and caller.may_see(known.task.tenant) and is_same_request(known.task, task):
            return task.uuid
        uuid = self._free_uuid(task.uuid)
        self._accept(Record(replace(task, attempt=submission.attempt or 1), forwarded=forwarded))
        return uuid

    async def _next_attempt(self, caller: Caller, uuid: str, submission: Submission) -> str:
        """The router again: the same attempt is answered as before, a newer one takes the older one's place."""
        record = self._tasks[uuid]
        if not record.forwarded or submission.attempt < record.task.attempt:
            raise Refused(
                f"Task {uuid} is at attempt {record.task.attempt} here; attempt {submission.attempt} is outdated."
            )
        if submission.attempt > record.task.attempt:
            await self._forget_run(record)
            task = task_from(caller, uuid, submission, self._staging, tuple(self.catalogue()))
            self._accept(Record(replace(task, attempt=submission.attempt), forwarded=True))
        return uuid

    async def uuids(self, caller: Caller) -> list[str]:
        """Every task that the caller may see."""
        return [uuid for uuid, record in self._tasks.items() if caller.may_see(record.task.tenant)]

    def peek(self, uuid: str) -> Task | None:
        """The task, from memory."""
        record = self._tasks.get(uuid)
        return record.task if record else None

    async def task(self, caller: Caller, uuid: str) -> Task:
        """The task."""
        return self._seen(caller, uuid).task

    async def lines(self, caller: Caller, uuid: str, start: str) -> list[str]:
        """Console lines of the current attempt."""
        task = self._seen(caller, uuid).task
        console = self._backend.console(uuid, task.attempt)
        return await asyncio.to_thread(lambda: console.lines(first_line(start, len(console))))

    async def cancel(self, caller: Caller, uuid: str) -> None:
        """Canceled from now on; when this returns, nothing of the run is running."""
        record = self._named(caller, uuid)
        if record.task.state is not State.CANCELED:
            self._save(replace(record, task=canceled(record.task)))
        await self._backend.stop(uuid, record.task.attempt)
        self._wake.set()

    async def remove(self, caller: Caller, uuid: str) -> None:
        """End and forget, workspaces and staged files included."""
        record = self._named(caller, uuid)
        await self.let_go(uuid, record.task.attempt)
        if record.task.staged:
            await self._empty_staging(uuid)

    async def restart(self, caller: Caller, uuid: str, settings: tuple[Setting, ...] | None) -> None:
        """The next attempt under the same uuid."""
        record = self._named(caller, uuid)
        if record.task.state not in ENDED or record.forwarded:
            raise Refused("Task cannot be restarted", success=False)
        await self._forget_run(record)
        task = again(record.task, record.task.attempt + 1, now_ms())
        if settings is not None:
            task = replace(task, options=automatic(settings, tuple(self.catalogue()), task.skip_post_processing))
        self._accept(Record(task))

    # What the router asks (node.membership)

    def forwarded(self) -> list[Record]:
        """Every task that the router brought."""
        return [record for record in self._tasks.values() if record.forwarded]

    def direct_slots(self) -> int:
        """Slots taken by tasks that the router does not know of."""
        return used_slots(self._tasks, forwarded=False)

    def console_lines(self, record: Record, first: int, most: int) -> list[str]:
        """Console lines of a record's current attempt."""
        return self._backend.console(record.task.uuid, record.task.attempt).lines(first, most)

    async def let_go(self, uuid: str, attempt: int) -> None:
        """End this attempt and forget the task, if that is still its attempt here. Safe to repeat."""
        record = self._tasks.get(uuid)
        if record is None or record.task.attempt != attempt:
            return
        await self._forget_run(record)
        held = self._tasks.get(uuid)
        if held is not None and held.task.attempt == attempt:
            del self._tasks[uuid]
            self._records.delete(uuid)
        self._wake.set()

    async def _forget_run(self, record: Record) -> None:
        """Marked as canceled first: a run whose process is gone is started again otherwise."""
        self._tasks[record.task.uuid] = replace(record, task=canceled(record.task))
        await self._backend.forget(record.task.uuid, record.task.attempt)

    # What happens by itself

    async def run(self) -> None:
        """Watch the runs and start what waits, for ever."""
        for record in self._tasks.values():
            self._survey_later(record)
            if record.task.state is State.CANCELED:
                # An earlier life of this node may have died between the cancel and the end of the run.
                self._send(self._backend.stop(record.task.uuid, record.task.attempt))
        while True:
            self._wake.clear()
            self._look()
            busy = any(record.task.state in ACTIVE for record in self._tasks.values())
            try:
                await asyncio.wait_for(self._wake.wait(), WATCH_EVERY_S if busy else None)
            except TimeoutError:
                continue

    async def stop_runs(self) -> None:
        """End every run; at the next start of this node they start again from the beginning."""
        active = [record for record in self._tasks.values() if record.task.state in ACTIVE]
        for record in active:
            # Ended by us, which does not count against the run.
            self._save(replace(record, starts=0))
        await asyncio.gather(*(self._backend.stop(record.task.uuid, record.task.attempt) for record in active))

    def _look(self) -> None:
        for record in [each for each in self._tasks.values() if each.task.state in ACTIVE]:
            status = self._backend.status(record.task.uuid, record.task.attempt)
            self._act(record, watched(record, status, now_ms()))
        for start in to_start(self._tasks.values(), self._limits.slots):
            self._act(None, start)
        for queued in to_queue(self._tasks.values()):
            self._save(queued)

    def _act(self, before: Record | None, decided: Record | Start) -> None:
        if isinstance(decided, Start):
            self._save(decided.record)
            self._backend.start(self._order(decided.record.task))
        elif before is not None and decided.task.state is not before.task.state:
            self._save(decided)
            logger.info("task %s %s: %s", decided.task.uuid, decided.task.state, decided.task.error or "no error")
            if decided.input_at_fault and decided.task.staged:
                self._send(self._empty_staging(decided.task.uuid))
            self.news.set()
        else:
            # Progress alone is not worth a write: the run's own status file has it.
            self._tasks[decided.task.uuid] = decided

    def _order(self, task: Task) -> Order:
        return Order(
            uuid=task.uuid,
            attempt=task.attempt,
            engine=self._engine.name,
            engine_version=self._engine.version,
            command=self._engine.command,
            input=task.input,
            output=task.output,
            options=task.options,
            outputs=task.outputs,
            max_images=self._limits.max_images,
        )

    def _accept(self, record: Record) -> None:
        self._save(record)
        self._survey_later(record)
        self._wake.set()
        self.news.set()

    def _survey_later(self, record: Record) -> None:
        if record.task.state is State.STAGING and not record.task.input_bytes:
            self._send(self._survey(record.task))

    def _send(self, errand: Coroutine[Any, Any, None]) -> None:
        """Run an errand beside everything else."""
        running = asyncio.create_task(errand)
        self._errands.add(running)
        running.add_done_callback(self._returned)

    def _returned(self, done: asyncio.Task[None]) -> None:
        self._errands.discard(done)
        if not done.cancelled() and (trouble := done.exception()) is not None:
            logger.error("an errand failed: %s", trouble, exc_info=trouble)

    async def _survey_patiently(self, task: Task) -> Survey:
        """S3 that is away for a while fails nobody's task."""
        while True:
            try:
                return await self._storage.run(survey, self._storage, task)
            except StorageFault as fault:
                held = self._tasks.get(task.uuid)
                if not fault.may_pass or held is None or held.task != task:
                    raise
                logger.warning("task %s waits for S3: %s", task.uuid, fault)
                await asyncio.sleep(SURVEY_AGAIN_S)

    async def _survey(self, task: Task) -> None:
        """Look at the input; the task may be canceled, removed or restarted meanwhile."""
        try:
            found = await self._survey_patiently(task)
            check_limit(found.images_count, self._limits.max_images)
            changes: dict[str, object] = {
                "images_count": found.images_count,
                "input_bytes": max(1, found.input_bytes),
            }
        except (InputRefused, StorageFault) as refused:
            changes = {"state": State.FAILED, "error": str(refused)}
            if task.staged:
                await self._empty_staging(task.uuid)
        record = self._tasks.get(task.uuid)
        if record is not None and record.task == task:
            self._save(replace(record.with_task(**changes), input_at_fault=changes.get("state") is State.FAILED))
            self.news.set()
        self._wake.set()

    # Small change

    def _save(self, record: Record) -> None:
        known = self._tasks.get(record.task.uuid)
        if known is not None:
            check_move(record.task.uuid, known.task.state, record.task.state)
        self._tasks[record.task.uuid] = record
        self._records.save(record)

    def _seen(self, caller: Caller, uuid: str) -> Record:
        record = self._tasks.get(uuid)
        if record is None or not caller.may_see(record.task.tenant):
            raise Refused(f"{uuid} not found")
        return record

    def _named(self, caller: Caller, uuid: str) -> Record:
        try:
            return self._seen(caller, uuid)
        except Refused as refused:
            raise Refused(str(refused), success=False) from None

    def _free_uuid(self, asked: str | None) -> str:
        if asked is not None and asked in self._tasks:
            raise Refused(f"Invalid set-uuid: {asked}")
        return asked or str(uuid4())

    async def _opened(self, caller: Caller, uuid: str) -> _Upload:
        opened = self._uploads.get(uuid) or await self._reopened(uuid)
        if opened is None or not caller.may_see(opened.task.tenant):
            raise Refused("Invalid uuid (not found)")
        return opened

    async def _reopened(self, uuid: str) -> _Upload | None:
        """An upload that an earlier life of this node opened: its note lies in S3 beside its files."""
        try:
            note = await self._storage.run(self._storage.read, self._upload_note(uuid))
        except ObjectMissing:
            return None
        prefix = staged_images(self._staging, uuid)
        found = await self._storage.run(lambda: list(self._storage.listing(prefix)))
        inbox = MemoryInbox(each.reference.key.removeprefix(prefix.key) for each in found)
        return self._uploads.setdefault(uuid, _Upload(task_of(json.loads(note)), inbox))

    def _upload_note(self, uuid: str) -> Reference:
        return staged_root(self._staging, uuid) / "upload.json"

    async def _empty_staging(self, uuid: str) -> None:
        await self._storage.run(self._storage.delete_prefix, staged_root(self._staging, uuid))
