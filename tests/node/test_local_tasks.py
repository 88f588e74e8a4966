"""What may come between two awaits of one node."""

import asyncio
from functools import partial
from pathlib import Path
from uuid import uuid4

from common.nodeodm.surface import Submission
from common.references import Reference
from common.storage import Storage
from common.tasks import State
from common.tokens import Caller, Kind
from node.backends.local import LocalBackend
from node.engines import EngineInUse, order_for
from node.engines.orthomosaic import ORTHOMOSAIC
from node.local_tasks import Limits, LocalTasks
from node.records import Record, Records

ROUTER = Caller(Kind.ROUTER, "router")


class SlowBackend(LocalBackend):
    """A run that takes its time to be forgotten, as a pod does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, partial(order_for, engine=ORTHOMOSAIC, max_images=None))
        self.forgetting = asyncio.Event()
        self.may_forget = asyncio.Event()

    async def forget_run(self, record: Record) -> None:
        """Once a test lets it."""
        self.forgetting.set()
        await self.may_forget.wait()
        await super().forget_run(record)


def node(backend: LocalBackend, storage: Storage) -> LocalTasks:
    """A node that starts nothing by itself."""
    return LocalTasks(
        backend, storage, Reference.parse("s3://staging/"), EngineInUse(ORTHOMOSAIC), Limits(slots=1, max_images=None)
    )


def forwarded(attempt: int) -> Submission:
    """A task as a router forwards it."""
    return Submission(
        "a task", 1, read="s3://b/i/", write="s3://b/o/", attempt=attempt, tenant="t", images_count=1, input_bytes=1
    )


async def test_an_attempt_that_comes_while_the_last_is_let_go_of_is_kept(storage: Storage, tmp_path: Path) -> None:
    """In memory and on disk: the router was told that it is here."""
    backend = SlowBackend(tmp_path)
    tasks = node(backend, storage)
    await tasks.load()
    uuid = str(uuid4())
    await tasks.submit(ROUTER, uuid, forwarded(1))
    letting_go = asyncio.create_task(tasks.let_go(uuid, 1))
    await backend.forgetting.wait()
    coming = asyncio.create_task(tasks.submit(ROUTER, uuid, forwarded(2)))
    while not coming.done() and not backend.may_forget.is_set():
        await asyncio.sleep(0)
        backend.may_forget.set()
    await asyncio.gather(letting_go, coming)
    found = tasks.peek(uuid)
    assert found is not None
    assert (found.attempt, found.state) == (2, State.STAGING)
    assert [record.task.attempt for record in Records(tmp_path).all()] == [2]


async def test_letting_go_of_an_old_attempt_leaves_the_new_one_alone(storage: Storage, tmp_path: Path) -> None:
    """The router says it twice: at once, and with its next heartbeat."""
    backend = SlowBackend(tmp_path)
    backend.may_forget.set()
    tasks = node(backend, storage)
    await tasks.load()
    uuid = str(uuid4())
    await tasks.submit(ROUTER, uuid, forwarded(1))
    await tasks.submit(ROUTER, uuid, forwarded(2))
    await asyncio.gather(tasks.let_go(uuid, 1), tasks.let_go(uuid, 1))
    assert [record.task.attempt for record in Records(tmp_path).all()] == [2]
    await asyncio.gather(tasks.let_go(uuid, 2), tasks.let_go(uuid, 2))
    assert tasks.peek(uuid) is None
    assert list(Records(tmp_path).all()) == []
