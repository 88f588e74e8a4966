"""What a node tells of a task's trace beside its run, which tells of its stages itself (`node.stages`)."""

import time
from dataclasses import replace

from common.tasks import State
from common.tracing import Attributes, Place, Span, Tracer, attempt_place, of_attempt, request_began, task_place
from node.records import Record
from node.runs import RunStatus


class NodeTraces:
    """Makes spans of what happens to records."""

    def __init__(self, tracer: Tracer) -> None:
        """`tracer` takes them."""
        self._tracer = tracer

    def begun(self, record: Record, given: str = "") -> Record:
        """The new record with the span that its run hangs below: the one that its router has given, else one made of
        its uuid."""
        if not self._tracer.is_on:
            return record
        place = Place.parse(given) if record.forwarded else None
        return replace(record, traceparent=str(place or _place(record)))

    def accepted(self, record: Record) -> None:
        """It is kept."""
        now = time.time()
        self._record(record, "accept", request_began.get() or now, now)

    def started(self, record: Record, began: float) -> None:
        """Its run was started, which took from `began` until now."""
        if record.starts == 1:
            self._record(record, "queued on the node", record.accepted_ms / 1000, began)
        self._record(record, "start", began, time.time())

    def engine(self, record: Record, status: RunStatus) -> None:
        """Its run ended so: of a Job's engine, which runs in a container of somebody else's, only the node can tell."""
        if status.began_ms is not None and status.engine_ended_ms is not None:
            self._record(record, "engine", status.began_ms / 1000, status.engine_ended_ms / 1000)

    def ended(self, record: Record) -> None:
        """It is over. Of the router's tasks the router tells that."""
        if not record.forwarded and self._tracer.is_on and record.ended_ms is not None:
            self._tracer.record(root(record, record.ended_ms))

    def _record(self, record: Record, name: str, began: float, ended: float) -> None:
        parent = Place.parse(record.traceparent)
        if parent is not None:
            told = of_attempt(record.task.uuid, record.task.attempt)
            self._tracer.record(Span(name, began, ended, parent, attributes=told))


def root(record: Record, ended_ms: int) -> Span:
    """The root of the trace of a task that came to the node directly. Pure."""
    task = record.task
    told: Attributes = {
        "scaleodm.task": task.uuid,
        "scaleodm.outcome": task.state.value,
        "scaleodm.images": task.images_count,
    }
    problem = (task.error or "it failed") if task.state is State.FAILED else None
    return Span("task", record.accepted_ms / 1000, ended_ms / 1000, None, _place(record), told, problem)


def _place(record: Record) -> Place:
    task = record.task
    return attempt_place(task.uuid, task.attempt) if record.forwarded else task_place(task.uuid, task.first_attempt)
