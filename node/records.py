"""The node's tasks on disk: one JSON document each, so that a restarted node finds them again."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.nodeodm.options import Setting
from common.tasks import Cause, State, Task, wishes_of
from node.deliveries import Delivery, delivery_of
from node.workspace import write_json


@dataclass(frozen=True, slots=True)
class Record:
    """A task as this node holds it."""

    task: Task
    forwarded: bool = False
    """It came from the router, which wants to hear of it."""
    cluster: str | None = None
    """Where its run sends the parts into which it splits the task, and which it calls with a token of its own."""
    cause: Cause | None = None
    """Why its last run failed."""
    starts: int = 0
    """How often a run was started for the current attempt."""
    accepted_ms: int = 0
    """When this node took the task: its place in the queue, whatever date the client gave it."""
    ended_ms: int | None = None
    """When the task ended."""
    deliveries: tuple[Delivery, ...] = ()
    """The webhooks of its last run, and of earlier ones those that were not delivered."""
    traceparent: str = ""
    """The span that its run hangs below, as W3C writes it; empty where there are no traces."""
    version: int = 0
    """Grows by one with every change that is kept."""

    def with_task(self, **changes: object) -> "Record":
        """The record with some fields of its task changed."""
        return replace(self, task=replace(self.task, **changes))  # type: ignore[arg-type]


class Records:
    """Reads and writes records below one folder, one folder per task."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made when missing."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def all(self) -> Iterator[Record]:
        """Every record, first come first."""
        found = [_read(path) for path in self._folder.glob("*/task.json")]
        yield from sorted(found, key=lambda record: record.accepted_ms)

    def save(self, record: Record) -> None:
        """Write one record."""
        write_json(self._path(record.task.uuid), record_document(record))

    def delete(self, uuid: str) -> None:
        """Delete one record, and the task's folder unless there still is a workspace in it."""
        self._path(uuid).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._path(uuid).parent.rmdir()

    def _path(self, uuid: str) -> Path:
        return self._folder / uuid / "task.json"


def record_document(record: Record) -> dict[str, Any]:
    """A record as JSON."""
    document = asdict(record) | {"task": task_document(record.task)}
    if not record.traceparent:
        del document["traceparent"]
    return document


def record_of(document: dict[str, Any]) -> Record:
    """Read back what `record_document` wrote."""
    cause = Cause(document["cause"]) if document.get("cause") else None
    deliveries = tuple(delivery_of(each) for each in document.get("deliveries", ()))
    return Record(**document | {"task": task_of(document["task"]), "cause": cause, "deliveries": deliveries})


def task_document(task: Task) -> dict[str, Any]:
    """A task as JSON."""
    return asdict(task) | {"options": [[each.name, each.value] for each in task.options]}


def task_of(document: dict[str, Any]) -> Task:
    """Read back what `task_document` wrote."""
    options = tuple(Setting(name, value) for name, value in document["options"])
    lists = {
        "options": options,
        "outputs": tuple(document["outputs"]),
        "wishes": wishes_of(document.get("wishes", {})),
    }
    return Task(**document | lists | {"state": State(document["state"])})


def _read(path: Path) -> Record:
    return record_of(json.loads(path.read_text()))
