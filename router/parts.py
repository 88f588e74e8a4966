"""Parts of split tasks end with the attempt that sent them, however it ended, and whoever was there to see it."""

import logging
from collections.abc import Callable, Sequence

from common.errands import Errands
from common.references import Reference, staged_root
from common.storage import Storage
from common.tasks import ENDED, State
from router import queries
from router.endings import change
from router.families import PARENT_OVER, ended_with_parent, unwanted
from router.leadership import Leadership
from router.snapshot import Snapshot
from router.tables import NodeRow, TaskRow

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 200
LetGo = Callable[[str, int, NodeRow | None], None]


class Parts:
    """The parts of all split tasks, as the leading replica looks after them."""

    def __init__(
        self,
        snapshot: Snapshot,
        leadership: Leadership,
        storage: Storage,
        staging: Reference,
        errands: Errands,
        let_go: LetGo,
        hooks: Sequence[str],
    ) -> None:
        """`let_go` tells a node that an attempt is over; `hooks` are the router's own webhooks."""
        self._snapshot = snapshot
        self._leadership = leadership
        self._storage = storage
        self._staging = staging
        self._errands = errands
        self._let_go = let_go
        self._hooks = hooks

    async def tend(self) -> None:
        """End what nobody waits for any more."""
        found: dict[str, str] = {}
        for parent in self._snapshot.split():
            for part in unwanted(self._snapshot.parts(parent), self._snapshot.get(parent)):
                found[part.uuid] = parent
        if found:
            await self._end(dict(list(found.items())[:MOST_AT_ONCE]))

    async def _end(self, found: dict[str, str]) -> None:
        """`found`: parts and their parents, as memory has them; the record decides."""
        ended: list[TaskRow] = []
        removed: list[tuple[TaskRow, NodeRow | None]] = []
        async with self._leadership.transaction() as session:
            rows = await queries.task_rows(session, found)
            parents = await queries.tasks_as_they_are(session, set(found.values()))
            for row in rows.values():
                parent = parents.get(found[row.uuid])
                if row.state == State.UPLOADING or not unwanted([row.task()], parent):
                    continue
                if parent is None:
                    removed.append((row, await queries.node_of(session, row.uuid, row.attempt)))
                if State(row.state) not in ENDED:
                    await queries.end_attempt(session, row.uuid, row.attempt, State.CANCELED, PARENT_OVER)
                    change(session, row, ended_with_parent(row.task()), self._hooks)
                if parent is None:
                    await session.delete(row)
                else:
                    ended.append(row)
        for row in ended:
            logger.info("task %s is canceled: the attempt that sent it as a part is over", row.uuid)
            self._snapshot.put(row)
            self._let_go(row.uuid, row.attempt, None)
        for row, node in removed:
            logger.info("task %s is removed with the task that it is a part of", row.uuid)
            self._snapshot.drop(row.uuid)
            self._let_go(row.uuid, row.attempt, node)
            self._errands.send(f"empty {row.uuid}", self._empty_staging(row.uuid))

    async def _empty_staging(self, uuid: str) -> None:
        await self._storage.run(self._storage.delete_prefix, staged_root(self._staging, uuid))
