"""Nodes join, report and fall silent (design 4.2)."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hmac import compare_digest
from typing import Any
from uuid import uuid4

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlmodel.ext.asyncio.session import AsyncSession

from common.federation import (
    HEARTBEAT_S,
    LATE_BEATS,
    Acknowledged,
    AttemptKey,
    AttemptReport,
    Capacity,
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
from common.tasks import ACTIVE, ENDED, Cause, MoveRefused, State, Task
from router import queries, retention
from router.access import Access
from router.database import Database
from router.endings import change
from router.events import Action, Actor, Subject, record
from router.lifecycle import Health, Ruling, adopted, given_up, has_all_lines, reported, retried, ruling, unseen_lines
from router.pooling import Pool
from router.snapshot import Snapshot
from router.tables import MEMBER, AttemptRow, NodeRow, TaskRow

logger = logging.getLogger(__name__)

FLUSH_S = 0.5
"""How long a heartbeat may lie in memory before it is on record: many of them are one statement."""
REMEMBERED = timedelta(days=30)
"""How long a node that was removed is told so."""
HEARTBEATS_TOGETHER = 200
"""Heartbeats whose reports are put on record in one transaction, at most."""
BEATS_PER_S = 200
"""Heartbeats that all nodes together shall send at most; of many nodes each one is asked for fewer."""
WHOLE_FOR_S = 0.5
"""How long what all nodes have together is good: of a thousand it takes a millisecond to see, and anybody may ask."""


@dataclass(frozen=True, slots=True)
class Whole:
    """All nodes as if they were one."""

    engine: str
    engine_version: str
    slots: int
    cpu_cores: int
    total_memory_bytes: int
    available_memory_bytes: int
    max_images: int | None
    """None: there is no limit."""


class NodeUnknown(Exception):
    """A heartbeat came from a node that is not on record."""


class NameTaken(Exception):
    """Another node has this name; the text says which, and what to do."""


class Registry:
    """The nodes of this federation, on record and in memory."""

    def __init__(
        self,
        database: Database,
        snapshot: Snapshot,
        access: Access,
        storage: Storage,
        staging: Reference,
        hooks: Sequence[str] = (),
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """Empty until `load`. `heartbeat_s`: how often an idle node shall report."""
        self._heartbeat_s = heartbeat_s
        self._database = database
        self._snapshot = snapshot
        self._access = access
        self._storage = storage
        self._staging = staging
        self._hooks = hooks
        self._nodes: dict[str, NodeRow] = {}
        self._whole: tuple[float, Whole] | None = None
        """When they were last seen as one, and what that was."""
        self._options: dict[str, frozenset[str]] = {}
        self._catalogue: tuple[Option, ...] = ODM_OPTIONS
        self._heard: dict[str, queries.Heard] = {}
        self._answered: set[tuple[str, int, str]] = set()
        """Attempts whose nodes have answered for them, as this replica has put on record itself."""
        self._removed: set[str] = set()
        self._beats: dict[str, tuple[str, int]] = {}
        """By node the last heartbeat that counted: session and number."""
        self._changed = asyncio.Event()
        self._loading = asyncio.Lock()
        self._pool = Pool(self._take_together, HEARTBEATS_TOGETHER, _lies_in_a_report)
        self._joined: dict[str, NodeRow] = {}
        """Nodes that have joined since their rows were last read."""
        self.heartbeats: Counter[str] = Counter()
        """How many came, by what became of them."""
        self.joins = 0

    async def load(self) -> None:
        """Read the nodes on record."""
        async with self._loading:
            self._joined.clear()
            async with self._database.transaction() as session:
                found = await queries.node_rows(session)
                removed = await queries.removed_nodes(session, REMEMBERED)
            # Who has joined since the reading began may not be in it.
            self._removed = removed - self._joined.keys()
            self._nodes, self._whole = {row.id: row for row in found} | self._joined, None
        rows = self._nodes.values()
        self._options = {row.id: frozenset(str(option["name"]) for option in row.options) for row in rows}
        self._catalogue = united(row.options for row in rows)
        # What was removed may still speak, to be told so.
        for node_id in (*self._nodes, *self._removed):
            self._access.admit_node(node_id)

    def load_soon(self) -> None:
        """The nodes on record have changed."""
        self._changed.set()

    async def run(self) -> None:
        """Put what was heard on record, and read nodes again when they have changed, for ever."""
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
                if self._changed.is_set():
                    self._changed.clear()
                    await self.load()
            except (OSError, SQLAlchemyError) as trouble:
                self._changed.set()
                logger.warning("heartbeats wait for the database (%s)", type(trouble).__name__)

    def nodes(self) -> Sequence[NodeRow]:
        """Every node, as it joined."""
        return list(self._nodes.values())

    def whole(self) -> Whole:
        """All nodes as if they were one, at most `WHOLE_FOR_S` ago."""
        if self._whole is None or time.monotonic() - self._whole[0] > WHOLE_FOR_S:
            self._whole = (time.monotonic(), whole_of(self._nodes.values()))
        return self._whole[1]

    def node(self, node_id: str) -> NodeRow | None:
        """One node, if it is of the federation."""
        return self._nodes.get(node_id)

    def options_of(self, node_id: str) -> frozenset[str]:
        """Names of the options that a node's engine knows."""
        return self._options.get(node_id, frozenset())

    def catalogue(self) -> tuple[Option, ...]:
        """Every option that some node knows, in ODM's order; ODM's own list while no node has joined."""
        return self._catalogue

    async def join(self, request: JoinRequest) -> JoinAnswer:
        """Take a node in. The same name again is the same node, whatever else changed. Raises `NameTaken`."""
        async with self._database.transaction() as session:
            now = await queries.now(session)
            found = await queries.node_named(session, request.name)
            if found is not None:
                self._check_name(found, request, now)
            row = found or _new_node(request)
            before = None if row.removed_at is not None or found is None else _told_of(row)
            row.kind, row.token = MEMBER, None
            changes = request.of_the_node()
            changes["max_images_at"] = {str(factor): most for factor, most in request.max_images_at.items()}
            for column, value in changes.items():
                setattr(row, column, value)
            if row.removed_at is not None:
                row.removed_at, row.draining, row.locked = None, False, False
                row.health, row.health_since = Health.HEALTHY.value, None
            if found is None:
                # One that comes back counts as heard once it has told what it still has: only then can it get more.
                row.heard_at = now
            session.add(row)
            _tell_joined(session, row, before)
        self._take_in(row)
        self.joins += 1
        logger.info("node %s joined: %s, %s, %d slots", row.name, row.url, row.engine, request.capacity.slots)
        return JoinAnswer(node_id=row.id, secret=self._access.node_secret(row.id), heartbeat_s=self.pause())

    def _take_in(self, row: NodeRow) -> None:
        """Know a node at once; of a thousand that join, not every one is worth reading the others again."""
        self._nodes[row.id] = self._joined[row.id] = row
        self._whole = None
        self._removed = self._removed - {row.id}
        names = frozenset(str(option["name"]) for option in row.options)
        self._options[row.id] = names
        if len(self._nodes) == 1 or not names <= {option.name for option in self._catalogue}:
            self._catalogue = united(each.options for each in self._nodes.values())
        self._access.admit_node(row.id)
        self.load_soon()

    def _check_name(self, found: NodeRow, request: JoinRequest, now: datetime) -> None:
        """A node that is at work keeps its name. One that has moved shows its secret, or waits until its old place is
        silent."""
        if found.removed_at is not None or found.heard_at is None:
            return
        if found.kind != MEMBER:
            raise NameTaken(f"{request.name} is the name of a foreign node that an administrator has added.")
        silence = (now - found.heard_at).total_seconds()
        late_s = LATE_BEATS * self._heartbeat_s
        is_the_same = compare_digest(request.secret.encode(), self._access.node_secret(found.id).encode())
        if found.url != request.url and silence <= late_s and not is_the_same:
            raise NameTaken(
                f"The name {request.name} is taken: the node at {found.url} was heard {silence:.0f} s ago. Give this "
                f"node another SCALEODM_NODE_NAME. If it has only moved, it is let in once {found.url} has been silent "
                f"for {late_s:.0f} s."
            )

    def pause(self) -> float:
        """Seconds between two heartbeats of one node."""
        return max(self._heartbeat_s, len(self._nodes) / BEATS_PER_S)

    async def heartbeat(self, node_id: str, heartbeat: Heartbeat) -> HeartbeatAnswer:
        """Take a node's report in, and tell it what to end."""
        node = self._nodes.get(node_id)
        if node is None and node_id in self._removed:
            self.heartbeats["removed"] += 1
            every = [AttemptKey(uuid=each.uuid, attempt=each.attempt) for each in heartbeat.attempts]
            return HeartbeatAnswer(stop=every, removed=True)
        if node is None:
            self.heartbeats["unknown"] += 1
            raise NodeUnknown(node_id)
        is_new = self._is_new(node_id, heartbeat)
        self.heartbeats["taken" if is_new else "repeated"] += 1
        if is_new:
            node.capacity = heartbeat.capacity.model_dump()
        stop: list[AttemptKey] = []
        acknowledged: list[Acknowledged] = []
        news = []
        for report in heartbeat.attempts:
            held = self._nothing_new(node_id, report)
            if held is None:
                news.append(report)
            else:
                acknowledged.append(Acknowledged(uuid=report.uuid, attempt=report.attempt, next_line=held))
        going_on = [report for report in news if report.state not in ENDED]
        taken = await self._pool.ask([(node_id, report) for report in going_on]) if going_on else {}
        for report in sorted(news, key=lambda each: each.uuid):
            next_line = taken.get((report.uuid, report.attempt, node_id))
            if next_line is None:
                next_line = await self._take(node_id, report)
            if next_line is None:
                stop.append(AttemptKey(uuid=report.uuid, attempt=report.attempt))
            else:
                acknowledged.append(Acknowledged(uuid=report.uuid, attempt=report.attempt, next_line=next_line))
        # Heard once all it said is on record: a router that loses its database hears nobody.
        if is_new:
            holding = [queries.held_as(each.uuid, each.attempt) for each in heartbeat.attempts]
            self._heard[node_id] = queries.Heard(heartbeat.capacity, holding, time.monotonic())
        busy_s = max(1.0, len(self._nodes) / BEATS_PER_S)
        return HeartbeatAnswer(
            stop=stop,
            acknowledged=acknowledged,
            unknown=await self._keep_workspaces(node_id, heartbeat.workspaces) if is_new else [],
            draining=node.draining,
            busy_s=busy_s,
        )

    async def _keep_workspaces(self, node_id: str, kept: Mapping[str, int] | None) -> list[str]:
        """Note which workspaces a node keeps, where it tells; gives those of tasks that are no longer known."""
        if kept is None:
            return []
        async with self._database.statement() as session:
            await retention.keep_workspaces(session, node_id, kept)
        return [uuid for uuid in kept if self._snapshot.get(uuid) is None]

    def _is_new(self, node_id: str, heartbeat: Heartbeat) -> bool:
        """Whether a heartbeat tells of now: what comes late or twice must not make a dead node look alive."""
        session, last = self._beats.get(node_id, ("", 0))
        if heartbeat.session and heartbeat.session == session and heartbeat.beat <= last:
            return False
        self._beats[node_id] = (heartbeat.session, heartbeat.beat)
        return True

    async def flush(self) -> None:
        """Put on record when nodes were heard, and what they have free."""
        heard, self._heard = self._heard, {}
        if not heard:
            return
        try:
            async with self._database.statement() as session:
                await queries.hear(session, heard, time.monotonic())
        except BaseException:
            self._heard = heard | self._heard
            raise

    def _nothing_new(self, node_id: str, report: AttemptReport) -> int | None:
        """The next line that is wanted where a report only says what is known; most do."""
        known = self._snapshot.get(report.uuid)
        if known is None or (report.uuid, report.attempt, node_id) not in self._answered:
            return None
        if ruling(known, report) is not Ruling.TAKE or unseen_lines(report, known.console_lines):
            return None
        return known.console_lines if reported(known, report, now_ms()) == known else None

    async def _take_together(self, reports: Sequence[tuple[str, AttemptReport]]) -> dict[tuple[str, int, str], int]:
        """Nodes' reports of runs that go on, in a few statements; by task, number and node of those that it took, the
        line that is wanted next."""
        taken: dict[tuple[str, int, str], int] = {}
        steps: list[queries.Step] = []
        notes: list[queries.Note] = []
        async with self._database.transaction() as session:
            versions = await queries.lock(session, {report.uuid for _, report in reports})
            tasks = await self._tasks_at(session, versions)
            attempts = await queries.consoles_of(session, versions)
            for node_id, report in reports:
                key = (report.uuid, report.attempt, node_id)
                task, next_line = tasks.get(report.uuid), attempts.pop(key, None)
                if task is None or next_line is None or ruling(task, report) is not Ruling.TAKE:
                    continue
                next_line = await self._keep_lines(session, report, next_line)
                after = reported(replace(task, console_lines=next_line), report, now_ms())
                steps.append(queries.Step(task, versions[task.uuid], after))
                notes.append(queries.Note(report.uuid, report.attempt, after.state, report.processing_ms >= 0))
                del tasks[report.uuid]
                taken[key] = next_line
            await queries.store(session, steps)
            await queries.note_runs(session, notes)
        for each in steps:
            self._snapshot.advance(each.after, each.version + 1)
        self._answered |= taken.keys()
        return taken

    async def _tasks_at(self, session: AsyncSession, versions: Mapping[str, int]) -> dict[str, Task]:
        """Tasks that are locked in this transaction, read only where the snapshot is behind."""
        known = {uuid: each for uuid in versions if (each := self._snapshot.known(uuid)) is not None}
        tasks = {uuid: each.task for uuid, each in known.items() if each.version == versions[uuid]}
        behind = versions.keys() - tasks.keys()
        return tasks | (await queries.tasks_as_they_are(session, behind) if behind else {})

    async def _keep_lines(self, session: AsyncSession, report: AttemptReport, next_line: int) -> int:
        """The report's console lines on record; gives the number of the next one."""
        new_lines = unseen_lines(report, next_line)
        if new_lines:
            await queries.add_lines(session, report.uuid, report.attempt, next_line, new_lines)
        return next_line + len(new_lines)

    async def _note(self, session: AsyncSession, attempt: AttemptRow, after: Task, report: AttemptReport) -> None:
        """The attempt as its task is after a report."""
        attempt.state, attempt.delivered = after.state, True
        if attempt.began_at is None and report.processing_ms >= 0:
            attempt.began_at = await queries.now(session)

    async def _take(self, node_id: str, report: AttemptReport) -> int | None:
        """One report on record; gives the console line that is wanted next, None when the node may let go."""
        superseded = 0
        async with self._database.transaction() as session:
            row = await queries.task_row(session, report.uuid)
            attempt = await queries.attempt_row(session, report.uuid, report.attempt)
            if row is None or attempt is None or attempt.node_id != node_id:
                return None
            rule = ruling(row.task(), report)
            if rule is Ruling.ADOPT and report.state in ACTIVE and not await self._has_room(session, node_id):
                rule = Ruling.STOP
            if rule is Ruling.STOP:
                self._answered.discard((report.uuid, report.attempt, node_id))
                return None
            next_line = await self._keep_lines(session, report, attempt.next_line)
            ended = report.state in ENDED and has_all_lines(report, next_line)
            if rule is Ruling.ADOPT_RESULT and not ended:
                return next_line
            task = row.task()
            if rule is not Ruling.TAKE:
                superseded = task.attempt if task.attempt != report.attempt else 0
                task = await self._adopt(session, row, attempt, report)
            task = replace(task, console_lines=next_line)
            after = task if report.state in ENDED and not ended else reported(task, report, now_ms())
            await self._note(session, attempt, after, report)
            if ended:
                after = await self._end(session, row, after, report)
            change(session, row, after, self._hooks)
        self._snapshot.put(row)
        if not ended:
            self._answered.add((report.uuid, report.attempt, node_id))
            return next_line
        self._answered.discard((report.uuid, report.attempt, node_id))
        if superseded:
            logger.info("task %s: attempt %d finished before its replacement", row.uuid, report.attempt)
        await self._settle(row, report)
        return None

    async def _has_room(self, session: AsyncSession, node_id: str) -> bool:
        """Whether a node may have one more (I4): another task may have been given its slot meanwhile."""
        await queries.lock_slots(session)
        held = (await queries.slots_held(session, [node_id])).get(node_id, 0)
        capacity = Capacity.model_validate(self._nodes[node_id].capacity)
        return held < capacity.slots - capacity.direct

    async def _adopt(self, session: AsyncSession, row: TaskRow, attempt: AttemptRow, report: AttemptReport) -> Task:
        """An attempt that was given up, and goes on or has finished after all."""
        logger.info("task %s: attempt %d is adopted again", row.uuid, report.attempt)
        if row.attempt != report.attempt:
            error = f"attempt {report.attempt} finished first"
            await queries.end_attempt(session, row.uuid, row.attempt, State.CANCELED, error, Cause.OUTDATED)
        attempt.state, attempt.cause, attempt.error, attempt.ended_at = State.RUNNING, None, None, None
        await session.flush()
        return adopted(row.task(), report.attempt)

    async def _end(self, session: AsyncSession, row: TaskRow, after: Task, report: AttemptReport) -> Task:
        """The end of the current attempt; gives the task as it is then: ended, or waiting for another attempt."""
        state = after.state
        error, cause = after.error, report.cause if state is State.FAILED else None
        if state is State.FAILED:
            past = (await queries.past_attempts(session, [row.uuid])).get(row.uuid, [])
            earlier = [each.cause for each in past if each.cause is not None]
            again = retried(after, cause, earlier) if report.state is not State.CANCELED else None
            if again is not None:
                logger.warning("task %s attempt %d: %s; it is tried again", row.uuid, row.attempt, error)
                after = again
            elif cause is not None:
                after = replace(after, error=given_up(error or "it failed", [*earlier, cause]))
        await session.flush()
        await queries.end_attempt(session, row.uuid, report.attempt, state, error, cause)
        return after

    async def _settle(self, row: TaskRow, report: AttemptReport) -> None:
        logger.info("task %s %s after attempt %d: %s", row.uuid, row.state, row.attempt, row.error or "no error")
        if row.staged and report.cause is Cause.INPUT:
            # No restart could use it.
            await self._storage.run(self._storage.delete_prefix, staged_root(self._staging, row.uuid))


def whole_of(nodes: Collection[NodeRow]) -> Whole:
    """These nodes as if they were one: together what each has, and no limit of images where one of them has none."""
    capacities = [Capacity.model_validate(node.capacity) for node in nodes]
    limits = [node.max_images for node in nodes]
    engines = {(node.engine, node.engine_version) for node in nodes}
    engine, version = engines.pop() if len(engines) == 1 else ("odm", "federation")
    return Whole(
        engine=engine,
        engine_version=version,
        slots=sum(each.slots for each in capacities),
        cpu_cores=sum(each.cpu_cores for each in capacities),
        total_memory_bytes=sum(each.total_memory_bytes for each in capacities),
        available_memory_bytes=sum(each.available_memory_bytes for each in capacities),
        max_images=None if None in limits else max((each for each in limits if each is not None), default=None),
    )


def _lies_in_a_report(trouble: Exception) -> bool:
    """Whether what one node said may be to blame, and not the database's absence."""
    if isinstance(trouble, DBAPIError):
        return not trouble.connection_invalidated and not isinstance(trouble, (OperationalError, InterfaceError))
    return isinstance(trouble, (MoveRefused, ValueError))


def _told_of(row: NodeRow) -> dict[str, Any]:
    """What of a node people care for, and its starts alone do not change."""
    told = {"url": row.url, "engine": f"{row.engine} {row.engine_version}", "labels": dict(row.labels)}
    return told | {"slots": row.capacity.get("slots", 0), "max_images": row.max_images}


def _tell_joined(session: AsyncSession, row: NodeRow, before: dict[str, Any] | None) -> None:
    """An event of a node that is new, or comes otherwise than it was; one that has only started anew is none."""
    now = _told_of(row)
    if before == now:
        return
    text = f"Node {row.name} joined: {now['engine']} at {row.url}, {now['slots']} slots."
    if before is not None:
        changes = ", ".join(f"{name} {now[name]} (was {before[name]})" for name in now if now[name] != before[name])
        text = f"Node {row.name} joined again: {changes}."
    record(session, Actor.node(row.name), Action.NODE_JOINED, Subject.node(row), text, **now)


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
            if str(each["name"]) not in by_name:
                by_name[str(each["name"])] = Option.from_json(each)
    order = {option.name: place for place, option in enumerate(ODM_OPTIONS)}
    return tuple(sorted(by_name.values(), key=lambda option: order.get(option.name, len(order)))) or ODM_OPTIONS
