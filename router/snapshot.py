"""What pollers are answered from: every task, in memory, kept fresh by Postgres NOTIFY.

Whoever changes a task row puts the new task here after the commit; a trigger tells the other replicas, which read
the row again. The row's version decides which of two readings is the newer, in whatever order they come.
"""

import asyncio
import logging
from collections.abc import Iterable

import asyncpg
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col, select

from common.tasks import State, Task
from router.database import Database
from router.tables import TaskRow

logger = logging.getLogger(__name__)

CHANNEL = "scaleodm_tasks"
"""NOTIFY channel; the payload is a task's uuid. The trigger of migration 0001 sends it."""
_BATCH = 500


class Snapshot:
    """Every committed task by uuid, oldest first."""

    def __init__(self) -> None:
        """Empty until `load`."""
        self._tasks: dict[str, Task] = {}
        self._versions: dict[str, int] = {}

    def get(self, uuid: str) -> Task | None:
        """The task, if it is known and committed."""
        return self._tasks.get(uuid)

    def all(self) -> Iterable[Task]:
        """Every committed task."""
        return self._tasks.values()

    def put(self, row: TaskRow) -> None:
        """Take a row as it was committed, unless a newer one is here already."""
        if row.version >= self._versions.get(row.uuid, 0) and row.state != State.UPLOADING:
            self._versions[row.uuid] = row.version
            self._tasks[row.uuid] = row.task()

    def drop(self, uuid: str) -> None:
        """The task was removed."""
        self._tasks.pop(uuid, None)
        self._versions.pop(uuid, None)


class SnapshotKeeper:
    """Fills a snapshot and keeps it fresh."""

    def __init__(self, database: Database, snapshot: Snapshot) -> None:
        """Nothing is read yet."""
        self._database = database
        self._snapshot = snapshot
        self._changed: asyncio.Queue[str] = asyncio.Queue()

    async def load(self) -> None:
        """Read every task."""
        async with self._database.transaction() as session:
            rows = (await session.exec(select(TaskRow).order_by(col(TaskRow.committed_at)))).all()
        known = {row.uuid for row in rows}
        for task in [each for each in self._snapshot.all() if each.uuid not in known]:
            self._snapshot.drop(task.uuid)
        for row in rows:
            self._snapshot.put(row)

    async def run(self) -> None:
        """Listen for ever. A lost connection costs a fresh reading of everything, for notices may have been missed."""
        while True:
            try:
                await self._listen()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError) as trouble:
                logger.warning("lost the database's notices (%s); listening again in 1 s", trouble)
                await asyncio.sleep(1)

    async def _listen(self) -> None:
        connection = await asyncpg.connect(self._database.dsn, timeout=5)
        try:
            closed = asyncio.Event()
            connection.add_termination_listener(lambda _: closed.set())
            await connection.add_listener(CHANNEL, lambda *notice: self._changed.put_nowait(notice[3]))
            await self.load()
            while not closed.is_set():
                await self._take_changes(closed)
        finally:
            await connection.close(timeout=2)

    async def _take_changes(self, closed: asyncio.Event) -> None:
        first = asyncio.create_task(self._changed.get(), name="notice")
        ended = asyncio.create_task(closed.wait(), name="connection closed")
        try:
            await asyncio.wait({first, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not first.done():
                raise ConnectionError("the connection was closed")
        finally:
            first.cancel()
            ended.cancel()
        uuids = {first.result()}
        while not self._changed.empty() and len(uuids) < _BATCH:
            uuids.add(self._changed.get_nowait())
        await self._read_again(uuids)

    async def _read_again(self, uuids: set[str]) -> None:
        async with self._database.transaction() as session:
            rows = (await session.exec(select(TaskRow).where(col(TaskRow.uuid).in_(uuids)))).all()
        for uuid in uuids - {row.uuid for row in rows}:
            self._snapshot.drop(uuid)
        for row in rows:
            self._snapshot.put(row)
