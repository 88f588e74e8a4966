"""The router's outbox, over a real Postgres and real receivers."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlmodel import col, func, select, update

from common.courier import AT_ONCE, AT_ONCE_PER_HOST, Courier
from common.embedded.object_store import ObjectStore
from common.tasks import State, Task, again, canceled
from common.webhooks import USUAL, Schedule
from router import queries
from router.database import Database
from router.endings import change
from router.leadership import Leadership
from router.lifecycle import failed
from router.tables import TaskRow, WebhookRow
from router.webhooks import Webhooks
from tests.common.nodeodm.test_messages import task
from tests.receiver import HANG, Receiver, receiving
from tests.waiting import until

SOON = Schedule(most_tries=3, first_wait_s=0.0, longest_wait_s=0.0)


class Outbox:
    """One replica's webhooks."""

    def __init__(
        self, database: Database, rclone: ObjectStore, schedule: Schedule = SOON, answer_within_s: float = 2
    ) -> None:
        """It does not lead yet."""
        self.database = database
        self.leadership = Leadership(database, lambda: None)
        courier = Courier(rclone.storage(), None, True, "PRIVATE", answer_within_s=answer_within_s)
        self.webhooks = Webhooks(database, self.leadership, courier, schedule)

    async def add(self, *urls: str, uuid: str = "u") -> None:
        """Webhooks that are due now, the first the oldest."""
        for url in urls:
            async with self.database.transaction() as session:
                session.add(WebhookRow(task_uuid=uuid, url=url, payload={"uuid": uuid, "statusCode": 40}))

    async def rows(self, uuid: str = "u") -> list[WebhookRow]:
        """What is on record."""
        async with self.database.transaction() as session:
            return list(await queries.webhooks_of(session, uuid))

    async def round(self) -> None:
        """Call what is due, and wait for the answers."""
        await self.webhooks.look()
        await self.webhooks.settled()


@pytest.fixture
async def outbox(database: Database, rclone: ObjectStore) -> AsyncIterator[Outbox]:
    """Of the replica that leads."""
    found = Outbox(database, rclone)
    await found.leadership.contend()
    yield found
    await found.webhooks.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """One that is there."""
    with receiving() as found:
        yield found


async def test_a_webhook_that_is_answered_is_delivered_once(outbox: Outbox, receiver: Receiver) -> None:
    """However often is looked afterwards."""
    await outbox.add(receiver.url())
    for _ in range(3):
        await outbox.round()
    (row,) = await outbox.rows()
    assert row.delivered_at is not None
    assert (row.tries, row.error, row.given_up_at) == (1, None, None)
    assert [call.delivery for call in receiver.calls] == [f"u-{row.id}"]


async def test_a_webhook_is_given_up_on_record(
    outbox: Outbox, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """With its tries and what was wrong, and a line in the log that names no URL (I9)."""
    caplog.set_level(logging.DEBUG, "router")
    receiver.answers = [500, 500, 503, 200]
    await outbox.add(receiver.url("/secret?key=secret"))
    for _ in range(5):
        await outbox.round()
    (row,) = await outbox.rows()
    assert row.given_up_at is not None
    assert row.delivered_at is None
    assert (row.tries, row.error) == (3, "it answered 503; expected 200")
    assert len({call.delivery for call in receiver.calls}) == 1
    assert len(receiver.calls) == 3
    assert "given up after 3 tries: it answered 503" in caplog.text
    assert "secret" not in caplog.text


async def test_what_leads_nowhere_is_given_up_at_once(outbox: Outbox) -> None:
    """It would lead nowhere tomorrow."""
    await outbox.add("abcd")
    await outbox.round()
    (row,) = await outbox.rows()
    assert row.given_up_at is not None
    assert row.tries == 1


async def test_what_is_not_answered_is_tried_again_later(
    database: Database, rclone: ObjectStore, receiver: Receiver
) -> None:
    """By the database's clock."""
    outbox = Outbox(database, rclone, USUAL)
    await outbox.leadership.contend()
    receiver.answers = [500]
    await outbox.add(receiver.url())
    await outbox.round()
    await outbox.round()
    assert len(receiver.calls) == 1
    async with database.transaction() as session:
        (row,) = await queries.webhooks_of(session, "u")
        assert row.due_at is not None
        assert 0 < (row.due_at - await queries.now(session)).total_seconds() <= USUAL.wait_s(1)
    await outbox.webhooks.close()


async def test_one_call_at_a_time_is_made_of_a_webhook(outbox: Outbox, receiver: Receiver) -> None:
    """However often is looked while it hangs."""
    receiver.answers = [HANG]
    await outbox.add(receiver.url())
    await outbox.webhooks.look()
    await until(lambda: len(receiver.calls) == 1, "a call")
    for _ in range(5):
        await outbox.webhooks.look()
    (row,) = await outbox.rows()
    assert (row.tries, row.delivered_at) == (1, None), "the try is on record before it is answered"
    await outbox.webhooks.settled()
    assert len(receiver.calls) == 1
    await outbox.round()
    assert len(receiver.calls) == 2


async def test_the_next_leader_leaves_a_call_that_is_under_way_alone_and_makes_it_when_its_time_is_over(
    outbox: Outbox, rclone: ObjectStore, receiver: Receiver
) -> None:
    """The last leader may live, or not; what it writes no longer counts."""
    other = Outbox(outbox.database, rclone)
    receiver.answers = [HANG]
    await outbox.add(receiver.url())
    await outbox.webhooks.look()
    await until(lambda: len(receiver.calls) == 1, "a call")
    await outbox.leadership.release()
    await other.leadership.contend()
    await other.round()
    assert len(receiver.calls) == 1
    receiver.let_go()
    await outbox.webhooks.settled()
    assert [row.error for row in await outbox.rows()] == [None], "it leads no more"
    async with other.database.transaction() as session:
        await session.exec(update(WebhookRow).values(due_at=func.now()))
    await other.round()
    assert len(receiver.calls) == 2
    (row,) = await other.rows()
    assert row.delivered_at is not None
    await other.webhooks.close()


async def test_who_does_not_lead_calls_nothing(database: Database, rclone: ObjectStore, receiver: Receiver) -> None:
    """Though it may have thought so when it looked."""
    outbox = Outbox(database, rclone)
    await outbox.add(receiver.url())
    await outbox.round()
    running = asyncio.create_task(outbox.webhooks.run())
    await asyncio.sleep(1.5)
    assert receiver.calls == []
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert [row.tries for row in await outbox.rows()] == [0]
    await outbox.webhooks.close()


async def test_what_was_seen_before_it_was_delivered_is_not_called_again(outbox: Outbox, receiver: Receiver) -> None:
    """A look and a delivery may cross."""
    await outbox.add(receiver.url())
    (seen,) = await outbox.rows()
    await outbox.round()
    await outbox.webhooks._deliver(seen)
    assert len(receiver.calls) == 1


async def test_a_hanging_host_does_not_hide_what_comes_after_it(
    database: Database, rclone: ObjectStore, receiver: Receiver
) -> None:
    """A hundred and sixty webhooks of one that hangs are due before the one of a host that answers."""
    outbox = Outbox(database, rclone, answer_within_s=30)
    await outbox.leadership.contend()
    with receiving() as hanging:
        hanging.always = {"/hook": HANG}
        await outbox.add(*[hanging.url()] * (4 * AT_ONCE), receiver.url())
        await outbox.webhooks.look()
        await until(lambda: len(receiver.calls) == 1, "the call of the host that answers", within_s=15)
        assert len(hanging.calls) <= AT_ONCE_PER_HOST
        hanging.always = {}
        hanging.let_go()
        await outbox.webhooks.settled()
    await outbox.webhooks.close()


async def test_i8_an_end_and_its_webhooks_are_on_record_together_or_not_at_all(database: Database) -> None:
    """One transaction: a crash between them loses neither."""
    running = task(state=State.RUNNING, begun=True, webhook="http://h/task")
    async with database.transaction() as session:
        session.add(TaskRow.of(running))
    with pytest.raises(ConnectionError):
        await end(database, failed(running, "no luck"), crash=True)
    assert await payloads(database) == []
    await end(database, failed(running, "no luck"), "http://h/router", "no")
    assert [(url, told["statusCode"]) for url, told in await payloads(database)] == [
        ("http://h/task", 30),
        ("http://h/router", 30),
    ]
    assert (await payloads(database))[0][1]["status"] == {"code": 30, "errorMessage": "no luck"}


async def test_who_is_told_what(database: Database) -> None:
    """Canceled after it began: told. Canceled when it had ended: not again. Restarted: once more at its next end."""
    running = task(state=State.RUNNING, begun=True, webhook="http://h/task", output="s3://b/o/")
    async with database.transaction() as session:
        session.add(TaskRow.of(running))
    await end(database, replace(running, state=State.COMPLETED, progress=100.0))
    await end(database, canceled(replace(running, state=State.COMPLETED)))
    assert [told["statusCode"] for _, told in await payloads(database)] == [40]
    await end(database, again(running, 1, 2, now_ms=5))
    await end(database, replace(running, state=State.RUNNING))
    await end(database, canceled(running))
    assert [told["statusCode"] for _, told in await payloads(database)] == [40, 50]
    async with database.transaction() as session:
        outputs = (await session.exec(select(WebhookRow.output).order_by(col(WebhookRow.id)))).all()
    assert list(outputs) == ["s3://b/o/", None]


async def test_canceled_before_it_began_tells_nobody(database: Database) -> None:
    """As NodeODM has it (contract 7)."""
    waiting = task(state=State.QUEUED, webhook="http://h/task")
    async with database.transaction() as session:
        session.add(TaskRow.of(waiting))
    await end(database, canceled(waiting), "http://h/router")
    assert await payloads(database) == []


async def end(database: Database, after: Task, *hooks: str, crash: bool = False) -> None:
    """Change the task, and perhaps die before the transaction is over."""
    async with database.transaction() as session:
        row = await queries.task_row(session, after.uuid)
        assert row is not None
        change(session, row, after, hooks)
        await session.flush()
        if crash:
            raise ConnectionError("the router is gone")


async def payloads(database: Database) -> list[tuple[str, dict[str, Any]]]:
    """URL and payload of every webhook on record."""
    async with database.transaction() as session:
        return [(row.url, row.payload) for row in await queries.webhooks_of(session, "u")]
