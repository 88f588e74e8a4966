"""What this router is, for whoever wants to know whether it and they fit together."""

from typing import Any

from fastapi import APIRouter, Request

from common.tokens import Kind
from router.api.guard import Guard, answers
from router.database import Database
from router.release import database_document, release_document


def about_routes(database: Database, guard: Guard) -> APIRouter:
    """`/federation/about`."""
    routes = APIRouter(tags=["federation"], responses=answers())

    @routes.get("/federation/about")
    async def about(request: Request) -> dict[str, Any]:
        """Release, protocol and clock, and whose token this is; for administrators the database too."""
        caller = guard.caller(request, Kind.USER, Kind.NODE)
        told = release_document() | {
            "caller": {"kind": caller.kind.value, "name": caller.name, "tenant": caller.tenant}
        }
        if caller.kind is Kind.ADMIN:
            told["database"] = await database_document(database)
        return told

    return routes
