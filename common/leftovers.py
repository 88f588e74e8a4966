"""What lies in staging under one uuid: found by listing, judged by its age, deleted as it was listed."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from common.references import Reference
from common.storage import Storage, StoredObject, UnfinishedUpload

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def is_uuid(name: str) -> bool:
    """Whether a folder in staging may be one of ours: nothing else is ever touched."""
    return _UUID.fullmatch(name) is not None


def are_older(moments: Collection[datetime], age: timedelta, now: datetime) -> bool:
    """Whether all that lies somewhere is older than `age`, to its last object. Nothing at all is not."""
    return bool(moments) and now - max(moments) > age


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Everything below one prefix, as it was when it was listed."""

    objects: Sequence[StoredObject]
    uploads: Sequence[UnfinishedUpload]

    @property
    def moments(self) -> list[datetime]:
        """When each of them was written or begun, by S3's clock. What S3 does not date never comes of age."""
        written = [each.modified or datetime.max.replace(tzinfo=UTC) for each in self.objects]
        return [*written, *(each.begun for each in self.uploads)]

    def delete(self, storage: Storage) -> None:
        """Delete what was listed, and nothing that has come since."""
        if self.objects:
            storage.delete_all([each.reference for each in self.objects])
        for upload in self.uploads:
            storage.abort(upload)


def leftovers_of(storage: Storage, prefix: Reference) -> Leftovers:
    """What lies below a prefix that ends with a slash."""
    return Leftovers(list(storage.listing(prefix)), list(storage.unfinished(prefix)))
