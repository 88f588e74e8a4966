"""Callers who are known by the tailnet: who is at the other end of a connection, asked of the local tailscaled.

Only of requests without a token, and of the connection itself: what a header says of an address is not believed. What
was found is kept with the connection, for a while, and goes with it: the next one from the same port may be somebody
else's.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from common.recognition import NOBODY, RECOGNISED, Recognised
from common.server import Connection, connection_of
from common.tailnet import Peer, TailnetTrouble, is_named_by, is_tailnet_address, plain
from common.tailscaled import Tailscaled
from common.tokens import Caller, Kind
from router.rights import Rights

logger = logging.getLogger(__name__)

KEPT_S = 30.0
"""How long an answer holds: so long after its rights ended on the tailnet a connection may still be used."""
_NOTE = "tailnet"
_NEVER_WAITING = frozenset({"/healthz", "/readyz", "/metrics"})
"""What is asked for to learn whether we work waits for nobody."""


@dataclass(frozen=True, slots=True)
class _Found:
    """Who is at the other end of a connection, and until when that holds."""

    who: Recognised
    until: float


class TailnetGuests:
    """Finds out who makes a request."""

    def __init__(
        self, tailscaled: Tailscaled, rights: Rights, own_host: str = "", now: Callable[[], float] = time.monotonic
    ) -> None:
        """`own_host`: what this router is called besides its tailnet name and addresses. Nothing is asked yet."""
        self._tailscaled = tailscaled
        self._rights = rights
        self._own_host = own_host
        self._now = now
        self._trouble = ""

    async def close(self) -> None:
        """Give the connections to tailscaled back."""
        await self._tailscaled.close()

    def recognising(self, app: ASGIApp) -> ASGIApp:
        """`app`, for whose requests it is found out; `app` itself where nobody has rights."""
        if not self._rights.are_given:
            return app

        async def recognise(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["path"] not in _NEVER_WAITING and not brings_token(scope):
                scope[RECOGNISED] = await self.of(scope)
            await app(scope, receive, send)

        return recognise

    async def guest(self, request: HTTPConnection) -> Caller | None:
        """The administrator who makes this request, where the tailnet tells; None for anybody else."""
        if brings_token(request.scope):
            return None
        return (await self.of(request.scope)).one_of(Kind.ADMIN)

    async def of(self, scope: Scope) -> Recognised:
        """Who makes a request, without regard to tokens."""
        connection = connection_of(scope) if self._rights.are_given else None
        if connection is None or connection.peer is None or not may_be_asked_for(connection.peer[0]):
            return NOBODY
        found = await self._at(connection, connection.peer)
        if not found.callers:
            return found
        strange = why_strange(Headers(scope=scope)) or await self._why_misnamed(Headers(scope=scope).get("host", ""))
        return Recognised(why_not=strange) if strange else found

    async def _at(self, connection: Connection, peer: tuple[str, int]) -> Recognised:
        kept = connection.notes.get(_NOTE)
        if isinstance(kept, _Found) and self._now() < kept.until:
            return kept.who
        try:
            known = await self._tailscaled.whois(str(plain(peer[0])), peer[1])
        except TailnetTrouble as trouble:
            self._tell(str(trouble))
            return Recognised(why_not="This router cannot ask the tailnet who you are, so it needs a token.")
        self._tell("")
        found = self._judged(known)
        connection.notes[_NOTE] = _Found(found, self._now() + KEPT_S)
        return found

    def _judged(self, peer: Peer | None) -> Recognised:
        if peer is None:
            return NOBODY
        callers = self._rights.callers(peer)
        return Recognised(callers, "" if callers else self._rights.why_none(peer))

    async def _why_misnamed(self, host: str) -> str:
        if is_named_by(host, None, (self._own_host,)):
            return ""
        try:
            machine = await self._tailscaled.status()
        except TailnetTrouble as trouble:
            self._tell(str(trouble))
            machine = None
        if is_named_by(host, machine, (self._own_host,)):
            return ""
        return (
            f"You are known by the tailnet only where you call this router by its tailnet name or address, and {host} "
            "is neither: call it so, or send a token."
        )

    def _tell(self, trouble: str) -> None:
        """In the log, when it begins, changes and ends."""
        if trouble and trouble != self._trouble:
            logger.warning("who calls over the tailnet is not known: %s", trouble)
        elif self._trouble and not trouble:
            logger.info("who calls over the tailnet is known again")
        self._trouble = trouble


def brings_token(scope: Scope) -> bool:
    """Whether a request says by itself who makes it: then that decides."""
    return b"token=" in scope["query_string"] or any(name == b"authorization" for name, _ in scope["headers"])


def may_be_asked_for(address: str) -> bool:
    """Whether a connection from there may be a tailnet's: its addresses, or, in userspace mode, our own machine's."""
    try:
        return plain(address).is_loopback or is_tailnet_address(address)
    except ValueError:
        return False


def why_strange(headers: Headers) -> str:
    """Why a request that a browser makes is not its user's own: another site's page made it. Empty for all others."""
    site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
    if site in ("none", "same-origin") and (origin is None or origin.partition("://")[2] == headers.get("host")):
        return ""
    return "A page of another site made this request, so it needs a token: the tailnet tells whose browser it is alone."
