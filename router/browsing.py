"""Looking through a hundred thousand tasks, page by page, and what an administrator changes on one of them."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Text, and_, cast, func, or_, tuple_
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from common.families import Family
from common.tasks import ACTIVE, ENDED, WAITING, State
from common.tokens import Caller
from router import queries
from router.database import Database
from router.events import Action, Actor, Subject, named, record
from router.loop import Loop
from router.snapshot import Snapshot
from router.tables import AttemptRow, NodeRow, TaskRow

_GROUPS = {"waiting": WAITING, "active": ACTIVE, "ended": ENDED}
_CURSOR = re.compile(r"(\d{1,17})-(\S{1,300})")
MOST_AMONG = 2_000
"""Tasks with a wanted text up to which Postgres is told which they are; else it reads, newest first, until a page is
full."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ListUnreadable(Exception):
    """A list is asked for in a way that means nothing; the text says what was expected."""


class TaskMissing(Exception):
    """There is no such task."""


class TaskOver(Exception):
    """The task has ended: nothing is left to change."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last task of a page: the next page begins after it."""

    committed_at: datetime
    uuid: str

    @classmethod
    def parse(cls, raw: str) -> "Cursor":
        """As `str` wrote it. Raises `ListUnreadable`."""
        found = _CURSOR.fullmatch(raw)
        if found is None:
            raise ListUnreadable(f"after is {raw[:80]!r}; expected what `next` said of the page before.")
        return cls(datetime.fromtimestamp(int(found[1]) / 1_000_000, UTC), found[2])

    def __str__(self) -> str:
        """Microseconds and uuid."""
        since = self.committed_at - _EPOCH
        return f"{(since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds}-{self.uuid}"


def states_named(names: Sequence[str]) -> frozenset[State]:
    """The states of these names; `waiting`, `active` and `ended` stand for several. Raises `ListUnreadable`."""
    known = {state.value: frozenset({state}) for state in State if state is not State.UPLOADING} | _GROUPS
    for name in names:
        if name not in known:
            raise ListUnreadable(f"state is {name[:80]!r}; expected one of {', '.join(known)}.")
    return frozenset().union(*(known[name] for name in names))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which tasks of all."""

    states: frozenset[State] = frozenset()
    """None named means every state."""
    text: str = ""
    """In the name or the tenant, in small letters or large, or how the uuid begins."""
    node: str = ""
    """Name of the node that has or had the current attempt."""
    tenant: str | None = None
    """None means everybody's."""
    limit: int = 50
    after: Cursor | None = None


class TaskDesk:
    """The federation's tasks, for people."""

    def __init__(self, database: Database, snapshot: Snapshot, loop: Loop) -> None:
        """`loop` is woken when the order of the queue has changed."""
        self._database = database
        self._snapshot = snapshot
        self._loop = loop

    async def page(self, wanted: Wanted) -> dict[str, Any]:
        """The newest of these tasks, and in `next` where the page after it begins; null on the last one."""
        among = self._snapshot.matching(wanted.text, MOST_AMONG) if wanted.text else None
        async with self._database.statement() as session:
            rows = await _rows(session, wanted, among)
        shown = rows[: wanted.limit]
        last = shown[-1][0] if len(rows) > wanted.limit else None
        return {
            "tasks": [_document(row, node) for row, node in shown],
            "next": None if last is None else str(Cursor(last.committed_at or _EPOCH, last.uuid)),
        }

    async def set_priority(self, uuid: str, priority: int, *, by: Caller) -> dict[str, Any]:
        """Whoever submitted it could not ask for more than its token lets it; an administrator can."""
        async with self._database.transaction() as session:
            row = await queries.task_row(session, uuid)
            if row is None or row.state == State.UPLOADING:
                raise TaskMissing(f"{uuid} not found")
            task = row.task()
            if task.state in ENDED:
                raise TaskOver(f"Task {uuid} is {task.state.value}; a priority is for tasks that wait.")
            before = task.wishes.priority
            row.take(replace(task, wishes=replace(task.wishes, priority=priority)))
            if before != priority:
                text = f"Task {named(row.name)} has priority {priority}, it had {before}."
                details = {"before": before, "after": priority}
                record(session, Actor.of(by), Action.TASK_PRIORITY, Subject.task(row), text, **details)
        self._snapshot.put(row)
        self._loop.wake()
        return {"uuid": uuid, "state": row.state, "priority": priority}


async def _rows(
    session: AsyncSession, wanted: Wanted, among: Collection[str] | None
) -> Sequence[tuple[TaskRow, str | None]]:
    """`among`: those with the wanted text, where they are few; of many the first ones are found soon by reading."""
    if among is not None and not among:
        return []
    # First the page, then what is told of its tasks: to join them all would take longer than to find them.
    page = _wanted(wanted, among).subquery()
    found = _with_nodes(select(TaskRow, NodeRow.name)).where(col(TaskRow.uuid) == page.c.uuid)
    rows: Sequence[tuple[TaskRow, str | None]] = (await session.exec(found.order_by(*_NEWEST))).all()
    return rows


_NEWEST = (col(TaskRow.committed_at).desc(), col(TaskRow.uuid).desc())


def _with_nodes(found: Any) -> Any:  # noqa: ANN401 - a question of whatever columns
    """With the node of the current attempt, where there is one."""
    is_current = and_(col(AttemptRow.task_uuid) == col(TaskRow.uuid), col(AttemptRow.number) == col(TaskRow.attempt))
    return found.outerjoin(AttemptRow, is_current).outerjoin(NodeRow, col(NodeRow.id) == col(AttemptRow.node_id))


def _wanted(wanted: Wanted, among: Collection[str] | None) -> Any:  # noqa: ANN401 - likewise
    """The uuids of one page, and of one task more where there is another page."""
    found = select(TaskRow.uuid).where(TaskRow.state != State.UPLOADING.value)
    if wanted.states:
        found = found.where(col(TaskRow.state).in_([state.value for state in wanted.states]))
    if wanted.tenant is not None:
        found = found.where(TaskRow.tenant == wanted.tenant)
    if wanted.node:
        found = _with_nodes(found).where(NodeRow.name == wanted.node)
    if among is not None:
        found = found.where(col(TaskRow.uuid) == func.any(cast(list(among), ARRAY(Text))))
    elif wanted.text:
        found = found.where(
            or_(
                col(TaskRow.name).icontains(wanted.text, autoescape=True),
                col(TaskRow.tenant).icontains(wanted.text, autoescape=True),
                col(TaskRow.uuid).istartswith(wanted.text, autoescape=True),
            )
        )
    if wanted.after is not None:
        place = tuple_(col(TaskRow.committed_at), col(TaskRow.uuid))
        found = found.where(place < (wanted.after.committed_at, wanted.after.uuid))
    return found.order_by(*_NEWEST).limit(wanted.limit + 1)


def _document(row: TaskRow, node: str | None) -> dict[str, Any]:
    task = row.task()
    family = Family.parse(task.family)
    return {
        "uuid": task.uuid,
        "name": task.name,
        "tenant": task.tenant,
        "token": task.token,
        "state": task.state.value,
        "code": int(task.code),
        "progress": task.progress,
        "imagesCount": task.images_count,
        "priority": task.wishes.priority,
        "node": node,
        "attempt": task.attempt,
        "dateCreated": task.created_ms,
        "submitted": row.committed_at,
        "ended": row.ended_at if task.state in ENDED else None,
        "processingTime": task.processing_time_ms(int(datetime.now(UTC).timestamp() * 1000)),
        "waitingFor": task.waiting if task.state not in ENDED else None,
        "error": task.error,
        "parent": family.uuid if family is not None else None,
    }
