"""One run of one attempt: what it is told, and how it says where it stands. Pure.

The program that runs an attempt (`node.stages.run`, or the three containers of a Job) and the node that watches it
share no memory: the order goes in as one JSON document, the status comes back as another.
"""

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from common.nodeodm.options import Setting
from common.tasks import NO_WISHES, NOT_RUNNING, Cause, State, Task, Wishes, wishes_of

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
    wishes: Wishes = NO_WISHES
    max_images: int | None = None
    first_attempt: int = 1
    router: str | None = None
    """Where the engine sends parts of this task; it must be there before the engine begins."""
    traceparent: str = ""
    """The span that this run's own hang below, as W3C writes it; empty where there are no traces."""

    def identity(self) -> dict[str, object]:
        """Who made the products, as the manifest names it."""
        return {
            "uuid": self.uuid,
            "attempt": self.attempt,
            "engine": self.engine,
            "engineVersion": self.engine_version,
        }

    def as_json(self) -> dict[str, Any]:
        """As the document that goes into the workspace."""
        document = asdict(self) | {"options": [[setting.name, setting.value] for setting in self.options]}
        if not self.traceparent:
            # Images of earlier releases do not know it.
            del document["traceparent"]
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Order":
        """Read back what `as_json` wrote."""
        options = tuple(Setting(name, value) for name, value in document["options"])
        tuples = {name: tuple(document[name]) for name in ("outputs", "command")}
        wishes = wishes_of(document["wishes"])
        return cls(**document | tuples | {"options": options, "wishes": wishes})


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
    waiting: str | None = None
    """What keeps the run from going on: a machine that is large enough, an image to be pulled."""
    cause: Cause | None = None
    """Why it failed."""
    down_bytes: int = 0
    """What it has fetched from S3, as far as it has said."""
    up_bytes: int = 0
    """What it has brought there."""
    engine_ended_ms: int | None = None
    """When the engine was over, where that is known: of a Job's."""

    def as_json(self) -> dict[str, Any]:
        """As the document that lies in the workspace."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "RunStatus":
        """Read back what `as_json` wrote."""
        cause = Cause(document["cause"]) if document.get("cause") else None
        return cls(**document | {"phase": Phase(document["phase"]), "cause": cause})


def task_after(task: Task, status: RunStatus, now_ms: int) -> Task:
    """The task as this status of its current run makes it. Progress never goes back (I6)."""
    task = replace(
        task,
        images_count=status.images_count or task.images_count,
        progress=max(task.progress, status.progress),
        began_ms=status.began_ms,
        waiting=status.waiting,
    )
    if status.phase not in RUN_ENDED:
        return task
    ended_ms = status.ended_ms or now_ms
    elapsed = NOT_RUNNING if status.began_ms is None else max(0, ended_ms - status.began_ms)
    state = State.COMPLETED if status.phase is Phase.COMPLETED else State.FAILED
    # A finished run ends at 100, a failed one too, unless it never reached its engine (contract 3.4).
    progress = task.progress if status.began_ms is None else 100.0
    return replace(task, state=state, processing_ms=elapsed, progress=progress, error=status.error)
