"""What a router asks of its node beyond the NodeODM API."""

from fastapi import APIRouter, HTTPException, Request, status

from common.federation import AttemptKey
from common.tokens import Gate, Kind
from node.local_tasks import LocalTasks


def federation_routes(tasks: LocalTasks, gate: Gate) -> APIRouter:
    """The routes below `/federation`."""
    routes = APIRouter(prefix="/federation", tags=["federation"])

    @routes.post("/let-go")
    async def let_go(request: Request, key: AttemptKey) -> dict[str, bool]:
        """End this attempt and forget it; answered also when it is not here."""
        bearer = request.headers.get("authorization", "")
        caller = gate.caller(bearer[7:].strip() if bearer[:7].lower() == "bearer " else None)
        if caller is None or caller.kind is not Kind.ROUTER:
            raise HTTPException(status.HTTP_403_FORBIDDEN, "Only the router that this node has joined may ask this.")
        await tasks.let_go(key.uuid, key.attempt)
        return {"success": True}

    return routes
