"""The administration of tokens."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, field_validator

from common.tokens import Kind
from router.access import Access
from router.api.guard import Guard, Text, answers
from router.rights import TokenLimits


class TokenOrder(BaseModel):
    """A token to be made."""

    kind: Kind
    name: str = Field(pattern=r"^[^\s/\x00-\x1f\x7f]{1,64}$")
    """Whose it is. The same name again gets a new token, and the old one ends."""
    tenant: Text = "default"
    prefixes: list[Text] = Field(default_factory=list)
    """`s3://` prefixes that its tasks may read and write; none means no limit."""
    limits: TokenLimits = Field(default_factory=TokenLimits)

    @field_validator("kind")
    @classmethod
    def _check_kind(cls, kind: Kind) -> Kind:
        if kind not in (Kind.USER, Kind.NODE, Kind.ADMIN):
            raise ValueError("expected user, node or admin")
        return kind


def token_routes(access: Access, guard: Guard) -> APIRouter:
    """The routes below `/admin/tokens`."""
    routes = APIRouter(prefix="/admin", tags=["administration"], responses=answers(400, 404, 413))

    @routes.post("/tokens")
    async def make_token(request: Request, order: TokenOrder) -> dict[str, str]:
        """Make a token. It is told this once."""
        caller = guard.caller(request)
        limits = order.limits.known()
        token = await access.make(order.kind, order.name, order.tenant, order.prefixes, limits, by=caller)
        return {"name": order.name, "kind": order.kind.value, "token": token}

    @routes.get("/tokens")
    async def tokens(request: Request) -> list[dict[str, Any]]:
        """Every token, without what opens."""
        guard.caller(request)
        return await access.documents()

    @routes.delete("/tokens/{name}")
    async def revoke_token(request: Request, name: str) -> dict[str, bool]:
        """End a token."""
        caller = guard.caller(request)
        return {"revoked": await access.revoke(name, by=caller)}

    return routes
