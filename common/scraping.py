"""`GET /metrics`: who may read the figures, and how they are given."""

import hmac
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, HTTPException, Request, Response, status
from pydantic import SecretStr

from common.metrics import Metrics
from common.settings import Readers
from common.tokens import Gate, Kind, token_in


class Scraping:
    """Tells whether a request may read the figures."""

    def __init__(self, readers: Readers, token: SecretStr | None, gate: Gate, kinds: frozenset[Kind]) -> None:
        """`token`: the one that opens the figures and nothing else; `kinds`: of the tokens of `gate` that do so too."""
        self.readers = readers
        self._token = token.get_secret_value().encode() if token is not None else None
        self._gate = gate
        self._kinds = kinds

    def is_allowed(self, request: Request) -> bool:
        """Whether this one may."""
        if self.readers is Readers.OPEN:
            return True
        given = token_in(request.headers.get("authorization", "")) or request.query_params.get("token")
        if given and self._token is not None and hmac.compare_digest(given.encode(), self._token):
            return True
        caller = self._gate.caller(given)
        return caller is not None and caller.kind in self._kinds


def metrics_routes(metrics: Metrics, scraping: Scraping, look: Callable[[], Awaitable[None]]) -> APIRouter:
    """`/metrics`, unless there are to be none. `look` reads what is not in memory, in bounded time."""
    routes = APIRouter()
    if scraping.readers is Readers.OFF:
        return routes

    @routes.get("/metrics", include_in_schema=False)
    async def figures(request: Request) -> Response:
        """Everything, in Prometheus' text or in OpenMetrics."""
        if not scraping.is_allowed(request):
            raise HTTPException(
                status.HTTP_401_UNAUTHORIZED,
                "No token came that may read the figures. Send one as `Authorization: Bearer …` (docs/monitoring.md).",
            )
        await look()
        content, media_type = metrics.exposed(request.headers.get("accept", ""))
        return Response(content, media_type=media_type)

    return routes
