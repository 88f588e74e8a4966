"""Runs as processes of this machine: each in its own process group and its own workspace."""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from node.console import Console
from node.runs import RUN_ENDED, Order, RunStatus
from node.workspace import Workspace, write_json

logger = logging.getLogger(__name__)

GRACE_S = 5.0
"""How long a process group may take to obey SIGTERM before it gets SIGKILL."""


class LocalBackend:
    """One process group per attempt. Its state is in files, so a restarted node finds its runs again."""

    def __init__(self, folder: Path) -> None:
        """`folder`: holds one folder per task, and in it one per attempt."""
        self._folder = folder
        self._consoles: dict[tuple[str, int], Console] = {}
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def workspace(self, uuid: str, attempt: int) -> Workspace:
        """The folder of this attempt."""
        return Workspace(self._folder / uuid / str(attempt))

    def start(self, order: Order) -> None:
        """Start the run unless it is running or has ended already."""
        workspace = self.workspace(order.uuid, order.attempt)
        if self.status(order.uuid, order.attempt) is not None:
            return
        workspace.save_order(order)
        workspace.status_file.unlink(missing_ok=True)
        with (workspace.folder / "run.log").open("ab") as log:
            child = subprocess.Popen(  # noqa: S603 - our own module and a path of our own making
                [sys.executable, "-m", "node.stages.run", str(workspace.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._children[child.pid] = child
        identity = {"pid": child.pid, "created": psutil.Process(child.pid).create_time()}
        write_json(workspace.process_file, identity)
        logger.info("task %s attempt %d runs as process group %d", order.uuid, order.attempt, child.pid)

    def status(self, uuid: str, attempt: int) -> RunStatus | None:
        """Where the run stands. Asked about the process first: a run may end between the two questions."""
        workspace = self.workspace(uuid, attempt)
        alive = self._process(workspace) is not None
        status = workspace.status()
        return status if alive or status.phase in RUN_ENDED else None

    def console(self, uuid: str, attempt: int) -> Console:
        """The run's console."""
        key = (uuid, attempt)
        if key not in self._consoles:
            self._consoles[key] = Console(self.workspace(uuid, attempt).console_file)
        return self._consoles[key]

    async def stop(self, uuid: str, attempt: int) -> None:
        """SIGTERM to the whole group, SIGKILL to what does not obey."""
        workspace = self.workspace(uuid, attempt)
        group = _recorded(workspace).get("pid")
        if group is None:
            return
        if self._process(workspace) is not None:
            _signal_group(int(group), signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._until_gone(int(group)), GRACE_S)
        _signal_group(int(group), signal.SIGKILL)
        await self._until_gone(int(group))
        workspace.process_file.unlink(missing_ok=True)

    async def forget(self, uuid: str, attempt: int) -> None:
        """Stop the run and delete its workspace."""
        await self.stop(uuid, attempt)
        self._consoles.pop((uuid, attempt), None)
        await asyncio.to_thread(shutil.rmtree, self.workspace(uuid, attempt).folder, ignore_errors=True)

    async def _until_gone(self, group: int) -> None:
        while self._has_members(group):  # noqa: ASYNC110 - a foreign process sends us no event
            await asyncio.sleep(0.05)

    def _has_members(self, group: int) -> bool:
        self._reap(group)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, 0)
            return True
        return False

    def _reap(self, pid: int) -> None:
        child = self._children.get(pid)
        if child is not None and child.poll() is not None:
            del self._children[pid]

    def _process(self, workspace: Workspace) -> psutil.Process | None:
        """The run's process, if it lives; a process that only inherited its number is not it."""
        recorded = _recorded(workspace)
        if not recorded:
            return None
        self._reap(int(recorded["pid"]))
        try:
            process = psutil.Process(int(recorded["pid"]))
            same = abs(process.create_time() - recorded["created"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if same else None


def _recorded(workspace: Workspace) -> dict[str, float]:
    try:
        document: dict[str, float] = json.loads(workspace.process_file.read_text())
    except FileNotFoundError:
        return {}
    return document


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
