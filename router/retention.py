"""What housekeeping asks of Postgres, and changes there. Every one of these is short, and takes only so many rows."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Text, cast, delete, func, or_, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from common.nodeodm.options import Setting
from common.tasks import ACTIVE, ENDED, State
from router.ages import Aged
from router.estimates import options_class
from router.tables import (
    AttemptRow,
    EventRow,
    NodeRow,
    PastRunRow,
    SampleRow,
    StagedFileRow,
    TaskRow,
    WebhookRow,
)

_ACTIVE = [state.value for state in ACTIVE]
_ENDED = [state.value for state in ENDED]


async def ended_tasks(session: AsyncSession, age: timedelta, most: int) -> list[Aged]:
    """Tasks that ended longer ago than `age`, the oldest first, locked; those whose webhooks wait are left out."""
    rows = await session.exec(
        select(TaskRow.uuid, TaskRow.state, TaskRow.staged, TaskRow.ended_at)
        .where(
            col(TaskRow.state).in_(_ENDED),
            col(TaskRow.leaving).is_(False),
            col(TaskRow.ended_at) < func.clock_timestamp() - age,
            ~select(WebhookRow.id)
            .where(
                WebhookRow.task_uuid == TaskRow.uuid,
                col(WebhookRow.delivered_at).is_(None),
                col(WebhookRow.given_up_at).is_(None),
            )
            .exists(),
        )
        .order_by(col(TaskRow.ended_at))
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    return [Aged(uuid, State(state), staged, ended_at) for uuid, state, staged, ended_at in rows if ended_at]


async def stale_uploads(session: AsyncSession, age: timedelta, most: int) -> list[Aged]:
    """Uploads that nobody has committed, and to which no file has come for longer than `age`; locked."""
    last_file = (
        select(func.max(StagedFileRow.taken_at)).where(StagedFileRow.task_uuid == TaskRow.uuid).scalar_subquery()
    )
    touched = func.greatest(TaskRow.opened_at, last_file)
    rows = await session.exec(
        select(TaskRow.uuid, touched)
        .where(
            TaskRow.state == State.UPLOADING.value,
            col(TaskRow.leaving).is_(False),
            touched < func.clock_timestamp() - age,
        )
        .order_by(col(TaskRow.opened_at))
        .limit(most)
        .with_for_update(skip_locked=True, of=TaskRow)
    )
    return [Aged(uuid, State.UPLOADING, True, since) for uuid, since in rows.all()]


async def mark_leaving(session: AsyncSession, uuids: Collection[str]) -> None:
    """From now on nothing happens to these any more but that they go."""
    await session.exec(update(TaskRow).where(col(TaskRow.uuid).in_(uuids)).values(leaving=True))


async def leaving(session: AsyncSession, most: int) -> Sequence[str]:
    """Tasks and uploads that go once S3 has let go. In no order: one that cannot go must not keep others."""
    rows = await session.exec(
        select(TaskRow.uuid).where(col(TaskRow.leaving).is_(True)).order_by(func.random()).limit(most)
    )
    return rows.all()


async def forget(session: AsyncSession, uuids: Collection[str]) -> None:
    """Delete tasks with their attempts and consoles; what is worth remembering of their runs is kept."""
    tasks = {row.uuid: row for row in await session.exec(select(TaskRow).where(col(TaskRow.uuid).in_(uuids)))}
    attempts = (
        await session.exec(
            select(AttemptRow)
            .where(col(AttemptRow.task_uuid).in_(uuids), col(AttemptRow.ended_at).is_not(None))
            .order_by(col(AttemptRow.number))
        )
    ).all()
    last = {attempt.task_uuid: attempt.number for attempt in attempts}
    runs = [_past_run(tasks[each.task_uuid], each, each.number == last[each.task_uuid]) for each in attempts]
    runs += [_never_run(task) for uuid, task in tasks.items() if uuid not in last and task.ended_at is not None]
    session.add_all(runs)
    await session.flush()
    await session.exec(delete(TaskRow).where(col(TaskRow.uuid).in_(uuids)))


def _past_run(task: TaskRow, attempt: AttemptRow, is_last: bool) -> PastRunRow:
    return PastRunRow(
        task_uuid=task.uuid,
        number=attempt.number,
        tenant=task.tenant,
        token=task.token,
        node_id=attempt.node_id,
        state=attempt.state,
        cause=attempt.cause,
        options=_options_of(task),
        images_count=task.images_count,
        outcome=task.state if is_last else None,
        queued_at=attempt.queued_at,
        placed_at=attempt.placed_at,
        began_at=attempt.began_at,
        ended_at=attempt.ended_at,
    )


def _never_run(task: TaskRow) -> PastRunRow:
    """A task that ended without any attempt, under number 0 and on no node."""
    return PastRunRow(
        task_uuid=task.uuid,
        number=0,
        tenant=task.tenant,
        token=task.token,
        node_id="",
        state=task.state,
        options=_options_of(task),
        images_count=task.images_count,
        outcome=task.state,
        ended_at=task.ended_at,
    )


def _options_of(task: TaskRow) -> str:
    return options_class(Setting(str(name), value) for name, value in task.options)


async def past_runs(session: AsyncSession, most: int) -> Sequence[PastRunRow]:
    """The last runs that ended well of tasks that are gone, in order of their ends."""
    rows = await session.exec(
        select(PastRunRow)
        .where(PastRunRow.state == State.COMPLETED.value)
        .order_by(col(PastRunRow.ended_at).desc())
        .limit(most)
    )
    return list(reversed(rows.all()))


async def forget_runs(session: AsyncSession, age: timedelta, most: int) -> int:
    """Delete what was kept of runs that ended longer ago than `age`; gives how many."""
    old = select(PastRunRow.id).where(col(PastRunRow.ended_at) < func.clock_timestamp() - age).limit(most)
    return (await session.exec(delete(PastRunRow).where(col(PastRunRow.id).in_(old)))).rowcount


async def forget_webhooks(session: AsyncSession, age: timedelta, most: int) -> int:
    """Delete webhooks that were delivered or given up longer ago than `age`; gives how many."""
    before = func.clock_timestamp() - age
    old = (
        select(WebhookRow.id)
        .where(or_(col(WebhookRow.delivered_at) < before, col(WebhookRow.given_up_at) < before))
        .limit(most)
    )
    return (await session.exec(delete(WebhookRow).where(col(WebhookRow.id).in_(old)))).rowcount


async def forget_events(session: AsyncSession, age: timedelta, most: int) -> int:
    """Delete events that happened longer ago than `age`; gives how many."""
    old = select(EventRow.id).where(col(EventRow.at) < func.clock_timestamp() - age).limit(most)
    return (await session.exec(delete(EventRow).where(col(EventRow.id).in_(old)))).rowcount


async def forget_samples(session: AsyncSession, age: timedelta, most: int) -> int:
    """Delete samples that were taken longer ago than `age`; gives how many."""
    old = select(SampleRow.at).where(col(SampleRow.at) < func.clock_timestamp() - age).limit(most)
    return (await session.exec(delete(SampleRow).where(col(SampleRow.at).in_(old)))).rowcount


async def known(session: AsyncSession, uuids: Collection[str]) -> set[str]:
    """Which of these are tasks or uploads."""
    return set((await session.exec(select(TaskRow.uuid).where(col(TaskRow.uuid).in_(uuids)))).all())


async def keep_workspaces(session: AsyncSession, node_id: str, kept: Mapping[str, int]) -> None:
    """Note which workspaces a node keeps."""
    await session.exec(
        update(NodeRow)
        .where(col(NodeRow.id) == node_id, col(NodeRow.workspaces) != cast(kept, JSONB))
        .values(workspaces=dict(kept))
    )


async def workspaces_of(session: AsyncSession, uuids: Collection[str]) -> dict[str, frozenset[str]]:
    """By task the ids of the nodes that keep the workspace of the latest attempt of which any node keeps it."""
    rows = await session.exec(
        select(NodeRow.id, NodeRow.workspaces).where(
            col(NodeRow.removed_at).is_(None), col(NodeRow.workspaces).bool_op("?|")(cast(list(uuids), ARRAY(Text)))
        )
    )
    holding: dict[str, list[tuple[int, str]]] = {}
    for node_id, kept in rows.all():
        for uuid in kept.keys() & set(uuids):
            holding.setdefault(uuid, []).append((kept[uuid], node_id))
    return {
        uuid: frozenset(node_id for attempt, node_id in held if attempt == max(held)[0])
        for uuid, held in holding.items()
    }


async def long_runs(session: AsyncSession, limit: timedelta) -> Sequence[tuple[str, int, datetime]]:
    """Attempts at work whose engines began longer ago than `limit`: task, number, when it began."""
    rows = await session.exec(
        select(AttemptRow.task_uuid, AttemptRow.number, AttemptRow.began_at).where(
            AttemptRow.task_uuid == TaskRow.uuid,
            AttemptRow.number == TaskRow.attempt,
            col(AttemptRow.state).in_(_ACTIVE),
            col(AttemptRow.began_at) < func.clock_timestamp() - limit,
        )
    )
    return [(uuid, number, began_at) for uuid, number, began_at in rows.all() if began_at is not None]
