"""Between nodes and router: join, heartbeat, and who is there (design 4.2)."""

from typing import Any

from fastapi import APIRouter, HTTPException, Request, status

from common.federation import Heartbeat, HeartbeatAnswer, JoinAnswer, JoinRequest
from common.tokens import Kind
from router import queries
from router.api.guard import Guard
from router.database import Database
from router.placement import NodeState
from router.registry import NodeUnknown, Registry


def federation_routes(registry: Registry, database: Database, guard: Guard) -> APIRouter:
    """The routes below `/federation`."""
    routes = APIRouter(prefix="/federation", tags=["federation"])

    @routes.post("/nodes")
    async def join(request: Request, body: JoinRequest) -> JoinAnswer:
        """A node joins, with the router's node token. The same name again is the same node."""
        guard.caller(request, Kind.NODE)
        return await registry.join(body)

    @routes.post("/nodes/{node_id}/heartbeat")
    async def heartbeat(request: Request, node_id: str, body: Heartbeat) -> HeartbeatAnswer:
        """A node reports, with its own secret, and is told what to end."""
        caller = guard.caller(request, Kind.NODE)
        if caller.kind is Kind.NODE and caller.name != node_id:
            raise HTTPException(status.HTTP_403_FORBIDDEN, "This is not the secret of that node; join again.")
        try:
            return await registry.heartbeat(node_id, body)
        except NodeUnknown:
            raise HTTPException(status.HTTP_404_NOT_FOUND, "That node is not on record here; join again.") from None

    @routes.get("/nodes")
    async def nodes(request: Request) -> list[dict[str, Any]]:
        """Every node with its health and its slots, for an administrator."""
        guard.caller(request)
        async with database.transaction() as session:
            states = await queries.node_states(session)
            urls = {row.id: (row.url, row.engine, row.engine_version) for row in await queries.node_rows(session)}
        return [_node_document(state, *urls[state.id]) for state in states]

    return routes


def _node_document(state: NodeState, url: str, engine: str, engine_version: str) -> dict[str, Any]:
    return {
        "id": state.id,
        "name": state.name,
        "url": url,
        "engine": engine,
        "engineVersion": engine_version,
        "health": state.health.value,
        "draining": state.draining,
        "slots": state.slots,
        "placed": state.placed,
        "direct": state.direct,
        "maxImages": state.max_images,
    }
