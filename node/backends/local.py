"""Tasks in files and runs as processes of this machine: each in its own process group and its own workspace."""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

import psutil

from common.nodeodm.routes import now_ms
from common.tasks import ENDED, Task, asked_rerun
from node.backends import Heard
from node.console import Console, ConsoleWriter
from node.families import FamilyTokens
from node.kept import KeptWorkspaces
from node.launching import Launcher
from node.records import Record, Records
from node.runs import RUN_ENDED, Order, RunStatus
from node.workspace import Workspace

logger = logging.getLogger(__name__)

GRACE_S = 5.0
"""How long a process group may take to obey SIGTERM before it gets SIGKILL."""


class LocalBackend:
    """One process group per attempt. Its state is in files, so a restarted node finds its runs again."""

    is_leading = True
    """Files have one owner."""
    look_every_s = 0.25

    def __init__(
        self,
        folder: Path,
        order: Callable[[Task], Order],
        families: FamilyTokens | None = None,
        kept: KeptWorkspaces | None = None,
    ) -> None:
        """`folder`: holds one folder per task, and in it one per attempt; `order` says what a task's run is told;
        `kept`: workspaces of runs that have ended, none where it is not given."""
        self._families = families or FamilyTokens()
        self._folder = folder
        self._kept = kept or KeptWorkspaces(folder / ".kept", keep_h=0, most_bytes=0)
        self._keeping = asyncio.Lock()
        self._records = Records(folder)
        self._order = order
        self._consoles: dict[tuple[str, int], Console] = {}
        self._launcher = Launcher()
        self._locks: WeakValueDictionary[tuple[str, int], asyncio.Lock] = WeakValueDictionary()

    def refusal(self, task: Task) -> str | None:
        """Processes of this machine come in no other image."""
        if task.wishes.engine_image is not None:
            return (
                f"odmImage is {task.wishes.engine_image!r}, but this node runs tasks as processes of its own machine "
                "and has no container images. Leave odmImage out, or use a node on Kubernetes."
            )
        return None

    async def records(self, heard: Heard, wake: Callable[[], None]) -> list[Record]:
        """The tasks of an earlier life of this node. Nobody else changes them; what got on is to be looked for."""
        del heard, wake
        return list(self._records.all())

    async def save(self, record: Record) -> None:
        """Write the task's document."""
        self._records.save(record)

    async def delete(self, record: Record) -> None:
        """Forget the task and everything of its run. What the router lets go of, it may bring back soon."""
        await self.forget_run(record)
        if not record.forwarded:
            await self.drop_workspace(record.task.uuid)
        self._records.delete(record.task.uuid)

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Nothing goes on by itself: processes are looked at when their status is asked for."""
        group.create_task(self._launcher.warm(), name="launcher")

    async def check(self) -> str:
        """Write into the folder of the tasks."""
        await asyncio.to_thread(_try, self._folder)
        return "The node's folder can be written."

    async def close(self) -> None:
        """Runs go on; what starts them does not."""
        await asyncio.to_thread(self._launcher.close)

    def workspace(self, uuid: str, attempt: int) -> Workspace:
        """The folder of this attempt."""
        return Workspace(self._folder / uuid / str(attempt))

    async def start(self, record: Record) -> None:
        """Start the run unless it is running or has ended already."""
        async with self._lock(record):
            if self.status(record) is None:
                await self._start(record)

    async def _start(self, record: Record) -> None:
        order = replace(self._order(record.task), router=record.cluster, traceparent=record.traceparent)
        workspace = self.workspace(order.uuid, order.attempt)
        netrc = self._families.netrc_of(record)
        if not workspace.order_file.exists():
            await self._furnish(workspace, order, record.task.tenant)
        workspace.save_order(order)
        if netrc is not None:
            workspace.save_netrc(netrc)
        workspace.status_file.unlink(missing_ok=True)
        await self._launcher.start(workspace)
        logger.info("task %s attempt %d runs", order.uuid, order.attempt)

    async def _furnish(self, workspace: Workspace, order: Order, tenant: str) -> None:
        """The workspace of an earlier attempt is given to a new one that asks to go on in it, and is of no more use
        else."""
        async with self._keeping:
            given = (
                asked_rerun(order.options) is not None
                and order.first_attempt > 1
                and await asyncio.to_thread(self._kept.give, workspace, order.uuid, order.attempt, tenant)
            )
            if not given:
                await asyncio.to_thread(self._kept.drop, order.uuid)

    def kept_workspaces(self) -> Mapping[str, int]:
        """By task that the router brought the number of the ended attempt whose workspace is kept here."""
        return {each.uuid: each.attempt for each in self._kept.all() if each.forwarded}

    async def drop_workspace(self, uuid: str) -> None:
        """Delete the workspace that is kept of a task, if there is one."""
        async with self._keeping:
            await asyncio.to_thread(self._kept.drop, uuid)

    async def clean_workspaces(self) -> None:
        """Delete the kept workspaces whose time is over, or for which there is no room."""
        async with self._keeping:
            await asyncio.to_thread(self._kept.clean, now_ms())

    async def keep_workspace(self, record: Record) -> None:
        """Take the project of a run that has ended, and whose process has too, out of its folder."""
        workspace, task = self._workspace(record), record.task
        async with self._keeping:
            if self._process(workspace) is None and workspace.project(task.uuid).exists():
                await asyncio.to_thread(
                    self._kept.keep, workspace, task.uuid, task.attempt, task.tenant, record.forwarded, now_ms()
                )

    async def say(self, record: Record, line: str) -> None:
        """Add a line to the console: the run itself adds whole lines too."""
        console = ConsoleWriter(self._workspace(record).console_file)
        console.write(line)
        console.close()

    def status(self, record: Record) -> RunStatus | None:
        """Where the run stands. Asked about the process first: a run may end between the two questions."""
        workspace = self._workspace(record)
        alive = self._process(workspace) is not None
        status = workspace.status()
        return status if alive or status.phase in RUN_ENDED else None

    def console(self, record: Record) -> Console:
        """The run's console."""
        key = (record.task.uuid, record.task.attempt)
        if key not in self._consoles:
            self._consoles[key] = Console(self._workspace(record).console_file)
        return self._consoles[key]

    async def recall(self, record: Record) -> None:
        """Consoles are files here."""

    async def stop(self, record: Record) -> None:
        """SIGTERM to the whole group, SIGKILL to what does not obey; one that is just being started is waited for."""
        async with self._lock(record):
            await self._stop(self._workspace(record))

    async def _stop(self, workspace: Workspace) -> None:
        group = _recorded(workspace).get("pid")
        if group is None:
            return
        if self._process(workspace) is not None:
            _signal_group(int(group), signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE_S):
                    await self._until_gone(int(group))
        _signal_group(int(group), signal.SIGKILL)
        await self._until_gone(int(group))
        workspace.process_file.unlink(missing_ok=True)

    async def forget_run(self, record: Record) -> None:
        """Stop the run and delete its folder; the workspace of one that has ended is kept for a while."""
        await self.stop(record)
        if record.task.state in ENDED:
            await self.keep_workspace(record)
        self._consoles.pop((record.task.uuid, record.task.attempt), None)
        await asyncio.to_thread(shutil.rmtree, self._workspace(record).folder, ignore_errors=True)

    def _lock(self, record: Record) -> asyncio.Lock:
        return self._locks.setdefault((record.task.uuid, record.task.attempt), asyncio.Lock())

    def _workspace(self, record: Record) -> Workspace:
        return self.workspace(record.task.uuid, record.task.attempt)

    async def _until_gone(self, group: int) -> None:
        while self._has_members(group):  # noqa: ASYNC110 - a foreign process sends us no event
            await asyncio.sleep(0.05)

    def _has_members(self, group: int) -> bool:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, 0)
            return True
        return False

    def _process(self, workspace: Workspace) -> psutil.Process | None:
        """The run's process, if it lives; a process that only inherited its number is not it."""
        recorded = _recorded(workspace)
        if not recorded:
            return None
        try:
            process = psutil.Process(int(recorded["pid"]))
            same = abs(process.create_time() - recorded["created"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if same else None


def _try(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"tried")


def _recorded(workspace: Workspace) -> dict[str, float]:
    try:
        document: dict[str, float] = json.loads(workspace.process_file.read_text())
    except FileNotFoundError:
        return {}
    return document


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
