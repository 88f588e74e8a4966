"""The end of a task on record, and with it, in the same transaction, the webhooks that tell of it (I8)."""

from collections.abc import Sequence

from sqlmodel.ext.asyncio.session import AsyncSession

from common.nodeodm.routes import now_ms
from common.tasks import ENDED, State, Task
from common.webhooks import is_callable_text, output_with_images, payload_of
from router.facts import TaskEnded, tell
from router.tables import TaskRow, WebhookRow


def change(session: AsyncSession, row: TaskRow, after: Task, hooks: Sequence[str] = ()) -> None:
    """Make the row say what `after` says; where the task ends with it, its webhooks are to be called.

    `hooks`: the router's own, beside the task's. A task that was canceled before it began tells nobody (contract 7).
    """
    ended_before = State(row.state) in ENDED
    row.take(after)
    if not ended_before and after.state in ENDED:
        began_at = row.opened_at if row.first_attempt == 1 else row.committed_at
        told = TaskEnded(row.uuid, after.state, row.first_attempt, began_at, after.images_count, after.error)
        tell(session, told)
    if ended_before or after.state not in ENDED or (after.state is State.CANCELED and not after.begun):
        return
    payload, output = payload_of(after, now_ms()), output_with_images(after)
    for url in (after.webhook, *hooks):
        if url is not None and is_callable_text(url):
            session.add(WebhookRow(task_uuid=row.uuid, url=url, payload=payload, output=output))
