"""Who did what when: people with tokens or tailnet logins, nodes, and the federation by itself.

An event is written in the transaction of the change that it tells of, so there is none without the other. Placements
and ends of runs are no events: attempts are on record already, and a burst of tasks must not write everything twice.
Nor is a submission: its task says when it came and by whose token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import or_
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from common.logs import scrubbed
from common.tokens import Caller
from router.database import Database
from router.tables import EventRow, NodeRow, TaskRow

_LONGEST_NAME = 120
_MOST_SHOWN = 500


class Action(StrEnum):
    """What was done, to what."""

    TASK_CANCELED = "task.canceled"
    TASK_REMOVED = "task.removed"
    TASK_RESTARTED = "task.restarted"
    TASK_PRIORITY = "task.priority"
    TOKEN_CREATED = "token.created"  # noqa: S105 - a word
    TOKEN_CHANGED = "token.changed"  # noqa: S105
    TOKEN_REVOKED = "token.revoked"  # noqa: S105
    NODE_JOINED = "node.joined"
    NODE_ADDED = "node.added"
    NODE_CHANGED = "node.changed"
    NODE_DRAINED = "node.drained"
    NODE_UNDRAINED = "node.undrained"
    NODE_LOCKED = "node.locked"
    NODE_UNLOCKED = "node.unlocked"
    NODE_TRUSTED = "node.trusted"
    NODE_REMOVED = "node.removed"
    NODE_LATE = "node.late"
    NODE_LOST = "node.lost"
    NODE_BACK = "node.back"
    NODE_QUARANTINED = "node.quarantined"
    ADMIN_SIGNED_IN = "admin.signed_in"
    ADMIN_REFUSED = "admin.refused"
    ROUTER_LEADS = "router.leads"


class ActionUnknown(Exception):
    """Events are asked for by an action that there is not; the text says which there are."""


def actions_named(prefixes: Sequence[str]) -> frozenset[Action]:
    """The actions that begin so, such as `node` or `node.locked`; all where none is named. Raises `ActionUnknown`."""
    found: set[Action] = set()
    for prefix in prefixes:
        some = {action for action in Action if action.startswith(prefix)}
        if not some:
            raise ActionUnknown(f"action is {prefix[:80]!r}; expected the beginning of one of {', '.join(Action)}.")
        found |= some
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it."""

    kind: str
    """`user`, `admin`, `part`, `node`, `tailnet` or `router`."""
    name: str = ""
    """Of the token, of the node, or the tailnet login."""
    tenant: str = ""

    @classmethod
    def of(cls, caller: Caller) -> "Actor":
        """Whoever called."""
        return cls("tailnet" if caller.tailnet else caller.kind.value, caller.name, caller.tenant)

    @classmethod
    def node(cls, name: str) -> "Actor":
        """A node of this name."""
        return cls("node", name)

    def __str__(self) -> str:
        """In two words at most."""
        return shown_actor(self.kind, self.name)


ROUTER = Actor("router")
"""The federation by itself."""
NOBODY = Actor("nobody")
"""Somebody without a token that is known."""


def shown_actor(kind: str, name: str) -> str:
    """An actor in words, such as `admin ops`, `node alpha`, `tailnet ada@example.org`, `router`."""
    return f"{kind} {name}".strip()


@dataclass(frozen=True, slots=True)
class Subject:
    """What it was done to."""

    kind: str
    """`task`, `node`, `token`, `admin` or `router`."""
    id: str
    name: str

    @classmethod
    def task(cls, row: TaskRow) -> "Subject":
        """A task."""
        return cls("task", row.uuid, row.name)

    @classmethod
    def node(cls, row: NodeRow) -> "Subject":
        """A node."""
        return cls("node", row.id, row.name)

    @classmethod
    def token(cls, name: str) -> "Subject":
        """A token, which its name tells."""
        return cls("token", name, name)


def record(session: AsyncSession, by: Actor, action: Action, subject: Subject, text: str, **details: object) -> None:
    """Put an event on record with this transaction. `details` are JSON, and hold no secret."""
    session.add(
        EventRow(
            actor_kind=by.kind,
            actor_name=by.name,
            tenant=by.tenant,
            action=action.value,
            subject_kind=subject.kind,
            subject_id=subject.id,
            subject_name=named(subject.name),
            text=scrubbed(text),
            details=details,
        )
    )


def named(name: str) -> str:
    """A name as it stands in a sentence, however long somebody made it."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


@dataclass(frozen=True, slots=True)
class EventsWanted:
    """Which events of all."""

    actions: frozenset[Action] = frozenset()
    """None named means every one."""
    subject: str = ""
    """Id or name of what it was done to."""
    actor: str = ""
    """Name of who did it, or its kind."""
    text: str = ""
    """In the sentence, in small letters or large."""
    limit: int = 50
    after: int | None = None
    """The last event of the page before."""


class EventLog:
    """The events, for people."""

    def __init__(self, database: Database) -> None:
        """A view of what is on record there."""
        self._database = database

    async def page(self, wanted: EventsWanted) -> dict[str, Any]:
        """The newest of these events, and in `next` after which the page after it begins; null on the last one."""
        async with self._database.statement() as session:
            rows = await _rows(session, wanted)
        shown = rows[: wanted.limit]
        return {
            "events": [document(row) for row in shown],
            "next": shown[-1].id if len(rows) > wanted.limit else None,
        }

    async def signed_in(self, caller: Caller, address: str) -> None:
        """Somebody opened the dashboard from this address."""
        by = Actor.of(caller)
        text = f"{by} signed in to the dashboard from {address}."
        await self._note(by, Action.ADMIN_SIGNED_IN, Subject("admin", by.name, by.name), text, address=address)

    async def refused(self, address: str, why: str) -> None:
        """Somebody tried to, and may not. `why` must not hold what was tried."""
        text = f"A sign-in to the dashboard from {address} was refused: {why}"
        await self._note(NOBODY, Action.ADMIN_REFUSED, Subject("admin", "", ""), text, address=address)

    async def _note(self, by: Actor, action: Action, subject: Subject, text: str, **details: object) -> None:
        async with self._database.transaction() as session:
            record(session, by, action, subject, text, **details)


async def _rows(session: AsyncSession, wanted: EventsWanted) -> Sequence[EventRow]:
    found = select(EventRow)
    if wanted.actions:
        found = found.where(col(EventRow.action).in_(sorted(wanted.actions)))
    if wanted.subject:
        found = found.where(
            or_(col(EventRow.subject_id) == wanted.subject, col(EventRow.subject_name) == wanted.subject)
        )
    if wanted.actor:
        found = found.where(or_(col(EventRow.actor_name) == wanted.actor, col(EventRow.actor_kind) == wanted.actor))
    if wanted.text:
        found = found.where(col(EventRow.text).icontains(wanted.text, autoescape=True))
    if wanted.after is not None:
        found = found.where(col(EventRow.id) < wanted.after)
    return (await session.exec(found.order_by(col(EventRow.id).desc()).limit(wanted.limit + 1))).all()


async def events_of(session: AsyncSession, subject_id: str) -> Sequence[EventRow]:
    """The latest events about one thing, first to last."""
    found = select(EventRow).where(EventRow.subject_id == subject_id).order_by(col(EventRow.id).desc())
    return list(reversed((await session.exec(found.limit(_MOST_SHOWN))).all()))


def document(row: EventRow) -> dict[str, Any]:
    """An event for people and programs."""
    return {
        "id": row.id,
        "at": row.at,
        "actor": {
            "kind": row.actor_kind,
            "name": row.actor_name,
            "tenant": row.tenant,
            "text": shown_actor(row.actor_kind, row.actor_name),
        },
        "action": row.action,
        "subject": {"kind": row.subject_kind, "id": row.subject_id, "name": row.subject_name},
        "text": row.text,
        "details": row.details,
    }
