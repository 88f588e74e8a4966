"""What the router keeps in Postgres. Times are the database's own (design 4.5)."""

from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, ForeignKey, Index, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from common.nodeodm.options import Setting
from common.tasks import NOT_RUNNING, State, Task, check_move


def _moment(**arguments: Any) -> Any:
    return Field(default=None, sa_column=Column(DateTime(timezone=True), **arguments))


def _json(default: Any) -> Any:
    return Field(default_factory=default, sa_column=Column(JSONB, nullable=False))


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
    draining: bool = False
    joined_at: datetime | None = _moment(server_default=func.now(), nullable=False)
    heard_at: datetime | None = _moment(server_default=func.now(), nullable=False)


class TaskRow(SQLModel, table=True):
    """A task: `common.tasks.Task`, column by column, and what the queue needs."""

    __tablename__ = "tasks"
    __table_args__ = (Index("tasks_by_state", "state", "committed_at"), Index("tasks_by_tenant", "tenant"))

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
    images_count: int = 0
    input_bytes: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    attempt: int = 0
    begun: bool = False
    began_ms: int | None = Field(default=None, sa_column=Column(BigInteger))
    processing_ms: int = Field(default=NOT_RUNNING, sa_column=Column(BigInteger, nullable=False))
    progress: float = 0.0
    error: str | None = None
    console_lines: int = 0
    committed_at: datetime | None = _moment()
    """When the task took its place in the queue."""
    version: int = Field(default=1, sa_column=Column(BigInteger, nullable=False))
    """Grows with every change: of two readings of a task, the one with the higher number is the newer."""

    __mapper_args__ = {"version_id_col": version.sa_column}  # type: ignore[attr-defined]

    @classmethod
    def of(cls, task: Task) -> "TaskRow":
        """A new row for this task."""
        return cls(**_columns(task))

    def task(self) -> Task:
        """The task as the rest of the program knows it."""
        values = {field.name: getattr(self, field.name) for field in fields(Task)}
        values["state"] = State(self.state)
        values["options"] = tuple(Setting(name, value) for name, value in self.options)
        values["outputs"] = tuple(self.outputs)
        return Task(**values)

    def take(self, task: Task) -> None:
        """Make the columns say what `task` says. Raises `MoveRefused` where its state does not lead there."""
        check_move(self.uuid, State(self.state), task.state)
        for name, value in _columns(task).items():
            setattr(self, name, value)


def _columns(task: Task) -> dict[str, Any]:
    """The task as columns. Lists, not tuples: what is unchanged must compare equal, or every look is a write."""
    values = {field.name: getattr(task, field.name) for field in fields(Task)}
    values["state"] = task.state.value
    values["options"] = [[setting.name, setting.value] for setting in task.options]
    values["outputs"] = list(task.outputs)
    return values


class AttemptRow(SQLModel, table=True):
    """One run of a task on one node."""

    __tablename__ = "attempts"
    __table_args__ = (Index("attempts_by_node", "node_id", "state"),)

    task_uuid: str = _owner()
    number: int = Field(primary_key=True)
    node_id: str = Field(sa_column=Column(Text, ForeignKey("nodes.id"), nullable=False))
    state: str = State.PLACED.value
    delivered: bool = False
    """The node has answered for it."""
    why: str = ""
    reasons: list[dict[str, Any]] = _json(list)
    error: str | None = None
    next_line: int = 0
    """How many console lines of this attempt are on record."""
    placed_at: datetime | None = _moment(server_default=func.now(), nullable=False)
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


class TokenRow(SQLModel, table=True):
    """A token, hashed."""

    __tablename__ = "tokens"

    hash: str = Field(primary_key=True)
    kind: str
    name: str = Field(unique=True)
    tenant: str = ""
    prefixes: list[str] = _json(list)
    created_at: datetime | None = _moment(server_default=func.now(), nullable=False)
