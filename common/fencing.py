"""Only the current attempt of a task publishes, also while nobody can tell it that it no longer is (I2).

Beside every output lies one small object, `.scaleodm/attempt.json`: which attempt of which task holds the output, and
how far it is. An attempt takes it at its start, says so when it begins to publish, and again when all its products and
the manifest are there. Each change is made on the condition that the object still is what was read before.

What that guarantees, on an S3 server with conditional writes (AWS, MinIO, Ceph, moto): of several attempts exactly one
ever comes to `published`; an attempt that starts after another has published finds that, and has nothing left to do; an
attempt whose place was taken stops before its next object, and its manifest never stands. A request that was on its way
when the place was taken may still arrive; so an attempt that publishes afterwards compares its objects once more.
On a server without conditional writes (rclone) the same holds except within the milliseconds between reading the object
and writing it.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum

from common.references import ATTEMPT, Reference
from common.storage import ObjectMissing, Storage, StorageUnreachable

LOOK_EVERY_S = 2.0
_TRIES = 8


class Stage(StrEnum):
    """How far the attempt that holds an output is."""

    TAKEN = "taken"
    PUBLISHING = "publishing"
    PUBLISHED = "published"


@dataclass(frozen=True, slots=True)
class Mark:
    """What the attempt object says."""

    uuid: str
    attempt: int
    stage: Stage = Stage.TAKEN


class Outdated(Exception):
    """A later attempt of the task has taken this one's place."""

    def __init__(self, mine: Mark, found: Mark | None) -> None:
        other = "another task" if found is None or found.uuid != mine.uuid else f"attempt {found.attempt}"
        super().__init__(
            f"Attempt {mine.attempt} of task {mine.uuid} is outdated: {other} has taken its output. "
            "Nothing more of it is published."
        )


class AlreadyPublished(Exception):
    """An earlier attempt of the same run has published whole products after all; there is nothing left to do."""

    def __init__(self, found: Mark) -> None:
        super().__init__(f"Attempt {found.attempt} of this task has published its products already.")
        self.attempt = found.attempt


def check(mine: Mark, first_attempt: int, found: Mark | None) -> None:
    """Raise `Outdated` or `AlreadyPublished` unless the output is free for `mine`.

    `first_attempt`: number of the first attempt since the task was submitted or restarted; what an earlier one has
    published is to be made anew.
    """
    if found is None or found.uuid != mine.uuid or found.attempt < first_attempt:
        return
    if found.attempt > mine.attempt:
        # Also one that has published: what it made is its own success, not this attempt's.
        raise Outdated(mine, found)
    if found.stage is Stage.PUBLISHED:
        raise AlreadyPublished(found)


class Fence:
    """One attempt's hold on its output."""

    def __init__(self, storage: Storage, output: Reference, mine: Mark, first_attempt: int) -> None:
        """Nothing is taken yet."""
        self._storage = storage
        self._place = output / ATTEMPT
        self._mine = mine
        self._first_attempt = first_attempt
        self._looked_at = 0.0

    def take(self) -> None:
        """At the start of an attempt. Raises `Outdated` or `AlreadyPublished`."""
        self._write(Stage.TAKEN, self._is_free)

    def begin(self) -> None:
        """At the start of publishing. Raises `Outdated` or `AlreadyPublished`."""
        self._write(Stage.PUBLISHING, self._is_free)

    def look(self) -> None:
        """Now and then while publishing. Raises `Outdated`."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_EVERY_S:
            return
        found, _ = self._read()
        self._is_ours(found)
        self._looked_at = now

    def finish(self) -> None:
        """When everything is published: the moment from which it counts. Raises `Outdated`."""
        self._write(Stage.PUBLISHED, self._is_ours)

    def _is_free(self, found: Mark | None) -> None:
        check(self._mine, self._first_attempt, found)

    def _is_ours(self, found: Mark | None) -> None:
        if found is None or (found.uuid, found.attempt) != (self._mine.uuid, self._mine.attempt):
            raise Outdated(self._mine, found)

    def _write(self, stage: Stage, allowed: Callable[[Mark | None], None]) -> None:
        wanted = Mark(self._mine.uuid, self._mine.attempt, stage)
        for _ in range(_TRIES):
            found, tag = self._read()
            allowed(found)
            if found == wanted or self._storage.write_if(self._place, _document(wanted), tag):
                self._looked_at = time.monotonic()
                return
        raise StorageUnreachable(f"{self._place} was changed by others {_TRIES} times while we tried to write it.")

    def _read(self) -> tuple[Mark | None, str | None]:
        try:
            data, tag = self._storage.read_tagged(self._place)
        except ObjectMissing:
            return None, None
        return mark_of(data), tag


def mark_of(data: bytes) -> Mark | None:
    """What an attempt object says; None for one that is not ours."""
    try:
        document = json.loads(data)
        return Mark(str(document["uuid"]), int(document["attempt"]), Stage(document["stage"]))
    except (ValueError, KeyError, TypeError):
        return None


def _document(mark: Mark) -> bytes:
    return json.dumps(asdict(mark)).encode()
