"""The administration: tokens for now."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from common.tokens import Kind
from router import queries
from router.access import Access
from router.api.guard import Guard
from router.database import Database


class TokenOrder(BaseModel):
    """A token to be made."""

    kind: Kind
    name: str = Field(pattern=r"^[^\s/]{1,64}$")
    """Whose it is. The same name again gets a new token, and the old one ends."""
    tenant: str = "default"
    prefixes: list[str] = Field(default_factory=list)
    """`s3://` prefixes that its tasks may read and write; none means no limit."""


def admin_routes(access: Access, database: Database, guard: Guard) -> APIRouter:
    """The routes below `/admin`."""
    routes = APIRouter(prefix="/admin", tags=["administration"])

    @routes.post("/tokens")
    async def make_token(request: Request, order: TokenOrder) -> dict[str, str]:
        """Make a token. It is told this once."""
        guard.caller(request)
        token = await access.make(order.kind, order.name, order.tenant, order.prefixes)
        return {"name": order.name, "kind": order.kind.value, "token": token}

    @routes.get("/tokens")
    async def tokens(request: Request) -> list[dict[str, Any]]:
        """Every token, without what opens."""
        guard.caller(request)
        async with database.transaction() as session:
            rows = await queries.token_rows(session)
        return [row.model_dump(include={"name", "kind", "tenant", "prefixes", "created_at"}) for row in rows]

    @routes.delete("/tokens/{name}")
    async def revoke_token(request: Request, name: str) -> dict[str, bool]:
        """End a token."""
        guard.caller(request)
        return {"revoked": await access.revoke(name)}

    return routes
