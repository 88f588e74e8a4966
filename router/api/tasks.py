"""What the router tells of a task beyond NodeODM: why it is where it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter, HTTPException, Request, status

from common.nodeodm.refusals import Refused
from common.tokens import Kind
from router.api.guard import Guard, answers
from router.federated import FederatedTasks


def task_routes(tasks: FederatedTasks, guard: Guard) -> APIRouter:
    """The routes about tasks that NodeODM does not have."""
    routes = APIRouter(tags=["tasks"], responses=answers(404))

    @routes.get("/task/{uuid}/why")
    async def why(request: Request, uuid: str) -> dict[str, Any]:
        """Which node has the task and why, or why it waits; its attempts and what became of each."""
        caller = guard.caller(request, Kind.USER)
        with _found():
            return await tasks.why(caller, uuid)

    @routes.get("/admin/tasks/{uuid}/why")
    async def why_for_admins(request: Request, uuid: str) -> dict[str, Any]:
        """The same."""
        guard.caller(request)
        return await why(request, uuid)

    @routes.get("/task/{uuid}/queue")
    async def queue(request: Request, uuid: str) -> dict[str, Any]:
        """Where a waiting task stands, and when it may start."""
        caller = guard.caller(request, Kind.USER)
        with _found():
            return await tasks.queue(caller, uuid)

    @routes.get("/admin/tasks/{uuid}/webhooks")
    async def webhooks(request: Request, uuid: str) -> list[dict[str, Any]]:
        """What became of the webhooks of a task, also of one that is removed."""
        guard.caller(request)
        return await tasks.webhooks(uuid)

    return routes


@contextmanager
def _found() -> Iterator[None]:
    try:
        yield
    except Refused as refused:
        raise HTTPException(status.HTTP_404_NOT_FOUND, str(refused)) from None
