"""Nodes and attempts over time: who is late or lost, what a report means, whether a failure is another try. Pure."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

from common.federation import HEARTBEAT_S, LATE_BEATS, LINES_PER_HEARTBEAT, AttemptReport
from common.tasks import ACTIVE, ENDED, NOT_RUNNING, Cause, State, Task, canceled

LATE_AFTER = timedelta(seconds=LATE_BEATS * HEARTBEAT_S)
"""Silence after which a node gets no new work (design 6)."""
LOST_AFTER = timedelta(minutes=10)
"""Silence after which what a node has begun may be given to another."""
LOST_AFTER_MOST = timedelta(hours=6)
ABSENT_S = 30.0
"""A heartbeat tells of every attempt; one that stays untold for so long has no run any more."""
REST = timedelta(seconds=30)
"""A node that could not be given a task, or failed it, is not tried with it again for this long."""
WORK_PATIENCE = 4
"""A node may be silent for a quarter of the time that a run has already worked: hours of work are worth a wait."""
MEMORY_GROWTH = 1.5
"""What a task gets more of, that ran out of memory."""
BUDGETS: Mapping[Cause, int] = {Cause.INFRASTRUCTURE: 3, Cause.LOST: 3, Cause.MEMORY: 2}
"""How often a run is tried again after each cause. What has no budget: see `retried`."""
FREE = frozenset({Cause.UNDELIVERED, Cause.REFUSED})
"""Causes that cost a task nothing: it never began."""
FAST_S = 60.0
"""A failure that comes sooner than this has more to do with its node than with hours of work."""
BLACK_HOLE = 3
"""So many fast failures of a node in a row, and it gets no work for a while."""
QUARANTINE = timedelta(minutes=5)
QUARANTINE_MOST = timedelta(hours=2)
PART_WAITS = timedelta(seconds=60)
"""How long a part of a split task waits for a slot before its parent takes it back (design 4.5)."""


class Health(StrEnum):
    """What a node's silence says."""

    HEALTHY = "healthy"
    LATE = "late"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Clocks:
    """How long silence is borne, and a node is spared a task that it failed (settings)."""

    late_after: timedelta = LATE_AFTER
    lost_after: timedelta = LOST_AFTER
    rest: timedelta = REST
    quarantine: timedelta = QUARANTINE
    """The first one; nothing means none at all."""
    part_waits: timedelta = PART_WAITS


USUAL = Clocks()


def health(silence: timedelta, clocks: Clocks = USUAL) -> Health:
    """How a node stands that was last heard `silence` ago, by the database's clock."""
    if silence <= clocks.late_after:
        return Health.HEALTHY
    return Health.LATE if silence <= clocks.lost_after else Health.LOST


_WORSE = list(Health)


def noted_health(before: Health, silence: timedelta, listened: timedelta, clocks: Clocks = USUAL) -> Health:
    """How a node is to stand on record that was judged `before`. It is better again only once it is heard, and worse
    only by silence that we were there to hear, `listened` long (I11)."""
    if health(silence, clocks) is Health.HEALTHY:
        return Health.HEALTHY
    return max(before, health(min(silence, listened), clocks), key=_WORSE.index)


@dataclass(frozen=True, slots=True)
class Held:
    """An attempt under way, as the watch over its node sees it."""

    uuid: str
    attempt: int
    node_id: str
    worked: timedelta = timedelta(0)
    """How long it has been at work, as far as was heard."""
    replaceable: bool = True
    """Its owner lets it be replaced when its node is lost."""


def patience(worked: timedelta, clocks: Clocks = USUAL) -> timedelta:
    """How long a silent node keeps an attempt that has worked so long (design 6)."""
    return min(max(clocks.lost_after, worked / WORK_PATIENCE), max(clocks.lost_after, LOST_AFTER_MOST))


def is_deaf(silences: Mapping[str, timedelta], clocks: Clocks = USUAL) -> bool:
    """Whether no node at all is heard: then it is more likely we who hear nobody (I11)."""
    return bool(silences) and not any(health(each, clocks) is Health.HEALTHY for each in silences.values())


def lost(held: Iterable[Held], silences: Mapping[str, timedelta], clocks: Clocks = USUAL) -> list[Held]:
    """Attempts to be given up as lost with their nodes.

    `silences`: of every node, counted from when it was heard or from when we began to listen, whichever is later. A
    node that is not named there is gone for good. If no node at all is heard, it is we who are deaf (I11).
    """
    if is_deaf(silences, clocks):
        return []
    found = []
    for each in held:
        silence = silences.get(each.node_id)
        if silence is None or (each.replaceable and silence > patience(each.worked, clocks)):
            found.append(each)
    return found


Key = tuple[str, int]
"""An attempt: its task's uuid, and its number."""


def absent_since(absent: Iterable[Key], before: Mapping[Key, float], now: float) -> dict[Key, float]:
    """Of attempts that their nodes do not tell of though these are heard: since when, by any clock in seconds.

    `before`: what this gave at the last look.
    """
    return {key: before.get(key, now) for key in absent}


def forgotten(absent: Mapping[Key, float], now: float) -> list[Key]:
    """Attempts that their nodes have lost: their runs are gone, by a restart or by hand, and will never be told of."""
    return [key for key, since in absent.items() if now - since > ABSENT_S]


class Ruling(StrEnum):
    """What is made of a report."""

    TAKE = "take"
    """It is of the current attempt."""
    ADOPT = "adopt"
    """It is of an attempt that was given up, and nothing has taken its place: it goes on."""
    ADOPT_RESULT = "adopt its result"
    """It is of an attempt that was replaced, and has finished before its replacement (`common.fencing`)."""
    STOP = "stop"
    """Nothing waits for it."""


def ruling(task: Task, report: AttemptReport) -> Ruling:
    """What a report means for its task (I2)."""
    if task.state in ENDED or report.attempt < task.first_attempt or report.attempt > task.attempt:
        return Ruling.STOP
    if report.attempt == task.attempt:
        if task.state in ACTIVE:
            return Ruling.TAKE
        # Waiting for its next attempt: that of the last one counts as long as there is none, unless it has failed.
        return Ruling.ADOPT if report.state in ACTIVE | {State.COMPLETED} else Ruling.STOP
    return Ruling.ADOPT_RESULT if report.state is State.COMPLETED else Ruling.STOP


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
        waiting=report.waiting,
        begun=True,
    )
    if report.state is State.CANCELED and report.error is not None:
        # Its node has a limit for how long a run may take (contract 7.1).
        return replace(canceled(task), error=report.error)
    if report.state in ENDED:
        error = report.error if report.state is not State.CANCELED else "The run was canceled on its node."
        state = State.COMPLETED if report.state is State.COMPLETED else State.FAILED
        return replace(
            task,
            state=state,
            began_ms=None,
            processing_ms=report.processing_ms,
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
    return replace(
        task,
        state=State.PLACED,
        attempt=attempt,
        begun=True,
        began_ms=None,
        progress=0.0,
        console_lines=0,
        waiting=None,
    )


def adopted(task: Task, attempt: int) -> Task:
    """The task with an earlier attempt made its current one again."""
    return replace(task, state=State.RUNNING, attempt=attempt, begun=True)


def failed(task: Task, error: str) -> Task:
    """The task given up for this reason."""
    return replace(task, state=State.FAILED, began_ms=None, error=error)


def requeued(task: Task) -> Task:
    """The task back in the queue; what it had reached is still shown (design 6)."""
    return replace(task, state=State.QUEUED, began_ms=None, error=None, waiting=None)


def retried(task: Task, cause: Cause | None, earlier: Collection[Cause]) -> Task | None:
    """The task in the queue again, where its failed attempt is worth another one; None where it is not.

    `earlier`: the causes of this run's attempts before this one. Infrastructure and lost nodes have a budget, memory
    grows with each try, what never began costs nothing; an engine's or an input's failure would only come again.
    """
    if cause in FREE:
        return requeued(task)
    if cause is None or Counter(earlier)[cause] >= BUDGETS.get(cause, 0):
        return None
    grown = task.memory_factor * (MEMORY_GROWTH if cause is Cause.MEMORY else 1.0)
    return replace(requeued(task), memory_factor=grown)


def given_up(error: str, causes: Sequence[Cause]) -> str:
    """The error of a task that was tried several times."""
    paid = [cause for cause in causes if cause not in FREE]
    if len(paid) < 2:
        return error
    counts = ", ".join(f"{count} x {cause}" for cause, count in Counter(paid).items())
    return f"{error.rstrip('.')}. It was tried {len(paid)} times ({counts})."


# Nodes that eat the queue


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended on a node, the newest ones first where there are several."""

    cause: Cause | None
    """None: it ended well, or was canceled."""
    seconds: float


def is_black_hole(own: Sequence[Outcome], others: Sequence[Outcome]) -> bool:
    """Whether a node fails what it is given, fast and again and again, while others do not.

    `own`, `others`: the newest outcomes first, of this node and of all others. Failures that are its owner's or the
    engine's say something about the node only where the same is not happening everywhere.
    """
    recent = own[:BLACK_HOLE]
    if len(recent) < BLACK_HOLE or not all(_is_fast_failure(each) for each in recent):
        return False
    if all(each.cause in (Cause.INFRASTRUCTURE, Cause.UNDELIVERED) for each in recent):
        return True
    elsewhere = others[: 4 * BLACK_HOLE]
    return len(elsewhere) >= BLACK_HOLE and sum(map(_is_fast_failure, elsewhere)) * 4 <= len(elsewhere)


def _is_fast_failure(outcome: Outcome) -> bool:
    return outcome.cause not in (None, Cause.INPUT, Cause.LOST, Cause.OUTDATED) and outcome.seconds < FAST_S


def quarantine(times: int, first: timedelta = QUARANTINE) -> timedelta:
    """How long a node rests that was quarantined so many times before without doing well in between."""
    return min(first * (1 << min(times, 10)), max(first, QUARANTINE_MOST))
