"""Uploads to this node that are under way: their files, and a note of what they will be, lie in S3."""

import json
import logging
from collections.abc import Container
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from common.leftovers import are_older, is_uuid, leftovers_of
from common.nodeodm.direct import announcements
from common.nodeodm.refusals import Refused
from common.nodeodm.uploads import MemoryInbox
from common.references import Reference, is_link, staged_images, staged_root
from common.storage import ObjectMissing, Storage
from common.tasks import Task
from common.tokens import Caller
from node.records import task_document, task_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that is under way: the task it will be, and the names its files have taken."""

    task: Task
    inbox: MemoryInbox


class Uploads:
    """Knows the open uploads, also those that an earlier life of this node or another replica opened."""

    def __init__(self, storage: Storage, staging: Reference) -> None:
        """`staging`: the prefix below which each upload has its own."""
        self._storage = storage
        self._staging = staging
        self._open: dict[str, Upload] = {}

    async def open(self, caller: Caller, uuid: str, task: Task) -> bool:
        """Begin an upload, or take new fields for one that is open, whose files stay; gives whether it was."""
        opened = await self._find(uuid)
        if opened is not None and not caller.may_see(opened.task.tenant):
            raise Refused(f"Invalid set-uuid: {uuid}")
        self._open[uuid] = Upload(task, opened.inbox if opened else MemoryInbox())
        note = json.dumps(task_document(task)).encode()
        await self._storage.run(self._storage.write, self._note(uuid), note, "application/json")
        return opened is not None

    async def opened(self, caller: Caller, uuid: str) -> Upload:
        """The upload of this uuid."""
        opened = await self._find(uuid)
        if opened is None or not caller.may_see(opened.task.tenant):
            raise Refused("Invalid uuid (not found)")
        return opened

    async def complete(self, caller: Caller, uuid: str) -> tuple[Task, int]:
        """The task that the upload will be, and how many files S3 holds of it: other replicas take files too."""
        await self.opened(caller, uuid)
        task = await self._task(uuid)
        if task is None:
            raise Refused("Invalid uuid (not found)")
        files = len(await self._storage.run(self._stored_names, uuid))
        return replace(task, images_count=files), files

    async def close(self, uuid: str) -> None:
        """The upload has become a task."""
        self._open.pop(uuid, None)
        await self._storage.run(self._storage.delete, self._note(uuid))

    async def discard(self, caller: Caller, uuid: str) -> None:
        """Forget an upload and its files."""
        opened = await self._find(uuid)
        if opened is not None and caller.may_see(opened.task.tenant):
            self._open.pop(uuid, None)
            await self.empty_staging(uuid)

    async def clean(self, age_s: float, now: datetime, known: Container[str]) -> None:
        """Forget uploads to which nothing has come for so long; `known` are tasks already.

        Of what others have put into staging nothing is touched: an upload to a node has its note there.
        """
        folders = await self._storage.run(lambda: list(self._storage.folders(self._staging)))
        for uuid in sorted(folder.name for folder in folders if is_uuid(folder.name) and folder.name not in known):
            if not await self._storage.run(self._storage.exists, self._note(uuid)):
                continue
            found = await self._storage.run(leftovers_of, self._storage, staged_root(self._staging, uuid))
            if are_older(found.moments, timedelta(seconds=age_s), now) and uuid not in known:
                logger.info("upload %s is forgotten: nothing has come to it for %.0f s", uuid, age_s)
                self._open.pop(uuid, None)
                await self.empty_staging(uuid)

    async def empty_staging(self, uuid: str) -> None:
        """Delete everything that was staged under this uuid."""
        await self._storage.run(self._storage.delete_prefix, staged_root(self._staging, uuid))

    async def _find(self, uuid: str) -> Upload | None:
        known = self._open.get(uuid)
        if known is not None:
            return known
        found = await self._read(uuid)
        return None if found is None else self._open.setdefault(uuid, found)

    async def _read(self, uuid: str) -> Upload | None:
        task = await self._task(uuid)
        if task is None:
            return None
        stored = await self._storage.run(self._stored_names, uuid)
        announced = await self._storage.run(announcements, self._storage, staged_images(self._staging, uuid))
        return Upload(task, MemoryInbox([*stored, *announced]))

    async def _task(self, uuid: str) -> Task | None:
        try:
            note = await self._storage.run(self._storage.read, self._note(uuid))
        except ObjectMissing:
            return None
        return task_of(json.loads(note))

    def _stored_names(self, uuid: str) -> list[str]:
        prefix = staged_images(self._staging, uuid)
        found = [each.reference for each in self._storage.listing(prefix)]
        return [each.key.removeprefix(prefix.key) for each in found if not is_link(each)]

    def _note(self, uuid: str) -> Reference:
        return staged_root(self._staging, uuid) / "upload.json"
