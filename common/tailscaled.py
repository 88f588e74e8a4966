"""tailscaled's LocalAPI: HTTP over a unix socket, asked by nodes where they are, and by routers who calls."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from common.checks import Check, ok, problem
from common.reaching import causes
from common.tailnet import (
    Machine,
    Peer,
    TailnetTrouble,
    TailscaledUnreadable,
    missing,
    parse_status,
    parse_whois,
)

ASK_S = 2.0
"""A question about this machine's own memory; who calls waits no longer for it."""
MOST_ANSWER_BYTES = 4 * 2**20
_HOST = "local-tailscaled.sock"
"""The only name in `Host` that it answers to."""
_AT_ONCE = 16
_SET_SOCKET = "set SCALEODM_TAILSCALE_SOCKET to its path (in a container: share it by a volume, docs/joining.md)"


class TailscaledAway(TailnetTrouble):
    """Nobody answers at the socket."""


class TailscaledRefuses(TailnetTrouble):
    """tailscaled, or the file system, does not let us ask."""


async def tailnet_check(path: Path) -> Check:
    """How this machine stands with its tailnet."""
    try:
        async with Tailscaled(path) as asked:
            machine = await asked.status()
    except TailnetTrouble as trouble:
        return problem("tailnet", str(trouble))
    lacks = missing(machine, datetime.now(UTC))
    if lacks is not None:
        return problem("tailnet", lacks)
    tags = f", with {', '.join(machine.tags)}" if machine.tags else ""
    return ok("tailnet", f"this machine is {' and '.join(machine.hosts)}{tags}")


class Tailscaled:
    """The tailscaled of this machine, or of the container beside this one."""

    def __init__(self, path: Path) -> None:
        """`path` of its socket. Nothing is asked yet."""
        self.path = path
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(path), limits=httpx.Limits(max_connections=_AT_ONCE)),
            base_url=f"http://{_HOST}",
            timeout=ASK_S,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        """For one question."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def status(self) -> Machine:
        """This machine. Raises `TailnetTrouble`."""
        answer = await self._ask("/localapi/v0/status", {"peers": "false"})
        return parse_status(self._document(answer))

    async def whois(self, address: str, port: int) -> Peer | None:
        """Who is at the other end of the connection that comes from there, while it lives; None for nobody of the
        tailnet. Raises `TailnetTrouble`.

        Both are needed: where tailscaled is in userspace mode it hands connections on from this machine's own address.
        """
        where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        answer = await self._ask("/localapi/v0/whois", {"addr": where, "proto": "tcp"})
        return None if answer.status_code == httpx.codes.NOT_FOUND else parse_whois(self._document(answer))

    async def _ask(self, path: str, query: Mapping[str, str]) -> httpx.Response:
        try:
            answer = await self._http.get(path, params=query)
        except (httpx.HTTPError, OSError) as trouble:
            raise self._told(trouble) from None
        if answer.status_code == httpx.codes.FORBIDDEN:
            raise TailscaledRefuses(
                f"tailscaled does not answer this user ({os.getuid()}) on {path} ({answer.text.strip()[:200]}). Run "
                f"`tailscale set --operator=USER` with this user's name, or start this program as one that may."
            )
        return answer

    def _document(self, answer: httpx.Response) -> object:
        try:
            document: object = answer.json() if len(answer.content) <= MOST_ANSWER_BYTES else None
        except ValueError:
            document = None
        if answer.status_code != httpx.codes.OK or document is None:
            raise TailscaledUnreadable(
                f"What answers at {self.path} is not tailscaled, or one that is too old: {answer.request.url.path} "
                f"gave status {answer.status_code}; expected 200 and JSON. Bring Tailscale up to date."
            )
        return document

    def _told(self, trouble: Exception) -> TailnetTrouble:
        found = list(causes(trouble))
        if any(isinstance(each, PermissionError) for each in found):
            return TailscaledRefuses(
                f"tailscaled's socket {self.path} may not be opened by this user ({os.getuid()}). Let it read and "
                "write there."
            )
        if any(isinstance(each, FileNotFoundError | NotADirectoryError) for each in found):
            return TailscaledAway(f"There is no tailscaled at {self.path}. Start Tailscale here, or {_SET_SOCKET}.")
        if any(isinstance(each, ConnectionRefusedError) for each in found):
            return TailscaledAway(f"Nobody listens at {self.path} any more. Start tailscaled again.")
        if isinstance(trouble, httpx.TimeoutException):
            return TailscaledAway(f"tailscaled at {self.path} does not answer within {ASK_S:.0f} s. Start it again.")
        told = str(trouble) or type(trouble).__name__
        return TailscaledAway(f"tailscaled at {self.path} broke off: {told}. Is it tailscaled's socket?")
