"""What the pods of a node's Jobs ask of it: short-lived S3 credentials for their own task and nothing else."""

import asyncio
import hmac
from collections.abc import Callable

from fastapi import APIRouter, HTTPException, Request, status

from common import boundaries
from common.credentials import Minter, MintingFailed
from common.nodeodm.description import Error
from common.references import Reference
from common.tasks import State, Task
from node.local_tasks import LocalTasks

PodToken = Callable[[str, int], str]


def job_routes(tasks: LocalTasks, minter: Minter, pod_token: PodToken) -> APIRouter:
    """The routes below `/jobs`. Only the pod's own token opens them, while its run is the task's current one."""
    routes = APIRouter(prefix="/jobs", tags=["jobs"])

    @routes.get(
        "/{uuid}/{attempt}/credentials",
        responses={
            403: {"description": "Not the token of this run, or it does not run", "model": Error},
            503: {"description": "There are none to be had now", "model": Error},
        },
    )
    async def credentials(request: Request, uuid: str, attempt: int) -> dict[str, str]:
        """Credentials for the task's input and output, in the JSON of AWS's container credentials."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        is_known = scheme.lower() == "bearer" and hmac.compare_digest(
            token.strip().encode(), pod_token(uuid, attempt).encode()
        )
        task = tasks.peek(uuid)
        if not is_known or task is None or task.attempt != attempt or task.state is not State.RUNNING:
            raise HTTPException(status.HTTP_403_FORBIDDEN, "This run gets no credentials here.")
        name = f"scaleodm-{uuid}-{attempt}"
        source, output = Reference.parse(task.input), Reference.parse(task.output)
        try:
            return await asyncio.to_thread(minter.mint, name, source, output, _also_read(task))
        except MintingFailed as failed:
            # The pod asks again; only NodeODM's clients must never see a 5xx.
            raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, str(failed)) from failed

    return routes


def _also_read(task: Task) -> tuple[Reference, ...]:
    """Objects beside the input that the run reads."""
    named = (each for each in task.options if each.name == boundaries.OPTION)
    return tuple(Reference.parse(str(each.value)) for each in named if boundaries.is_reference(each.value))
