"""Between nodes and router: join, heartbeat, and who is there (design 4.2)."""

import logging
from typing import Any

from fastapi import APIRouter, HTTPException, Request, status

from common.federation import Heartbeat, HeartbeatAnswer, JoinAnswer, JoinRequest
from common.logs import about
from common.tokens import Kind
from router.api.guard import Guard, answers
from router.nodes import Nodes
from router.registry import NameTaken, NodeUnknown, Registry
from router.visits import JoinRefused, Visitor

logger = logging.getLogger(__name__)


def federation_routes(registry: Registry, nodes: Nodes, visitor: Visitor, guard: Guard) -> APIRouter:
    """The routes below `/federation`."""
    routes = APIRouter(prefix="/federation", tags=["federation"], responses=answers(400, 404, 409, 413))

    @routes.post("/nodes")
    async def join(request: Request, body: JoinRequest) -> JoinAnswer:
        """A node joins, with the router's node token or known by the tailnet. The same name again is the same node."""
        guard.caller(request, Kind.NODE)
        try:
            url = await visitor.check(body, guard.token(request) or "")
            return await registry.join(body.model_copy(update={"url": url}))
        except (JoinRefused, NameTaken) as refused:
            logger.warning("node %s may not join: %s", body.name, refused)
            raise HTTPException(status.HTTP_409_CONFLICT, str(refused)) from None

    @routes.post("/nodes/{node_id}/heartbeat")
    async def heartbeat(request: Request, node_id: str, body: Heartbeat) -> HeartbeatAnswer:
        """A node reports, with its own secret, and is told what to end."""
        caller = guard.caller(request, Kind.NODE)
        if caller.kind is Kind.NODE and caller.name != node_id:
            raise HTTPException(status.HTTP_403_FORBIDDEN, "This is not the secret of that node; join again.")
        known = registry.node(node_id)
        try:
            with about(node=known.name if known is not None else ""):
                return await registry.heartbeat(node_id, body)
        except NodeUnknown:
            raise HTTPException(status.HTTP_404_NOT_FOUND, "That node is not on record here; join again.") from None

    @routes.get("/nodes")
    async def every_node(request: Request) -> list[dict[str, Any]]:
        """Every node with its health and its slots, for an administrator."""
        guard.caller(request)
        return await nodes.documents()

    return routes
