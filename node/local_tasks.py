"""The NodeODM API answered from this node's own backend."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

import psutil

from common.counting import WAITS_S, Durations
from common.errands import Errands
from common.families import CLUSTER
from common.logs import about
from common.nodeodm.intake import (
    InputRefused,
    Survey,
    automatic,
    check_limit,
    check_upload_link,
    is_same_request,
    keep_link,
    keep_upload_link,
    survey,
    task_from,
)
from common.nodeodm.messages import first_line, node_info
from common.nodeodm.options import Option, Setting, with_concurrency
from common.nodeodm.refusals import Refused
from common.nodeodm.routes import API_VERSION, now_ms
from common.nodeodm.surface import OpenUpload, Submission
from common.outputs import delete_output
from common.patience import comes
from common.references import Reference, staged_images
from common.storage import Storage, StorageFault
from common.tasks import ACTIVE, ENDED, Cause, State, Task, again, canceled, check_move, timeout_text
from common.tokens import Caller, Kind
from common.tracing import NO_TRACER
from node.backends import Backend, BackendAway, BackendRefused, RecordOutdated, RunRefused
from node.deliveries import deliveries_of, with_run
from node.engines import EngineInUse
from node.lifecycle import Start, to_queue, to_start, used_slots, watched
from node.records import Record
from node.traces import NodeTraces
from node.uploads import Uploads

logger = logging.getLogger(__name__)

SURVEY_AGAIN_S = 5.0
IDLE_S = 600.0
"""How often is looked where nothing is known to happen."""
KEEP_ATTEMPTS = 5
TRY_AGAIN_S = (1, 2, 5, 10, 20, 60)
"""Waits before a task is looked at again for which the last look had trouble; the last one repeats."""
Decide = Callable[[Record], Record | None]
_LOOKED_AFTER = ACTIVE | {State.STAGING}
"""States in which a task needs to be looked at also when nobody tells of it: a survey may have failed to be kept."""


@dataclass(frozen=True, slots=True)
class _Trouble:
    """What keeps one task from getting on."""

    attempt: int
    failures: int
    again_ms: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What this node takes on."""

    slots: int
    max_images: int | None
    memory_bytes: int | None = None
    """Memory of the largest machine that runs tasks, where that is not this one."""
    cpu_cores: int | None = None
    """Cores of that machine."""
    max_images_at: Mapping[float, int] = field(default_factory=dict)
    """`max_images` when a task is given so many times the usual memory, where more can be given."""
    keep_for_s: float | None = None
    """How long an ended task is remembered; None means until it is removed."""
    keep_uploads_for_s: float | None = None
    """How long an upload waits to be committed after its last file; None means for ever."""
    max_runtime_min: float = 0
    """Minutes that a run may work; 0 means no limit."""
    max_concurrency: int | None = None
    """Cores that a run may use, as its engine's `max-concurrency`."""


class Counts:
    """What this process has seen happen."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.accepted: Counter[str] = Counter()
        """Tasks by how they came: `router`, `upload`, `reference`, `restart`."""
        self.started = 0
        """Runs, also those that were started once more."""
        self.ended: Counter[tuple[State, Cause | None]] = Counter()
        self.waits = Durations(WAITS_S)
        """From when an attempt came to the first start of its run."""
        self.down = self.up = 0
        """Bytes that runs have fetched from S3 and brought there."""


class LocalTasks:
    """Tasks of this node, whether clients or the router brought them."""

    def __init__(
        self,
        backend: Backend,
        storage: Storage,
        staging: Reference,
        engine: EngineInUse,
        limits: Limits,
        webhook: str | None = None,
    ) -> None:
        """Knows no task before `load`. `webhook`: the node's own, beside each task's."""
        self._backend = backend
        self._storage = storage
        self._staging = staging
        self._engine = engine
        self.limits = limits
        self._webhook = webhook
        self._removed: list[Record] = []
        self._tasks: dict[str, Record] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._uploads = Uploads(storage, staging)
        self._errands = Errands(logger, (BackendAway, BackendRefused, StorageFault))
        self._wake = asyncio.Event()
        self._leaving: set[str] = set()
        """Tasks that are being forgotten because of their age: nobody restarts them any more."""
        self._unstarted: dict[str, int] = {}
        """Tasks whose run could not be started when their record said so, and that record's version."""
        self._troubles: dict[str, _Trouble] = {}
        self.news = asyncio.Event()
        """Set when a task came or ended, for whoever reports it."""
        self.counts = Counts()
        self.traces = NodeTraces(NO_TRACER)

    async def load(self) -> None:
        """Find the tasks of an earlier life of this node, before anybody asks for them."""
        for record in await self._backend.records(self._heard, self._wake.set):
            self._heard(record.task.uuid, record)

    # What the API asks

    def node_info(self) -> dict[str, object]:
        """`GET /info`."""
        memory = psutil.virtual_memory()
        return node_info(
            version=API_VERSION,
            task_queue_count=sum(record.task.state not in ENDED for record in self._tasks.values()),
            total_memory=self.limits.memory_bytes or memory.total,
            available_memory=self.limits.memory_bytes or memory.available,
            cpu_cores=self.limits.cpu_cores or psutil.cpu_count() or 1,
            max_images=self.limits.max_images,
            max_parallel_tasks=self.limits.slots,
            engine=self._engine.now.name,
            engine_version=self._engine.now.version,
        )

    def catalogue(self) -> Sequence[Option]:
        """The engine's options."""
        return self._engine.now.options

    async def open_upload(self, caller: Caller, uuid: str | None, submission: Submission) -> str:
        """Begin an upload, or take new fields for one that is open; its files stay."""
        check_upload_link(caller, submission)
        uuid = self._free_uuid(uuid)
        task = self._task_from(caller, uuid, replace(submission, read=None))
        was_open = await self._uploads.open(caller, uuid, task)
        await self._storage.run(keep_upload_link, self._storage, task, submission, was_open)
        return uuid

    async def upload(self, caller: Caller, uuid: str, from_memory: bool = False) -> OpenUpload:
        """The open upload, also one that an earlier life of this node opened."""
        del from_memory  # every answer is
        return OpenUpload((await self._uploads.opened(caller, uuid)).inbox, staged_images(self._staging, uuid))

    async def discard_upload(self, caller: Caller, uuid: str) -> None:
        """Forget an upload and its files."""
        await self._uploads.discard(caller, uuid)

    async def commit(self, caller: Caller, uuid: str) -> str:
        """Make a task of an upload. Committing again answers the same (design 4.5)."""
        known = self._tasks.get(uuid)
        if known is not None and caller.may_see(known.task.tenant):
            return uuid
        task, files = await self._uploads.complete(caller, uuid)
        if not files:
            await self._uploads.discard(caller, uuid)
            raise Refused("Need at least 1 file.")
        # On record before the upload's note goes: a crash in between loses nothing.
        await self._accept(caller, self.traces.begun(Record(replace(task, state=State.STAGING, attempt=1))))
        await self._uploads.close(uuid)
        return uuid

    async def submit(self, caller: Caller, uuid: str | None, submission: Submission) -> str:
        """A task by S3 reference, from a client or forwarded by the router."""
        forwarded = caller.kind is Kind.ROUTER and submission.attempt > 0
        if forwarded and uuid is not None and uuid in self._tasks:
            return await self._next_attempt(caller, uuid, submission)
        if not forwarded:
            submission = replace(
                submission, tenant=None, images_count=0, input_bytes=0, first_attempt=1, memory_factor=1.0, cluster=None
            )
        task = self._task_from(caller, uuid or str(uuid4()), submission)
        await self._storage.run(keep_link, self._storage, task, submission)
        task = replace(task, attempt=submission.attempt or 1)
        record = Record(task, forwarded=forwarded, cluster=submission.cluster)
        await self._accept(caller, self.traces.begun(record, submission.traceparent))
        return task.uuid

    async def _next_attempt(self, caller: Caller, uuid: str, submission: Submission) -> str:
        """The router again: the same attempt is answered as before, a newer one takes the older one's place."""
        record = self._tasks[uuid]
        if not record.forwarded or submission.attempt < record.task.attempt:
            raise Refused(
                f"Task {uuid} is at attempt {record.task.attempt} here; attempt {submission.attempt} is outdated."
            )
        if submission.attempt > record.task.attempt:
            task = self._task_from(caller, uuid, submission)
            with _refusals_told(success=None):
                task = replace(task, attempt=submission.attempt)
                new = Record(task, forwarded=True, cluster=submission.cluster)
                await self._replace_run(record, self.traces.begun(new, submission.traceparent))
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
        record = self._seen(caller, uuid)
        await self._backend.recall(record)
        console = self._backend.console(record)
        return await asyncio.to_thread(lambda: console.lines(first_line(start, len(console))))

    async def cancel(self, caller: Caller, uuid: str) -> None:
        """Canceled from now on; when this returns, nothing of the run is running."""
        record = self._named(caller, uuid)
        with _refusals_told():
            record = await self._change(uuid, _cancel) or record
            await self._backend.stop(record)
        self._wake.set()

    async def remove(self, caller: Caller, uuid: str, with_output: bool = False) -> None:
        """End and forget, workspaces and staged files included."""
        record = self._named(caller, uuid)
        with _refusals_told():
            await self.let_go(uuid, record.task.attempt)
        if with_output:
            output = Reference.parse(record.task.output)
            await self._storage.run(delete_output, self._storage, output, uuid)
        if record.task.staged:
            await self._uploads.empty_staging(uuid)

    async def restart(self, caller: Caller, uuid: str, settings: tuple[Setting, ...] | None) -> None:
        """The next attempt under the same uuid."""
        record = self._named(caller, uuid)
        if record.task.state not in ENDED or record.forwarded or uuid in self._leaving:
            raise Refused("Task cannot be restarted", success=False)
        task = again(record.task, record.task.attempt + 1, record.task.attempt + 1, now_ms())
        if settings is not None:
            options = automatic(settings, tuple(self.catalogue()), task.skip_post_processing)
            task = replace(task, options=self._capped(options))
        with _refusals_told():
            await self._replace_run(record, self.traces.begun(Record(task)))

    # What the router asks (node.membership)

    def forwarded(self) -> list[Record]:
        """Every task that the router brought."""
        return [record for record in self._tasks.values() if record.forwarded]

    def direct_slots(self) -> int:
        """Slots taken by tasks that the router does not know of."""
        return used_slots(self._tasks, forwarded=False)

    async def console_lines(self, record: Record, first: int, most: int) -> list[str]:
        """Console lines of a record's current attempt."""
        await self._backend.recall(record)
        return self._backend.console(record).lines(first, most)

    # What its webhooks ask (node.webhooks)

    def untold(self) -> list[Record]:
        """Tasks with webhooks that are still to be called."""
        return [record for record in self._tasks.values() if any(each.is_pending for each in record.deliveries)]

    def take_removed(self) -> list[Record]:
        """Tasks that were removed before their webhooks were called; they are nobody's but the caller's now."""
        removed, self._removed = self._removed, []
        return removed

    async def note(self, uuid: str, decide: Decide) -> Record | None:
        """Keep what became of a task's webhooks."""
        return await self._change(uuid, decide)

    @property
    def is_leading(self) -> bool:
        """Whether it is this replica that starts runs and speaks for the node."""
        return self._backend.is_leading

    # What its housekeeping asks (node.housekeeping)

    def records(self) -> list[Record]:
        """Every task."""
        return list(self._tasks.values())

    async def forget(self, record: Record) -> None:
        """Forget a direct task that ended long ago; what it left in staging first, or nobody would know of it."""
        uuid = record.task.uuid
        self._leaving.add(uuid)
        try:
            if record.task.staged:
                await self._uploads.empty_staging(uuid)
            held = self._tasks.get(uuid)
            if held is not None and held.task.state in ENDED:
                await self.let_go(uuid, record.task.attempt)
        finally:
            self._leaving.discard(uuid)

    async def time_out(self, record: Record) -> None:
        """End a run that has worked for too long, as a user's cancel does, with NodeODM's words in the console."""
        told = timeout_text(self.limits.max_runtime_min)
        # Before the end is reported: with it goes the console as it is then.
        await self._backend.say(record, told)
        ended = await self._change(record.task.uuid, _timed_out(record.task.attempt, told))
        if ended is not None:
            logger.warning("task %s: %s", record.task.uuid, told)
            await self._backend.stop(ended)
        self._taken()

    async def clean_workspaces(self) -> None:
        """Set the workspaces of ended runs aside, and delete those whose time is over."""
        for record in self.records():
            if record.task.state in ENDED and record.task.attempt:
                await self._backend.keep_workspace(record)
        await self._backend.clean_workspaces()

    async def clean_uploads(self, age_s: float, now: datetime) -> None:
        """Forget uploads that nobody has committed, and to which no file has come for so long."""
        await self._uploads.clean(age_s, now, self._tasks)

    def kept_workspaces(self) -> Mapping[str, int]:
        """By task that the router brought the number of the attempt whose workspace is kept here."""
        return self._backend.kept_workspaces()

    async def drop_workspace(self, uuid: str) -> None:
        """The router does not know the task any more."""
        await self._backend.drop_workspace(uuid)

    async def let_go(self, uuid: str, attempt: int) -> None:
        """End this attempt and forget the task, if that is still its attempt here. Safe to repeat."""
        record = self._tasks.get(uuid)
        if record is None or record.task.attempt != attempt:
            return
        if record.task.state not in ENDED:
            # Canceled first: a run that is merely gone is started again.
            record = await self._change(uuid, _cancel) or record
        async with self._lock(uuid):
            # A newer attempt may have come meanwhile, which is none of our business; or may come now, and waits.
            held = self._tasks.get(uuid)
            if held is not None and held.task.attempt == attempt:
                await self._backend.delete(held)
                self._tasks.pop(uuid, None)
                if any(each.is_pending for each in held.deliveries):
                    self._removed.append(held)
        self._wake.set()

    async def _replace_run(self, old: Record, new: Record) -> None:
        """A new attempt takes the old one's place: first nothing of the old one runs, then the new one is kept."""
        uuid = old.task.uuid
        if old.task.state not in ENDED:
            old = await self._change(uuid, _cancel) or old
        await self._backend.stop(old)
        # Before anything starts that may want to go on in it.
        await self._backend.keep_workspace(old)
        new = replace(new, accepted_ms=now_ms())

        def replaced(held: Record) -> Record:
            if held.task.attempt == old.task.attempt and _large(held) != _large(old):
                raise BackendAway(f"task {uuid} has been read anew just now")
            return replace(new, deliveries=held.deliveries)

        if await self._change(uuid, replaced) is None:
            # The old one was let go of meanwhile: what comes is a new task here.
            async with self._lock(uuid):
                await self._keep_new(replace(new, version=1))
        self.counts.accepted["router" if new.forwarded else "restart"] += 1
        self.traces.accepted(new)
        await self._backend.forget_run(old)
        self._taken()

    # What happens by itself

    async def run(self) -> None:
        """Watch the runs and start what waits, for ever."""
        for record in self._tasks.values():
            if record.task.state is State.CANCELED and self._backend.is_leading:
                # An earlier life of this node may have died between the cancel and the end of the run.
                self._errands.send(f"stop {record.task.uuid}", self._backend.stop(record))
        while True:
            self._wake.clear()
            try:
                await self._look()
            except (BackendAway, BackendRefused, StorageFault) as away:
                logger.warning("%s; runs are looked at again in %.0f s", away, SURVEY_AGAIN_S)
                await asyncio.sleep(SURVEY_AGAIN_S)
                continue
            busy = self._troubles or any(record.task.state in _LOOKED_AFTER for record in self._tasks.values())
            await comes(self._wake, self._backend.look_every_s if busy else IDLE_S)

    async def stop_runs(self) -> None:
        """End every run; at the next start of this node they start again from the beginning."""
        active = [record for record in self._tasks.values() if record.task.state in ACTIVE]
        for record in active:
            # Ended by us, which does not count against the run.
            await self._change(record.task.uuid, lambda held: replace(held, starts=0))
        await asyncio.gather(*(self._backend.stop(record) for record in active))

    async def _look(self) -> None:
        leading = self._backend.is_leading
        at_work = {uuid for uuid, record in self._tasks.items() if record.task.state not in ENDED}
        self._troubles = {uuid: trouble for uuid, trouble in self._troubles.items() if uuid in at_work}
        for record in [each for each in self._tasks.values() if each.task.state in ACTIVE]:
            await self._apart(record, self._watch(record, leading))
        if not leading:
            return
        for record in self._tasks.values():
            self._survey_later(record)
        # Who is held back keeps nobody from a slot that it has not got yet.
        able = [each for each in self._tasks.values() if each.task.state in ACTIVE or not self._is_held_back(each)]
        for start in to_start(able, self.limits.slots):
            await self._apart(start.record, self._start(start))
        for queued in to_queue(self._tasks.values()):
            await self._apart(queued, self._change(queued.task.uuid, _if_still(queued.version, queued)))

    async def _apart(self, record: Record, step: Coroutine[Any, Any, object]) -> None:
        """One task's trouble is not everybody's; only a backend that is away is."""
        uuid = record.task.uuid
        if self._is_held_back(record):
            step.close()
            return
        try:
            with about(uuid, record.task.attempt):
                await self._or_given_up(record, step)
        except BackendAway:
            raise
        except (BackendRefused, StorageFault) as reason:
            self._hold_back(record, str(reason))
        except Exception:
            logger.exception("task %s could not be looked at; it is looked at again", uuid)
        else:
            self._troubles.pop(uuid, None)

    async def _or_given_up(self, record: Record, step: Coroutine[Any, Any, object]) -> None:
        """A step of a task; a run that is refused would be refused again, and fails."""
        try:
            await step
        except RunRefused as refused:
            if await self._change(record.task.uuid, _if_not_ended(record.task.attempt, str(refused))):
                logger.warning("task %s failed: %s", record.task.uuid, refused)
                self._taken()

    def _is_held_back(self, record: Record) -> bool:
        trouble = self._troubles.get(record.task.uuid)
        return trouble is not None and trouble.attempt == record.task.attempt and now_ms() < trouble.again_ms

    def _hold_back(self, record: Record, reason: str) -> None:
        """Tell why a task does not get on, and look at it more and more rarely."""
        uuid, attempt = record.task.uuid, record.task.attempt
        last = self._troubles.get(uuid)
        failures = last.failures if last is not None and last.attempt == attempt else 0
        wait = TRY_AGAIN_S[min(failures, len(TRY_AGAIN_S) - 1)]
        self._troubles[uuid] = _Trouble(attempt, failures + 1, now_ms() + wait * 1000)
        logger.warning("task %s: %s; it is looked at again in %d s", uuid, reason, wait)
        held = self._tasks.get(uuid)
        if held is not None and held.task.attempt == attempt and held.task.state not in ENDED:
            # Like progress, not worth a write.
            self._tasks[uuid] = held.with_task(waiting=reason)

    async def _watch(self, record: Record, leading: bool) -> None:
        uuid = record.task.uuid
        if self._unstarted.get(uuid) == record.version and leading:
            # There has been no run yet that could have ended.
            await self._begin(record)
            return
        status = self._backend.status(record)
        decided = watched(record, status, now_ms())
        if isinstance(decided, Start):
            if leading:
                await self._start(decided)
        elif decided.task.state is record.task.state:
            # Progress alone is not worth a write: the run itself has it. Another replica sees it as well.
            if self._tasks.get(uuid) is record:
                self._tasks[uuid] = decided
        elif leading and await self._change(uuid, _if_still(record.version, decided)):
            logger.info("task %s %s: %s", uuid, decided.task.state, decided.task.error or "no error")
            if status is not None:
                self.traces.engine(record, status)
                self.counts.down += status.down_bytes
                self.counts.up += status.up_bytes
            if decided.cause is Cause.INPUT and decided.task.staged:
                self._errands.send(f"empty {uuid}", self._uploads.empty_staging(uuid))
            self._taken()

    async def _start(self, start: Start) -> None:
        uuid, version = start.record.task.uuid, start.record.version
        # Known before it is kept: what keeps it may start it as well, and fail in between.
        self._unstarted[uuid] = version + 1
        started = await self._change(uuid, _if_still(version, start.record))
        if started is not None:
            await self._begin(started)
        else:
            self._unstarted.pop(uuid, None)

    async def _begin(self, record: Record) -> None:
        uuid, began = record.task.uuid, time.time()
        await self._backend.start(record)
        self._unstarted.pop(uuid, None)
        self.traces.started(record, began)
        self.counts.started += 1
        if record.starts == 1:
            self.counts.waits.count((now_ms() - record.accepted_ms) / 1000)

    async def _accept(self, caller: Caller, record: Record) -> None:
        """Keep a new task. The same request under the same uuid is the same task (design 4.5)."""
        uuid = record.task.uuid
        async with self._lock(uuid):
            known = self._tasks.get(uuid) or await self._keep_new(replace(record, version=1, accepted_ms=now_ms()))
        if known is None:
            way = "router" if record.forwarded else "upload" if record.task.staged else "reference"
            self.counts.accepted[way] += 1
            self.traces.accepted(record)
            self._taken()
        elif not caller.may_see(known.task.tenant) or not is_same_request(known.task, record.task):
            raise Refused(f"Invalid set-uuid: {uuid}")

    async def _keep_new(self, record: Record) -> Record | None:
        """Keep a task that is new here; gives the one that somebody else has kept under its uuid, if there is one."""
        uuid = record.task.uuid
        for _ in range(KEEP_ATTEMPTS):
            try:
                with _refusals_told(success=None):
                    await self._backend.save(record)
            except RecordOutdated as outdated:
                if outdated.current is not None:
                    self._heard(uuid, outdated.current)
                    return outdated.current
                continue  # it was there, and is gone again
            self._tasks[uuid] = record
            return None
        raise BackendAway(f"task {uuid} could not be kept in {KEEP_ATTEMPTS} attempts")

    async def _change(self, uuid: str, decide: Decide) -> Record | None:
        """Decide on the record as it is, and keep what was decided: again, where somebody else was first."""
        async with self._lock(uuid):
            while (held := self._tasks.get(uuid)) is not None:
                after = decide(held)
                if after is None:
                    return None
                check_move(uuid, held.task.state, after.task.state)
                ends = after.task.state in ENDED and held.task.state not in ENDED
                after = replace(after, version=held.version + 1)
                if ends:
                    told = () if after.forwarded else deliveries_of(after.task, self._webhook, now_ms())
                    after = replace(after, ended_ms=now_ms(), deliveries=with_run(after.deliveries, told))
                try:
                    await self._backend.save(after)
                except RecordOutdated as outdated:
                    self._heard(uuid, outdated.current)
                    continue
                if ends:
                    self.counts.ended[after.task.state, after.cause] += 1
                    self.traces.ended(after)
                kept = self._tasks.get(uuid)
                if kept is None or kept.version < after.version:
                    kept = self._tasks[uuid] = after
                # Heard already, perhaps with what had not been read before.
                return kept if kept.version == after.version else after
            return None

    def _lock(self, uuid: str) -> asyncio.Lock:
        return self._locks.setdefault(uuid, asyncio.Lock())

    def _heard(self, uuid: str, record: Record | None) -> None:
        """Somebody else has changed a task. What we have ourselves written meanwhile is newer than an older echo."""
        held = self._tasks.get(uuid)
        if record is None:
            self._tasks.pop(uuid, None)
        elif held is None or record.version > held.version:
            self._tasks[uuid] = record
        elif record.version == held.version and not any(_large(held)) and any(_large(record)):
            # What could not be read of it before.
            options, outputs = _large(record)
            self._tasks[uuid] = held.with_task(options=options, outputs=outputs)
        else:
            return
        self._taken()

    def _taken(self) -> None:
        self._wake.set()
        self.news.set()

    # Errands

    def _survey_later(self, record: Record) -> None:
        if record.task.state is State.STAGING and not record.task.input_bytes:
            with about(record.task.uuid, record.task.attempt):
                self._errands.send(f"survey {record.task.uuid} {record.task.attempt}", self._survey(record.task))

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
        cause: Cause | None = None
        try:
            found = await self._survey_patiently(task)
            check_limit(found.images_count, self.limits.max_images)
            changes: dict[str, object] = {
                "images_count": found.images_count,
                "input_bytes": max(1, found.input_bytes),
            }
            if (reason := self._backend.refusal(replace(task, **changes))) is not None:  # type: ignore[arg-type]
                changes, cause = {"state": State.FAILED, "error": reason}, Cause.REFUSED
        except (InputRefused, StorageFault) as refused:
            changes = {"state": State.FAILED, "error": str(refused)}
            cause = Cause.INPUT
            if task.staged:
                await self._uploads.empty_staging(task.uuid)

        def surveyed(held: Record) -> Record | None:
            if held.task != task:
                return None
            return replace(held.with_task(**changes), cause=cause)

        await self._change(task.uuid, surveyed)
        self._taken()

    # Small change

    def _task_from(self, caller: Caller, uuid: str, submission: Submission) -> Task:
        if submission.cluster is not None:
            settings = (*submission.settings, Setting(CLUSTER, submission.cluster))
            submission = replace(submission, settings=settings)
        task = task_from(caller, uuid, submission, self._staging, tuple(self.catalogue()))
        task = replace(task, options=self._capped(task.options))
        if (reason := self._backend.refusal(task)) is not None:
            raise Refused(reason)
        return task

    def _capped(self, options: tuple[Setting, ...]) -> tuple[Setting, ...]:
        return with_concurrency(options, self.catalogue(), self.limits.max_concurrency)

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


@contextlib.contextmanager
def _refusals_told(success: bool | None = False) -> Iterator[None]:
    """What the backend refuses is refused, in its words; `success` as of `Refused`."""
    try:
        yield
    except BackendRefused as refused:
        raise Refused(str(refused), success=success) from refused


def _cancel(held: Record) -> Record | None:
    return None if held.task.state is State.CANCELED else replace(held, task=canceled(held.task))


def _timed_out(attempt: int, told: str) -> Decide:
    """Canceled, with the reason, if that run still goes on."""

    def decide(held: Record) -> Record | None:
        if held.task.attempt != attempt or held.task.state in ENDED:
            return None
        return replace(held, task=replace(canceled(held.task), error=told))

    return decide


def _large(record: Record) -> tuple[object, object]:
    """What of a task a backend may keep apart from the rest."""
    return record.task.options, record.task.outputs


def _if_not_ended(attempt: int, error: str) -> Decide:
    """Failed for a reason that has nothing to do with the input."""

    def decide(held: Record) -> Record | None:
        if held.task.attempt != attempt or held.task.state in ENDED:
            return None
        return replace(held.with_task(state=State.FAILED, error=error, waiting=None), cause=Cause.REFUSED)

    return decide


def _if_still(version: int, after: Record) -> Decide:
    """What was decided on an earlier look counts only if nothing has happened since."""
    return lambda held: after if held.version == version else None
