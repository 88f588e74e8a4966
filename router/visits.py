"""Whether the router reaches a node by the address that it joins with: a node that it cannot reach gets no task.

Told at the join, in words: a name that is not found, a port that nobody listens on, an address that leads elsewhere.
"""

import asyncio
import secrets
import time
from datetime import UTC, datetime, timedelta

import httpx
from pydantic import ValidationError

from common.federation import PROTOCOL, Identity, JoinRequest, identity_proof
from common.reaching import why_unreachable

VISIT_S = 5.0
MOST_SKEW = timedelta(minutes=15)
"""S3 refuses what was signed further away from its own clock."""


class JoinRefused(Exception):
    """The node cannot take part like this; the text says why and what to do."""


class VisitFailed(Exception):
    """A node is not to be found where it says it is; the text says why."""


def clock_refusal(name: str, clock: datetime | None, now: datetime) -> str | None:
    """Why a node with such a clock is of no use; None where it is. Pure."""
    if clock is None or abs(clock - now) <= MOST_SKEW:
        return None
    way = "ahead of" if clock > now else "behind"
    return (
        f"The clock of node {name} is {abs(clock - now).total_seconds():.0f} s {way} this router's, and S3 refuses "
        "what is signed at another time. Set both by NTP."
    )


class Visitor:
    """Calls nodes that want to join, and nodes of which somebody wants to know whether they answer."""

    def __init__(self) -> None:
        """No connection yet."""
        self._http = httpx.AsyncClient(timeout=VISIT_S, limits=httpx.Limits(max_keepalive_connections=0))

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def check(self, request: JoinRequest, token: str) -> str:
        """The first of the node's addresses that leads to this very node. Raises `JoinRefused` where none does.

        `token`: what it joins with; empty where it is known without one.
        """
        if request.protocol != PROTOCOL:
            raise JoinRefused(
                f"Node {request.name} speaks version {request.protocol} of the federation's protocol, this router "
                f"{PROTOCOL}. Bring both to the same release."
            )
        if (why_not := clock_refusal(request.name, request.clock, datetime.now(UTC))) is not None:
            raise JoinRefused(why_not)
        key = token or request.proof_key
        if not key:
            raise JoinRefused(f"Node {request.name} sent neither a token nor a proof_key, so it cannot be recognised.")
        urls = (request.url, *request.other_urls)
        troubles = await asyncio.gather(*(self._trouble(request.name, url, key) for url in urls))
        for url, trouble in zip(urls, troubles, strict=True):
            if trouble is None:
                return url
        told = ". ".join(str(trouble).rstrip(".") for trouble in troubles)
        raise JoinRefused(
            f"{told}. Set SCALEODM_NODE_URL to an address by which this router reaches node {request.name}."
        )

    async def _trouble(self, name: str, url: str, key: str) -> str | None:
        """Why an address does not lead to the node that knows this key; None where it does."""
        nonce = secrets.token_hex(16)
        try:
            identity = await self._identity(name, url, nonce)
        except VisitFailed as failed:
            return str(failed)
        if identity.proof != identity_proof(key, name, nonce):
            return f"{url} leads to another node {name}, with another join token."
        return None

    async def call(self, name: str, url: str, is_foreign: bool) -> str:
        """How the node answers, in a sentence. A foreign one has no name to tell. Raises `VisitFailed`."""
        began = time.monotonic()
        if is_foreign:
            status = (await self._get(url, "/info", {})).status_code
            if status >= httpx.codes.INTERNAL_SERVER_ERROR or status == httpx.codes.NOT_FOUND:
                raise VisitFailed(f"What answers at {url} is no NodeODM (status {status}).")
        else:
            await self._identity(name, url, secrets.token_hex(16))
        return f"It answers at {url} within {(time.monotonic() - began) * 1000:.0f} ms."

    async def _identity(self, name: str, url: str, nonce: str) -> Identity:
        answer = await self._get(url, "/federation/identity", {"nonce": nonce})
        try:
            identity = Identity.model_validate_json(answer.content)
        except ValidationError:
            raise VisitFailed(f"What answers at {url} is not a ScaleODM node (status {answer.status_code}).") from None
        if identity.name != name:
            raise VisitFailed(f"{url} leads to node {identity.name}.")
        return identity

    async def _get(self, url: str, path: str, query: dict[str, str]) -> httpx.Response:
        try:
            return await self._http.get(f"{url.rstrip('/')}{path}", params=query)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as trouble:
            raise VisitFailed(why_unreachable(url, trouble)) from None
