"""What a node does next with its tasks. Pure: records, statuses and `now` in, changes out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from common.tasks import ACTIVE, ENDED, NOT_RUNNING, WAITING, Cause, State, Task
from node.records import Record
from node.runs import RunStatus, task_after

MOST_STARTS = 3
"""Starts of one attempt before a run that is ended from outside again and again is given up."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start this record's current attempt."""

    record: Record


def watched(record: Record, status: RunStatus | None, now_ms: int) -> Record | Start:
    """What became of an active record whose run stands at `status`; None means its process is gone before its end."""
    if status is not None:
        after = replace(record, task=task_after(record.task, status, now_ms))
        return replace(after, cause=status.cause)
    if record.starts < MOST_STARTS:
        return Start(replace(record, starts=record.starts + 1))
    given_up = record.with_task(
        state=State.FAILED,
        error=f"The run was ended from outside {record.starts} times, most likely for lack of memory on this machine. "
        "Try fewer or smaller images, or a larger node.",
    )
    return replace(given_up, cause=Cause.MEMORY)


def to_start(records: Iterable[Record], slots: int) -> list[Start]:
    """The waiting records that free slots are there for, first come first served."""
    records = list(records)
    free = slots - sum(record.task.state in ACTIVE for record in records)
    ready = sorted((record for record in records if is_ready(record.task)), key=lambda record: record.accepted_ms)
    return [Start(begun(record)) for record in ready[: max(0, free)]]


def to_queue(records: Iterable[Record]) -> list[Record]:
    """Surveyed records that found no slot: from now on they are seen to wait."""
    ready = (record for record in records if is_ready(record.task))
    return [record.with_task(state=State.QUEUED) for record in ready if record.task.state is State.STAGING]


def is_ready(task: Task) -> bool:
    """Whether the task waits for nothing but a slot: its input has been looked at."""
    return task.state in WAITING and task.input_bytes > 0


def begun(record: Record) -> Record:
    """The record as its next start makes it."""
    started = record.with_task(state=State.RUNNING, begun=True, began_ms=None, processing_ms=NOT_RUNNING, error=None)
    return replace(started, starts=1, cause=None)


def is_overdue(record: Record, keep_for_s: float, now_ms: int) -> bool:
    """Whether the task ended so long ago that it may be forgotten. The router lets go of its own tasks itself."""
    if record.task.state not in ENDED or record.forwarded or any(each.is_pending for each in record.deliveries):
        return False
    return now_ms - (record.ended_ms or record.task.created_ms) > keep_for_s * 1000


def is_too_long(task: Task, limit_min: float, now_ms: int) -> bool:
    """Whether a run has worked for longer than so many minutes; 0 is no limit (contract 7.1)."""
    return bool(limit_min) and task.state is State.RUNNING and task.processing_time_ms(now_ms) > limit_min * 60_000


def used_slots(records: Mapping[str, Record], forwarded: bool) -> int:
    """Slots that forwarded (or direct) tasks take."""
    return sum(record.task.state in ACTIVE and record.forwarded == forwarded for record in records.values())
