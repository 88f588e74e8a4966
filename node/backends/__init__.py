"""Where a node keeps its tasks and carries them out: on this machine, or as Jobs in a cluster."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from common.tasks import Task
from node.console import Console
from node.records import Record
from node.runs import RunStatus

Heard = Callable[[str, Record | None], None]
"""Told of a task that somebody else changed, or removed (None)."""


class RecordOutdated(Exception):
    """Somebody else changed this task first: another replica of this node, or whoever rules the cluster."""

    def __init__(self, uuid: str, current: Record | None) -> None:
        """`current`: the task as it is now; None when it is gone."""
        super().__init__(f"task {uuid} was changed by somebody else")
        self.current = current


class BackendAway(Exception):
    """What keeps the records does not answer; it may pass."""


class BackendRefused(Exception):
    """What keeps the records answered, and said no: it will say so again until somebody changes something."""


class RunRefused(BackendRefused):
    """It says no to this very run, whatever is free; it says nothing of any other."""


class Backend(Protocol):
    """Keeps records, and starts, watches and ends their runs. Both outlive the node's own restarts."""

    @property
    def is_leading(self) -> bool:
        """Whether this replica of the node is the one that starts and ends runs."""
        ...

    @property
    def look_every_s(self) -> float:
        """How often runs are to be looked at while some are active."""
        ...

    def refusal(self, task: Task) -> str | None:
        """Why this task can never run here; None where it can."""
        ...

    async def records(self, heard: Heard, wake: Callable[[], None]) -> list[Record]:
        """Every task there is. From now on `heard` is told of foreign changes, and `wake` of runs that got on."""
        ...

    async def save(self, record: Record) -> None:
        """Keep the record, which is one version newer than what is kept. Raises `RecordOutdated`, `RunRefused`."""
        ...

    async def delete(self, record: Record) -> None:
        """Forget the task and everything of its run."""
        ...

    async def start(self, record: Record) -> None:
        """Start the run; starting the same one twice is starting it once. Raises `RunRefused`."""
        ...

    def status(self, record: Record) -> RunStatus | None:
        """Where the run stands; None when it is not there, or was ended from outside before its end."""
        ...

    def console(self, record: Record) -> Console:
        """The run's console."""
        ...

    async def say(self, record: Record, line: str) -> None:
        """Add a line to the console of a run that is about to be ended."""
        ...

    def kept_workspaces(self) -> Mapping[str, int]:
        """By task that the router brought the number of the ended attempt whose workspace is kept here."""
        ...

    async def drop_workspace(self, uuid: str) -> None:
        """Delete the workspace that is kept of a task, if there is one."""
        ...

    async def keep_workspace(self, record: Record) -> None:
        """Set the workspace of a run that has ended aside: for a restart, or for `clean_workspaces`. Safe to repeat."""
        ...

    async def clean_workspaces(self) -> None:
        """Delete the kept workspaces whose time is over, or for which there is no room."""
        ...

    async def recall(self, record: Record) -> None:
        """Make the console readable where this replica has not followed it."""
        ...

    async def stop(self, record: Record) -> None:
        """End the run; when this returns, nothing of it is running. Safe to repeat."""
        ...

    async def forget_run(self, record: Record) -> None:
        """Stop the run and delete everything of it; the record stays."""
        ...

    async def check(self) -> str:
        """Say in a sentence that what keeps the tasks does so. Raises `BackendAway`, `BackendRefused` or `OSError`."""
        ...

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Begin what goes on beside the API."""
        ...

    async def close(self) -> None:
        """This replica ends."""
        ...
