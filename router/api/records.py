"""What is on record, for administrators: events, the overview, tenants' use, a task's timeline."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, status

from router.api.guard import ANSWERS, Guard, answers, clean
from router.browsing import TaskMissing
from router.events import ActionUnknown, EventLog, EventsWanted, actions_named
from router.overview import Overviews, Span
from router.tenants import Tenants
from router.timeline import Timelines

_MOST_ID = 2**63 - 1


def record_routes(
    events: EventLog, overviews: Overviews, tenants: Tenants, timelines: Timelines, guard: Guard
) -> APIRouter:
    """`/admin/events`, `/admin/overview`, `/admin/tenants`, `/admin/tasks/{uuid}/timeline`."""
    routes = APIRouter(prefix="/admin", tags=["administration"], responses=answers())

    @routes.get("/events", responses={400: ANSWERS[400]})
    async def page(
        request: Request,
        action: Annotated[list[str] | None, Query()] = None,
        subject: Annotated[str, Query(max_length=300)] = "",
        actor: Annotated[str, Query(max_length=300)] = "",
        q: Annotated[str, Query(max_length=200)] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        after: Annotated[int | None, Query(ge=1, le=_MOST_ID)] = None,
    ) -> dict[str, Any]:
        """Who did what when, the newest first; `action` is the beginning of one or several."""
        guard.caller(request)
        try:
            wanted = EventsWanted(actions_named(action or ()), clean(subject), clean(actor), clean(q), limit, after)
        except ActionUnknown as unknown:
            raise HTTPException(status.HTTP_400_BAD_REQUEST, str(unknown)) from None
        return await events.page(wanted)

    @routes.get("/overview")
    async def overview(request: Request, span: Span = Span.DAY) -> dict[str, Any]:
        """Slots, queue, waits, ended tasks and failures of the last hour, day, week or month; and how it stands now."""
        guard.caller(request)
        return await overviews.span(span)

    @routes.get("/tenants")
    async def use(request: Request) -> list[dict[str, Any]]:
        """By tenant and token the limits, what is queued and running, and what was used in the last 30 days."""
        guard.caller(request)
        return await tenants.documents()

    @routes.get("/tasks/{uuid}/timeline", responses={404: ANSWERS[404]})
    async def timeline(request: Request, uuid: str) -> dict[str, Any]:
        """What happened to a task, moment by moment."""
        guard.caller(request)
        try:
            return await timelines.document(clean(uuid))
        except TaskMissing as missing:
            raise HTTPException(status.HTTP_404_NOT_FOUND, str(missing)) from None

    return routes
