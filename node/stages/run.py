"""One attempt from beginning to end in one process: fetch, engine, publish. What the local backend starts.

`python -m node.stages.run WORKSPACE`, or a fork of `node.launching`, leads a process group of its own, so that ending
the group ends the engine and every child of it; it outlives the node's own restarts, and tells where it stands in files
of its workspace.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import FrameType

import psutil

from common.counting import S3Traffic
from common.families import CLUSTER
from common.fencing import AlreadyPublished, Fence, Outdated
from common.nodeodm.options import Setting
from common.publishing import ProductsMissing
from common.references import Reference
from common.settings import S3Settings, read_settings
from common.storage import AccessRefused, BucketMissing, ObjectMissing, Storage, StorageFault, StoredObject
from common.tasks import Cause, asked_rerun
from common.tracing import NO_TRACER, TRACES_WITHIN_S, Place, Tracer, of_attempt, run_tracer, timed
from common.verdicts import Verdict, verdict
from node.console import ConsoleWriter, clean_line
from node.engines import argv
from node.kept import reused_by
from node.products import expected
from node.progress import Progress, advance
from node.rerun import from_the_start, goes_on, with_rerun, without_rerun
from node.runs import ENGINE_SHARE, Order, Phase, RunStatus
from node.stages.fetch import InputUnusable, fetch, objects_of
from node.stages.option_files import with_files
from node.stages.patience import FETCH_PATIENCE_S, PUBLISH_PATIENCE_S, patiently
from node.stages.publish import fence_of, publish
from node.stages.router import router_answers
from node.workspace import Inputs, Workspace

_SECRET_PREFIXES = ("AWS_", "SCALEODM_", "OTEL_")
"""Of variables that the engine is not given: a receiver of traces may want a key."""
_STATUS_EVERY_S = 0.5


class Stopped(SystemExit):
    """The node ended this run."""


class EngineFailed(Exception):
    """The engine ended with an exit code other than 0."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.text)
        self.verdict = verdict


class Run:
    """One attempt under way in its workspace."""

    def __init__(self, workspace: Workspace, storage: Storage, traffic: S3Traffic, tracer: Tracer = NO_TRACER) -> None:
        """The workspace holds the order already; `traffic`: what `storage` moves."""
        self._tracer = tracer
        self._traffic = traffic
        self._workspace = workspace
        self._storage = storage
        self._order: Order = workspace.order()
        self._console = ConsoleWriter(workspace.console_file)
        self._status = RunStatus()
        self._last_error_lines: list[str] = []
        self._goes_on = False
        """It works in the workspace of an earlier attempt."""

    def carry_out(self) -> None:
        """Run all stages; how it ended stands in the status afterwards, whatever happened but `Stopped`."""
        try:
            self._stages()
        except (InputUnusable, BucketMissing, AccessRefused, ObjectMissing) as unusable:
            self._fail(str(unusable), Cause.INPUT)
        except EngineFailed as failed:
            self._fail(failed.verdict.text, failed.verdict.cause)
        except ProductsMissing as failed:
            self._fail(str(failed), Cause.ENGINE)
        except Outdated as outdated:
            self._fail(str(outdated), Cause.OUTDATED)
        except (StorageFault, OSError) as failed:
            self._fail(str(failed), Cause.INFRASTRUCTURE)
        except AlreadyPublished as published:
            self._say(str(published))
            self._end_well()
        else:
            self._say("Done")
            self._end_well()
        finally:
            self._console.close()

    def _timed(self, stage: str) -> AbstractContextManager[None]:
        order = self._order
        return timed(self._tracer, stage, Place.parse(order.traceparent), of_attempt(order.uuid, order.attempt))

    def _stages(self) -> None:
        self._note(phase=Phase.FETCH)
        fence = fence_of(self._order, self._storage)
        with self._timed("fetch"):
            images_count = self._fetch(fence)
        self._note(phase=Phase.ENGINE, images_count=images_count, began_ms=_now_ms())
        with self._timed("engine"):
            self._run_engine()
        self._note(phase=Phase.PUBLISH, progress=93.0)
        with self._timed("publish"):
            self._publish(fence)

    def _fetch(self, fence: Fence) -> int:
        """S3 → project folder; gives how many images there are."""
        order, project = self._order, self._workspace.project(self._order.uuid)
        source, output = Reference.parse(order.input), Reference.parse(order.output)
        patiently(FETCH_PATIENCE_S, self._say, fence.take)
        objects = patiently(
            FETCH_PATIENCE_S, self._say, lambda: objects_of(self._storage, source, output, order.wishes)
        )
        mark = _mark_of(objects)
        images_count = self._go_on(mark)
        if images_count is None:
            self._workspace.inputs_file.unlink(missing_ok=True)
            shutil.rmtree(project, ignore_errors=True)
            images_count = patiently(
                FETCH_PATIENCE_S,
                self._say,
                lambda: fetch(self._storage, source, output, project, self._say, order.wishes, objects=objects),
            )
        options = patiently(
            FETCH_PATIENCE_S,
            self._say,
            lambda: with_files(self._storage, order.options, self._workspace.folder / "options"),
        )
        self._order = replace(order, options=options)
        self._workspace.save_inputs(Inputs(mark, images_count))
        self._check_limit(images_count)
        return images_count

    def _publish(self, fence: Fence) -> None:
        """Project folder → S3."""
        order, project = self._order, self._workspace.project(self._order.uuid)
        self._say("Compressing all.zip")
        shutil.copyfile(self._workspace.console_file, project / "task_output.txt")
        patiently(
            PUBLISH_PATIENCE_S,
            self._say,
            lambda: publish(
                self._storage,
                project,
                Reference.parse(order.output),
                order.outputs,
                fence,
                order.identity(),
                lambda percent: self._note(progress=percent),
                expected(order, project),
            ),
        )

    def _go_on(self, mark: str) -> int | None:
        """The images that are there already, where this run goes on in an earlier one's workspace; None where not."""
        asked, attempt = asked_rerun(self._order.options), self._order.attempt
        kept = reused_by(self._workspace, self._order.uuid) if asked is not None else None
        if asked is None:
            return None
        if kept is not None and kept.inputs.mark == mark:
            self._say(goes_on(asked, kept.attempt, kept.inputs.images_count))
            self._goes_on = True
            return kept.inputs.images_count
        shutil.rmtree(self._workspace.reused, ignore_errors=True)
        if kept is not None:
            self._say(from_the_start(asked, kept.attempt + 1, "has other images than the input has now"))
        else:
            self._say(from_the_start(asked, attempt))
        return None

    def _check_limit(self, images_count: int) -> None:
        most = self._order.max_images
        if most is not None and images_count > most:
            raise InputUnusable(f"{images_count} images uploaded, but this node can only process up to {most}.")

    def _run_engine(self) -> None:
        order = self._order
        arguments = argv(order.command, self._workspace.projects, order.uuid, self._options())
        with subprocess.Popen(  # noqa: S603 - an argv list, no shell, options checked against the catalogue
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_engine_environment(self._workspace),
        ) as process:
            assert process.stdout is not None
            self._follow(line.decode("utf-8", "replace") for line in process.stdout)
        if process.returncode != 0:
            raise EngineFailed(verdict(process.returncode, self._last_error_lines))

    def _options(self) -> tuple[Setting, ...]:
        """Without its router a split task is processed here alone."""
        order = self._order
        options = with_rerun(order.options) if self._goes_on else without_rerun(order.options)
        if order.router is None or router_answers(order.router, self._say):
            return options
        self._say(f"[WARNING] The router {order.router} does not answer; every part is processed here.")
        return tuple(each for each in options if each.name != CLUSTER)

    def _follow(self, lines: Iterator[str]) -> None:
        progress = noted = Progress()
        noted_at = 0.0
        for raw in lines:
            self._console.write(raw)
            line = clean_line(raw)
            if line.startswith("[ERROR]"):
                self._last_error_lines = [*self._last_error_lines, line][-10:]
            progress = advance(progress, line)
            # A step forward is noted at once: after it the engine may be silent for hours.
            if int(progress.percent) > int(noted.percent) or time.monotonic() - noted_at > _STATUS_EVERY_S:
                noted, noted_at = progress, time.monotonic()
                self._note(progress=progress.percent * ENGINE_SHARE)

    def _note(self, **changes: object) -> None:
        moved = {"down_bytes": self._traffic.down, "up_bytes": self._traffic.up}
        self._status = replace(self._status, **moved, **changes)  # type: ignore[arg-type]
        self._workspace.save_status(self._status)

    def _fail(self, error: str, cause: Cause) -> None:
        self._say(f"[ERROR] {error}" if not error.startswith("[") else error)
        self._note(phase=Phase.FAILED, error=error, cause=cause, ended_ms=_now_ms())

    def _end_well(self) -> None:
        self._note(phase=Phase.COMPLETED, progress=100.0, ended_ms=_now_ms())

    def _say(self, line: str) -> None:
        self._console.write(line)


def _mark_of(objects: Sequence[StoredObject]) -> str:
    """What tells whether the input is what it was: every object with its size and when it was written."""
    told = sorted(f"{each.reference} {each.size} {each.modified}" for each in objects)
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _engine_environment(workspace: Workspace) -> dict[str, str]:
    """The engine gets no credential of ours, but where it splits its task the file that opens the router for parts."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SECRET_PREFIXES)}
    router = {"NETRC": str(workspace.netrc_file)} if workspace.netrc_file.exists() else {}
    return kept | {"ODM_NONINTERACTIVE": "1", "PYTHONUNBUFFERED": "1"} | router


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    raise Stopped(128 + number)


def carry_out(workspace: Workspace, storage: Storage, traffic: S3Traffic, begun: Callable[[], None]) -> None:
    """Be the run of a workspace, unless another process is; `begun` is called once one is on record.

    `traffic`: what `storage` moves.
    """
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    if not workspace.take():
        begun()
        return
    workspace.save_process(os.getpid(), psutil.Process().create_time())
    begun()
    tracer = run_tracer(workspace.order().traceparent)
    try:
        Run(workspace, storage, traffic, tracer).carry_out()
    finally:
        tracer.close(TRACES_WITHIN_S)


def main() -> None:
    """Run the workspace named on the command line."""
    traffic = S3Traffic()
    storage = Storage.from_settings(read_settings(S3Settings), traffic)
    carry_out(Workspace(Path(sys.argv[1])), storage, traffic, lambda: None)


if __name__ == "__main__":
    main()
