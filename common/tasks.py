"""A task, its states, and the one table of legal moves (design 4.1).

A *task* is what a client asked for. An *attempt* is one run of it on one node, numbered from 1. Router and
node keep the same record and the same table, so what a state means on the wire is said once, here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum

from common.nodeodm.options import Setting

NOT_RUNNING = -1
"""`processingTime` of a task whose engine has not begun (contract 3.4)."""


class Code(IntEnum):
    """NodeODM's status codes (contract 3.1)."""

    QUEUED = 10
    RUNNING = 20
    FAILED = 30
    COMPLETED = 40
    CANCELED = 50


class State(StrEnum):
    """Where a task is."""

    UPLOADING = "uploading"
    """Opened by init; files may arrive. Not yet a task on the wire."""
    STAGING = "staging"
    """Committed; its input is being looked at. A task leaves this state straight for a slot where one is free."""
    QUEUED = "queued"
    """Waits for a slot."""
    PLACED = "placed"
    """A slot is reserved for its current attempt."""
    RUNNING = "running"
    """Its current attempt works: fetching, processing or publishing."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"


ENDED = frozenset({State.COMPLETED, State.FAILED, State.CANCELED})
WAITING = frozenset({State.STAGING, State.QUEUED})
ACTIVE = frozenset({State.PLACED, State.RUNNING})
"""States in which a task holds a slot of a node."""

MOVES: Mapping[State, frozenset[State]] = {
    State.UPLOADING: frozenset({State.STAGING}),
    State.STAGING: frozenset({State.QUEUED, State.PLACED, State.RUNNING, State.FAILED, State.CANCELED}),
    State.QUEUED: frozenset({State.PLACED, State.RUNNING, State.FAILED, State.CANCELED}),
    State.PLACED: ENDED | {State.RUNNING, State.QUEUED},
    State.RUNNING: ENDED | {State.QUEUED},
    State.COMPLETED: frozenset({State.CANCELED, State.STAGING}),
    State.FAILED: frozenset({State.CANCELED, State.STAGING}),
    State.CANCELED: frozenset({State.STAGING}),
}


class MoveRefused(Exception):
    """A task was to go where its state does not lead."""

    def __init__(self, uuid: str, state: State, target: State) -> None:
        allowed = ", ".join(sorted(MOVES[state]))
        super().__init__(f"task {uuid} is {state} and cannot become {target}; from {state} it can become {allowed}")


def check_move(uuid: str, state: State, target: State) -> None:
    """Raise `MoveRefused` unless the table of moves leads from `state` to `target`; staying is no move."""
    if target is not state and target not in MOVES[state]:
        raise MoveRefused(uuid, state, target)


@dataclass(frozen=True, slots=True)
class Task:
    """One task as its clients see it. Times are milliseconds since the epoch, durations milliseconds."""

    uuid: str
    tenant: str
    name: str
    created_ms: int
    state: State
    input: str
    """`s3://bucket/prefix/` of the images, or the reference of one zip."""
    output: str
    """`s3://bucket/prefix/` of the products."""
    staged: bool = False
    """The input lies in our own staging area, because the client uploaded it to us."""
    options: tuple[Setting, ...] = ()
    outputs: tuple[str, ...] = ()
    webhook: str | None = None
    skip_post_processing: bool = False
    images_count: int = 0
    input_bytes: int = 0
    attempt: int = 0
    """Number of the current attempt; 0 before the first."""
    begun: bool = False
    """An attempt of this run has begun: from then on the code is never 10 again (I6)."""
    began_ms: int | None = None
    """When the engine of the current attempt began to work."""
    processing_ms: int = NOT_RUNNING
    progress: float = 0.0
    error: str | None = None
    console_lines: int = 0
    """On a router: how many console lines of the current attempt are on record."""

    @property
    def code(self) -> Code:
        """The NodeODM status code."""
        match self.state:
            case State.QUEUED:
                return Code.RUNNING if self.begun else Code.QUEUED
            case State.FAILED:
                return Code.FAILED
            case State.COMPLETED:
                return Code.COMPLETED
            case State.CANCELED:
                return Code.CANCELED
            case _:
                return Code.RUNNING

    def processing_time_ms(self, now_ms: int) -> int:
        """`processingTime` of contract 3.4: -1 until the engine runs, then elapsed, frozen at the end."""
        if self.state in ACTIVE and self.began_ms is not None:
            return max(0, now_ms - self.began_ms)
        return self.processing_ms


def again(task: Task, attempt: int, now_ms: int) -> Task:
    """The task as a restart makes it (contract 3.5): same uuid, attempt as given, nothing left of the last run."""
    return replace(
        task,
        state=State.STAGING,
        attempt=attempt,
        created_ms=now_ms,
        begun=False,
        began_ms=None,
        processing_ms=NOT_RUNNING,
        progress=0.0,
        error=None,
        console_lines=0,
        images_count=0,
        input_bytes=0,
    )


def canceled(task: Task) -> Task:
    """The task as a cancel makes it (contract 3.4)."""
    return replace(task, state=State.CANCELED, began_ms=None, processing_ms=NOT_RUNNING, progress=100.0)
