"""Every question and change that the router puts to Postgres, named. Nothing is decided here."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, func, literal, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from common.federation import Capacity
from common.tasks import ACTIVE, State
from router.lifecycle import health
from router.placement import NodeState
from router.tables import AttemptRow, ConsoleRow, NodeRow, StagedFileRow, TaskRow, TokenRow

_ACTIVE = [state.value for state in ACTIVE]
_WAITING = [State.STAGING.value, State.QUEUED.value]


async def now(session: AsyncSession) -> datetime:
    """The database's clock."""
    return (await session.exec(select(func.now()))).one()


async def task_row(session: AsyncSession, uuid: str) -> TaskRow | None:
    """A task, locked until the end of the transaction."""
    return (await session.exec(select(TaskRow).where(TaskRow.uuid == uuid).with_for_update())).first()


async def queue(session: AsyncSession, most: int) -> Sequence[TaskRow]:
    """Surveyed tasks that wait for a slot, in order, locked; those that another transaction holds are left out."""
    waiting = (
        select(TaskRow)
        .where(col(TaskRow.state).in_(_WAITING), TaskRow.input_bytes > 0)
        .order_by(col(TaskRow.committed_at), TaskRow.uuid)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    return (await session.exec(waiting)).all()


async def unsurveyed(session: AsyncSession) -> Sequence[TaskRow]:
    """Committed tasks whose input nobody has looked at."""
    return (
        await session.exec(select(TaskRow).where(TaskRow.state == State.STAGING.value, TaskRow.input_bytes == 0))
    ).all()


async def undelivered(session: AsyncSession) -> Sequence[tuple[TaskRow, AttemptRow, NodeRow]]:
    """Attempts with a slot reserved that their node has not answered for."""
    return (
        await session.exec(
            select(TaskRow, AttemptRow, NodeRow)
            .where(
                AttemptRow.task_uuid == TaskRow.uuid,
                AttemptRow.number == TaskRow.attempt,
                AttemptRow.node_id == NodeRow.id,
                TaskRow.state == State.PLACED.value,
                col(AttemptRow.delivered).is_(False),
            )
            .order_by(col(AttemptRow.placed_at))
        )
    ).all()


async def node_rows(session: AsyncSession, lock: bool = False) -> Sequence[NodeRow]:
    """Every node; locked where slots are about to be reserved: two replicas never reserve one slot twice (I4)."""
    nodes = select(NodeRow).order_by(NodeRow.name)
    return (await session.exec(nodes.with_for_update() if lock else nodes)).all()


async def node_states(session: AsyncSession, lock: bool = False) -> list[NodeState]:
    """Every node as placement sees it, by the database's clock."""
    rows = await node_rows(session, lock)
    counted = await session.exec(
        select(AttemptRow.node_id, func.count())
        .where(col(AttemptRow.state).in_(_ACTIVE))
        .group_by(col(AttemptRow.node_id))
    )
    placed = dict(counted.all())
    moment = (await session.exec(select(func.clock_timestamp()))).one()
    return [_node_state(row, placed.get(row.id, 0), moment) for row in rows]


def _node_state(row: NodeRow, placed: int, moment: datetime) -> NodeState:
    capacity = Capacity.model_validate(row.capacity)
    return NodeState(
        id=row.id,
        name=row.name,
        health=health(moment - (row.heard_at or moment)),
        draining=row.draining,
        slots=capacity.slots,
        placed=placed,
        direct=capacity.direct,
        max_images=row.max_images,
        options=frozenset(option["name"] for option in row.options),
        free_memory_bytes=capacity.available_memory_bytes,
    )


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


async def recently_unreachable(session: AsyncSession, uuid: str, within: timedelta) -> frozenset[str]:
    """Nodes that could not be given this task a moment ago."""
    found = await session.exec(
        select(AttemptRow.node_id).where(
            AttemptRow.task_uuid == uuid,
            col(AttemptRow.delivered).is_(False),
            col(AttemptRow.ended_at) > func.now() - within,
        )
    )
    return frozenset(found.all())


async def end_attempt(session: AsyncSession, uuid: str, number: int, state: State, error: str | None) -> None:
    """Put the end of an attempt on record, once."""
    await session.exec(
        update(AttemptRow)
        .where(
            col(AttemptRow.task_uuid) == uuid,
            col(AttemptRow.number) == number,
            col(AttemptRow.ended_at).is_(None),
        )
        .values(state=state.value, error=error, ended_at=func.now())
    )


async def hear(session: AsyncSession, node: NodeRow, capacity: Capacity) -> None:
    """Note that a node was heard, at the database's time."""
    await session.exec(
        update(NodeRow)
        .where(col(NodeRow.id) == node.id)
        .values(heard_at=func.clock_timestamp(), capacity=capacity.model_dump())
    )


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


async def take_name(session: AsyncSession, uuid: str, name: str) -> bool:
    """Take a name for a file of an upload; false when it is taken, or when there is no such upload."""
    still_open = select(col(TaskRow.uuid), literal(name)).where(
        TaskRow.uuid == uuid, TaskRow.state == State.UPLOADING.value
    )
    taken = await session.exec(
        insert(StagedFileRow)
        .from_select(["task_uuid", "name"], still_open)
        .on_conflict_do_nothing()
        .returning(col(StagedFileRow.name))
    )
    return taken.first() is not None


async def tenant_of_upload(session: AsyncSession, uuid: str) -> str | None:
    """Whose upload this is; None when it is not, or no longer, open."""
    found = await session.exec(
        select(TaskRow.tenant).where(TaskRow.uuid == uuid, TaskRow.state == State.UPLOADING.value)
    )
    return found.first()


async def free_name(session: AsyncSession, uuid: str, name: str) -> None:
    """A file of an upload did not arrive after all."""
    await session.exec(
        delete(StagedFileRow).where(col(StagedFileRow.task_uuid) == uuid, col(StagedFileRow.name) == name)
    )


async def staged_files(session: AsyncSession, uuid: str) -> Sequence[StagedFileRow]:
    """The files of an upload."""
    return (await session.exec(select(StagedFileRow).where(StagedFileRow.task_uuid == uuid))).all()


async def forget_staged_files(session: AsyncSession, uuid: str) -> None:
    """The upload is committed: its names are no longer needed."""
    await session.exec(delete(StagedFileRow).where(col(StagedFileRow.task_uuid) == uuid))


async def token_rows(session: AsyncSession) -> Sequence[TokenRow]:
    """Every token."""
    return (await session.exec(select(TokenRow).order_by(TokenRow.name))).all()


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


async def ping(session: AsyncSession) -> None:
    """Whether the database answers."""
    await session.exec(select(1))
