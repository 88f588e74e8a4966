"""The router's webhooks: an outbox in Postgres, delivered at least once, or on record as given up (I8).

`router.endings` fills it in the transaction that ends a task; the replica that leads empties it. A call is claimed
before it is made: whoever leads next makes it again only when its time to be answered is over.
"""

import asyncio
import logging
from collections import Counter
from datetime import timedelta

from sqlalchemy import func
from sqlalchemy.exc import SQLAlchemyError

from common.courier import AT_ONCE, AT_ONCE_PER_HOST, CLAIM_S, Courier
from common.errands import Errands
from common.logs import about
from common.webhooks import USUAL, Outcome, Schedule
from router import queries
from router.database import Database
from router.leadership import Leadership, LeadershipLost
from router.tables import WebhookRow

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
RECORD_AGAIN_S = 1.0


class Webhooks:
    """Calls what is due, on the replica that leads."""

    def __init__(
        self, database: Database, leadership: Leadership, courier: Courier, schedule: Schedule = USUAL
    ) -> None:
        """The courier is closed with this."""
        self._database = database
        self._leadership = leadership
        self._courier = courier
        self._schedule = schedule
        self._errands = Errands(logger, (OSError, SQLAlchemyError, LeadershipLost))
        self.calls: Counter[str] = Counter()
        """How they ended, as far as that is on record: `delivered`, `failed` or `given_up`."""

    async def run(self) -> None:
        """Look for what is due, for ever."""
        while True:
            try:
                if self._leadership.is_leading:
                    await self.look()
            except (OSError, SQLAlchemyError) as trouble:
                logger.warning("webhooks wait for the database (%s)", type(trouble).__name__)
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Send for what is due, of each host a few: what hangs must not hide what does not."""
        async with self._database.statement() as session:
            due = await queries.due_webhooks(session, 3 * AT_ONCE, AT_ONCE_PER_HOST)
        for row in due:
            with about(row.task_uuid):
                self._errands.send(f"webhook {row.id}", self._deliver(row))

    async def settled(self) -> None:
        """Wait for the calls under way."""
        await self._errands.settled()

    async def close(self) -> None:
        """What was not answered is called again by whoever leads next."""
        await self._errands.close()
        self._courier.close()

    async def _deliver(self, seen: WebhookRow) -> None:
        async with self._courier.turn(seen.url):
            row = await self._claimed(seen)
            if row is None:
                return
            outcome = await self._courier.call(row.url, f"{row.task_uuid}-{row.id}", row.payload, row.output)
        await self._record_patiently(row, outcome)

    async def _claimed(self, seen: WebhookRow) -> WebhookRow | None:
        """The webhook, of which from now on nobody else makes this try; None where it is no longer as it was seen."""
        assert seen.id is not None
        async with self._leadership.transaction() as session:
            row = await queries.webhook_row(session, seen.id)
            if row is None or row.tries != seen.tries or row.delivered_at or row.given_up_at:
                return None
            row.tries += 1
            row.due_at = func.clock_timestamp() + timedelta(seconds=CLAIM_S)  # type: ignore[assignment]
        return row

    async def _record_patiently(self, claimed: WebhookRow, outcome: Outcome) -> None:
        while True:
            try:
                return await self._record(claimed, outcome)
            except (OSError, SQLAlchemyError) as trouble:
                logger.warning("webhook %s waits to be put on record (%s)", claimed.id, type(trouble).__name__)
            await asyncio.sleep(RECORD_AGAIN_S)

    async def _record(self, claimed: WebhookRow, outcome: Outcome) -> None:
        assert claimed.id is not None
        async with self._leadership.transaction() as session:
            row = await queries.webhook_row(session, claimed.id)
            if row is None or row.tries != claimed.tries or row.delivered_at or row.given_up_at:
                return
            row.error = outcome.problem
            if outcome.problem is None:
                row.delivered_at = await queries.now(session)
            elif outcome.hopeless or self._schedule.is_over(row.tries):
                row.given_up_at = await queries.now(session)
            else:
                wait = timedelta(seconds=self._schedule.wait_s(row.tries))
                row.due_at = func.clock_timestamp() + wait  # type: ignore[assignment]
            tries, is_given_up = row.tries, row.given_up_at is not None
        self.calls["delivered" if outcome.problem is None else "given_up" if is_given_up else "failed"] += 1
        if is_given_up:
            logger.warning(
                "webhook %s of task %s is given up after %d tries: %s",
                claimed.id,
                claimed.task_uuid,
                tries,
                outcome.problem,
            )
        elif outcome.problem is not None:
            logger.info("webhook %s of task %s, try %d: %s", claimed.id, claimed.task_uuid, tries, outcome.problem)
