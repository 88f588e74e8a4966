"""The two containers of a Job beside the engine: `python -m node.stages.job fetch` and `… publish`.

Each is told its order by the pod's annotation, works in the workspace that all three share, speaks on standard output,
and leaves its last sentence where Kubernetes reads it (`/dev/termination-log`). S3 that is away is waited for: hours of
the engine's work are not thrown away for it.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import tenacity

from common.counting import S3Traffic
from common.fencing import AlreadyPublished, Outdated
from common.publishing import ProductsMissing
from common.references import TASK_OUTPUT, Reference
from common.settings import S3Settings, read_settings
from common.storage import AccessRefused, BucketMissing, ObjectMissing, Storage, StorageFault, StorageUnreachable
from common.tasks import asked_rerun
from common.tracing import TRACES_WITHIN_S, Place, of_attempt, run_tracer, timed
from node.manifests import (
    ALREADY_PUBLISHED,
    CONSOLE_CAME_LATE,
    DOWN,
    IMAGES,
    INPUT_AT_FAULT,
    OUTDATED,
    TRY_AGAIN,
    UP,
    WORKSPACE,
    option_file,
    order_from,
)
from node.products import expected
from node.rerun import from_the_start, without_rerun
from node.runs import Order
from node.stages.fetch import InputUnusable, fetch
from node.stages.option_files import text_of
from node.stages.patience import FETCH_PATIENCE_S, PUBLISH_PATIENCE_S, patiently
from node.stages.publish import fence_of, publish
from node.stages.router import router_answers

CONSOLE_PATIENCE_S = 60.0
"""How long the node is waited for, which brings the console of the engine to S3."""


class RouterAway(OSError):
    """The engine of a split task would fail at its start."""


class Stage:
    """One of the two, at work."""

    def __init__(
        self, order: Order, storage: Storage, workspace: Path = Path(WORKSPACE), traffic: S3Traffic | None = None
    ) -> None:
        """`workspace`: where the volume of the three containers is mounted; `traffic`: what `storage` moves."""
        self._traffic = traffic or S3Traffic()
        self._order = order
        self._storage = storage
        self._workspace = workspace
        self._project = workspace / "projects" / order.uuid
        self._output = Reference.parse(order.output)
        self._fence = fence_of(order, storage)

    def fetch(self) -> None:
        """S3 → project folder."""
        order = self._order
        shutil.rmtree(self._project, ignore_errors=True)
        (self._workspace / "tmp").mkdir(parents=True, exist_ok=True)
        source = Reference.parse(order.input)
        patiently(FETCH_PATIENCE_S, say, self._fence.take)
        # What an earlier run left would be taken for ours.
        patiently(FETCH_PATIENCE_S, say, lambda: self._storage.delete(self._output / TASK_OUTPUT))
        count = patiently(
            FETCH_PATIENCE_S, say, lambda: fetch(self._storage, source, self._output, self._project, say, order.wishes)
        )
        if order.max_images is not None and count > order.max_images:
            raise InputUnusable(f"{count} images uploaded, but this node can only process up to {order.max_images}.")
        asked = asked_rerun(order.options)
        if asked is not None:
            # A pod's workspace goes with it.
            say(from_the_start(asked, order.attempt))
        for option in without_rerun(order.options):
            path = self._workspace / option_file(option).relative_to(WORKSPACE)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(patiently(FETCH_PATIENCE_S, say, lambda option=option: text_of(self._storage, option)))  # type: ignore[misc]
        if order.router is not None and not router_answers(order.router, say):
            raise RouterAway(f"The router {order.router} cannot be reached from here, and parts of this task are its.")
        leave_word(json.dumps({IMAGES: count, **self._moved()}))

    def publish(self) -> None:
        """Project folder → S3."""
        order = self._order
        say("Compressing all.zip")
        has_console = self._fetch_console()
        patiently(
            PUBLISH_PATIENCE_S,
            say,
            lambda: publish(
                self._storage,
                self._project,
                self._output,
                order.outputs,
                self._fence,
                order.identity(),
                lambda _: say("Publishing products"),
                expected(order, self._project),
            ),
        )
        if not has_console:
            # By now the node may have brought the console, and we have put a note over it.
            say(CONSOLE_CAME_LATE)
        say("Done")
        leave_word(json.dumps(self._moved()))

    def _moved(self) -> dict[str, int]:
        return {DOWN: self._traffic.down, UP: self._traffic.up}

    def _fetch_console(self) -> bool:
        """The engine's console, which the node has followed and put beside the output."""
        path = self._project / TASK_OUTPUT
        wait = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((ObjectMissing, StorageUnreachable)),
            wait=tenacity.wait_fixed(0.5),
            stop=tenacity.stop_after_delay(CONSOLE_PATIENCE_S),
            reraise=True,
        )
        try:
            wait(self._storage.download, self._output / TASK_OUTPUT, path)
        except (ObjectMissing, StorageUnreachable):
            path.write_text("The node was away when these products were packed; the console lies beside them in S3.\n")
            return False
        return True


def say(line: str) -> None:
    """One line of console, at once."""
    print(line, flush=True)  # noqa: T201 - standard output is this program's console


def leave_word(text: str) -> None:
    """Where Kubernetes reads it, into the pod's status: at most 4096 bytes."""
    path = Path(os.environ.get("SCALEODM_TERMINATION_LOG", "/dev/termination-log"))
    if path.exists() and os.access(path, os.W_OK):
        path.write_bytes(text.encode()[:4000])


def read_order(storage: Storage) -> Order:
    """The order, from the environment and, where it is large, from S3."""
    document = json.loads(os.environ["SCALEODM_ORDER"])
    annex = document.get("annex")
    if not annex:
        return order_from(document, None)
    return order_from(
        document, json.loads(patiently(FETCH_PATIENCE_S, say, lambda: storage.read(Reference.parse(annex))))
    )


def _end(error: str, code: int) -> int:
    say(f"[ERROR] {error}")
    leave_word(error)
    return code


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)


def _carry_out(name: str, stage: Callable[[], None], order: Order) -> None:
    """A stage, and its span."""
    tracer = run_tracer(order.traceparent)
    told = of_attempt(order.uuid, order.attempt)
    try:
        with timed(tracer, name, Place.parse(order.traceparent), told):
            stage()
    finally:
        tracer.close(TRACES_WITHIN_S)


def main(arguments: list[str]) -> int:
    """Carry out the stage that is named."""
    signal.signal(signal.SIGTERM, _stop)
    workspace = Path(os.environ.get("SCALEODM_WORKSPACE", WORKSPACE))
    try:
        traffic = S3Traffic()
        storage = Storage.from_settings(read_settings(S3Settings), traffic)
        order = read_order(storage)
        stage = Stage(order, storage, workspace, traffic)
        _carry_out(arguments[0], {"fetch": stage.fetch, "publish": stage.publish}[arguments[0]], order)
    except (InputUnusable, BucketMissing, AccessRefused, ObjectMissing, ProductsMissing) as unusable:
        return _end(str(unusable), INPUT_AT_FAULT)
    except Outdated as outdated:
        return _end(str(outdated), OUTDATED)
    except AlreadyPublished as published:
        say(str(published))
        return ALREADY_PUBLISHED
    except (StorageFault, OSError) as failed:
        return _end(str(failed), TRY_AGAIN)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
