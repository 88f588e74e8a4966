"""A task on its way to a foreign node: its input streamed from S3 file by file, or named by reference.

On the node the task has a uuid that follows from ours and the attempt's number, so that whoever delivers it again finds
what is there. Nothing is started twice: the one request that starts it is made while this replica provably leads and
the task's row is locked, so that no cancel and no other leader comes in between.
"""

import asyncio
import logging
import tempfile
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from common.fencing import Fence, Mark
from common.nodeodm.client import NodeAnswerUnreadable, NodeRefused, NodeUnreachable
from common.nodeodm.messages import clean_name, next_name
from common.references import Reference, inputs_under
from common.storage import Storage, StorageFault, StorageRefused
from common.tasks import State, Task
from router import queries
from router.foreign_client import ForeignClient
from router.foreign_reports import is_passing, order_of, upload_fields
from router.leadership import Leadership
from router.snapshot import Snapshot

logger = logging.getLogger(__name__)

FILES_AT_ONCE = 4
"""Of one task; each takes a block of memory."""
START_S = 10.0
"""How long a node may take to start a task: its row is locked meanwhile."""
STARTS_AT_ONCE = 4
"""Each holds a connection to Postgres: nodes that answer slowly must not take them all (I10)."""
_BLOCK = 1 << 20

Blocks = Callable[[], Iterator[bytes]]


class Unwanted(Exception):
    """The task was canceled, or another replica leads by now."""


class InputBroken(Exception):
    """The input is a zip file that cannot be read."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of a task's input."""

    name: str
    size: int
    blocks: Blocks


def fence_of(storage: Storage, task: Task, attempt: int) -> Fence:
    """The hold that an attempt has on its task's output. A foreign node knows nothing of it: we keep it ourselves."""
    return Fence(storage, Reference.parse(task.output), Mark(task.uuid, attempt), task.first_attempt)


def scratch_of(task: Task, attempt: int) -> Reference:
    """Where a node that writes S3 puts what becomes the output once it is published: it cannot know whether it may."""
    return Reference.parse(task.output) / f".scaleodm/attempts/{attempt}/"


class Delivery:
    """Delivers tasks to foreign nodes."""

    def __init__(self, storage: Storage, snapshot: Snapshot, leadership: Leadership) -> None:
        """`snapshot` tells when a task is canceled meanwhile, `leadership` when this replica must let go."""
        self._storage = storage
        self._snapshot = snapshot
        self._leadership = leadership
        self._starting = asyncio.Semaphore(STARTS_AT_ONCE)

    async def deliver(self, client: ForeignClient, uuid: str, task: Task, reads_s3: bool) -> bool:
        """Give the node the task under this uuid of its own; false when nobody wants it any more.

        Raises what the client does, `StorageFault`, `InputBroken`, `Outdated` and `AlreadyPublished`.
        """
        try:
            return await self._deliver(client, uuid, task, reads_s3)
        except NodeRefused as refused:
            if is_passing(str(refused)):
                raise NodeUnreachable(f"{client.url} cannot take it now: {refused}") from refused
            raise

    async def _deliver(self, client: ForeignClient, uuid: str, task: Task, reads_s3: bool) -> bool:
        if await client.has(uuid):
            return await self.note(task)
        await self._storage.run(fence_of(self._storage, task, task.attempt).take)
        if reads_s3:
            order = order_of(task, str(scratch_of(task, task.attempt)))
            return await self.note(task, lambda: self._started(client, uuid, client.submit(uuid, order)))
        await self._close_open(client, uuid)
        try:
            await client.init(uuid, upload_fields(task))
            await self._send_files(client, uuid, task)
            started = await self.note(task, lambda: self._started(client, uuid, client.commit(uuid)))
        except (NodeUnreachable, NodeRefused, NodeAnswerUnreadable, StorageFault, InputBroken):
            await self._discard(client, uuid)
            raise
        except Unwanted:
            started = False
        # What another leader takes over is left for it to find.
        if not started and self._leadership.is_leading:
            await self._discard(client, uuid)
        return started

    async def _close_open(self, client: ForeignClient, uuid: str) -> None:
        """An upload that was begun and left is of no use: nobody can tell which of its files are whole (2.10).

        The next attempt has another uuid: NodeODM deletes the files only after it has answered.
        """
        if await client.is_open(uuid):
            await self._discard(client, uuid)
            raise NodeUnreachable("Its upload broke off when this router was replaced, and has to begin anew.")

    async def _discard(self, client: ForeignClient, uuid: str) -> None:
        try:
            await client.discard(uuid)
        except (NodeUnreachable, NodeAnswerUnreadable) as trouble:
            logger.info("an upload stays on %s until the node cleans it up: %s", client.url, trouble)

    async def note(self, task: Task, start: Callable[[], Awaitable[None]] | None = None) -> bool:
        """Put on record that the task has reached its node, after `start` if there is one; false if nobody wants it.

        This is the moment from which the node works on it.
        """
        async with self._starting, self._leadership.transaction() as session:
            row = await queries.task_row(session, task.uuid)
            attempt = await queries.attempt_row(session, task.uuid, task.attempt)
            if row is None or attempt is None or (row.state, row.attempt) != (State.PLACED, task.attempt):
                return False
            if start is not None:
                await start()
            attempt.delivered = True
        return True

    async def _started(self, client: ForeignClient, uuid: str, start: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(START_S):
                await start
        except TimeoutError as late:
            if not await self._has_started(client, uuid):
                raise NodeUnreachable(f"{client.url} did not take the task in time.") from late
        except (NodeUnreachable, NodeRefused):
            if not await self._has_started(client, uuid):
                raise

    async def _has_started(self, client: ForeignClient, uuid: str) -> bool:
        """Whether only the node's answer got lost. If it cannot be asked, it is found out later (`_sweep`)."""
        try:
            async with asyncio.timeout(START_S / 3):
                return await client.has(uuid)
        except (TimeoutError, NodeUnreachable):
            return False

    # Files

    async def _send_files(self, client: ForeignClient, uuid: str, task: Task) -> None:
        async with self._input(task) as files:
            waiting = iter(files)

            async def worker() -> None:
                for file in waiting:
                    self._check(task)
                    await client.upload(uuid, file.name, file.size, lambda file=file: self._blocks(task, file))  # type: ignore[misc]

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(FILES_AT_ONCE):
                        group.create_task(worker())
            except ExceptionGroup as troubles:
                raise troubles.exceptions[0] from troubles

    async def _blocks(self, task: Task, file: InputFile) -> AsyncIterator[bytes]:
        blocks, sent = file.blocks(), 0
        while block := await self._storage.run(lambda: next(blocks, b"")):
            self._check(task)
            sent += len(block)
            if sent > file.size:
                break
            yield block
        if sent != file.size:
            raise StorageRefused(f"{file.name} of {task.input} was changed while it was sent.")

    def _check(self, task: Task) -> None:
        known = self._snapshot.get(task.uuid)
        wanted = known is not None and (known.state, known.attempt) == (State.PLACED, task.attempt)
        if not wanted or not self._leadership.is_leading:
            raise Unwanted(task.uuid)

    @asynccontextmanager
    async def _input(self, task: Task) -> AsyncIterator[list[InputFile]]:
        """The files of a task's input, under names of their own; a zip file's members from a copy on disk."""
        source = Reference.parse(task.input)
        if source.is_prefix:
            yield await self._storage.run(self._files_below, task, source)
            return
        with tempfile.TemporaryDirectory(prefix="scaleodm-") as folder:
            path = Path(folder) / "input.zip"
            await self._storage.run(self._storage.download, source, path)
            try:
                with zipfile.ZipFile(path) as archive:
                    yield _files_in(archive)
            except zipfile.BadZipFile as broken:
                raise InputBroken(f"Could not extract {source}: {broken}. Pack it again.") from broken

    def _files_below(self, task: Task, source: Reference) -> list[InputFile]:
        found = list(inputs_under(self._storage.listing(source), source, Reference.parse(task.output), task.wishes))
        names = _own_names([each.reference.name for each in found])
        return [
            InputFile(name, each.size, lambda reference=each.reference: self._storage.blocks(reference))  # type: ignore[misc]
            for name, each in zip(names, found, strict=True)
        ]


def _files_in(archive: zipfile.ZipFile) -> list[InputFile]:
    members = [member for member in archive.infolist() if not member.is_dir()]
    names = _own_names([member.filename for member in members])
    return [
        InputFile(name, member.file_size, lambda member=member: _member_blocks(archive, member))  # type: ignore[misc]
        for name, member in zip(names, members, strict=True)
    ]


def _member_blocks(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(member) as content:
        while block := content.read(_BLOCK):
            yield block


def _own_names(paths: list[str]) -> list[str]:
    """A name for each: folders are dropped, and of two that would be the same both are kept (`node.stages.fetch`)."""
    taken: set[str] = set()
    names = []
    for path in paths:
        name = clean_name(path)
        while name.lower() in taken:
            name = next_name(name)
        taken.add(name.lower())
        names.append(name)
    return names
