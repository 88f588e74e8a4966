"""What the router has learned from attempts that ended: run times for estimates, failures for quarantine.

Read from Postgres by every replica for itself, the latest ones at its start; nothing here is needed for correctness.
"""

from collections import deque
from datetime import datetime, timedelta

from common.tasks import Cause, State
from router import queries, retention
from router.database import Database
from router.estimates import Estimates, Finished, options_class
from router.lifecycle import BLACK_HOLE, LATE_AFTER, Outcome
from router.registry import Registry
from router.tables import AttemptRow, TaskRow

_FIRST_READING = 2_000
_READING = 500
_OUTCOMES = 20 * BLACK_HOLE
_OUTAGES = frozenset({Cause.UNDELIVERED, Cause.INFRASTRUCTURE})
ONE_OUTAGE = LATE_AFTER
"""What a node that goes away cannot be given until it is late, what all its runs fail of when S3 is away for a moment:
that says one thing of it, not many."""


class History:
    """Follows the ends of attempts."""

    def __init__(self, database: Database, registry: Registry) -> None:
        """Knows nothing before `read`."""
        self._database = database
        self._registry = registry
        self._until: datetime | None = None
        self._has_past = False
        self.estimates = Estimates()
        self._outcomes: deque[tuple[str, datetime, Outcome]] = deque(maxlen=_OUTCOMES)

    async def read(self) -> set[str]:
        """Take in what has ended since the last reading; gives the nodes on which something did."""
        if not self._has_past:
            await self._read_past()
        most = _READING if self._until is not None else _FIRST_READING
        async with self._database.statement() as session:
            ended = await queries.ended_since(session, self._until, most)
        for attempt, task in ended:
            self._learn(attempt, task)
        if ended:
            self._until = ended[-1][0].ended_at
        return {attempt.node_id for attempt, _ in ended}

    async def _read_past(self) -> None:
        """Runs of tasks that are gone: of these there is nothing to be learned but how long they took."""
        async with self._database.statement() as session:
            rows = await retention.past_runs(session, _FIRST_READING)
        for row in rows:
            if row.began_at is not None and row.ended_at is not None:
                self._learn_time(row.node_id, row.options, row.images_count, row.ended_at - row.began_at)
        self._has_past = True

    def outcomes(self, node_id: str, since: datetime | None = None) -> tuple[list[Outcome], list[Outcome]]:
        """The newest outcomes first: of this node, where told only those after `since`, and of all others."""
        own = [
            outcome
            for each, ended_at, outcome in reversed(self._outcomes)
            if each == node_id and (since is None or ended_at > since)
        ]
        others = [outcome for each, _, outcome in reversed(self._outcomes) if each != node_id]
        return own, others

    def forget_outcomes(self, node_id: str) -> None:
        """What a node did before its quarantine is not held against it twice."""
        self._outcomes = deque((each for each in self._outcomes if each[0] != node_id), maxlen=_OUTCOMES)

    def _learn(self, attempt: AttemptRow, task: TaskRow) -> None:
        if attempt.ended_at is None or attempt.state == State.CANCELED:
            return
        begun = attempt.began_at or attempt.placed_at or attempt.ended_at
        seconds = (attempt.ended_at - begun).total_seconds()
        cause = Cause(attempt.cause) if attempt.cause else None
        if attempt.state == State.FAILED and cause is None:
            cause = Cause.ENGINE
        if not self._is_same_outage(attempt.node_id, attempt.ended_at, cause):
            self._outcomes.append((attempt.node_id, attempt.ended_at, Outcome(cause, seconds)))
        if attempt.state == State.COMPLETED and attempt.began_at is not None:
            options = options_class(task.task().options)
            self._learn_time(attempt.node_id, options, task.images_count, attempt.ended_at - attempt.began_at)

    def _learn_time(self, node_id: str, options: str, images_count: int, took: timedelta) -> None:
        node = self._registry.node(node_id)
        engine = node.engine if node is not None else ""
        self.estimates.learn(Finished(node_id, engine, options, images_count, took.total_seconds()))

    def _is_same_outage(self, node_id: str, ended_at: datetime, cause: Cause | None) -> bool:
        """Whether a failure says nothing that the node's last one has not said."""
        last = next(((at, outcome) for each, at, outcome in reversed(self._outcomes) if each == node_id), None)
        if cause not in _OUTAGES or last is None:
            return False
        return last[1].cause is cause and ended_at - last[0] < ONE_OUTAGE
