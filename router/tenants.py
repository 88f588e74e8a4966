"""Who uses the federation how much: by tenant and token the limits, what is held now, what was used lately."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

from common.tasks import ACTIVE, WAITING, State
from common.tokens import Kind
from router import queries
from router.database import Database
from router.snapshot import Known, Snapshot
from router.tables import TokenRow

LATELY = timedelta(days=30)
USED_FOR_S = 60.0
"""How long it is good what was used in a month: with a hundred thousand tasks it takes a fifth of a second to read."""
Key = tuple[str, str]
"""Tenant, and name of the token by which a task was submitted."""


@dataclass(frozen=True, slots=True)
class Use:
    """What tasks have used that ended lately, and runs that still go on."""

    tasks: int = 0
    images: int = 0
    processing_s: float = 0.0

    def __add__(self, other: "Use") -> "Use":
        """Together."""
        return Use(self.tasks + other.tasks, self.images + other.images, self.processing_s + other.processing_s)


@dataclass(frozen=True, slots=True)
class Holding:
    """What is there now."""

    queued: int = 0
    running: int = 0
    slots: int = 0
    """Held by tasks that run or are about to: one each."""

    def __add__(self, other: "Holding") -> "Holding":
        """Together."""
        return Holding(self.queued + other.queued, self.running + other.running, self.slots + other.slots)


class Tenants:
    """The tenants of this federation."""

    def __init__(self, database: Database, snapshot: Snapshot) -> None:
        """A view of what these hold."""
        self._database = database
        self._snapshot = snapshot
        self._used: tuple[float, dict[Key, Use]] | None = None

    async def documents(self) -> list[dict[str, Any]]:
        """Every tenant with its tokens, also tokens that have ended where there still is something of theirs."""
        async with self._database.transaction() as session:
            rows = await queries.token_rows(session)
            if self._used is None or time.monotonic() - self._used[0] > USED_FOR_S:
                self._used = time.monotonic(), await _used(session)
        used = self._used[1]
        holding = held(self._snapshot.within(*WAITING), self._snapshot.within(*ACTIVE))
        return tenants(rows, holding, used)


def held(waiting: Iterable[Known], active: Iterable[Known]) -> dict[Key, Holding]:
    """By token what waits and what holds slots. Pure."""
    active = list(active)
    queued, slots = _counted(waiting), _counted(active)
    running = _counted(known for known in active if known.task.state is State.RUNNING)
    return {key: Holding(queued[key], running[key], slots[key]) for key in queued.keys() | slots.keys()}


def _counted(tasks: Iterable[Known]) -> Counter[Key]:
    return Counter((known.task.tenant, known.task.token) for known in tasks)


def tenants(rows: Sequence[TokenRow], holding: Mapping[Key, Holding], used: Mapping[Key, Use]) -> list[dict[str, Any]]:
    """The answer, in the order of names: user tokens, and whatever else has submitted tasks. Pure."""
    known = {(row.tenant, row.name): row for row in rows}
    users = {key for key, row in known.items() if row.kind == Kind.USER}
    by_tenant: defaultdict[str, list[Key]] = defaultdict(list)
    for key in sorted(users | holding.keys() | used.keys()):
        by_tenant[key[0]].append(key)
    return [
        {
            "tenant": tenant,
            "weight": max((known[key].limits.get("weight", 1.0) for key in keys if key in users), default=1.0),
            **_numbers(keys, holding, used),
            "tokens": [_token(key[1], known.get(key)) | _numbers([key], holding, used) for key in keys],
        }
        for tenant, keys in by_tenant.items()
    ]


def _token(name: str, row: TokenRow | None) -> dict[str, Any]:
    """A token, without what opens; of one that has ended only the name is left."""
    if row is None:
        return {"name": name, "kind": Kind.USER.value, "createdAt": None, "limits": None, "prefixes": []}
    return {"name": name, "kind": row.kind, "createdAt": row.created_at, "limits": row.limits, "prefixes": row.prefixes}


def _numbers(keys: Sequence[Key], holding: Mapping[Key, Holding], used: Mapping[Key, Use]) -> dict[str, Any]:
    held_now = sum((holding.get(key, Holding()) for key in keys), Holding())
    lately = sum((used.get(key, Use()) for key in keys), Use())
    return {
        "queued": held_now.queued,
        "running": held_now.running,
        "slots": held_now.slots,
        "tasks": lately.tasks,
        "images": lately.images,
        "processingHours": round(lately.processing_s / 3600, 2),
    }


_TASKS = """
SELECT tenant, token, count(*) AS tasks, sum(images_count) AS images
FROM (
    SELECT tenant, token, images_count FROM tasks
    WHERE ended_at >= clock_timestamp() - CAST(:lately AS interval) AND state IN ('completed', 'failed', 'canceled')
    UNION ALL
    SELECT tenant, token, images_count FROM past_runs
    WHERE ended_at >= clock_timestamp() - CAST(:lately AS interval) AND outcome IS NOT NULL
) AS ended GROUP BY 1, 2
"""
_RUNS = """
SELECT tenant, token, sum(extract(epoch FROM coalesce(ended_at, clock_timestamp()) - began_at))::float AS seconds
FROM (
    SELECT tasks.tenant, tasks.token, attempts.began_at, attempts.ended_at
    FROM attempts JOIN tasks ON tasks.uuid = attempts.task_uuid
    WHERE attempts.began_at IS NOT NULL
        AND (attempts.ended_at IS NULL OR attempts.ended_at >= clock_timestamp() - CAST(:lately AS interval))
    UNION ALL
    SELECT tenant, token, began_at, ended_at FROM past_runs
    WHERE ended_at >= clock_timestamp() - CAST(:lately AS interval) AND began_at IS NOT NULL
) AS runs GROUP BY 1, 2
"""


async def _used(session: AsyncSession) -> dict[Key, Use]:
    found: defaultdict[Key, Use] = defaultdict(Use)
    for row in await session.exec(text(_TASKS).bindparams(lately=LATELY)):  # type: ignore[call-overload]
        found[row.tenant, row.token] += Use(row.tasks, int(row.images or 0))
    for row in await session.exec(text(_RUNS).bindparams(lately=LATELY)):  # type: ignore[call-overload]
        found[row.tenant, row.token] += Use(processing_s=row.seconds or 0.0)
    return found
