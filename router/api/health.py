"""For whoever watches over the router itself: is it alive, can it work."""

from fastapi import APIRouter, HTTPException, status
from sqlalchemy.exc import SQLAlchemyError

from router import queries
from router.database import Database


def health_routes(database: Database) -> APIRouter:
    """`/healthz` and `/readyz`; no token, and nothing told that needs one."""
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz")
    async def alive() -> dict[str, str]:
        """The program answers."""
        return {"status": "ok"}

    @routes.get("/readyz")
    async def ready() -> dict[str, str]:
        """The program and its database answer."""
        try:
            async with database.transaction() as session:
                await queries.ping(session)
        except (SQLAlchemyError, OSError):
            raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, "the database does not answer") from None
        return {"status": "ok"}

    return routes
