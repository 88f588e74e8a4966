"""Every question and change that the router puts to Postgres, named. Nothing is decided here."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import String, Table, bindparam, delete, func, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from common.families import Family
from common.federation import Capacity
from common.tasks import ACTIVE, Cause, State, Task, check_move
from router.facts import AttemptEnded, tell
from router.tables import (
    MEMBER,
    AttemptRow,
    ConsoleRow,
    LeaderRow,
    NodeRow,
    StagedFileRow,
    TaskRow,
    TokenRow,
    WebhookRow,
    changed_columns,
    columns_of,
)

_SLOTS_LOCK = 0x5CA1E0D2
"""Number of the advisory lock under which slots are taken."""
_ACTIVE = [state.value for state in ACTIVE]


async def now(session: AsyncSession) -> datetime:
    """The database's clock."""
    return (await session.exec(select(func.now()))).one()


async def clock(session: AsyncSession) -> datetime:
    """The same at this very moment, which `now` is only in a transaction that has just begun."""
    moment: datetime = (await session.exec(select(func.clock_timestamp()))).one()
    return moment


async def task_row(session: AsyncSession, uuid: str) -> TaskRow | None:
    """A task, locked until the end of the transaction."""
    return (await session.exec(select(TaskRow).where(TaskRow.uuid == uuid).with_for_update())).first()


async def task_rows(session: AsyncSession, uuids: Collection[str]) -> dict[str, TaskRow]:
    """Tasks, locked until the end of the transaction; always in the same order, so that nobody waits in a ring."""
    found = select(TaskRow).where(col(TaskRow.uuid).in_(uuids)).order_by(col(TaskRow.uuid)).with_for_update()
    return {row.uuid: row for row in await session.exec(found)}


async def tasks_as_they_are(session: AsyncSession, uuids: Collection[str]) -> dict[str, Task]:
    """Tasks, read and not locked."""
    return {row.uuid: row.task() for row in await session.exec(select(TaskRow).where(col(TaskRow.uuid).in_(uuids)))}


async def consoles_of(session: AsyncSession, uuids: Collection[str]) -> dict[tuple[str, int, str], int]:
    """Of each attempt of these tasks, by task, number and node, how many console lines are on record."""
    found = await session.exec(
        select(AttemptRow.task_uuid, AttemptRow.number, AttemptRow.node_id, AttemptRow.next_line).where(
            col(AttemptRow.task_uuid).in_(uuids)
        )
    )
    return {(uuid, number, node_id): next_line for uuid, number, node_id, next_line in found.all()}


@dataclass(frozen=True, slots=True)
class Note:
    """What a node has said of an attempt that goes on."""

    uuid: str
    number: int
    state: State
    works: bool
    """Its engine works, or has worked."""


async def note_runs(session: AsyncSession, notes: Collection[Note]) -> None:
    """Put on record how attempts stand whose nodes have answered for them."""
    if not notes:
        return
    said = orjson.dumps([*notes]).decode()
    await session.exec(
        text(
            "UPDATE attempts SET state = said.state, delivered = true, "
            "began_at = coalesce(began_at, CASE WHEN said.works THEN clock_timestamp() END) "
            "FROM jsonb_to_recordset(CAST(:said AS jsonb)) AS said(uuid text, number int, state text, works bool) "
            "WHERE attempts.task_uuid = said.uuid AND attempts.number = said.number"
        ).bindparams(said=said)  # type: ignore[call-overload]
    )


async def lock(session: AsyncSession, uuids: Collection[str]) -> dict[str, int]:
    """Lock tasks until the end of the transaction, always in the same order; gives their versions."""
    return await _locked(session, uuids, skip=False)


async def lock_free(session: AsyncSession, uuids: Collection[str]) -> dict[str, int]:
    """Lock those of these tasks that nobody else holds, until the end of the transaction; gives their versions."""
    return await _locked(session, uuids, skip=True)


async def _locked(session: AsyncSession, uuids: Collection[str], skip: bool) -> dict[str, int]:
    found = select(TaskRow.uuid, TaskRow.version).where(col(TaskRow.uuid).in_(uuids)).order_by(col(TaskRow.uuid))
    return dict((await session.exec(found.with_for_update(skip_locked=skip))).all())


async def undelivered(session: AsyncSession) -> Sequence[tuple[str, int, str]]:
    """Attempts with a slot reserved that their node has not answered for: task, number and node, oldest first."""
    return (
        await session.exec(
            select(AttemptRow.task_uuid, AttemptRow.number, AttemptRow.node_id)
            .where(
                AttemptRow.task_uuid == TaskRow.uuid,
                AttemptRow.number == TaskRow.attempt,
                TaskRow.state == State.PLACED.value,
                col(AttemptRow.delivered).is_(False),
            )
            .order_by(col(AttemptRow.placed_at))
        )
    ).all()


async def note_delivered(session: AsyncSession, keys: Collection[tuple[str, int]]) -> None:
    """Note of attempts, by task and number, that their nodes have answered for them."""
    await session.exec(
        update(AttemptRow)
        .where(tuple_(col(AttemptRow.task_uuid), col(AttemptRow.number)).in_(sorted(keys)))
        .values(delivered=True)
    )


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of a task that is locked in this transaction."""

    before: Task
    version: int
    """Of the task before."""
    after: Task


async def store(session: AsyncSession, steps: Collection[Step]) -> None:
    """Make tasks' rows say what they are after these steps: only what changes, all in one statement.

    Raises `MoveRefused` where a state does not lead there.
    """
    if not steps:
        return
    names: set[str] = set()
    for each in steps:
        check_move(each.before.uuid, each.before.state, each.after.state)
        names |= changed_columns(each.before, each.after)
    wanted = sorted(names)
    told = [{"uuid": each.after.uuid, "version": each.version + 1, **columns_of(each.after, wanted)} for each in steps]
    wanted.append("version")
    await session.exec(
        text(
            f"UPDATE tasks SET ({', '.join(wanted)}) = ROW({', '.join(f'made.{name}' for name in wanted)}) "  # noqa: S608
            "FROM jsonb_populate_recordset(NULL::tasks, CAST(:told AS jsonb)) AS made WHERE tasks.uuid = made.uuid"
        ).bindparams(told=orjson.dumps(told).decode())  # type: ignore[call-overload]
    )


@dataclass(frozen=True, slots=True)
class NewAttempt:
    """A slot that is reserved, and why there."""

    uuid: str
    number: int
    node_id: str
    queued_at: datetime | None
    why: str
    reasons: list[dict[str, object]]


async def add_attempts(session: AsyncSession, attempts: Collection[NewAttempt]) -> None:
    """Put new attempts on record, all in one statement."""
    if not attempts:
        return
    told = orjson.dumps([*attempts]).decode()
    await session.exec(
        text(
            "INSERT INTO attempts (task_uuid, number, node_id, state, delivered, queued_at, why, reasons, next_line) "
            "SELECT uuid, number, node_id, :placed, false, queued_at, why, reasons, 0 "
            "FROM jsonb_to_recordset(CAST(:told AS jsonb)) "
            "AS made (uuid text, number int, node_id text, queued_at timestamptz, why text, reasons jsonb)"
        ).bindparams(told=told, placed=State.PLACED.value)  # type: ignore[call-overload]
    )


async def node_rows(session: AsyncSession) -> Sequence[NodeRow]:
    """Every node of the federation, whole."""
    return (await session.exec(select(NodeRow).where(col(NodeRow.removed_at).is_(None)).order_by(NodeRow.name))).all()


async def removed_nodes(session: AsyncSession, within: timedelta) -> set[str]:
    """Ids of the nodes that were removed lately."""
    rows = await session.exec(select(NodeRow.id).where(col(NodeRow.removed_at) > func.now() - within))
    return set(rows.all())


@dataclass(frozen=True, slots=True)
class Standing:
    """What changes of a node all the time."""

    silence: timedelta
    capacity: dict[str, Any]
    draining: bool
    locked: bool
    quarantined_for: timedelta
    """What is left of its quarantine; not above zero where there is none."""
    quarantines: int
    placed: int
    """Slots that our attempts hold."""
    health: str = "healthy"
    """How its silence was judged last."""
    health_since: datetime | None = None
    heard_at: datetime | None = None
    """When it last reported."""


async def standings(session: AsyncSession) -> dict[str, Standing]:
    """Every node's, by id and by the database's clock."""
    counted = await session.exec(
        select(AttemptRow.node_id, func.count())
        .where(col(AttemptRow.state).in_(_ACTIVE))
        .group_by(col(AttemptRow.node_id))
    )
    placed = dict(counted.all())
    moment = func.clock_timestamp()
    rows = await session.exec(
        select(  # type: ignore[call-overload]  # the stubs end at four columns
            NodeRow.id,
            moment - NodeRow.heard_at,
            NodeRow.capacity,
            NodeRow.draining,
            NodeRow.locked,
            func.coalesce(NodeRow.quarantined_until, moment) - moment,
            NodeRow.quarantines,
            NodeRow.health,
            NodeRow.health_since,
            NodeRow.heard_at,
        ).where(col(NodeRow.removed_at).is_(None))
    )
    return {
        row[0]: Standing(row[1], row[2], row[3], row[4], row[5], row[6], placed.get(row[0], 0), *row[7:])
        for row in rows.all()
    }


async def set_quarantine(session: AsyncSession, node_id: str, quarantines: int, length: timedelta) -> None:
    """Quarantine a node from now on; a length of zero ends it."""
    await session.exec(
        update(NodeRow)
        .where(col(NodeRow.id) == node_id)
        .values(
            quarantines=quarantines,
            quarantined_until=func.clock_timestamp() + length if length else None,
        )
    )


async def nodes_free(session: AsyncSession, node_ids: Collection[str], most: int) -> Sequence[NodeRow]:
    """Some of these nodes, locked until the end of the transaction; what somebody else holds is left out."""
    found = select(NodeRow).where(col(NodeRow.id).in_(node_ids), col(NodeRow.removed_at).is_(None)).limit(most)
    return (await session.exec(found.with_for_update(skip_locked=True))).all()


async def held_by(
    session: AsyncSession, node_ids: Collection[str] | None
) -> list[tuple[TaskRow, AttemptRow, timedelta]]:
    """Attempts under way on these nodes, with the time that each had worked when its node was last heard.

    None: on nodes that are no longer of the federation.
    """
    where = col(AttemptRow.node_id).in_(node_ids) if node_ids is not None else col(NodeRow.removed_at).is_not(None)
    rows = await session.exec(
        select(TaskRow, AttemptRow, NodeRow.heard_at).where(
            AttemptRow.task_uuid == TaskRow.uuid,
            AttemptRow.number == TaskRow.attempt,
            AttemptRow.node_id == NodeRow.id,
            col(AttemptRow.state).in_(_ACTIVE),
            where,
        )
    )
    return [(task, attempt, _between(attempt.began_at, heard_at)) for task, attempt, heard_at in rows.all()]


def _between(begin: datetime | None, end: datetime | None) -> timedelta:
    return max(timedelta(0), end - begin) if begin is not None and end is not None else timedelta(0)


async def delivered_to(session: AsyncSession, node_id: str) -> Sequence[tuple[TaskRow, AttemptRow]]:
    """Attempts under way that this node has answered for."""
    return (
        await session.exec(
            select(TaskRow, AttemptRow).where(
                AttemptRow.task_uuid == TaskRow.uuid,
                AttemptRow.number == TaskRow.attempt,
                AttemptRow.node_id == node_id,
                col(AttemptRow.state).in_(_ACTIVE),
                col(AttemptRow.delivered).is_(True),
            )
        )
    ).all()


async def given_to(session: AsyncSession, node_id: str, most: int) -> Sequence[tuple[TaskRow, AttemptRow]]:
    """The latest attempts that this node was ever given, ended ones too."""
    return (
        await session.exec(
            select(TaskRow, AttemptRow)
            .where(AttemptRow.task_uuid == TaskRow.uuid, AttemptRow.node_id == node_id)
            .order_by(col(AttemptRow.placed_at).desc())
            .limit(most)
        )
    ).all()


@dataclass(frozen=True, slots=True)
class Past:
    """An attempt of a task's current run that has ended."""

    node_id: str
    cause: Cause | None
    error: str
    ended_ago: timedelta


async def past_attempts(session: AsyncSession, uuids: Collection[str]) -> dict[str, list[Past]]:
    """The ended attempts of these tasks' current runs, first to last."""
    rows = await session.exec(
        select(AttemptRow, func.clock_timestamp() - AttemptRow.ended_at)
        .where(
            AttemptRow.task_uuid == TaskRow.uuid,
            col(TaskRow.uuid).in_(uuids),
            AttemptRow.number >= TaskRow.first_attempt,
            col(AttemptRow.ended_at).is_not(None),
        )
        .order_by(col(AttemptRow.number))
    )
    found: dict[str, list[Past]] = {}
    for row, ago in rows.all():
        cause = Cause(row.cause) if row.cause else None
        found.setdefault(row.task_uuid, []).append(Past(row.node_id, cause, row.error or "", ago))
    return found


async def ended_since(session: AsyncSession, since: datetime | None, most: int) -> Sequence[tuple[AttemptRow, TaskRow]]:
    """Attempts that ended after `since`, with their tasks; without it the last ones. In order of their ends."""
    rows = select(AttemptRow, TaskRow).where(
        AttemptRow.task_uuid == TaskRow.uuid, col(AttemptRow.ended_at).is_not(None)
    )
    if since is not None:
        later = rows.where(col(AttemptRow.ended_at) > since).order_by(col(AttemptRow.ended_at)).limit(most)
        return (await session.exec(later)).all()
    last = (await session.exec(rows.order_by(col(AttemptRow.ended_at).desc()).limit(most))).all()
    return list(reversed(last))


async def renew_lease(session: AsyncSession, epoch: int, lease_s: float) -> bool:
    """Lead for so much longer; false when another replica has come to lead."""
    renewed = await session.exec(
        update(LeaderRow)
        .where(col(LeaderRow.epoch) == epoch)
        .values(until=func.clock_timestamp() + timedelta(seconds=lease_s))
        .returning(col(LeaderRow.epoch))
    )
    return renewed.first() is not None


async def take_lease(session: AsyncSession, holder: str, lease_s: float) -> int | None:
    """Come to lead, if nobody does; gives the new epoch."""
    taken = await session.exec(
        update(LeaderRow)
        .where(col(LeaderRow.until) < func.clock_timestamp())
        .values(
            epoch=LeaderRow.epoch + 1,
            holder=holder,
            until=func.clock_timestamp() + timedelta(seconds=lease_s),
        )
        .returning(col(LeaderRow.epoch))
    )
    found = taken.first()
    return found[0] if found is not None else None


async def hold_epoch(session: AsyncSession, epoch: int) -> bool:
    """Keep others from coming to lead until this transaction is over; false when one has."""
    held = select(LeaderRow.epoch).where(LeaderRow.epoch == epoch).with_for_update(read=True, key_share=True)
    return (await session.exec(held)).first() is not None


async def attempt_row(session: AsyncSession, uuid: str, number: int) -> AttemptRow | None:
    """One attempt."""
    return await session.get(AttemptRow, (uuid, number))


async def node_of(session: AsyncSession, uuid: str, number: int) -> NodeRow | None:
    """The node that has, or had, this attempt."""
    attempt = await attempt_row(session, uuid, number)
    return None if attempt is None else await session.get(NodeRow, attempt.node_id)


async def node_named(session: AsyncSession, name: str) -> NodeRow | None:
    """A node by name, locked until the end of the transaction."""
    return (await session.exec(select(NodeRow).where(NodeRow.name == name).with_for_update())).first()


async def attempts_of(session: AsyncSession, uuid: str) -> Sequence[tuple[AttemptRow, NodeRow]]:
    """Every attempt of a task with its node, first to last."""
    return (
        await session.exec(
            select(AttemptRow, NodeRow)
            .where(AttemptRow.task_uuid == uuid, AttemptRow.node_id == NodeRow.id)
            .order_by(col(AttemptRow.number))
        )
    ).all()


async def end_attempt(
    session: AsyncSession, uuid: str, number: int, state: State, error: str | None, cause: Cause | None = None
) -> None:
    """Put the end of an attempt on record, once."""
    ended = await session.exec(
        update(AttemptRow)
        .where(
            col(AttemptRow.task_uuid) == uuid,
            col(AttemptRow.number) == number,
            col(AttemptRow.ended_at).is_(None),
        )
        .values(state=state.value, error=error, cause=cause.value if cause else None, ended_at=func.clock_timestamp())
    )
    if ended.rowcount:
        tell(session, AttemptEnded(uuid, number, state, cause))


@dataclass(frozen=True, slots=True)
class Heard:
    """What a node last said of itself, and when by our own clock."""

    capacity: Capacity
    holding: Sequence[str]
    """Its attempts, as `held_as` writes them."""
    moment: float


def held_as(uuid: str, number: int) -> str:
    """How an attempt stands in `nodes.holding`."""
    return f"{uuid} {number}"


async def hear(session: AsyncSession, heard: Mapping[str, Heard], now: float) -> None:
    """Note that nodes were heard, by id; `now` by the same clock. What another replica has heard later stays."""
    said = [
        {
            "id": node_id,
            "ago": max(0.0, now - each.moment),
            "capacity": each.capacity.model_dump(),
            "holding": list(each.holding),
        }
        for node_id, each in sorted(heard.items())
    ]
    await session.exec(
        text(
            "UPDATE nodes SET heard_at = clock_timestamp() - make_interval(secs => said.ago), "
            "capacity = said.capacity, holding = said.holding "
            "FROM jsonb_to_recordset(CAST(:said AS jsonb)) AS said(id text, ago float8, capacity jsonb, holding jsonb) "
            "WHERE nodes.id = said.id AND nodes.heard_at < clock_timestamp() - make_interval(secs => said.ago)"
        ).bindparams(said=json.dumps(said))  # type: ignore[call-overload]
    )


async def absent(session: AsyncSession, late_after: timedelta) -> Sequence[tuple[str, int, str]]:
    """Attempts that a node took and does not tell of, though it is heard: uuid, number, the node's id."""
    told = col(NodeRow.holding).bool_op("?")(func.concat(AttemptRow.task_uuid, " ", AttemptRow.number))
    return (
        await session.exec(
            select(AttemptRow.task_uuid, AttemptRow.number, AttemptRow.node_id).where(
                AttemptRow.node_id == NodeRow.id,
                col(AttemptRow.state).in_(_ACTIVE),
                col(AttemptRow.delivered).is_(True),
                NodeRow.kind == MEMBER,
                col(NodeRow.removed_at).is_(None),
                col(NodeRow.heard_at) > func.clock_timestamp() - late_after,
                ~told,
            )
        )
    ).all()


async def lock_slots(session: AsyncSession) -> None:
    """Until the end of the transaction nobody else counts slots and takes some (I4)."""
    await session.exec(select(func.pg_advisory_xact_lock(_SLOTS_LOCK)))


async def slots_held(session: AsyncSession, node_ids: Collection[str]) -> Mapping[str, int]:
    """How many attempts are under way on each of these nodes that have any."""
    counted = await session.exec(
        select(AttemptRow.node_id, func.count())
        .where(col(AttemptRow.state).in_(_ACTIVE), col(AttemptRow.node_id).in_(node_ids))
        .group_by(col(AttemptRow.node_id))
    )
    return dict(counted.all())


async def last_number(session: AsyncSession, uuid: str) -> int:
    """The highest number of a task's attempts; 0 where there is none."""
    found = await session.exec(select(func.max(AttemptRow.number)).where(AttemptRow.task_uuid == uuid))
    return found.one() or 0


async def add_lines(session: AsyncSession, uuid: str, attempt: int, first_line: int, lines: list[str]) -> None:
    """Append console lines."""
    session.add(ConsoleRow(task_uuid=uuid, attempt=attempt, first_line=first_line, lines=lines))
    await session.exec(
        update(AttemptRow)
        .where(col(AttemptRow.task_uuid) == uuid, col(AttemptRow.number) == attempt)
        .values(next_line=first_line + len(lines))
    )


async def lines_from(session: AsyncSession, uuid: str, attempt: int, first_line: int) -> list[str]:
    """Console lines of an attempt from number `first_line` on."""
    rows = await session.exec(
        select(ConsoleRow.first_line, ConsoleRow.lines)
        .where(
            ConsoleRow.task_uuid == uuid,
            ConsoleRow.attempt == attempt,
            ConsoleRow.first_line + func.jsonb_array_length(col(ConsoleRow.lines)) > first_line,
        )
        .order_by(col(ConsoleRow.first_line))
    )
    found: list[str] = []
    for begin, lines in rows:
        found += lines[max(0, first_line - begin) :]
    return found


def _table(rows: type[SQLModel]) -> Table:
    table = rows.__table__  # type: ignore[attr-defined]  # SQLModel makes it
    assert isinstance(table, Table)
    return table


_TAKE_NAME = (
    insert(_table(StagedFileRow))
    .from_select(
        ["task_uuid", "name"],
        select(col(TaskRow.uuid), bindparam("name", type_=String)).where(
            TaskRow.uuid == bindparam("uuid"), TaskRow.state == State.UPLOADING.value, col(TaskRow.leaving).is_(False)
        ),
    )
    .on_conflict_do_nothing()
    .returning(col(StagedFileRow.name))
)
"""Made once, for every file of every upload. Of the table itself: what the row's class inserts takes no parameters."""


async def take_name(session: AsyncSession, uuid: str, name: str) -> bool:
    """Take a name for a file of an upload; false when it is taken, or when there is no such upload."""
    taken = await session.exec(_TAKE_NAME, params={"uuid": uuid, "name": name})
    return taken.first() is not None


async def parent_of(session: AsyncSession, family: Family) -> TaskRow | None:
    """The split task of which this family is an attempt, on the node that the family names; not locked."""
    found = await session.exec(
        select(TaskRow).where(
            TaskRow.uuid == family.uuid,
            AttemptRow.task_uuid == TaskRow.uuid,
            AttemptRow.number == family.attempt,
            AttemptRow.node_id == family.node_id,
        )
    )
    return found.first()


async def owner_of_upload(session: AsyncSession, uuid: str) -> tuple[str, str] | None:
    """Whose upload this is, as tenant and family; None when it is not, or no longer, open."""
    found = await session.exec(
        select(TaskRow.tenant, TaskRow.family).where(
            TaskRow.uuid == uuid, TaskRow.state == State.UPLOADING.value, col(TaskRow.leaving).is_(False)
        )
    )
    return found.first()


async def free_name(session: AsyncSession, uuid: str, name: str) -> None:
    """A file of an upload did not arrive after all."""
    await session.exec(
        delete(StagedFileRow).where(col(StagedFileRow.task_uuid) == uuid, col(StagedFileRow.name) == name)
    )


async def forget_staged_files(session: AsyncSession, uuid: str) -> int:
    """The upload is committed: its names are no longer needed; gives how many there were."""
    forgotten = await session.exec(delete(StagedFileRow).where(col(StagedFileRow.task_uuid) == uuid))
    return forgotten.rowcount


async def token_rows(session: AsyncSession) -> Sequence[TokenRow]:
    """Every token."""
    return (await session.exec(select(TokenRow).order_by(TokenRow.name))).all()


async def token_named(session: AsyncSession, name: str) -> TokenRow | None:
    """A token by name."""
    return (await session.exec(select(TokenRow).where(TokenRow.name == name))).first()


async def keep_token(session: AsyncSession, row: TokenRow) -> None:
    """Store a token; one of the same name is replaced."""
    values = row.model_dump(exclude={"created_at"})
    await session.exec(insert(TokenRow).values(values).on_conflict_do_update(index_elements=["name"], set_=values))


async def drop_token(session: AsyncSession, name: str) -> Sequence[TokenRow]:
    """Delete the token of this name; gives what was deleted."""
    rows = (await session.exec(select(TokenRow).where(TokenRow.name == name))).all()
    for row in rows:
        await session.delete(row)
    return rows


async def due_webhooks(session: AsyncSession, most: int, most_per_host: int) -> Sequence[WebhookRow]:
    """Webhooks whose time has come, the oldest first, of each host the oldest few."""
    host = func.substring(func.lower(col(WebhookRow.url)), "^[a-z]+://[^/?#]*")
    due = (
        select(
            col(WebhookRow.id),
            func.row_number().over(partition_by=host, order_by=col(WebhookRow.due_at)).label("turn"),
        )
        .where(
            col(WebhookRow.delivered_at).is_(None),
            col(WebhookRow.given_up_at).is_(None),
            col(WebhookRow.due_at) <= func.clock_timestamp(),
        )
        .subquery()
    )
    return (
        await session.exec(
            select(WebhookRow)
            .join(due, due.c.id == WebhookRow.id)
            .where(due.c.turn <= most_per_host)
            .order_by(col(WebhookRow.due_at))
            .limit(most)
        )
    ).all()


async def webhook_row(session: AsyncSession, number: int) -> WebhookRow | None:
    """One webhook, locked until the end of the transaction."""
    return (await session.exec(select(WebhookRow).where(WebhookRow.id == number).with_for_update())).first()


async def webhooks_of(session: AsyncSession, uuid: str) -> Sequence[WebhookRow]:
    """What is on record of a task's webhooks, first to last."""
    found = select(WebhookRow).where(WebhookRow.task_uuid == uuid).order_by(col(WebhookRow.id))
    return (await session.exec(found)).all()


NEVER_LED = timedelta(days=365)
"""As long as this nobody goes without a leader who ever had one."""


async def migration(session: AsyncSession) -> str | None:
    """The last migration that the database has seen."""
    found = await session.exec(text("SELECT version_num FROM alembic_version"))  # type: ignore[call-overload]
    return next((str(version) for (version,) in found), None)


async def leaderless(session: AsyncSession) -> timedelta:
    """For how long no replica has led, `NEVER_LED` at most; not above zero while one does."""
    # One moment for both: `clock_timestamp` goes on within a statement, which left `NEVER_LED` a microsecond short.
    now = func.statement_timestamp()
    # Before the first leader there was none since minus infinity, which no timedelta can hold.
    found: timedelta = (await session.exec(select(now - func.greatest(LeaderRow.until, now - NEVER_LED)))).one()
    return found
