"""What is over for long enough goes: tasks, uploads, what they left in S3, history. And runs that take too long end.

The replica that leads does this, beside the loop that places tasks, in small bites. S3 comes first and the row last: a
clean-up that dies in the middle, or finds S3 away, goes on at the next turn. Ages are by the database's clock.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy.exc import SQLAlchemyError
from sqlmodel.ext.asyncio.session import AsyncSession

from common.leftovers import are_older, is_uuid, leftovers_of
from common.references import Reference, staged_root
from common.storage import Storage, StorageFault
from common.tasks import ACTIVE, State, canceled, timeout_text
from router import queries, retention
from router.ages import Aged, Ages, is_over
from router.database import Database
from router.endings import change
from router.leadership import Leadership, LeadershipLost
from router.snapshot import Snapshot

logger = logging.getLogger(__name__)

Forget = Callable[[AsyncSession, timedelta, int], Awaitable[int]]
LOOK_EVERY_S = 60.0
ORPHANS_EVERY_S = 3600.0
AT_ONCE = 200
"""Rows that one transaction takes at most: what places tasks must not wait for this."""
PAUSE_S = 0.1
"""Between two bites, for the same reason."""
STAGES_AT_ONCE = 4


class Housekeeping:
    """Cleans up, on the replica that leads."""

    def __init__(
        self,
        database: Database,
        snapshot: Snapshot,
        leadership: Leadership,
        storage: Storage,
        staging: Reference,
        ages: Ages,
        let_go: Callable[[str, int], None],
        hooks: Sequence[str] = (),
    ) -> None:
        """`let_go` tells a task's node that its attempt is over; `hooks` are called when a task ends."""
        self._database = database
        self._snapshot = snapshot
        self._leadership = leadership
        self._storage = storage
        self._staging = staging
        self._ages = ages
        self._let_go = let_go
        self._hooks = hooks
        self._orphans_due = 0.0

    async def run(self) -> None:
        """Clean up every minute, for ever; only while this replica leads."""
        while True:
            if self._leadership.is_leading:
                try:
                    await self.turn()
                except (OSError, SQLAlchemyError) as trouble:
                    logger.warning("cleaning up waits for the database (%s)", type(trouble).__name__)
                except StorageFault as fault:
                    logger.warning("cleaning up waits for S3: %s", fault)
                except LeadershipLost as lost_it:
                    logger.info("%s", lost_it)
            await asyncio.sleep(LOOK_EVERY_S)

    async def turn(self) -> None:
        """Everything whose time is over. What S3 does not let go of stays for the next turn, and keeps nobody else."""
        await self.end_long_runs()
        for bite in (
            self._some_tasks,
            self._some_uploads,
            partial(self._some_records, retention.forget_runs, self._ages.history),
            partial(self._some_records, retention.forget_webhooks, self._ages.webhooks),
            partial(self._some_records, retention.forget_events, self._ages.events),
            partial(self._some_records, retention.forget_samples, self._ages.samples),
        ):
            await _in_bites(bite)
        await self._let_leave()
        now = asyncio.get_running_loop().time()
        if self._ages.orphans is not None and now >= self._orphans_due:
            self._orphans_due = now + ORPHANS_EVERY_S
            await self.sweep()

    # Tasks and uploads

    async def _some_tasks(self) -> bool:
        """The oldest ended tasks; whether there may be more."""
        if self._ages.tasks is None:
            return False
        async with self._leadership.transaction() as session:
            found = await retention.ended_tasks(session, self._ages.tasks, AT_ONCE)
            over = await self._over(session, found)
            at_once = [each.uuid for each in over if not each.staged]
            await retention.forget(session, at_once)
            await retention.mark_leaving(session, [each.uuid for each in over if each.staged])
        self._forgotten(at_once)
        return len(found) == AT_ONCE

    async def _some_uploads(self) -> bool:
        """The oldest uploads that were never committed; whether there may be more."""
        if self._ages.uploads is None:
            return False
        async with self._leadership.transaction() as session:
            found = await retention.stale_uploads(session, self._ages.uploads, AT_ONCE)
            over = await self._over(session, found)
            await retention.mark_leaving(session, [each.uuid for each in over])
        return len(found) == AT_ONCE

    async def _over(self, session: AsyncSession, found: Iterable[Aged]) -> list[Aged]:
        now = await queries.clock(session)
        return [each for each in found if is_over(each, self._ages, now)]

    async def _let_leave(self) -> None:
        """First S3, then the row: as long as something lies there, somebody knows of it."""
        refused: set[str] = set()
        while True:
            async with self._database.statement() as session:
                found = [uuid for uuid in await retention.leaving(session, AT_ONCE) if uuid not in refused]
            if not found:
                return
            for begin in range(0, len(found), STAGES_AT_ONCE):
                some = found[begin : begin + STAGES_AT_ONCE]
                emptied = await asyncio.gather(*(self._empty(uuid) for uuid in some))
                gone = [uuid for uuid, is_empty in zip(some, emptied, strict=True) if is_empty]
                refused |= set(some) - set(gone)
                async with self._leadership.transaction() as session:
                    await retention.forget(session, gone)
                self._forgotten(gone)
            await asyncio.sleep(PAUSE_S)

    async def _empty(self, uuid: str) -> bool:
        """Whether nothing of a task is left in staging. Raises `StorageUnreachable`: then no other goes either."""
        try:
            await self._storage.run(self._storage.delete_prefix, staged_root(self._staging, uuid))
        except StorageFault as fault:
            if fault.may_pass:
                raise
            logger.warning("task %s stays until S3 lets go of what it left there: %s", uuid, fault)
            return False
        return True

    def _forgotten(self, uuids: Sequence[str]) -> None:
        for uuid in uuids:
            self._snapshot.drop(uuid)
        if uuids:
            logger.info("%d tasks or uploads are gone, for their time is over", len(uuids))

    async def _some_records(self, forget: Forget, age: timedelta | None) -> bool:
        if age is None:
            return False
        async with self._leadership.transaction() as session:
            return await forget(session, age, AT_ONCE) == AT_ONCE

    # Runs that take too long

    async def end_long_runs(self) -> None:
        """End runs as a user's cancel does, with NodeODM's words in the console (contract 7.1)."""
        limit = self._ages.runtime
        if limit is None:
            return
        async with self._database.statement() as session:
            found = await retention.long_runs(session, limit)
        for uuid, number, _ in found:
            await self._end_run(uuid, number, timeout_text(limit.total_seconds() / 60))

    async def _end_run(self, uuid: str, number: int, told: str) -> None:
        async with self._leadership.transaction() as session:
            row = await queries.task_row(session, uuid)
            attempt = await queries.attempt_row(session, uuid, number)
            if row is None or attempt is None or row.attempt != number or State(row.state) not in ACTIVE:
                return
            lines = attempt.next_line
            await queries.add_lines(session, uuid, number, lines, [told])
            await queries.end_attempt(session, uuid, number, State.CANCELED, told)
            after = replace(canceled(row.task()), error=told, console_lines=lines + 1)
            change(session, row, after, self._hooks)
        self._snapshot.put(row)
        logger.warning("task %s attempt %d: %s", uuid, number, told)
        self._let_go(uuid, number)

    # What nobody knows

    async def sweep(self) -> None:
        """Delete what lies in staging under uuids that no row knows, when all of it is older than the age."""
        assert self._ages.orphans is not None
        folders = await self._storage.run(lambda: list(self._storage.folders(self._staging)))
        uuids = sorted(folder.name for folder in folders if is_uuid(folder.name))
        unfinished = await self._storage.run(lambda: list(self._storage.unfinished(self._staging)))
        below = (each.reference.key.removeprefix(self._staging.key).partition("/")[0] for each in unfinished)
        uuids = sorted({*uuids, *(name for name in below if is_uuid(name))})
        for some in _batches(uuids, AT_ONCE):
            async with self._database.statement() as session:
                strangers = set(some) - await retention.known(session, some)
                now = await queries.clock(session)
            for uuid in sorted(strangers):
                await self._sweep_one(uuid, self._ages.orphans, now)

    async def _sweep_one(self, uuid: str, age: timedelta, now: datetime) -> None:
        """What was listed goes, and nothing that comes while it does."""
        found = await self._storage.run(leftovers_of, self._storage, staged_root(self._staging, uuid))
        if not are_older(found.moments, age, now) or not self._leadership.is_leading:
            return
        async with self._database.statement() as session:
            if await retention.known(session, [uuid]):
                return
        await self._storage.run(found.delete, self._storage)
        logger.warning("%d objects of %s, which no task knows, are deleted from staging", len(found.objects), uuid)


async def _in_bites(bite: Callable[[], Awaitable[bool]]) -> None:
    """Again and again, with pauses, as long as there may be more."""
    while await bite():  # noqa: ASYNC110 - not a wait for anything: others are to have their turn in between
        await asyncio.sleep(PAUSE_S)


def _batches(uuids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for begin in range(0, len(uuids), size):
        yield uuids[begin : begin + size]
