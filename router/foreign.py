"""Foreign nodes: a plain NodeODM, a ClusterODM, another ScaleODM; added by an administrator, polled (design 4.2).

What a node of ours says in its heartbeats, the leader finds out by asking, and hands it to the registry as if the node
had said it: leases, adoption, retries and progress are the same. What such a node cannot do, the router does for it: it
sends the input file by file, fetches the products, publishes them, keeps the fence.
"""

import asyncio
import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy.exc import SQLAlchemyError

from common.errands import Errands
from common.federation import AttemptReport, Heartbeat
from common.fencing import AlreadyPublished, Outdated
from common.logs import about
from common.nodeodm.client import NodeAnswerUnreadable, NodeRefused, NodeUnreachable, TokenRefused
from common.patience import comes
from common.products import Expected, expected
from common.publishing import ProductsMissing
from common.references import Reference, archive_extension, is_link
from common.storage import AccessRefused, BucketMissing, ObjectMissing, Storage, StorageFault
from common.tasks import ACTIVE, Cause, State, Task
from common.tokens import Caller
from router import queries
from router.access import Access, SealBroken
from router.database import Database
from router.events import Action, Actor, Subject, record
from router.foreign_client import ForeignClient, TaskUnknown, new_http
from router.foreign_delivery import Delivery, InputBroken, Unwanted, fence_of, scratch_of
from router.foreign_products import ArchiveBroken, Publication, holds_console
from router.foreign_reports import (
    GIVEN_SLOTS,
    READS_S3,
    TELLS_SLOTS,
    UPLOADS,
    WEBHOOKS,
    WORKED,
    Info,
    NotNodeOdm,
    capacity_of,
    info_of,
    is_ours,
    is_scaleodm,
    judged,
    options_of,
    remote_uuid,
    report_of,
    slots_of,
)
from router.leadership import Leadership, LeadershipLost
from router.registry import NameTaken, NodeUnknown, Registry
from router.snapshot import Snapshot
from router.tables import FOREIGN, NodeRow

logger = logging.getLogger(__name__)

BUSY_S = 1.0
"""Between two looks at a node that has work of ours; one that has none is looked at as often as a member reports."""
SWEEP_S = 60.0
"""Between two looks at what a node has of ours that nobody waits for."""
LONGEST_PAUSE_S = 15.0
"""Between two tries to reach a node that does not answer."""
UNKNOWN_FOR_S = 15.0
"""How long a node may say that it does not know a task before it is believed."""
QUESTIONS_AT_ONCE = 8
MOST_REMEMBERED = 10_000
"""Attempts of a node that are looked through for whatever it still has of ours."""
PUBLISHING_TRIES = 5
_LAST_LINES = -200
_ODD = (NodeUnreachable, NodeRefused, NodeAnswerUnreadable, NotNodeOdm, SealBroken)


class NodeUnusable(Exception):
    """What an administrator wants to add cannot be used; the text says why and what to look at."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A node that an administrator wants to have."""

    name: str
    url: str
    token: str | None
    slots: int | None = None
    labels: Mapping[str, str] | None = None
    reads_s3: bool | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    """An attempt that a node has for us."""

    task: Task
    attempt: int
    next_line: int


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How an attempt ended, as far as it is ours to say."""

    state: State
    error: str | None = None
    cause: Cause | None = None


@dataclass(slots=True)
class _Work:
    """What is ours to do about one attempt."""

    percent: float = WORKED
    outcome: _Outcome | None = None
    failures: int = 0
    not_before: float = 0.0
    unknown_since: float | None = None


class ForeignNodes:
    """The foreign nodes of this federation. Every replica can add one and end its tasks; the leader polls."""

    def __init__(
        self,
        database: Database,
        snapshot: Snapshot,
        registry: Registry,
        access: Access,
        storage: Storage,
        leadership: Leadership,
    ) -> None:
        """Nothing is asked before `run`."""
        self._database = database
        self._snapshot = snapshot
        self._registry = registry
        self._access = access
        self._storage = storage
        self._leadership = leadership
        self._http = new_http()
        self._delivery = Delivery(storage, snapshot, leadership)
        self._works: dict[tuple[str, int], _Work] = {}
        self._swept_at: dict[str, float] = {}
        self._news: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        """By node: it has been given something."""
        self._closing = False
        """Threads that publish look at it: nobody can cancel them."""
        passing = (*_ODD, OSError, SQLAlchemyError, StorageFault, LeadershipLost)
        self._errands = Errands(logger, passing)

    async def run(self) -> None:
        """Poll every foreign node, each at its own pace, for ever; only while this replica leads."""
        while True:
            if self._leadership.is_leading:
                for node in self._registry.nodes():
                    if node.kind == FOREIGN:
                        with about(node=node.name):
                            self._errands.send(f"poll {node.id}", self._poll(node.id))
            else:
                self._works.clear()
                self._swept_at.clear()
            await asyncio.sleep(0.5)

    async def close(self) -> None:
        """End every errand."""
        self._closing = True
        await self._errands.close()
        await self._http.aclose()

    # Adding

    async def add(self, asked: Asked, *, by: Caller) -> None:
        """Take a node in, or take over what has changed of it. Raises `NodeUnusable`, `NameTaken`."""
        client = ForeignClient(asked.url, asked.token, self._http)
        info, options, scaleodm = await _probe(client, asked.token is not None)
        if asked.slots is None and info.slots is None:
            raise NodeUnusable(
                "The node does not say how many tasks it runs at once (a ClusterODM never does). Add it with slots."
            )
        capabilities = [UPLOADS, WEBHOOKS]
        if asked.reads_s3 if asked.reads_s3 is not None else scaleodm:
            capabilities.append(READS_S3)
        capabilities.append(TELLS_SLOTS if asked.slots is None else f"{GIVEN_SLOTS}{asked.slots}")
        async with self._database.transaction() as session:
            row = await queries.node_named(session, asked.name)
            if row is not None and row.kind != FOREIGN and row.removed_at is None:
                raise NameTaken(f"{asked.name} is the name of a node that has joined by itself. Choose another name.")
            is_new = row is None or row.removed_at is not None
            row = row or NodeRow(id=str(uuid4()), name=asked.name, url="", engine="", engine_version="")
            _describe(row, info, options)
            row.kind, row.url, row.labels = FOREIGN, client.url, dict(asked.labels or {})
            row.token = self._access.seal(asked.token) if asked.token is not None else None
            row.capabilities, row.max_images_at = capabilities, {}
            row.capacity = capacity_of(info, slots_of(capabilities, info), 0).model_dump()
            if row.removed_at is not None:
                row.removed_at, row.draining, row.locked = None, False, False
            row.heard_at = await queries.now(session)
            session.add(row)
            action, what = (Action.NODE_ADDED, "added") if is_new else (Action.NODE_CHANGED, "added anew")
            text = f"Foreign node {row.name} was {what}: {row.engine} {row.engine_version} at {row.url}."
            record(session, Actor.of(by), action, Subject.node(row), text, url=row.url, labels=row.labels)
        await self._registry.load()
        logger.info("foreign node %s was added: %s, %s, %s", row.name, row.url, row.engine, ", ".join(capabilities))

    # Delivering, and letting go

    async def deliver(self, task: Task, node: NodeRow) -> bool:
        """Give a node a task; false when nobody wants it any more. Long, where the node takes files only.

        Raises `NodeUnreachable`, `NodeRefused`, `NodeAnswerUnreadable`, `LeadershipLost`.
        """
        key, reads_s3 = (task.uuid, task.attempt), READS_S3 in node.capabilities
        if task.wishes.engine_image is not None and not reads_s3:
            raise NodeRefused(f"odmImage is {task.wishes.engine_image!r}, but this node has its one engine.")
        if (reason := _unreadable_there(task, reads_s3)) is not None:
            raise NodeRefused(reason)
        try:
            return await self._delivery.deliver(self._client(node), self._remote_uuid(node, *key), task, reads_s3)
        except AlreadyPublished:
            outcome = _Outcome(State.COMPLETED)
        except (BucketMissing, AccessRefused, ObjectMissing, InputBroken) as unusable:
            outcome = _Outcome(State.FAILED, str(unusable), Cause.INPUT)
        except (StorageFault, Outdated, SealBroken, NotNodeOdm) as trouble:
            raise NodeUnreachable(str(trouble)) from trouble
        finally:
            self._news[node.id].set()
        # There is nothing for the node to do; how it ended is reported as if there had been.
        self._works[key] = _Work(outcome=outcome)
        return await self._delivery.note(task)

    async def let_go(self, uuid: str, attempt: int, node: NodeRow) -> None:
        """End an attempt on its node and forget it, if the node has it. Raises as `deliver`."""
        try:
            await self._client(node).remove(self._remote_uuid(node, uuid, attempt))
        except SealBroken as broken:
            raise NodeUnreachable(str(broken)) from broken
        self._works.pop((uuid, attempt), None)
        task = self._snapshot.get(uuid)
        if task is not None and READS_S3 in node.capabilities:
            await self._storage.run(self._storage.delete_prefix, scratch_of(task, attempt))

    def _client(self, node: NodeRow) -> ForeignClient:
        token = self._access.unseal(node.token) if node.token is not None else None
        return ForeignClient(node.url, token, self._http)

    def _remote_uuid(self, node: NodeRow, uuid: str, attempt: int) -> str:
        return remote_uuid(self._access.foreign_mark(node.id), uuid, attempt)

    # Polling

    async def _poll(self, node_id: str) -> None:
        """Look at a node again and again. One that does not answer is not heard: it gets late, and lost, by itself."""
        failures = 0
        last: NodeRow | None = None
        held: list[_Held] = []
        while self._leadership.is_leading:
            node = self._registry.node(node_id)
            if node is None or node.kind != FOREIGN:
                self._leave(last, held)
                return
            last = node
            try:
                held = await self._beat(node)
                pause = BUSY_S if held else self._registry.pause()
                failures = 0
            except NodeUnknown:
                continue
            except _ODD as trouble:
                if not failures:
                    logger.warning("foreign node %s: %s", node.name, trouble)
                failures += 1
                self._swept_at.pop(node_id, None)
                pause = min(LONGEST_PAUSE_S, 0.5 * 2 ** min(failures, 8))
            await comes(self._news[node_id], pause)
            self._news[node_id].clear()

    def _leave(self, node: NodeRow | None, held: Sequence[_Held]) -> None:
        """The node was removed: what it still does for us is of no use to anybody."""
        if node is None:
            return
        for each in held:
            self._send_let_go(node, each.task.uuid, each.attempt)

    def _send_let_go(self, node: NodeRow, uuid: str, attempt: int) -> None:
        self._errands.send(f"let go {uuid} {attempt}", self.let_go(uuid, attempt, node))

    async def _beat(self, node: NodeRow) -> list[_Held]:
        """One look, and one heartbeat; gives what the node has of ours."""
        client = self._client(node)
        info = info_of(await client.info())
        held = await self._held(node.id)
        if time.monotonic() - self._swept_at.get(node.id, -SWEEP_S) >= SWEEP_S:
            held += await self._sweep(node, client, info)
            self._swept_at[node.id] = time.monotonic()
        asking = asyncio.Semaphore(QUESTIONS_AT_ONCE)
        looks = await asyncio.gather(*(self._look(node, client, each, asking) for each in held))
        capacity = capacity_of(info, slots_of(node.capabilities, info), sum(is_queued for _, is_queued in looks))
        reports = [report for report, _ in looks if report is not None]
        answer = await self._registry.heartbeat(node.id, Heartbeat(capacity=capacity, attempts=reports))
        for key in answer.stop:
            self._send_let_go(node, key.uuid, key.attempt)
        return held

    async def _held(self, node_id: str) -> list[_Held]:
        async with self._database.transaction() as session:
            rows = await queries.delivered_to(session, node_id)
        return [_Held(row.task(), attempt.number, attempt.next_line) for row, attempt in rows]

    async def _sweep(self, node: NodeRow, client: ForeignClient, info: Info) -> list[_Held]:
        """What the node has of ours beside what we wait for: attempts that were given up, and what nobody knows."""
        self._works = {key: work for key, work in self._works.items() if self._snapshot.get(key[0]) is not None}
        await self._refresh(node, client, info)
        mark = self._access.foreign_mark(node.id)
        found = [uuid for uuid in await client.tasks() if is_ours(mark, uuid)]
        if not found:
            return []
        async with self._database.transaction() as session:
            rows = await queries.given_to(session, node.id, MOST_REMEMBERED)
        given = {self._remote_uuid(node, row.uuid, attempt.number): (row, attempt) for row, attempt in rows}
        for uuid in found:
            if uuid not in given:
                logger.info("foreign node %s has task %s of ours, which is gone: it is removed there", node.name, uuid)
                self._errands.send(f"remove {uuid}", client.remove(uuid))
        back = [given[uuid] for uuid in found if uuid in given]
        return [
            _Held(row.task(), attempt.number, attempt.next_line)
            for row, attempt in back
            if State(attempt.state) not in ACTIVE
        ]

    async def _refresh(self, node: NodeRow, client: ForeignClient, info: Info) -> None:
        """Take over what the node says of itself that has changed: another engine, other limits."""
        said = (info.engine, info.engine_version, info.max_images)
        if said == (node.engine, node.engine_version, node.max_images):
            return
        options = options_of(await client.options())
        async with self._leadership.transaction() as session:
            row = await queries.node_named(session, node.name)
            if row is not None and row.kind == FOREIGN:
                _describe(row, info, options)

    async def _look(
        self, node: NodeRow, client: ForeignClient, held: _Held, asking: asyncio.Semaphore
    ) -> tuple[AttemptReport | None, bool]:
        """A report of one attempt, if there is something to report; and whether the node counts it as queued."""
        task, attempt = held.task, held.attempt
        work = self._works.setdefault((task.uuid, attempt), _Work())
        uuid = self._remote_uuid(node, task.uuid, attempt)
        try:
            async with asking:
                report = report_of(await client.task(uuid, held.next_line), task.uuid, attempt, held.next_line)
                if report.state is State.FAILED:
                    found = judged(report.error, await client.lines(uuid, _LAST_LINES))
                    report = report.model_copy(update={"error": found.text, "cause": found.cause})
        except TaskUnknown:
            return self._unknown(node, held, work), False
        except (NodeAnswerUnreadable, NotNodeOdm) as odd:
            logger.warning("foreign node %s, task %s: %s", node.name, task.uuid, odd)
            return None, False
        work.unknown_since = None
        if work.outcome is not None:
            return _with_outcome(report, work.outcome), False
        if report.state is State.COMPLETED:
            self._publish_soon(node, client, held, work)
            return report.model_copy(update={"state": State.RUNNING, "progress": work.percent}), False
        return report, report.state in ACTIVE

    def _unknown(self, node: NodeRow, held: _Held, work: _Work) -> AttemptReport | None:
        """The node does not know a task that it has taken: it has lost it, or we have had it removed already."""
        bare = AttemptReport(uuid=held.task.uuid, attempt=held.attempt, state=State.RUNNING, first_line=held.next_line)
        if work.outcome is not None:
            return _with_outcome(bare, work.outcome)
        now = time.monotonic()
        work.unknown_since = work.unknown_since if work.unknown_since is not None else now
        if now - work.unknown_since > UNKNOWN_FOR_S:
            with about(held.task.uuid, held.attempt):
                self._errands.send(f"look for {held.task.uuid} {held.attempt}", self._look_for(node, held, work))
        return None

    async def _look_for(self, node: NodeRow, held: _Held, work: _Work) -> None:
        """Whether an earlier leader has published what the node no longer has."""
        try:
            await self._storage.run(fence_of(self._storage, held.task, held.attempt).take)
        except AlreadyPublished:
            work.outcome = _Outcome(State.COMPLETED)
        except Outdated as outdated:
            work.outcome = _Outcome(State.FAILED, str(outdated), Cause.OUTDATED)
        else:
            error = f"Node {node.name} no longer knows the task. It was restarted, or somebody has removed it there."
            work.outcome = _Outcome(State.FAILED, error, Cause.INFRASTRUCTURE)

    # Publishing

    def _publish_soon(self, node: NodeRow, client: ForeignClient, held: _Held, work: _Work) -> None:
        if time.monotonic() >= work.not_before:
            name = f"publish {held.task.uuid} {held.attempt}"
            with about(held.task.uuid, held.attempt):
                self._errands.send(name, self._publish(node, client, held, work))

    async def _publish(self, node: NodeRow, client: ForeignClient, held: _Held, work: _Work) -> None:
        try:
            await self._fetch_and_publish(node, client, held, work)
        except AlreadyPublished:
            work.outcome = _Outcome(State.COMPLETED)
        except Unwanted:
            return
        except ProductsMissing as missing:
            work.outcome = _Outcome(State.FAILED, str(missing), Cause.ENGINE)
        except Outdated as outdated:
            work.outcome = _Outcome(State.FAILED, str(outdated), Cause.OUTDATED)
        except (BucketMissing, AccessRefused) as unusable:
            work.outcome = _Outcome(State.FAILED, str(unusable), Cause.INPUT)
        except (NodeUnreachable, StorageFault, OSError) as trouble:
            self._put_off(held, work, trouble)
        except (NodeRefused, NodeAnswerUnreadable, ArchiveBroken) as trouble:
            self._put_off(held, work, trouble)
            if work.failures >= PUBLISHING_TRIES:
                error = f"Its products cannot be fetched from node {node.name}: {trouble}"
                work.outcome = _Outcome(State.FAILED, error, Cause.INFRASTRUCTURE)
        else:
            work.outcome = _Outcome(State.COMPLETED)

    def _put_off(self, held: _Held, work: _Work, trouble: Exception) -> None:
        work.failures += 1
        wait = min(60.0, 0.5 * 2 ** min(work.failures, 8))
        work.not_before = time.monotonic() + wait
        logger.warning("task %s is not published yet: %s; again in %.0f s", held.task.uuid, trouble, wait)

    async def _fetch_and_publish(self, node: NodeRow, client: ForeignClient, held: _Held, work: _Work) -> None:
        task = held.task
        fence = fence_of(self._storage, task, held.attempt)
        await self._storage.run(fence.take)

        def progressed(percent: float) -> None:
            work.percent = max(work.percent, min(99.0, percent))

        def check() -> None:
            known = self._snapshot.get(task.uuid)
            wanted = known is not None and known.state in ACTIVE and known.attempt == held.attempt
            if not wanted or self._closing or not self._leadership.is_leading:
                raise Unwanted(task.uuid)

        identity: dict[str, object] = {
            "uuid": task.uuid,
            "attempt": held.attempt,
            "engine": node.engine,
            "engineVersion": node.engine_version,
        }
        output = Reference.parse(task.output)
        publication = Publication(
            self._storage, output, fence, identity, task.outputs, progressed, check, _wanted(node, task)
        )
        if READS_S3 in node.capabilities:
            await asyncio.to_thread(publication.from_prefix, scratch_of(task, held.attempt))
            return
        with tempfile.TemporaryDirectory(prefix="scaleodm-") as folder:
            path, uuid = Path(folder) / "all.zip", self._remote_uuid(node, task.uuid, held.attempt)

            def fetched(share: float) -> None:
                check()
                progressed(WORKED + 3 * share)

            await client.fetch_archive(uuid, path, fetched)
            console = [] if await asyncio.to_thread(holds_console, path) else await client.lines(uuid, 0)
            await asyncio.to_thread(publication.from_archive, path, console)


def _wanted(node: NodeRow, task: Task) -> list[Expected]:
    """What must be among the products; of other engines than ODM nobody knows."""
    return expected(node.engine, task.options, task.outputs) if node.engine == "odm" else []


def _with_outcome(report: AttemptReport, outcome: _Outcome) -> AttemptReport:
    changes: dict[str, Any] = {"state": outcome.state, "error": outcome.error, "cause": outcome.cause}
    return report.model_copy(update={**changes, "progress": 100.0, "waiting": None})


def _describe(row: NodeRow, info: Info, options: list[dict[str, Any]]) -> None:
    row.engine, row.engine_version, row.max_images = info.engine, info.engine_version, info.max_images
    row.options = options


async def _probe(client: ForeignClient, has_token: bool) -> tuple[Info, list[dict[str, Any]], bool]:
    """Ask a node what it is; raises `NodeUnusable` in the administrator's words."""
    try:
        info = info_of(await client.info())
        if not info.is_recent:
            raise NodeUnusable(
                f"{client.url} speaks version {info.version[:32]} of the NodeODM API; 1.5.1 or later is needed."
            )
        options = options_of(await client.options())
        return info, options, is_scaleodm(await client.openapi())
    except NodeUnreachable as unreachable:
        raise NodeUnusable(str(unreachable)) from unreachable
    except TokenRefused as refused:
        what = "refuses the token that was given" if has_token else "asks for a token, and none was given"
        raise NodeUnusable(f"{client.url} {what}.") from refused
    except NodeRefused as refused:
        raise NodeUnusable(f"{client.url} answers, but says: {refused}") from refused
    except (NodeAnswerUnreadable, NotNodeOdm) as odd:
        raise NodeUnusable(f"{client.url} is not a NodeODM API: {odd}") from odd


def _unreadable_there(task: Task, reads_s3: bool) -> str | None:
    """Why a foreign node could make nothing of the task's input; None where it can."""
    source = Reference.parse(task.input)
    if reads_s3:
        return (
            f"Its input lies in the S3 at {source.endpoint}, which this node does not know."
            if source.endpoint
            else None
        )
    if is_link(source):
        return "Its input is a zipurl over http, which is told to nodes that read it from our S3 only."
    # Images that nobody has counted below a prefix are packed: NodeODM throws archives away.
    is_packed = task.images_count == 0 if source.is_prefix else archive_extension(source.name) != ".zip"
    return "Its images are packed in a way that this node does not unpack." if is_packed else None
