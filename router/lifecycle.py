"""Nodes and attempts over time: how healthy a node is, and what a report makes of a task. Pure."""

from dataclasses import replace
from datetime import timedelta
from enum import StrEnum

from common.federation import HEARTBEAT_S, LINES_PER_HEARTBEAT, AttemptReport
from common.tasks import ACTIVE, ENDED, NOT_RUNNING, State, Task

LATE_AFTER = timedelta(seconds=3 * HEARTBEAT_S)
"""Silence after which a node gets no new work (design 6)."""
LOST_AFTER = timedelta(minutes=10)


class Health(StrEnum):
    """What a node's silence says."""

    HEALTHY = "healthy"
    LATE = "late"
    LOST = "lost"


def health(silence: timedelta) -> Health:
    """How a node stands that was last heard `silence` ago, by the database's clock."""
    if silence <= LATE_AFTER:
        return Health.HEALTHY
    return Health.LATE if silence <= LOST_AFTER else Health.LOST


def is_current(task: Task, report: AttemptReport) -> bool:
    """Whether this report is of the attempt that the task is waiting for (I2)."""
    return task.state in ACTIVE and task.attempt == report.attempt


def unseen_lines(report: AttemptReport, next_line: int) -> list[str]:
    """The report's console lines that are not on record: repeated ones are cut off, after a gap none count."""
    return report.lines[next_line - report.first_line :] if report.first_line <= next_line else []


def has_all_lines(report: AttemptReport, next_line: int) -> bool:
    """Whether the console is whole with this report: no gap before its lines, no full load with more behind it."""
    return report.first_line <= next_line and len(report.lines) < LINES_PER_HEARTBEAT


def reported(task: Task, report: AttemptReport, now_ms: int) -> Task:
    """The task as a report of its current attempt makes it. Progress never goes back (I6)."""
    task = replace(
        task,
        progress=max(task.progress, report.progress),
        images_count=report.images_count or task.images_count,
        begun=True,
    )
    if report.state in ENDED:
        error = report.error if report.state is not State.CANCELED else "The run was canceled on its node."
        state = State.COMPLETED if report.state is State.COMPLETED else State.FAILED
        return replace(
            task,
            state=state,
            began_ms=None,
            processing_ms=report.processing_ms,
            progress=report.progress,
            error=error,
        )
    state = State.RUNNING if report.state is State.RUNNING else task.state
    return replace(task, state=state, began_ms=_began(task, report, now_ms))


def _began(task: Task, report: AttemptReport, now_ms: int) -> int | None:
    """When the engine began, fixed at the first report that says so: the network's jitter must not show."""
    if report.processing_ms == NOT_RUNNING:
        return None
    return task.began_ms if task.began_ms is not None else now_ms - report.processing_ms


def placed(task: Task, attempt: int) -> Task:
    """The task with a slot reserved for its next attempt."""
    return replace(task, state=State.PLACED, attempt=attempt, begun=True, began_ms=None, progress=0.0, console_lines=0)


def failed(task: Task, error: str) -> Task:
    """The task given up for this reason."""
    return replace(task, state=State.FAILED, began_ms=None, error=error)


def undelivered(task: Task) -> Task:
    """The task back in the queue, because its node could not be given it."""
    return replace(task, state=State.QUEUED, began_ms=None)
