"""What is over for long enough goes from this node: tasks, uploads, workspaces. And runs that take too long end.

Only tasks that came to the node directly: those of a router are the router's to let go of.
"""

import asyncio
import logging
from datetime import UTC, datetime

from common.nodeodm.routes import now_ms
from common.storage import StorageFault
from node.backends import BackendAway, BackendRefused
from node.lifecycle import is_overdue, is_too_long
from node.local_tasks import LocalTasks

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
"""Runs are looked at so often; nothing is asked of anybody for that."""
CLEAN_EVERY_S = 60.0
UPLOADS_EVERY_S = 3600.0
"""To find them, S3 is asked for every folder in staging."""


class NodeHousekeeping:
    """Cleans up, on the replica of the node that leads."""

    def __init__(self, tasks: LocalTasks, takes_uploads: bool) -> None:
        """`takes_uploads`: whether anybody but the router may use this node."""
        self._tasks = tasks
        self._takes_uploads = takes_uploads
        self._clean_due = self._uploads_due = 0.0

    async def run(self) -> None:
        """Look after what is over, for ever; only while this replica leads."""
        while True:
            if self._tasks.is_leading:
                try:
                    await self.turn()
                except (BackendAway, BackendRefused, StorageFault, OSError) as trouble:
                    logger.warning("cleaning up is tried again: %s", trouble)
            await asyncio.sleep(LOOK_EVERY_S)

    async def turn(self) -> None:
        """What is due."""
        now = asyncio.get_running_loop().time()
        await self.end_long_runs(now_ms())
        if now >= self._clean_due:
            self._clean_due = now + CLEAN_EVERY_S
            await self._tasks.clean_workspaces()
            await self.forget_old_tasks(now_ms())
        if now >= self._uploads_due and self._takes_uploads:
            self._uploads_due = now + UPLOADS_EVERY_S
            await self.forget_stale_uploads(datetime.now(UTC))

    async def end_long_runs(self, now: int) -> None:
        """End runs that have worked for longer than they may; `now` in milliseconds."""
        limit = self._tasks.limits.max_runtime_min
        for record in self._tasks.records():
            if is_too_long(record.task, limit, now):
                await self._tasks.time_out(record)

    async def forget_old_tasks(self, now: int) -> None:
        """Forget tasks that ended long ago, with what they left in staging; one that S3 keeps stays, and no other."""
        keep_for_s = self._tasks.limits.keep_for_s
        if keep_for_s is None:
            return
        for record in self._tasks.records():
            if not is_overdue(record, keep_for_s, now):
                continue
            try:
                await self._tasks.forget(record)
            except StorageFault as fault:
                logger.warning("task %s stays until S3 lets go of what it left there: %s", record.task.uuid, fault)
                if fault.may_pass:
                    return
            else:
                logger.info("task %s is forgotten: it ended more than %.0f s ago", record.task.uuid, keep_for_s)

    async def forget_stale_uploads(self, now: datetime) -> None:
        """Forget uploads that were never committed."""
        age_s = self._tasks.limits.keep_uploads_for_s
        if age_s is not None:
            await self._tasks.clean_uploads(age_s, now)
