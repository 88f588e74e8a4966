"""The one protocol behind the NodeODM API: a node answers it from its backend, a router from the federation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from common.nodeodm.options import Option, Setting
from common.nodeodm.uploads import Inbox
from common.references import Reference
from common.tasks import NO_WISHES, Task, Wishes
from common.tokens import Caller


@dataclass(frozen=True, slots=True)
class Submission:
    """What a client says of a new task, checked and converted (contract 2.9, 2.12, 8.5)."""

    name: str
    created_ms: int
    settings: tuple[Setting, ...] = ()
    outputs: tuple[str, ...] = ()
    webhook: str | None = None
    skip_post_processing: bool = False
    read: str | None = None
    """`readS3Path` or `zipurl`: where the input lies, when it is not uploaded."""
    write: str | None = None
    """`writeS3Path`: where the products shall lie."""
    wishes: Wishes = NO_WISHES
    attempt: int = 0
    """Only from a router to its node: the number of the attempt (design 4.2)."""
    tenant: str | None = None
    images_count: int = 0
    input_bytes: int = 0
    first_attempt: int = 1
    memory_factor: float = 1.0
    traceparent: str = ""
    """The span that its run hangs below."""
    cluster: str | None = None
    """Where its run sends the parts into which it splits the task."""


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """Where the files of an upload that is under way go."""

    inbox: Inbox
    prefix: Reference


class TaskSurface(Protocol):
    """Everything the NodeODM API can ask. A method refuses by raising `Refused`."""

    def node_info(self) -> dict[str, object]:
        """The JSON of `GET /info` (contract 2.3)."""
        ...

    def catalogue(self) -> Sequence[Option]:
        """The options of `GET /options`."""
        ...

    async def open_upload(self, caller: Caller, uuid: str | None, submission: Submission) -> str:
        """Begin (or begin again) an upload; gives its uuid."""
        ...

    async def upload(self, caller: Caller, uuid: str, from_memory: bool = False) -> OpenUpload:
        """The upload that is open under this uuid.

        `from_memory`: it may be one that was open a while ago, for its inbox is asked next, and knows.
        """
        ...

    async def discard_upload(self, caller: Caller, uuid: str) -> None:
        """Forget an upload and everything it stored."""
        ...

    async def commit(self, caller: Caller, uuid: str) -> str:
        """Make a task of an upload; gives its uuid."""
        ...

    async def submit(self, caller: Caller, uuid: str | None, submission: Submission) -> str:
        """Make a task of an S3 reference; gives its uuid."""
        ...

    async def uuids(self, caller: Caller) -> list[str]:
        """Every task of the caller, oldest first."""
        ...

    def peek(self, uuid: str) -> Task | None:
        """The task as memory has it, at no cost; None when memory does not know it."""
        ...

    async def task(self, caller: Caller, uuid: str) -> Task:
        """The task."""
        ...

    async def lines(self, caller: Caller, uuid: str, start: str) -> list[str]:
        """Console lines from `start` on, `start` as JavaScript's `slice` reads it (contract 2.6)."""
        ...

    async def cancel(self, caller: Caller, uuid: str) -> None:
        """End the task; canceled from this answer on (I7)."""
        ...

    async def remove(self, caller: Caller, uuid: str, with_output: bool = False) -> None:
        """End the task and forget it; `with_output`: delete its products in S3 as well."""
        ...

    async def restart(self, caller: Caller, uuid: str, settings: tuple[Setting, ...] | None) -> None:
        """Run the task once more under the same uuid, with new options unless None."""
        ...
