"""How full the federation is: the figures of now, and one row of them a minute, which the leader writes."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from common.tasks import ACTIVE, WAITING
from router.leadership import Leadership, LeadershipLost
from router.nodes import Nodes
from router.placement import Fleet, NodeState, closed
from router.snapshot import Known, Snapshot
from router.tables import SampleRow

logger = logging.getLogger(__name__)

EVERY_S = 60.0
AFTER_MINUTE_S = 0.5
"""So long after a whole minute the next sample is taken, lest it is one of the minute before."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How full the federation is at one moment."""

    nodes: int
    usable_nodes: int
    """Those that take work."""
    slots: int
    """Of all nodes."""
    used: int
    """By our tasks and by those that came to nodes directly."""
    free: int
    """Of the usable nodes: what could be taken now."""
    queued: int
    running: int
    """Tasks that hold a slot."""
    longest_wait_s: float


def figures(states: Sequence[NodeState], waiting: Sequence[Known], running: int, now: datetime) -> Figures:
    """The figures of nodes and tasks as they stand. Pure."""
    return Figures(
        nodes=len(states),
        usable_nodes=sum(map(is_usable, states)),
        slots=sum(state.slots for state in states),
        used=sum(state.used for state in states),
        free=Fleet(states).free_slots,
        queued=len(waiting),
        running=running,
        longest_wait_s=_longest_wait_s(waiting, now),
    )


def is_usable(state: NodeState) -> bool:
    """Whether a node takes work, once it has a slot for it."""
    return not closed(state, 0)


def _longest_wait_s(waiting: Iterable[Known], now: datetime) -> float:
    first = min((known.committed_at for known in waiting if known.committed_at is not None), default=now)
    return max(0.0, round((now - first).total_seconds(), 1))


class Samples:
    """Looks, and on the replica that leads keeps what it saw."""

    def __init__(self, nodes: Nodes, snapshot: Snapshot, leadership: Leadership) -> None:
        """Nothing is written before `run`."""
        self._nodes = nodes
        self._snapshot = snapshot
        self._leadership = leadership

    async def look(self) -> Figures:
        """The figures of now."""
        states = await self._nodes.states()
        waiting, running = self._snapshot.within(*WAITING), self._snapshot.count(*ACTIVE)
        return figures(states, waiting, running, datetime.now(UTC))

    async def run(self) -> None:
        """A sample of every minute, for ever; only while this replica leads."""
        while True:
            pause_s = EVERY_S / 10
            if self._leadership.is_leading:
                try:
                    pause_s = await self.take()
                except (OSError, SQLAlchemyError) as trouble:
                    logger.warning("a sample waits for the database (%s)", type(trouble).__name__)
                except LeadershipLost as lost_it:
                    logger.info("%s", lost_it)
            await asyncio.sleep(pause_s)

    async def take(self) -> float:
        """Write this minute's sample, unless there is one; gives the seconds until the next minute's, by the clock of
        Postgres. Raises `LeadershipLost`."""
        seen = await self.look()
        async with self._leadership.transaction() as session:
            now = await _keep(session, seen)
        return EVERY_S - now.timestamp() % EVERY_S + AFTER_MINUTE_S


async def _keep(session: AsyncSession, seen: Figures) -> datetime:
    now: datetime = (await session.exec(select(func.clock_timestamp()))).one()
    row = asdict(seen) | {"at": now.replace(second=0, microsecond=0)}
    await session.exec(insert(SampleRow).values(row).on_conflict_do_nothing())
    return now
