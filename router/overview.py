"""What a dashboard draws of an hour, a day, a week or a month: slots, queue, waits, ended tasks, failures by cause.

Samples tell how full it was. Tasks and attempts tell how it went, and what is kept of them (`past_runs`) where they are
gone. Every series is thinned in Postgres: no more than 300 points come here, whatever the span.
"""

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import TextClause, text
from sqlmodel.ext.asyncio.session import AsyncSession

from common.tasks import ENDED, Cause
from router import queries
from router.database import Database
from router.samples import Figures, Samples

NOW_FOR_S = 1.0
"""How long the figures of now are good: several browsers ask for them."""
SPAN_FOR_S = 10.0
"""How long the series are, which change by the minute at most."""
WHOLE_EVERY_S = 600.0
"""So often bars that are over are read again too: an attempt may be adopted, a task be restarted."""
NOT_STARTED = "not started"
"""Failures of tasks that no node was ever given: an input without images, needs that no node has."""


class Span(StrEnum):
    """How far back it is looked."""

    HOUR = "1h"
    DAY = "1d"
    WEEK = "7d"
    MONTH = "30d"


@dataclass(frozen=True, slots=True)
class Grid:
    """How a span is divided: into points for what is sampled, into bars for what is counted."""

    since: datetime
    """Where the first bar begins."""
    until: datetime
    step: timedelta
    bar: timedelta

    def bars(self) -> list[datetime]:
        """Where each bar begins; the last one is not over yet."""
        return [self.since + self.bar * number for number in range((self.until - self.since) // self.bar + 1)]


_STEPS = {
    Span.HOUR: (timedelta(minutes=1), timedelta(minutes=5), 12),
    Span.DAY: (timedelta(minutes=5), timedelta(hours=1), 24),
    Span.WEEK: (timedelta(hours=1), timedelta(hours=6), 28),
    Span.MONTH: (timedelta(hours=3), timedelta(days=1), 30),
}
"""By span the time between points, the time of a bar, the number of bars."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def grid(span: Span, now: datetime) -> Grid:
    """The grid of a span that ends now. Bars begin at whole ones of UTC, so that they do not move as time passes."""
    step, bar, bars = _STEPS[span]
    last = _EPOCH + (now - _EPOCH) // bar * bar
    return Grid(last - (bars - 1) * bar, now, step, bar)


@dataclass(frozen=True, slots=True)
class Bar:
    """What happened between two moments."""

    started: int = 0
    """Tasks that got their first slot."""
    median_s: float | None = None
    """Of the waits of these; the wait is from the place in the queue to the slot."""
    p90_s: float | None = None
    ended: Counter[str] = field(default_factory=Counter)
    """Tasks by state."""
    failures: Counter[str] = field(default_factory=Counter)
    """Attempts that failed, and tasks that never had one, by cause."""


class Overviews:
    """The overview, as often as it is asked for."""

    def __init__(self, database: Database, samples: Samples) -> None:
        """Nothing is read yet."""
        self._database = database
        self._samples = samples
        self._now: tuple[float, dict[str, Any]] | None = None
        self._spans: dict[Span, tuple[float, dict[str, Any]]] = {}
        self._bars: dict[Span, Bars] = {}

    async def now(self) -> dict[str, Any]:
        """The figures of now."""
        if self._now is None or time.monotonic() - self._now[0] > NOW_FOR_S:
            found = _figures_document(await self._samples.look())
            self._now = (time.monotonic(), found)
        return self._now[1]

    async def span(self, span: Span) -> dict[str, Any]:
        """Everything of a span that ends now, and the figures of now."""
        known = self._spans.get(span)
        if known is None or time.monotonic() - known[0] > SPAN_FOR_S:
            known = self._spans[span] = time.monotonic(), await self._read(span)
        return known[1] | {"now": await self.now()}

    async def _read(self, span: Span) -> dict[str, Any]:
        before = self._bars.get(span)
        if before is None or time.monotonic() - before.read_at > WHOLE_EVERY_S:
            before = Bars(time.monotonic())
        async with self._database.transaction() as session:
            divided = grid(span, await queries.clock(session))
            sampled = await session.exec(_asked(_SAMPLES, divided.since, divided.step))  # type: ignore[call-overload]
            bars = self._bars[span] = Bars(before.read_at, await _bars(session, divided, before.known))
        return _document(span, divided, sampled.all(), bars.known)


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars that were read, by where they begin."""

    read_at: float
    """When the first of them was, by a monotonic clock."""
    known: dict[datetime, Bar] = field(default_factory=dict)


def unread(bars: Sequence[datetime], known: Collection[datetime]) -> datetime:
    """Where reading must begin: nothing changes in a bar that was over a whole bar ago. Pure."""
    settled = [at for at in bars[:-2] if at in known]
    return bars[len(settled)] if settled == list(bars[: len(settled)]) else bars[0]


async def _bars(session: AsyncSession, divided: Grid, known: dict[datetime, Bar]) -> dict[datetime, Bar]:
    """Every bar of the grid; of those that are known only the last two are read again."""
    bars = divided.bars()
    begin = unread(bars, known)
    found = {at: known[at] if at < begin else Bar() for at in bars}
    for row in await session.exec(_asked(_WAITS, begin, divided.bar)):  # type: ignore[call-overload]
        if row.at in found:
            median, ninetieth = (round(each.total_seconds(), 1) for each in row.waited)
            found[row.at] = replace(found[row.at], started=row.started, median_s=median, p90_s=ninetieth)
    for question, name in ((_ENDED_TASKS, "ended"), (_FAILURES, "failures")):
        for row in await session.exec(_asked(question, begin, divided.bar)):  # type: ignore[call-overload]
            if row.at in found:
                getattr(found[row.at], name)[row.kind] += row.count
    return found


def _asked(question: str, since: datetime, step: timedelta) -> TextClause:
    return text(question).bindparams(since=since, step=step)


_BUCKET = "date_bin(CAST(:step AS interval), {moment}, 'epoch') AS at"
_SAMPLES = f"""
SELECT {_BUCKET.format(moment="at")}, avg(nodes)::float AS nodes, avg(usable_nodes)::float AS usable_nodes,
    avg(slots)::float AS slots, avg(used)::float AS used, avg(free)::float AS free, avg(queued)::float AS queued,
    avg(running)::float AS running, max(longest_wait_s) AS longest_wait_s
FROM samples WHERE at >= :since GROUP BY 1 ORDER BY 1
"""  # noqa: S608 - nothing from outside
_WAITS = f"""
SELECT {_BUCKET.format(moment="placed_at")}, count(*) AS started,
    percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY placed_at - queued_at) AS waited
FROM (
    SELECT placed_at, queued_at FROM attempts WHERE placed_at >= :since AND queued_at IS NOT NULL
    UNION ALL
    SELECT placed_at, queued_at FROM past_runs
    WHERE ended_at >= :since AND placed_at >= :since AND queued_at IS NOT NULL
) AS started GROUP BY 1
"""  # noqa: S608 - likewise
_ENDED_TASKS = f"""
SELECT {_BUCKET.format(moment="ended_at")}, state AS kind, count(*) AS count
FROM (
    SELECT ended_at, state FROM tasks WHERE ended_at >= :since AND state IN ('completed', 'failed', 'canceled')
    UNION ALL
    SELECT ended_at, outcome FROM past_runs WHERE ended_at >= :since AND outcome IS NOT NULL
) AS ended GROUP BY 1, 2
"""  # noqa: S608 - likewise
_FAILURES = f"""
SELECT {_BUCKET.format(moment="ended_at")}, cause AS kind, count(*) AS count
FROM (
    SELECT ended_at, coalesce(cause, '{Cause.ENGINE}') AS cause FROM attempts
    WHERE ended_at >= :since AND state = 'failed'
    UNION ALL
    SELECT ended_at, CASE WHEN number = 0 THEN '{NOT_STARTED}' ELSE coalesce(cause, '{Cause.ENGINE}') END
    FROM past_runs WHERE ended_at >= :since AND state = 'failed'
    UNION ALL
    SELECT ended_at, '{NOT_STARTED}' FROM tasks
    WHERE ended_at >= :since AND state = 'failed' AND attempt < first_attempt
) AS failures GROUP BY 1, 2
"""  # noqa: S608 - likewise


def _document(span: Span, divided: Grid, sampled: Sequence[Any], bars: Mapping[datetime, Bar]) -> dict[str, Any]:
    failures: Counter[str] = sum((bar.failures for bar in bars.values()), Counter())
    return {
        "span": span.value,
        "stepS": int(divided.step.total_seconds()),
        "barS": int(divided.bar.total_seconds()),
        "since": divided.since,
        "until": divided.until,
        "slots": [_slots(row) for row in sampled],
        "queue": [_queue(row) for row in sampled],
        "waits": [
            {"at": at, "started": bar.started, "medianS": bar.median_s, "p90S": bar.p90_s}
            for at, bar in bars.items()
            if bar.started
        ],
        "ended": [
            {"at": at} | {state.value: bar.ended[state.value] for state in sorted(ENDED)} for at, bar in bars.items()
        ],
        "failed": [{"at": at, "causes": dict(bar.failures)} for at, bar in bars.items()],
        "failures": dict(failures.most_common()),
    }


def _slots(row: Any) -> dict[str, Any]:  # noqa: ANN401 - a row of the database
    return {
        "at": row.at,
        "slots": round(row.slots, 1),
        "used": round(row.used, 1),
        "free": round(row.free, 1),
        "nodes": round(row.nodes, 1),
        "usableNodes": round(row.usable_nodes, 1),
    }


def _queue(row: Any) -> dict[str, Any]:  # noqa: ANN401 - likewise
    return {
        "at": row.at,
        "queued": round(row.queued, 1),
        "running": round(row.running, 1),
        "longestWaitS": row.longest_wait_s,
    }


def _figures_document(found: Figures) -> dict[str, Any]:
    return {
        "nodes": found.nodes,
        "usableNodes": found.usable_nodes,
        "slots": found.slots,
        "used": found.used,
        "free": found.free,
        "queued": found.queued,
        "running": found.running,
        "longestWaitS": found.longest_wait_s,
    }
