"""What the router keeps in Postgres. Times are the database's own (design 4.5)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Double, ForeignKey, Identity, Index, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from common.nodeodm.options import Setting
from common.tasks import NOT_RUNNING, State, Task, Wishes, check_move, wishes_of

MEMBER = "member"
"""A node that has joined by itself, and reports."""
FOREIGN = "foreign"
"""A node that an administrator has added, and that is polled."""

_OF_TASK = tuple(field.name for field in fields(Task))
_OF_WISHES = tuple(field.name for field in fields(Wishes))


def _moment(**arguments: Any) -> Any:
    return Field(default=None, sa_column=Column(DateTime(timezone=True), **arguments))


def _json(default: Any) -> Any:
    return Field(default_factory=default, sa_column=Column(JSONB, nullable=False))


def _added_json() -> Any:
    """An object in a column that came with a later release."""
    return Field(default_factory=dict, sa_column=Column(JSONB, nullable=False, server_default=text("'{}'::jsonb")))


def _added(default: bool | int) -> Any:
    """A column that came with a later release: the previous one goes on without it."""
    return Field(default=default, sa_column_kwargs={"server_default": text(str(default).lower())})


def _owner() -> Any:
    return Field(sa_column=Column(Text, ForeignKey("tasks.uuid", ondelete="CASCADE"), primary_key=True))


class NodeRow(SQLModel, table=True):
    """A node of the federation."""

    __tablename__ = "nodes"

    id: str = Field(primary_key=True)
    name: str = Field(unique=True)
    url: str
    engine: str
    engine_version: str
    capacity: dict[str, int] = _json(dict)
    max_images: int | None = None
    labels: dict[str, str] = _json(dict)
    capabilities: list[str] = _json(list)
    options: list[dict[str, Any]] = _json(list)
    max_images_at: dict[str, int] = _added_json()
    kind: str = Field(default=MEMBER, sa_column=Column(Text, nullable=False, server_default=text(f"'{MEMBER}'")))
    token: str | None = Field(default=None, sa_column=Column(Text), repr=False)
    """What opens a foreign node for us, sealed (`router.access`)."""
    holding: list[str] = Field(
        default_factory=list, sa_column=Column(JSONB, nullable=False, server_default=text("'[]'::jsonb"))
    )
    """Attempts that it last told of, as `uuid number`."""
    workspaces: dict[str, int] = _added_json()
    """By task the number of the ended attempt whose workspace it has kept."""
    draining: bool = False
    locked: bool = _added(default=False)
    quarantined_until: datetime | None = _moment()
    quarantines: int = _added(default=0)
    """How often it was quarantined since it last did well: on probation when that is over, and this is not 0."""
    removed_at: datetime | None = _moment()
    """It is no longer of the federation; the row stays for the history of its attempts."""
    joined_at: datetime | None = _moment(server_default=func.now(), nullable=False)
    heard_at: datetime | None = _moment(server_default=func.now(), nullable=False)
    health: str = Field(default="healthy", sa_column=Column(Text, nullable=False, server_default=text("'healthy'")))
    """How its silence was judged last (`router.lifecycle.Health`); the leader writes it when that changes."""
    health_since: datetime | None = _moment()
    """Since when; unset where it was never judged otherwise."""


class TaskRow(SQLModel, table=True):
    """A task: `common.tasks.Task`, column by column, and what the queue needs."""

    __tablename__ = "tasks"
    __table_args__ = (
        Index("tasks_by_state", "state", "committed_at"),
        Index("tasks_by_tenant", "tenant"),
        Index("tasks_by_end", "ended_at", postgresql_include=["state"], postgresql_where=text("ended_at IS NOT NULL")),
        Index("tasks_not_started", "ended_at", postgresql_where=text("state = 'failed' AND attempt < first_attempt")),
        Index("tasks_by_commit", "committed_at", "uuid"),
        Index("tasks_leaving", "uuid", postgresql_where=text("leaving")),
    )

    uuid: str = Field(sa_column=Column(Text, primary_key=True))
    tenant: str
    name: str
    created_ms: int = Field(sa_column=Column(BigInteger, nullable=False))
    state: str
    input: str
    output: str
    staged: bool = False
    options: list[list[Any]] = _json(list)
    outputs: list[str] = _json(list)
    webhook: str | None = None
    skip_post_processing: bool = False
    wishes: dict[str, Any] = _added_json()
    images_count: int = 0
    input_bytes: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    attempt: int = 0
    first_attempt: int = _added(default=1)
    memory_factor: float = Field(default=1.0, sa_column=Column(Double, nullable=False, server_default=text("1")))
    child: bool = _added(default=False)
    token: str = Field(default="", sa_column=Column(Text, nullable=False, server_default=text("''")))
    family: str = Field(default="", sa_column=Column(Text, nullable=False, server_default=text("''")))
    begun: bool = False
    began_ms: int | None = Field(default=None, sa_column=Column(BigInteger))
    processing_ms: int = Field(default=NOT_RUNNING, sa_column=Column(BigInteger, nullable=False))
    progress: float = 0.0
    error: str | None = None
    waiting: str | None = None
    console_lines: int = 0
    committed_at: datetime | None = _moment()
    """When the task took its place in the queue."""
    opened_at: datetime | None = _moment(server_default=func.now(), nullable=False)
    """When the row was made."""
    ended_at: datetime | None = _moment()
    """When the task last ended; a trigger writes it (migration 0004)."""
    leaving: bool = _added(default=False)
    """Its time is over, and it goes as soon as S3 has let go of what it left in staging (`router.housekeeping`)."""
    version: int = Field(default=1, sa_column=Column(BigInteger, nullable=False))
    """Grows with every change: of two readings of a task, the one with the higher number is the newer."""

    __mapper_args__ = {"version_id_col": version.sa_column}  # type: ignore[attr-defined]

    @classmethod
    def of(cls, task: Task) -> "TaskRow":
        """A new row for this task."""
        return cls(**columns_of(task))

    def task(self) -> Task:
        """The task as the rest of the program knows it."""
        # Not through the columns' descriptors, which cost more than all else here, but for what is not loaded.
        loaded = self.__dict__
        values = {name: loaded[name] if name in loaded else getattr(self, name) for name in _OF_TASK}
        values["state"] = State(self.state)
        values["options"] = tuple(Setting(name, value) for name, value in self.options)
        values["outputs"] = tuple(self.outputs)
        values["wishes"] = wishes_of(self.wishes)
        return Task(**values)

    def take(self, task: Task) -> None:
        """Make the columns say what `task` says. Raises `MoveRefused` where its state does not lead there."""
        check_move(self.uuid, State(self.state), task.state)
        for name, value in columns_of(task).items():
            if getattr(self, name) != value:
                setattr(self, name, value)


def _wishes_column(task: Task) -> dict[str, Any]:
    wishes = {name: getattr(task.wishes, name) for name in _OF_WISHES}
    wishes |= {name: list(wishes[name]) for name in ("exclude", "nodes", "avoid")}
    return wishes | {"labels": [list(pair) for pair in task.wishes.labels]}


# Lists, not tuples: what is unchanged must compare equal, or every look is a write.
_TO_COLUMN: Mapping[str, Callable[[Task], Any]] = {
    "state": lambda task: task.state.value,
    "options": lambda task: [[setting.name, setting.value] for setting in task.options],
    "outputs": lambda task: list(task.outputs),
    "wishes": _wishes_column,
}


def columns_of(task: Task, names: Iterable[str] = _OF_TASK) -> dict[str, Any]:
    """The task as columns, all or some of them."""
    return {name: _TO_COLUMN[name](task) if name in _TO_COLUMN else getattr(task, name) for name in names}


def changed_columns(before: Task, after: Task) -> set[str]:
    """Names of the columns in which two readings of a task differ."""
    return {name for name in _OF_TASK if getattr(before, name) != getattr(after, name)}


class AttemptRow(SQLModel, table=True):
    """One run of a task on one node."""

    __tablename__ = "attempts"
    __table_args__ = (
        Index("attempts_by_node", "node_id", "state"),
        Index("attempts_by_end", "ended_at"),
        Index("attempts_failed", "ended_at", postgresql_include=["cause"], postgresql_where=text("state = 'failed'")),
    )

    task_uuid: str = _owner()
    number: int = Field(primary_key=True)
    node_id: str = Field(sa_column=Column(Text, ForeignKey("nodes.id"), nullable=False))
    state: str = State.PLACED.value
    delivered: bool = False
    """The node has answered for it."""
    why: str = ""
    reasons: list[dict[str, Any]] = _json(list)
    error: str | None = None
    cause: str | None = Field(default=None, sa_column=Column(Text))
    """Why it did not end well (`common.tasks.Cause`)."""
    next_line: int = 0
    """How many console lines of this attempt are on record."""
    queued_at: datetime | None = _moment()
    """When its task took its place in the queue; of the first attempt of a run alone."""
    placed_at: datetime | None = _moment(server_default=func.now(), nullable=False)
    began_at: datetime | None = _moment()
    """When it was first heard to be at work."""
    ended_at: datetime | None = _moment()


class ConsoleRow(SQLModel, table=True):
    """A run of console lines of one attempt."""

    __tablename__ = "console"

    task_uuid: str = _owner()
    attempt: int = Field(primary_key=True)
    first_line: int = Field(primary_key=True)
    lines: list[str] = _json(list)


class StagedFileRow(SQLModel, table=True):
    """A file of an upload that is under way: its name is taken."""

    __tablename__ = "staged_files"

    task_uuid: str = _owner()
    name: str = Field(primary_key=True)
    taken_at: datetime | None = _moment(server_default=func.now(), nullable=False)


class PastRunRow(SQLModel, table=True):
    """What is kept of an attempt whose task is gone: what estimates are learned from, and who ran how much where."""

    __tablename__ = "past_runs"
    __table_args__ = (Index("past_runs_by_end", "ended_at"),)

    id: int | None = Field(default=None, sa_column=Column(BigInteger, Identity(), primary_key=True))
    task_uuid: str = Field(sa_column=Column(Text, nullable=False))
    number: int
    tenant: str = Field(sa_column=Column(Text, nullable=False))
    node_id: str = Field(sa_column=Column(Text, nullable=False))
    state: str = Field(sa_column=Column(Text, nullable=False))
    cause: str | None = Field(default=None, sa_column=Column(Text))
    options: str = Field(sa_column=Column(Text, nullable=False))
    """Those that shape the run time (`router.estimates.options_class`)."""
    images_count: int
    token: str = Field(default="", sa_column=Column(Text, nullable=False, server_default=text("''")))
    outcome: str | None = Field(default=None, sa_column=Column(Text))
    """How the task ended; kept with its last attempt alone, or under number 0 where it never had one."""
    queued_at: datetime | None = _moment()
    placed_at: datetime | None = _moment()
    began_at: datetime | None = _moment()
    ended_at: datetime | None = _moment(nullable=False)


class TokenRow(SQLModel, table=True):
    """A token, hashed."""

    __tablename__ = "tokens"

    hash: str = Field(primary_key=True)
    kind: str
    name: str = Field(unique=True)
    tenant: str = ""
    prefixes: list[str] = _json(list)
    limits: dict[str, Any] = _added_json()
    created_at: datetime | None = _moment(server_default=func.now(), nullable=False)


class LeaderRow(SQLModel, table=True):
    """The one row that says which replica leads. The epoch is the key, so that whoever leads can hold on to it."""

    __tablename__ = "leader"

    epoch: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    holder: str = Field(sa_column=Column(Text, nullable=False))
    until: datetime | None = _moment(nullable=False)


class WebhookRow(SQLModel, table=True):
    """A webhook to be called, or that was called, or that was given up."""

    __tablename__ = "webhooks"
    __table_args__ = (
        Index("webhooks_by_task", "task_uuid"),
        Index("webhooks_due", "due_at", postgresql_where=text("delivered_at IS NULL AND given_up_at IS NULL")),
    )

    id: int | None = Field(default=None, sa_column=Column(BigInteger, Identity(), primary_key=True))
    task_uuid: str = Field(sa_column=Column(Text, nullable=False))
    url: str = Field(sa_column=Column(Text, nullable=False))
    payload: dict[str, Any] = _json(dict)
    output: str | None = Field(default=None, sa_column=Column(Text))
    """Where the products lie, of which the call tells `images`."""
    tries: int = _added(default=0)
    created_at: datetime | None = _moment(server_default=func.now(), nullable=False)
    due_at: datetime | None = _moment(server_default=func.now(), nullable=False)
    delivered_at: datetime | None = _moment()
    given_up_at: datetime | None = _moment()
    error: str | None = Field(default=None, sa_column=Column(Text))


class EventRow(SQLModel, table=True):
    """Somebody did something (`router.events`)."""

    __tablename__ = "events"
    __table_args__ = (
        Index("events_by_action", "action", "id"),
        Index("events_by_subject", "subject_id", "id"),
        Index("events_by_name", "subject_name", "id"),
        Index("events_by_time", "at"),
    )

    id: int | None = Field(default=None, sa_column=Column(BigInteger, Identity(), primary_key=True))
    at: datetime | None = _moment(server_default=func.now(), nullable=False)
    actor_kind: str = Field(sa_column=Column(Text, nullable=False))
    actor_name: str = Field(sa_column=Column(Text, nullable=False))
    tenant: str = Field(sa_column=Column(Text, nullable=False))
    action: str = Field(sa_column=Column(Text, nullable=False))
    subject_kind: str = Field(sa_column=Column(Text, nullable=False))
    subject_id: str = Field(sa_column=Column(Text, nullable=False))
    subject_name: str = Field(sa_column=Column(Text, nullable=False))
    text: str = Field(sa_column=Column(Text, nullable=False))
    details: dict[str, Any] = _json(dict)


class SampleRow(SQLModel, table=True):
    """How full the federation was at a whole minute (`router.samples`)."""

    __tablename__ = "samples"

    at: datetime = Field(sa_column=Column(DateTime(timezone=True), primary_key=True))
    nodes: int
    usable_nodes: int
    """Those that took work."""
    slots: int
    """Of all nodes."""
    used: int
    free: int
    """Of the usable nodes: what could have been taken at once."""
    queued: int
    running: int
    longest_wait_s: float = Field(sa_column=Column(Double, nullable=False))
