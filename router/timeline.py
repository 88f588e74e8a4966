"""What happened to one task, moment by moment: by its client, by the federation, by people."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from common.tasks import ENDED, State
from router import queries
from router.browsing import TaskMissing
from router.database import Database
from router.events import events_of, shown_actor
from router.tables import AttemptRow, EventRow, NodeRow, TaskRow


class Happened(StrEnum):
    """What a moment is the moment of."""

    SUBMITTED = "submitted"
    EVENT = "event"
    """Somebody did something with it, and what comes of it is of the same moment."""
    COMMITTED = "committed"
    """It took its place in the queue: again where it was restarted."""
    PLACED = "placed"
    BEGAN = "began"
    ENDED = "ended"
    """An attempt; or the task itself, where no attempt is named."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Something happened."""

    at: datetime
    kind: Happened
    text: str
    attempt: int | None = None
    node: str | None = None
    state: str | None = None
    """How an attempt or the task ended."""
    cause: str | None = None
    error: str | None = None
    seconds: float | None = None
    """How long what is over with this had lasted: the upload, the wait, the delivery, the run."""
    actor: str | None = None
    action: str | None = None


class Timelines:
    """The timelines of tasks."""

    def __init__(self, database: Database) -> None:
        """A view of what is on record there."""
        self._database = database

    async def document(self, uuid: str) -> dict[str, Any]:
        """One task's. Raises `TaskMissing`; of a task that is gone, only events are left."""
        async with self._database.transaction() as session:
            row = await session.get(TaskRow, uuid)
            attempts = await queries.attempts_of(session, uuid)
            events = await events_of(session, uuid)
        if row is None or row.state == State.UPLOADING:
            raise TaskMissing(f"{uuid} not found")
        return {
            "uuid": uuid,
            "state": row.state,
            "moments": [_document(moment) for moment in moments(row, attempts, events)],
        }


def moments(row: TaskRow, attempts: Sequence[tuple[AttemptRow, NodeRow]], events: Iterable[EventRow]) -> list[Moment]:
    """All that is known of a task, first to last. Pure."""
    found = [*_of_task(row, [attempt for attempt, _ in attempts]), *map(_of_event, events)]
    for attempt, node in attempts:
        found += _of_attempt(attempt, node)
    order = list(Happened)
    return sorted(found, key=lambda moment: (moment.at, moment.attempt or 0, order.index(moment.kind)))


def _of_task(row: TaskRow, attempts: Sequence[AttemptRow]) -> list[Moment]:
    queued = {attempt.queued_at for attempt in attempts} | {row.committed_at}
    found = [Moment(at, Happened.COMMITTED, "It took its place in the queue") for at in queued if at is not None]
    if row.opened_at is not None:
        first = min((moment.at for moment in found), default=None)
        seconds = _between(row.opened_at, first)
        if row.staged:
            found.append(Moment(row.opened_at, Happened.SUBMITTED, "Its upload began", seconds=seconds))
        else:
            found.append(Moment(row.opened_at, Happened.SUBMITTED, "It was submitted by reference", seconds=seconds))
    if State(row.state) in ENDED and row.ended_at is not None:
        text = f"The task {_ended(row.state)}"
        found.append(Moment(row.ended_at, Happened.ENDED, text, state=row.state, error=row.error))
    return found


def _of_attempt(attempt: AttemptRow, node: NodeRow) -> list[Moment]:
    number, name = attempt.number, node.name
    found = []
    if attempt.placed_at is not None:
        waited = _between(attempt.queued_at, attempt.placed_at)
        text = f"Attempt {number} got a slot of node {name}"
        found.append(Moment(attempt.placed_at, Happened.PLACED, text, number, name, seconds=waited))
    if attempt.began_at is not None:
        fetched = _between(attempt.placed_at, attempt.began_at)
        text = f"Attempt {number}: the engine began on node {name}"
        found.append(Moment(attempt.began_at, Happened.BEGAN, text, number, name, seconds=fetched))
    if attempt.ended_at is not None:
        text = f"Attempt {number} on node {name} {_ended(attempt.state)}"
        found.append(
            Moment(
                attempt.ended_at,
                Happened.ENDED,
                text,
                number,
                name,
                attempt.state,
                attempt.cause,
                attempt.error,
                _between(attempt.began_at or attempt.placed_at, attempt.ended_at),
            )
        )
    return found


def _of_event(event: EventRow) -> Moment:
    assert event.at is not None
    actor = shown_actor(event.actor_kind, event.actor_name)
    return Moment(event.at, Happened.EVENT, event.text, actor=actor, action=event.action)


def _ended(state: str) -> str:
    return {State.CANCELED.value: "was canceled", State.FAILED.value: "failed"}.get(state, state)


def _between(begin: datetime | None, end: datetime | None) -> float | None:
    return None if begin is None or end is None else round(max(0.0, (end - begin).total_seconds()), 3)


def _document(moment: Moment) -> dict[str, Any]:
    return {
        "at": moment.at,
        "kind": moment.kind.value,
        "text": moment.text,
        "attempt": moment.attempt,
        "node": moment.node,
        "state": moment.state,
        "cause": moment.cause,
        "error": moment.error,
        "seconds": moment.seconds,
        "actor": moment.actor,
        "action": moment.action,
    }
