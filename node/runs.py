"""One run of one attempt: what it is told, and how it says where it stands. Pure.

The program that runs an attempt (`node.stages.run`, or the three containers of a Job) and the node that watches it
share no memory: the order goes in as one JSON document, the status comes back as another.
"""

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from common.nodeodm.options import Setting
from common.tasks import NOT_RUNNING, State, Task

ENGINE_SHARE = 0.9
"""The engine's own 100 % is 90 % of the task (contract 6.2)."""


class Phase(StrEnum):
    """What a run is doing."""

    FETCH = "fetch"
    ENGINE = "engine"
    PUBLISH = "publish"
    COMPLETED = "completed"
    FAILED = "failed"


RUN_ENDED = frozenset({Phase.COMPLETED, Phase.FAILED})


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run: everything the stages need, and no secret."""

    uuid: str
    attempt: int
    engine: str
    engine_version: str
    command: tuple[str, ...]
    """The engine's argv, to which the options are appended."""
    input: str
    output: str
    options: tuple[Setting, ...]
    outputs: tuple[str, ...]
    max_images: int | None = None

    def as_json(self) -> dict[str, Any]:
        """As the document that goes into the workspace."""
        return asdict(self) | {"options": [[setting.name, setting.value] for setting in self.options]}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Order":
        """Read back what `as_json` wrote."""
        options = tuple(Setting(name, value) for name, value in document["options"])
        tuples = {name: tuple(document[name]) for name in ("outputs", "command")}
        return cls(**document | tuples | {"options": options})


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Where a run stands. Times in milliseconds since the epoch."""

    phase: Phase = Phase.FETCH
    began_ms: int | None = None
    """When the engine was started."""
    ended_ms: int | None = None
    progress: float = 0.0
    images_count: int = 0
    error: str | None = None
    input_at_fault: bool = False
    """The input cannot be processed as it is, by any engine on any node."""

    def as_json(self) -> dict[str, Any]:
        """As the document that lies in the workspace."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "RunStatus":
        """Read back what `as_json` wrote."""
        return cls(**document | {"phase": Phase(document["phase"])})


def task_after(task: Task, status: RunStatus, now_ms: int) -> Task:
    """The task as this status of its current run makes it. Progress never goes back (I6)."""
    task = replace(
        task,
        images_count=status.images_count or task.images_count,
        progress=max(task.progress, status.progress),
        began_ms=status.began_ms,
    )
    if status.phase not in RUN_ENDED:
        return task
    ended_ms = status.ended_ms or now_ms
    elapsed = NOT_RUNNING if status.began_ms is None else max(0, ended_ms - status.began_ms)
    state = State.COMPLETED if status.phase is Phase.COMPLETED else State.FAILED
    # A finished run ends at 100, a failed one too, unless it never reached its engine (contract 3.4).
    progress = task.progress if status.began_ms is None else 100.0
    return replace(task, state=state, processing_ms=elapsed, progress=progress, error=status.error)
