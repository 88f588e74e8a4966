"""The node's webhooks, of tasks that came to it directly: the router calls those of its own (design 4.5).

A node has no database: what became of a delivery stands in its task's record, kept as every other change is. Of several
replicas the leading one calls, and claims each call in the record before it makes it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from common.courier import CLAIM_S, Courier
from common.errands import Errands
from common.nodeodm.routes import now_ms
from common.storage import StorageFault
from common.tasks import Task
from common.webhooks import USUAL, Outcome, Schedule, output_with_images, payload_of
from node.backends import BackendAway, BackendRefused
from node.deliveries import OF_NODE, Delivery, after_call, claimed
from node.local_tasks import LocalTasks
from node.records import Record

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
RECORD_AGAIN_S = 1.0


def due(records: Iterable[Record], now_ms: int) -> list[tuple[Record, Delivery]]:
    """The deliveries whose time has come, the oldest first. Pure."""
    found = [(record, each) for record in records for each in record.deliveries]
    ready = [(record, each) for record, each in found if each.is_pending and each.due_ms <= now_ms]
    return sorted(ready, key=lambda pair: pair[1].due_ms)


def with_delivery(record: Record, seen: Delivery, after: Delivery) -> Record | None:
    """The record with a delivery changed; None where it is no longer as it was seen. Pure."""
    if seen not in record.deliveries:
        return None
    return replace(record, deliveries=tuple(after if each == seen else each for each in record.deliveries))


class NodeWebhooks:
    """Calls what is due."""

    def __init__(self, tasks: LocalTasks, courier: Courier, url: str | None, schedule: Schedule = USUAL) -> None:
        """`url`: the node's own webhook, beside each task's. The courier is closed with this."""
        self._tasks = tasks
        self._courier = courier
        self._url = url
        self._schedule = schedule
        self._errands = Errands(logger, (BackendAway, BackendRefused, StorageFault))
        self.calls: Counter[str] = Counter()
        """How they ended: `delivered`, `failed` or `given_up`."""

    async def run(self) -> None:
        """Look for what is due, for ever."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """Send for what is due."""
        if self._tasks.is_leading:
            for record, delivery in due(self._tasks.untold(), now_ms()):
                self._errands.send(_named(record.task, delivery), self._deliver(record.task.uuid, delivery))
        for record in self._tasks.take_removed():
            for delivery in [each for each in record.deliveries if each.is_pending]:
                self._errands.send(f"last {_named(record.task, delivery)}", self._tell_of_removed(record, delivery))

    async def close(self) -> None:
        """What was not answered is called again in the node's next life."""
        await self._errands.close()
        self._courier.close()

    async def _deliver(self, uuid: str, seen: Delivery) -> None:
        task = self._tasks.peek(uuid)
        if task is None:
            return
        async with self._courier.turn(self._url_of(task, seen) or ""):
            tried = claimed(seen, now_ms(), CLAIM_S)
            if await self._tasks.note(uuid, lambda held: with_delivery(held, seen, tried)) is None:
                return
            outcome = await self._call(task, tried)
        after = after_call(tried, outcome, self._schedule, now_ms())
        self._told(uuid, after)
        await self._note_patiently(uuid, tried, after)

    async def _note_patiently(self, uuid: str, tried: Delivery, after: Delivery) -> Record | None:
        while True:
            try:
                return await self._tasks.note(uuid, lambda held: with_delivery(held, tried, after))
            except (BackendAway, StorageFault) as trouble:
                logger.warning("a webhook of task %s waits to be put on record: %s", uuid, trouble)
            await asyncio.sleep(RECORD_AGAIN_S)

    async def _tell_of_removed(self, record: Record, delivery: Delivery) -> None:
        """Nothing holds the record any more but this process."""
        while delivery.is_pending:
            await asyncio.sleep(max(0, delivery.due_ms - now_ms()) / 1000)
            async with self._courier.turn(self._url_of(record.task, delivery) or ""):
                delivery = claimed(delivery, now_ms(), CLAIM_S)
                outcome = await self._call(record.task, delivery)
            delivery = after_call(delivery, outcome, self._schedule, now_ms())
            self._told(record.task.uuid, delivery)

    async def _call(self, task: Task, delivery: Delivery) -> Outcome:
        url = self._url_of(task, delivery)
        if url is None:
            return Outcome("the node has no webhook any more", hopeless=True)
        told = delivery.told(task)
        number = f"{task.uuid}-{delivery.attempt}-{delivery.to}"
        return await self._courier.call(url, number, payload_of(told, now_ms()), output_with_images(told))

    def _told(self, uuid: str, delivery: Delivery) -> None:
        """One call is over."""
        _log(uuid, delivery)
        is_given_up = delivery.given_up_ms is not None
        self.calls["delivered" if delivery.problem is None else "given_up" if is_given_up else "failed"] += 1

    def _url_of(self, task: Task, delivery: Delivery) -> str | None:
        return self._url if delivery.to == OF_NODE else task.webhook


def _named(task: Task, delivery: Delivery) -> str:
    return f"webhook of {delivery.to} for {task.uuid} attempt {delivery.attempt}"


def _log(uuid: str, delivery: Delivery) -> None:
    what = f"task {uuid}: webhook of the {delivery.to}"
    if delivery.given_up_ms is not None:
        logger.warning("%s is given up after %d tries: %s", what, delivery.tries, delivery.problem)
    elif delivery.problem is not None:
        logger.info("%s, try %d: %s", what, delivery.tries, delivery.problem)
