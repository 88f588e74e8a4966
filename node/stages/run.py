"""One attempt from beginning to end in one process: fetch, engine, publish. What the local backend starts.

`python -m node.stages.run WORKSPACE` leads a process group of its own, so that ending the group ends the engine and
every child of it; it outlives the node's own restarts, and tells where it stands in files of its workspace.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType

from common.references import Reference
from common.settings import S3Settings, read_settings
from common.storage import AccessRefused, BucketMissing, ObjectMissing, Storage, StorageFault
from node.console import ConsoleWriter, clean_line
from node.engines import argv
from node.progress import Progress, advance
from node.runs import ENGINE_SHARE, Order, Phase, RunStatus
from node.stages.fetch import Fetched, InputUnusable, fetch
from node.stages.publish import ProductsMissing, publish
from node.verdicts import verdict
from node.workspace import Workspace

_SECRET_PREFIXES = ("AWS_", "SCALEODM_")
_STATUS_EVERY_S = 0.5


class Stopped(SystemExit):
    """The node ended this run."""


class EngineFailed(Exception):
    """The engine ended with an exit code other than 0; the text is what the user is told."""


class Run:
    """One attempt under way in its workspace."""

    def __init__(self, workspace: Workspace, storage: Storage) -> None:
        """The workspace holds the order already."""
        self._workspace = workspace
        self._storage = storage
        self._order: Order = workspace.order()
        self._console = ConsoleWriter(workspace.console_file)
        self._status = RunStatus()
        self._last_error_lines: list[str] = []

    def carry_out(self) -> None:
        """Run all stages; how it ended stands in the status afterwards, whatever happened but `Stopped`."""
        try:
            self._stages()
        except (InputUnusable, BucketMissing, AccessRefused, ObjectMissing) as unusable:
            self._fail(str(unusable), input_at_fault=True)
        except (EngineFailed, ProductsMissing, StorageFault, OSError) as failed:
            self._fail(str(failed))
        else:
            self._say("Done")
            self._note(phase=Phase.COMPLETED, progress=100.0, ended_ms=_now_ms())
        finally:
            self._console.close()

    def _stages(self) -> None:
        order, project = self._order, self._workspace.project(self._order.uuid)
        self._note(phase=Phase.FETCH)
        shutil.rmtree(project, ignore_errors=True)
        source, output = Reference.parse(order.input), Reference.parse(order.output)
        fetched = fetch(self._storage, source, output, project, self._say)
        self._check_limit(fetched.images_count)
        self._note(phase=Phase.ENGINE, images_count=fetched.images_count, began_ms=_now_ms())
        self._run_engine(fetched)
        self._note(phase=Phase.PUBLISH, progress=93.0)
        self._say("Compressing all.zip")
        shutil.copyfile(self._workspace.console_file, project / "task_output.txt")
        identity: dict[str, object] = {
            "uuid": order.uuid,
            "attempt": order.attempt,
            "engine": order.engine,
            "engineVersion": order.engine_version,
        }
        publish(
            self._storage,
            project,
            output,
            order.outputs,
            identity,
            lambda percent: self._note(progress=percent),
        )

    def _check_limit(self, images_count: int) -> None:
        most = self._order.max_images
        if most is not None and images_count > most:
            raise InputUnusable(f"{images_count} images uploaded, but this node can only process up to {most}.")

    def _run_engine(self, fetched: Fetched) -> None:
        order = self._order
        arguments = argv(order.command, self._workspace.projects, order.uuid, order.options, fetched.files)
        with subprocess.Popen(  # noqa: S603 - an argv list, no shell, options checked against the catalogue
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_engine_environment(),
        ) as process:
            assert process.stdout is not None
            self._follow(line.decode("utf-8", "replace") for line in process.stdout)
        if process.returncode != 0:
            raise EngineFailed(verdict(process.returncode, self._last_error_lines))

    def _follow(self, lines: Iterator[str]) -> None:
        progress = Progress()
        noted_at = 0.0
        for raw in lines:
            self._console.write(raw)
            line = clean_line(raw)
            if line.startswith("[ERROR]"):
                self._last_error_lines = [*self._last_error_lines, line][-10:]
            progress = advance(progress, line)
            if time.monotonic() - noted_at > _STATUS_EVERY_S:
                noted_at = time.monotonic()
                self._note(progress=progress.percent * ENGINE_SHARE)

    def _note(self, **changes: object) -> None:
        self._status = replace(self._status, **changes)  # type: ignore[arg-type]
        self._workspace.save_status(self._status)

    def _fail(self, error: str, input_at_fault: bool = False) -> None:
        self._say(f"[ERROR] {error}" if not error.startswith("[") else error)
        self._note(phase=Phase.FAILED, error=error, input_at_fault=input_at_fault, ended_ms=_now_ms())

    def _say(self, line: str) -> None:
        self._console.write(line)


def _engine_environment() -> dict[str, str]:
    """The engine gets no credential of ours: it needs none."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SECRET_PREFIXES)}
    return kept | {"ODM_NONINTERACTIVE": "1", "PYTHONUNBUFFERED": "1"}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    raise Stopped(128 + number)


def main() -> None:
    """Run the workspace named on the command line."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    storage = Storage.from_settings(read_settings(S3Settings))
    Run(Workspace(Path(sys.argv[1])), storage).carry_out()


if __name__ == "__main__":
    main()
