"""What the router tells of a task beyond NodeODM: why it is where it is."""

from typing import Any

from fastapi import APIRouter, HTTPException, Request, status

from common.nodeodm.refusals import Refused
from common.tokens import Kind
from router.api.guard import Guard
from router.federated import FederatedTasks


def task_routes(tasks: FederatedTasks, guard: Guard) -> APIRouter:
    """The routes below `/task` that NodeODM does not have."""
    routes = APIRouter(prefix="/task", tags=["tasks"])

    @routes.get("/{uuid}/why")
    async def why(request: Request, uuid: str) -> dict[str, Any]:
        """Which node has the task and why, or why it waits."""
        caller = guard.caller(request, Kind.USER)
        try:
            return await tasks.why(caller, uuid)
        except Refused as refused:
            raise HTTPException(status.HTTP_404_NOT_FOUND, str(refused)) from None

    return routes
