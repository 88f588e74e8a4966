"""How long what is over stays, and whether its time has come. Pure: `now` is the database's."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from common.tasks import ENDED, State


@dataclass(frozen=True, slots=True)
class Ages:
    """How long what is over stays; None means for ever."""

    tasks: timedelta | None = None
    """A task that has ended, and all there is of it, after its end."""
    uploads: timedelta | None = None
    """An upload that was never committed, after its last file came."""
    orphans: timedelta | None = None
    """What lies in staging under a uuid that no row knows, after it was last written."""
    history: timedelta | None = None
    """What is kept of runs whose tasks are gone, after their end."""
    webhooks: timedelta | None = None
    """A webhook that was delivered or given up, after that."""
    events: timedelta | None = None
    """Who did what when, after that."""
    samples: timedelta | None = None
    """How full the federation was, after that."""
    runtime: timedelta | None = None
    """A run, after its engine began: then it is ended."""


@dataclass(frozen=True, slots=True)
class Aged:
    """A task or an upload, and since when it has been of no more use to anybody, as far as is known."""

    uuid: str
    state: State
    staged: bool
    since: datetime


def is_over(found: Aged, ages: Ages, now: datetime) -> bool:
    """Whether a task or an upload may go: nothing that has not ended, and nothing before its time."""
    age = ages.uploads if found.state is State.UPLOADING else ages.tasks
    may_go = found.state in ENDED or found.state is State.UPLOADING
    return may_go and age is not None and now - found.since > age
