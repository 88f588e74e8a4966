"""The node's tasks on disk: one JSON document each, so that a restarted node finds them again."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.nodeodm.options import Setting
from common.tasks import State, Task
from node.workspace import write_json


@dataclass(frozen=True, slots=True)
class Record:
    """A task as this node holds it."""

    task: Task
    forwarded: bool = False
    """It came from the router, which wants to hear of it."""
    input_at_fault: bool = False
    starts: int = 0
    """How often a process was started for the current attempt."""

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
        """Every record, oldest task first."""
        found = [_read(path) for path in self._folder.glob("*/task.json")]
        yield from sorted(found, key=lambda record: record.task.created_ms)

    def save(self, record: Record) -> None:
        """Write one record."""
        write_json(self._path(record.task.uuid), asdict(record) | {"task": task_document(record.task)})

    def delete(self, uuid: str) -> None:
        """Delete one record, and the task's folder unless there still is a workspace in it."""
        self._path(uuid).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._path(uuid).parent.rmdir()

    def _path(self, uuid: str) -> Path:
        return self._folder / uuid / "task.json"


def task_document(task: Task) -> dict[str, Any]:
    """A task as JSON."""
    return asdict(task) | {"options": [[each.name, each.value] for each in task.options]}


def task_of(document: dict[str, Any]) -> Task:
    """Read back what `task_document` wrote."""
    options = tuple(Setting(name, value) for name, value in document["options"])
    lists = {"options": options, "outputs": tuple(document["outputs"])}
    return Task(**document | lists | {"state": State(document["state"])})


def _read(path: Path) -> Record:
    document = json.loads(path.read_text())
    return Record(**document | {"task": task_of(document["task"])})
