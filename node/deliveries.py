"""What became of the webhooks of a task's runs, as its record keeps it. Pure.

The URLs are not kept here: the task has its own, and the node's is a setting.
"""

from dataclasses import dataclass, replace
from typing import Any

from common.tasks import State, Task
from common.webhooks import Outcome, Schedule, is_callable_text

OF_TASK = "task"
OF_NODE = "node"
MOST_EARLIER = 10
"""Of a task that is restarted again and again."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One webhook of one run, with the end that it tells of. Times in milliseconds since the epoch."""

    to: str
    """Whose webhook: `task` or `node`."""
    attempt: int
    state: State
    created_ms: int
    images_count: int
    processing_ms: int
    progress: float
    error: str | None
    due_ms: int
    """When it is to be called, or called again."""
    tries: int = 0
    delivered_ms: int | None = None
    given_up_ms: int | None = None
    problem: str | None = None
    """What was wrong with the last try."""

    @property
    def key(self) -> tuple[int, str]:
        """Which of a task's deliveries this is."""
        return self.attempt, self.to

    @property
    def is_pending(self) -> bool:
        """Whether it is neither delivered nor given up."""
        return self.delivered_ms is None and self.given_up_ms is None

    def told(self, task: Task) -> Task:
        """The task as it was when this run ended: it may have been restarted, or canceled, since."""
        return replace(
            task,
            attempt=self.attempt,
            state=self.state,
            created_ms=self.created_ms,
            images_count=self.images_count,
            processing_ms=self.processing_ms,
            progress=self.progress,
            error=self.error,
            waiting=None,
        )


def deliveries_of(task: Task, node_url: str | None, now_ms: int) -> tuple[Delivery, ...]:
    """Whom the end of this run is told. One that was canceled before it began tells nobody (contract 7)."""
    if task.state is State.CANCELED and not task.begun:
        return ()
    urls = {OF_TASK: task.webhook, OF_NODE: node_url}
    return tuple(
        Delivery(
            to=to,
            attempt=task.attempt,
            state=task.state,
            created_ms=task.created_ms,
            images_count=task.images_count,
            processing_ms=task.processing_ms,
            progress=task.progress,
            error=task.error,
            due_ms=now_ms,
        )
        for to, url in urls.items()
        if is_callable_text(url)
    )


def with_run(deliveries: tuple[Delivery, ...], ended: tuple[Delivery, ...]) -> tuple[Delivery, ...]:
    """The deliveries of a run that has ended, beside those of earlier runs that were not delivered."""
    return (*[each for each in deliveries if each.delivered_ms is None][-MOST_EARLIER:], *ended)


def claimed(delivery: Delivery, now_ms: int, claim_s: float) -> Delivery:
    """The delivery as one more try begins: until that is over, nobody else begins the same."""
    return replace(delivery, tries=delivery.tries + 1, due_ms=now_ms + int(claim_s * 1000))


def after_call(delivery: Delivery, outcome: Outcome, schedule: Schedule, now_ms: int) -> Delivery:
    """The delivery as this outcome of its last try leaves it."""
    tried = replace(delivery, problem=outcome.problem)
    if outcome.problem is None:
        return replace(tried, delivered_ms=now_ms)
    if outcome.hopeless or schedule.is_over(delivery.tries):
        return replace(tried, given_up_ms=now_ms)
    return replace(tried, due_ms=now_ms + int(schedule.wait_s(delivery.tries) * 1000))


def delivery_of(document: dict[str, Any]) -> Delivery:
    """Read back what `dataclasses.asdict` made of a delivery."""
    return Delivery(**document | {"state": State(document["state"])})
