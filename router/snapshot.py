"""What pollers are answered from: every task, in memory, kept fresh by Postgres NOTIFY.

Whoever changes a task row puts the new task here after the commit; a trigger tells the other replicas, which read
the row again. The row's version decides which of two readings is the newer, in whatever order they come.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import asyncpg
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col, select

from common.families import Family
from common.tasks import State, Task
from router.database import Database
from router.tables import TaskRow
from router.texts import Texts

logger = logging.getLogger(__name__)

TASKS = "scaleodm_tasks"
"""NOTIFY channel; the payload is a task's uuid. The trigger of migration 0001 sends it."""
ACCESS = "scaleodm_access"
"""NOTIFY channel for nodes and tokens; the payload is the table. The triggers of migration 0003 send it."""
READ_AGAIN_S = 60.0
"""However well notices work: so often everything that has changed is read again."""
PING_S = 10.0
"""So often the listening connection is tried: one whose other end is gone would be silent for ever."""
_BATCH = 500
_CLOSED = ""
"""Stands in the queue of notices where the connection came to its end."""
_LOAD_BATCH = 2_000


@dataclass(frozen=True, slots=True)
class Known:
    """A task as it was read."""

    task: Task
    version: int
    committed_at: datetime | None
    """When it took its place in the queue."""
    since: float = 0.0
    """Since when it is in its state, as far as this replica has seen: a monotonic moment in seconds."""


class Snapshot:
    """Every committed task by uuid, oldest first."""

    def __init__(self) -> None:
        """Empty until `load`."""
        self._known: dict[str, Known] = {}
        self._by_state: dict[State, dict[str, Known]] = {state: {} for state in State}
        self._parts: defaultdict[str, set[str]] = defaultdict(set)
        """By split task its parts."""
        self._names, self._uuids = Texts(), Texts()

    def get(self, uuid: str) -> Task | None:
        """The task, if it is known and committed."""
        known = self._known.get(uuid)
        return known.task if known is not None else None

    def all(self) -> Iterable[Task]:
        """Every committed task."""
        return [known.task for known in self._known.values()]

    def versions(self) -> dict[str, int]:
        """Every task's version."""
        return {uuid: known.version for uuid, known in self._known.items()}

    def is_known(self, uuid: str, version: int) -> bool:
        """Whether the task is known as it was at this version, or later."""
        known = self._known.get(uuid)
        return known is not None and known.version >= version

    def count(self, *states: State) -> int:
        """How many tasks are in one of these states."""
        return sum(len(self._by_state[state]) for state in states)

    def within(self, *states: State) -> list[Known]:
        """The tasks in these states."""
        return [known for state in states for known in self._by_state[state].values()]

    def matching(self, text: str, most: int) -> set[str] | None:
        """The tasks with this text in the name or the tenant, in small letters or large, or at the beginning of the
        uuid; None where they are many: certainly where there are twice `most`."""
        named, begun = self._names.holding(text, most), self._uuids.beginning(text, most)
        return None if named is None or begun is None else {*named, *begun}

    def split(self) -> list[str]:
        """Every task that has parts, removed ones too."""
        return list(self._parts)

    def parts(self, uuid: str) -> list[Task]:
        """The parts of a split task."""
        return sorted((self._known[part].task for part in self._parts.get(uuid, ())), key=lambda part: part.created_ms)

    def known(self, uuid: str) -> Known | None:
        """The task as it was read."""
        return self._known.get(uuid)

    def put(self, row: TaskRow) -> None:
        """Take a row as it was committed, unless a newer one is here already."""
        before = self._known.get(row.uuid)
        if row.state == State.UPLOADING or (before is not None and row.version < before.version):
            return
        if before is None:
            self._names.add(row.uuid, row.name, row.tenant)
            self._uuids.add(row.uuid, row.uuid)
        if (family := Family.parse(row.family)) is not None:
            self._parts[family.uuid].add(row.uuid)
        self._take(before, row.task(), row.version, row.committed_at)

    def advance(self, task: Task, version: int) -> None:
        """Take a task as it was changed and committed, unless it is newer here already, or gone."""
        before = self._known.get(task.uuid)
        if before is not None and version >= before.version:
            self._take(before, task, version, before.committed_at)

    def _take(self, before: Known | None, task: Task, version: int, committed_at: datetime | None) -> None:
        stays = before is not None and before.task.state is task.state
        since = before.since if before is not None and stays else time.monotonic()
        known = Known(task, version, committed_at, since)
        if before is not None and not stays:
            self._by_state[before.task.state].pop(task.uuid, None)
        self._known[task.uuid] = known
        self._by_state[task.state][task.uuid] = known

    def drop(self, uuid: str) -> None:
        """The task was removed."""
        known = self._known.pop(uuid, None)
        if known is None:
            return
        self._by_state[known.task.state].pop(uuid, None)
        self._names.drop(uuid)
        self._uuids.drop(uuid)
        family = Family.parse(known.task.family)
        parts = self._parts.get(family.uuid) if family is not None else None
        if family is not None and parts is not None:
            parts.discard(uuid)
            if not parts:
                del self._parts[family.uuid]


class SnapshotKeeper:
    """Fills a snapshot and keeps it fresh."""

    def __init__(
        self,
        database: Database,
        snapshot: Snapshot,
        changed: Callable[[], None],
        on_access: Mapping[str, Callable[[], None]],
    ) -> None:
        """`changed` is told when tasks have changed; `on_access`, by table, when nodes or tokens have."""
        self._database = database
        self._snapshot = snapshot
        self._changed = changed
        self._on_access = on_access
        self._notices: asyncio.Queue[str] = asyncio.Queue()
        self._deaf_since: float | None = time.monotonic()

    @property
    def deaf_s(self) -> float:
        """For how many seconds nothing has been heard of what other replicas change; 0 while that is heard."""
        return 0.0 if self._deaf_since is None else time.monotonic() - self._deaf_since

    async def load(self) -> None:
        """Read what is new or has changed since it was last read, and forget what is gone."""
        async with self._database.transaction() as session:
            rows = await session.exec(select(TaskRow.uuid, TaskRow.version).order_by(col(TaskRow.committed_at)))
            current = dict(rows.all())
        known = self._snapshot.versions()
        for uuid in known.keys() - current.keys():
            self._snapshot.drop(uuid)
        changed = [uuid for uuid, version in current.items() if known.get(uuid) != version]
        for begin in range(0, len(changed), _LOAD_BATCH):
            await self._read(changed[begin : begin + _LOAD_BATCH])
        if changed:
            self._changed()

    async def run(self) -> None:
        """Listen for ever. A lost connection costs a look at everything, for notices may have been missed."""
        while True:
            try:
                await self._listen()
            except* (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, SQLAlchemyError) as troubles:
                kinds = ", ".join(sorted({type(each).__name__ for each in troubles.exceptions}))
                logger.warning("lost the database's notices (%s); listening again in 1 s", kinds)
            await asyncio.sleep(1)

    async def _listen(self) -> None:
        connection = await asyncpg.connect(self._database.dsn, timeout=5)
        try:
            connection.add_termination_listener(lambda _: self._notices.put_nowait(_CLOSED))
            await connection.add_listener(TASKS, lambda *notice: self._notices.put_nowait(notice[3]))
            await connection.add_listener(ACCESS, lambda *notice: self._on_access[notice[3]]())
            for table in self._on_access:
                self._on_access[table]()
            await self.load()
            self._deaf_since = None
            async with asyncio.TaskGroup() as group:
                group.create_task(self._take_notices(), name="notices")
                group.create_task(self._try_connection(connection), name="connection")
                group.create_task(self._read_again(), name="read again")
        finally:
            self._deaf_since = self._deaf_since or time.monotonic()
            await connection.close(timeout=2)

    async def _take_notices(self) -> None:
        while True:
            uuids = {await self._notices.get()}
            while not self._notices.empty() and len(uuids) < _BATCH:
                uuids.add(self._notices.get_nowait())
            if _CLOSED in uuids:
                raise ConnectionError("the connection was closed")
            await self._read(sorted(uuids))
            self._changed()

    async def _try_connection(self, connection: asyncpg.Connection) -> None:
        while True:
            await asyncio.sleep(PING_S)
            await connection.execute("SELECT 1", timeout=PING_S)

    async def _read_again(self) -> None:
        while True:
            await asyncio.sleep(READ_AGAIN_S)
            await self.load()

    async def _read(self, uuids: list[str]) -> None:
        """Read these tasks again, whole only where they are newer than what is known: most notices are our own."""
        async with self._database.statement() as session:
            found = dict(
                (await session.exec(select(TaskRow.uuid, TaskRow.version).where(col(TaskRow.uuid).in_(uuids)))).all()
            )
            newer = [uuid for uuid, version in found.items() if not self._snapshot.is_known(uuid, version)]
            rows = (await session.exec(select(TaskRow).where(col(TaskRow.uuid).in_(newer)))).all() if newer else ()
        for row in rows:
            self._snapshot.put(row)
        for uuid in uuids:
            if uuid not in found:
                self._snapshot.drop(uuid)
