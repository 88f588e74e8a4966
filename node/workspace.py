"""The folder of one attempt, and what lies where in it."""

import contextlib
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from node.runs import Order, RunStatus


@dataclass(frozen=True, slots=True)
class Inputs:
    """What was fetched into a project, whole."""

    mark: str
    """The same for the same objects, unchanged since."""
    images_count: int


@dataclass(frozen=True, slots=True)
class Workspace:
    """One attempt's folder: its order, status, console and the project that the engine works in."""

    folder: Path

    @property
    def order_file(self) -> Path:
        """What is to be run."""
        return self.folder / "order.json"

    @property
    def status_file(self) -> Path:
        """Where the run stands."""
        return self.folder / "status.json"

    @property
    def console_file(self) -> Path:
        """Console lines, one a line."""
        return self.folder / "console.log"

    @property
    def process_file(self) -> Path:
        """Which process runs here."""
        return self.folder / "process.json"

    @property
    def netrc_file(self) -> Path:
        """What opens the router for the engine, where it sends it parts of the task."""
        return self.folder / "netrc"

    @property
    def inputs_file(self) -> Path:
        """What was fetched."""
        return self.folder / "inputs.json"

    @property
    def reused(self) -> Path:
        """The kept workspace of an earlier attempt, in which this one is to go on (`node.kept`)."""
        return self.folder / "reused"

    @property
    def projects(self) -> Path:
        """The engine's `--project-path`."""
        return self.folder / "projects"

    def project(self, uuid: str) -> Path:
        """The project that the engine works in, `images/` and all."""
        return self.projects / uuid

    def order(self) -> Order:
        """The order, read."""
        return Order.from_json(json.loads(self.order_file.read_text()))

    def status(self) -> RunStatus:
        """The status, read; a run that has not said anything yet is fetching."""
        try:
            return RunStatus.from_json(json.loads(self.status_file.read_text()))
        except FileNotFoundError:
            return RunStatus()

    def inputs(self) -> Inputs | None:
        """What was fetched; None where that has not come to its end."""
        try:
            return Inputs(**json.loads(self.inputs_file.read_text()))
        except FileNotFoundError:
            return None

    def save_inputs(self, inputs: Inputs) -> None:
        """Write what was fetched."""
        write_json(self.inputs_file, asdict(inputs))

    def save_order(self, order: Order) -> None:
        """Write the order."""
        write_json(self.order_file, order.as_json())

    def save_netrc(self, text: str) -> None:
        """Write what opens the router; a secret, for the owner's eyes."""
        self.netrc_file.unlink(missing_ok=True)
        with os.fdopen(os.open(self.netrc_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)

    def take(self) -> bool:
        """Whether this process is the one that runs here; it is until it ends, and its children are not."""
        lock = os.open(self.folder / "lock", os.O_WRONLY | os.O_CREAT, 0o600)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        os.close(lock)
        return False

    def save_process(self, pid: int, created: float) -> None:
        """Write which process runs here; with the moment of its birth (psutil's), for numbers are given out again."""
        write_json(self.process_file, {"pid": pid, "created": created})

    def save_status(self, status: RunStatus) -> None:
        """Write the status."""
        write_json(self.status_file, status.as_json())


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document whole or not at all: a reader, or a crash, never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    with draft.open("w") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
