"""What a transaction has settled, told once it is committed: to whoever counts it, or makes a trace of it.

Nothing depends on these being heard: what counts is on record.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlmodel.ext.asyncio.session import AsyncSession

from common.tasks import Cause, State

_FACTS = "scaleodm facts"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A task took its place in the queue."""

    uuid: str
    way: str
    """`upload`, `reference` or `restart`."""
    first_attempt: int = 1
    """Number of the first attempt of what begins with it."""
    opened_at: datetime | None = None
    """When its upload was opened."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A slot was reserved for an attempt."""

    uuid: str
    attempt: int
    waited_s: float | None
    """How long its task had waited; None where this is not the first attempt of its run."""


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """An attempt is over."""

    uuid: str
    attempt: int
    state: State
    cause: Cause | None


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """A task is over."""

    uuid: str
    state: State
    first_attempt: int
    """Number of the first attempt of what ends with it."""
    began_at: datetime | None
    """When it came; of one that was restarted, when that was."""
    images: int
    error: str | None


Fact = Accepted | Placed | AttemptEnded | TaskEnded
Hear = Callable[[Sequence[Fact]], None]


def tell(session: AsyncSession, fact: Fact) -> None:
    """Tell this once the session's transaction is committed."""
    session.info.setdefault(_FACTS, []).append(fact)


def told(session: AsyncSession) -> list[Fact]:
    """What was told in a session, which is committed now."""
    found: list[Fact] = session.info.pop(_FACTS, [])
    return found
