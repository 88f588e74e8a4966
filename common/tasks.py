"""A task, its states, and the one table of legal moves (design 4.1).

A *task* is what a client asked for. An *attempt* is one run of it on one node, numbered from 1. Router and
node keep the same record and the same table, so what a state means on the wire is said once, here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from enum import IntEnum, StrEnum
from typing import Any

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


class Cause(StrEnum):
    """Why an attempt did not end well: what decides whether there is another one."""

    INPUT = "input"
    """No engine on any node could process it."""
    ENGINE = "engine"
    """The engine gave up; it would again."""
    MEMORY = "out of memory"
    INFRASTRUCTURE = "infrastructure"
    """A machine, an image, a disk, S3: elsewhere it may go well."""
    LOST = "lost"
    """Its node fell silent for too long, or was removed."""
    UNDELIVERED = "undelivered"
    """Its node could not be given it."""
    REFUSED = "refused"
    """Its node would not have it."""
    OUTDATED = "outdated"
    """Another attempt had taken its place."""


ENDED = frozenset({State.COMPLETED, State.FAILED, State.CANCELED})
WAITING = frozenset({State.STAGING, State.QUEUED})
ACTIVE = frozenset({State.PLACED, State.RUNNING})
"""States in which a task holds a slot of a node."""

MOVES: Mapping[State, frozenset[State]] = {
    State.UPLOADING: frozenset({State.STAGING}),
    State.STAGING: frozenset({State.QUEUED, State.PLACED, State.RUNNING, State.FAILED, State.CANCELED}),
    State.QUEUED: ENDED | {State.PLACED, State.RUNNING},
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
class Wishes:
    """What a client may ask beyond NodeODM: how its input is read, where it runs and when (contract 8.5)."""

    scan_depth: int | None = None
    """How many folders deep images are looked for, 1 being the prefix itself; None means all."""
    exclude: tuple[str, ...] = ()
    """Patterns of what below the prefix is not input."""
    engine_image: str | None = None
    """The container image to run instead of the node's own."""
    capacity_type: str | None = None
    """`spot` or `on-demand`."""
    nodes: tuple[str, ...] = ()
    """Names of the nodes that it may run on; none named means any."""
    avoid: tuple[str, ...] = ()
    """Names of nodes that it must not run on."""
    labels: tuple[tuple[str, str], ...] = ()
    """Labels that its node must have, such as `("region", "eu")`."""
    priority: int = 0
    """Higher ones go first, as far as the caller's token lets them."""
    replaceable: bool = True
    """When its node is lost, another may begin anew."""


_OF_WISHES = tuple(field.name for field in fields(Wishes))

NO_WISHES = Wishes()
"""Of most clients: NodeODM's own API has none."""


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
    wishes: Wishes = NO_WISHES
    images_count: int = 0
    input_bytes: int = 0
    attempt: int = 0
    """Number of the current attempt; 0 before the first."""
    first_attempt: int = 1
    """Number of the first attempt since it was submitted or restarted."""
    memory_factor: float = 1.0
    """How many times the usual memory it needs, because it ran out of less before."""
    child: bool = False
    """It is one part of a split task, and has its intermediate products as input (contract 8.3)."""
    token: str = ""
    """On a router: name of the token that submitted it, which may have limits."""
    family: str = ""
    """On a router: the attempt of a split task that sent it as one of its parts (`common.families`)."""
    begun: bool = False
    """An attempt of this run has begun: from then on the code is never 10 again (I6)."""
    began_ms: int | None = None
    """When the engine of the current attempt began to work."""
    processing_ms: int = NOT_RUNNING
    progress: float = 0.0
    error: str | None = None
    waiting: str | None = None
    """What its run waits for, where its node knows: a machine that is large enough, an image to be pulled."""
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
        # One that waits again shows nothing of an attempt that is over: so split-merge tells waiting from running.
        return NOT_RUNNING if self.state in WAITING else self.processing_ms


def again(task: Task, attempt: int, first_attempt: int, now_ms: int) -> Task:
    """The task as a restart makes it (contract 3.5): same uuid, attempts as given, nothing left of the last run."""
    return replace(
        task,
        state=State.STAGING,
        attempt=attempt,
        first_attempt=first_attempt,
        memory_factor=1.0,
        created_ms=now_ms,
        begun=False,
        began_ms=None,
        processing_ms=NOT_RUNNING,
        progress=0.0,
        error=None,
        waiting=None,
        console_lines=0,
        images_count=0,
        input_bytes=0,
    )


def wishes_of(document: Mapping[str, Any]) -> Wishes:
    """Read back what `dataclasses.asdict` made of wishes; what a later release may have added is let pass."""
    values = {name: document[name] for name in _OF_WISHES if name in document}
    lists = {name: tuple(document.get(name, ())) for name in ("exclude", "nodes", "avoid")}
    labels = tuple((str(name), str(value)) for name, value in document.get("labels", ()))
    return Wishes(**values | lists | {"labels": labels})


RERUN_OPTIONS = frozenset({"rerun-from", "rerun"})
"""ODM's options that mean something only in the workspace of an earlier run."""


def asked_rerun(options: Iterable[Setting]) -> Setting | None:
    """The option by which a task asks to go on from a stage. The empty one of NodeODM's list asks for nothing."""
    found = (each for each in options if each.name in RERUN_OPTIONS)
    return next((each for each in found if isinstance(each.value, str) and each.value), None)


def timeout_text(minutes: float) -> str:
    """NodeODM's words for a run that was ended because it took too long (contract 7.1)."""
    return f"Task timed out after {minutes:g} minutes."


def canceled(task: Task) -> Task:
    """The task as a cancel makes it (contract 3.4)."""
    return replace(task, state=State.CANCELED, began_ms=None, processing_ms=NOT_RUNNING, progress=100.0, waiting=None)
