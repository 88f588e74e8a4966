"""What a router asks of its node beyond the NodeODM API."""

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, HTTPException, Query, Request, status

from common.federation import AttemptKey, Identity, identity_proof
from common.nodeodm.description import Error
from common.tokens import Gate, Kind
from node.local_tasks import LocalTasks

_ANSWERS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request cannot be read", "model": Error},
    403: {"description": "Only its router may ask this", "model": Error},
}


def federation_routes(tasks: LocalTasks, gate: Gate, name: str, proof_key: str | None) -> APIRouter:
    """The routes below `/federation`. `name` and `proof_key`: those that this node joins with."""
    routes = APIRouter(prefix="/federation", tags=["federation"])

    @routes.post("/let-go", responses=_ANSWERS)
    async def let_go(request: Request, key: AttemptKey) -> dict[str, bool]:
        """End this attempt and forget it; answered also when it is not here."""
        bearer = request.headers.get("authorization", "")
        caller = gate.caller(bearer[7:].strip() if bearer[:7].lower() == "bearer " else None)
        if caller is None or caller.kind is not Kind.ROUTER:
            raise HTTPException(status.HTTP_403_FORBIDDEN, "Only the router that this node has joined may ask this.")
        await tasks.let_go(key.uuid, key.attempt)
        return {"success": True}

    @routes.get("/identity", responses={404: {"description": "It joins no router", "model": Error}})
    async def identity(nonce: str = Query(min_length=8, max_length=64)) -> Identity:
        """Which node this is, for a router that tries the address before it lets the node in."""
        if proof_key is None:
            raise HTTPException(status.HTTP_404_NOT_FOUND, "This node joins no router.")
        proof = identity_proof(proof_key, name, nonce)
        return Identity(name=name, proof=proof, release=version("scaleodm"))

    return routes
