"""What a router tells of each task's trace: its upload, its submission, its waits and attempts, each once it is over.

Moments come from the record wherever it has them, so a trace is whole also when routers came and went meanwhile.
"""

import logging
import time
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from common.errands import Errands
from common.tasks import State
from common.tracing import Span, Tracer, attempt_place, of_attempt, request_began, task_place
from router import queries
from router.database import Database
from router.facts import Accepted, AttemptEnded, Fact, Placed, TaskEnded
from router.tables import AttemptRow, NodeRow, TaskRow

logger = logging.getLogger(__name__)

_REQUESTS = {"upload": "commit", "reference": "submit", "restart": "restart"}


class Traces:
    """Makes spans of what transactions have settled."""

    def __init__(self, database: Database, tracer: Tracer) -> None:
        """`tracer` takes them."""
        self._database = database
        self._tracer = tracer
        self._errands = Errands(logger, (OSError, SQLAlchemyError))

    def hear(self, facts: Sequence[Fact]) -> None:
        """A transaction was committed."""
        for fact in facts if self._tracer.is_on else ():
            match fact:
                case Accepted():
                    self._accepted(fact)
                case TaskEnded():
                    self._tracer.record(ended(fact, time.time()))
                case Placed():
                    self._errands.send(f"trace the wait of {fact.uuid} {fact.attempt}", self._wait(fact, time.time()))
                case AttemptEnded():
                    self._errands.send(f"trace {fact.uuid} {fact.attempt}", self._attempt(fact))

    async def close(self) -> None:
        """What was not told yet is not told."""
        await self._errands.close()

    def _accepted(self, fact: Accepted) -> None:
        now = time.time()
        parent = task_place(fact.uuid, fact.first_attempt)
        if fact.way == "upload" and fact.opened_at is not None:
            self._tracer.record(Span("upload", _moment(fact.opened_at), now, parent))
        began = request_began.get() or now
        self._tracer.record(Span(_REQUESTS[fact.way], began, now, parent))

    async def _wait(self, fact: Placed, now: float) -> None:
        """From its commit, or from the end of the attempt before."""
        if fact.waited_s is not None:
            began = now - fact.waited_s
            self._tracer.record(Span("queued", began, now, task_place(fact.uuid, fact.attempt)))
            return
        task, attempts = await self._read(fact.uuid)
        before = [each.ended_at for each, _ in attempts if each.number < fact.attempt and each.ended_at is not None]
        if task is not None and before:
            parent = task_place(fact.uuid, task.first_attempt)
            self._tracer.record(Span("queued", max(map(_moment, before)), now, parent))

    async def _attempt(self, fact: AttemptEnded) -> None:
        task, attempts = await self._read(fact.uuid)
        for attempt, node in attempts:
            if task is not None and attempt.number == fact.attempt:
                self._tracer.record(attempted(attempt, node.name, task.first_attempt))

    async def _read(self, uuid: str) -> tuple[TaskRow | None, Sequence[tuple[AttemptRow, NodeRow]]]:
        async with self._database.transaction() as session:
            return await session.get(TaskRow, uuid), await queries.attempts_of(session, uuid)


def ended(fact: TaskEnded, now: float) -> Span:
    """The root of a trace. Pure."""
    place = task_place(fact.uuid, fact.first_attempt)
    told = {"scaleodm.task": fact.uuid, "scaleodm.outcome": fact.state.value, "scaleodm.images": fact.images}
    problem = (fact.error or "it failed") if fact.state is State.FAILED else None
    began = _moment(fact.began_at) if fact.began_at is not None else now
    return Span("task", began, now, None, place, told, problem)


def attempted(attempt: AttemptRow, node: str, first_attempt: int) -> Span:
    """An attempt that is over. Pure."""
    assert attempt.placed_at is not None
    assert attempt.ended_at is not None
    told = {
        **of_attempt(attempt.task_uuid, attempt.number),
        "scaleodm.node": node,
        "scaleodm.outcome": attempt.state,
    }
    if attempt.cause is not None:
        told["scaleodm.cause"] = attempt.cause
    return Span(
        f"attempt {attempt.number}",
        _moment(attempt.placed_at),
        _moment(attempt.ended_at),
        task_place(attempt.task_uuid, first_attempt),
        attempt_place(attempt.task_uuid, attempt.number),
        told,
        (attempt.error or "it failed") if attempt.state == State.FAILED else None,
    )


def _moment(at: datetime) -> float:
    return at.timestamp()
