"""Every task, page by page, for dashboards and command lines."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, status
from pydantic import BaseModel, Field

from common.nodeodm.messages import MOST_PRIORITY
from common.tokens import Kind
from router.api.guard import Guard, answers, clean
from router.browsing import Cursor, ListUnreadable, TaskDesk, TaskMissing, TaskOver, Wanted, states_named


class Priority(BaseModel):
    """Which of those that wait go first."""

    priority: int = Field(ge=-MOST_PRIORITY, le=MOST_PRIORITY)


def browsing_routes(desk: TaskDesk, guard: Guard) -> APIRouter:
    """`/admin/tasks`, and what an administrator changes on one."""
    routes = APIRouter(prefix="/admin", tags=["administration"], responses=answers(400, 404))

    @routes.get("/tasks")
    async def page(
        request: Request,
        state: Annotated[list[str] | None, Query()] = None,
        q: Annotated[str, Query(max_length=200)] = "",
        node: Annotated[str, Query(max_length=200)] = "",
        tenant: Annotated[str | None, Query(max_length=200)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        after: Annotated[str | None, Query(max_length=400)] = None,
    ) -> dict[str, Any]:
        """The newest tasks first; a user sees those of its own tenant, an administrator everybody's."""
        caller = guard.caller(request, Kind.USER)
        if caller.kind is Kind.USER:
            if tenant not in (None, caller.tenant):
                return {"tasks": [], "next": None}
            tenant = caller.tenant
        try:
            cursor = None if after is None else Cursor.parse(clean(after))
            return await desk.page(
                Wanted(states_named(state or ()), clean(q), clean(node), tenant and clean(tenant), limit, cursor)
            )
        except ListUnreadable as wrong:
            raise HTTPException(status.HTTP_400_BAD_REQUEST, str(wrong)) from None

    @routes.post("/tasks/{uuid}/priority", responses=answers(409, 413))
    async def set_priority(request: Request, uuid: str, body: Priority) -> dict[str, Any]:
        """Let a task that waits go before others, or after them."""
        caller = guard.caller(request)
        try:
            return await desk.set_priority(clean(uuid), body.priority, by=caller)
        except TaskMissing as missing:
            raise HTTPException(status.HTTP_404_NOT_FOUND, str(missing)) from None
        except TaskOver as over:
            raise HTTPException(status.HTTP_409_CONFLICT, str(over)) from None

    return routes
