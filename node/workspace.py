"""The folder of one attempt, and what lies where in it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.runs import Order, RunStatus


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

    def save_order(self, order: Order) -> None:
        """Write the order."""
        write_json(self.order_file, order.as_json())

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
