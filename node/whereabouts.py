"""By what addresses a router reaches this node: set by hand, its own, or those of the tailnet, which may change."""

import asyncio
import logging
import secrets
from datetime import UTC, datetime
from urllib.parse import urlsplit

from starlette.types import ASGIApp

from common.tailnet import Machine, TailnetTrouble, missing, own_urls
from common.tailscaled import Tailscaled
from node.doors import Doors, is_loopback
from node.settings import NodeSettings

logger = logging.getLogger(__name__)

LOOK_S = 5.0
"""Between two looks at the tailnet, which may move this machine to another name or address."""


class Whereabouts:
    """Knows them, and when they change."""

    def __init__(self, settings: NodeSettings, tailscaled: Tailscaled | None) -> None:
        """`tailscaled`: where this node uses its tailnet. Nothing is known yet."""
        self._settings = settings
        self._tailscaled = tailscaled
        self._doors: Doors | None = None
        self._port = settings.port
        self.urls: tuple[str, ...] = ()
        """The best first; empty while they are not known."""
        token = settings.join_token
        self.proof_key = token.get_secret_value() if token else secrets.token_hex(32)
        """By what a router recognises this node: its join token, or what only this process knows."""

    def listen_at_tailnet(self, app: ASGIApp, own_url: str) -> None:
        """Serve `app` at the tailnet's addresses too, where the node listens on loopback alone. `own_url`: where."""
        self._port = urlsplit(own_url).port or self._settings.port
        if self._tailscaled is not None and self._settings.url is None and is_loopback(self._settings.host):
            self._doors = Doors(app, self._port)

    async def find(self, own_url: str) -> tuple[str, ...]:
        """What to tell a router now. Raises `TailnetTrouble`."""
        if self._settings.url is not None:
            self.urls = (str(self._settings.url).rstrip("/"),)
        elif self._tailscaled is None:
            self.urls = (own_url,)
        else:
            await self._look(self._tailscaled)
        return self.urls

    async def run(self) -> None:
        """Look again every few seconds, for ever."""
        if self._tailscaled is None or self._settings.url is not None:
            return
        told = ""
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                try:
                    await self._look(self._tailscaled)
                    told = ""
                except TailnetTrouble as trouble:
                    # Whoever joins tells it too; a node that is in the federation has only this.
                    if self.urls and str(trouble) != told:
                        logger.warning("the tailnet cannot be looked at: %s", trouble)
                    told = str(trouble)
        finally:
            if self._doors is not None:
                await self._doors.close()

    async def _look(self, tailscaled: Tailscaled) -> None:
        machine = await tailscaled.status()
        lacks = missing(machine, datetime.now(UTC))
        if lacks is not None:
            raise TailnetTrouble(lacks)
        if self._doors is not None:
            await self._doors.open_at(machine.addresses)
        found = own_urls(machine, self._port)
        if found == self.urls:
            return
        self._tell(machine, found)
        self.urls = found

    def _tell(self, machine: Machine, found: tuple[str, ...]) -> None:
        if self.urls:
            logger.warning("this machine has moved on the tailnet: %s (was %s)", found[0], self.urls[0])
        elif not machine.has_magic_dns:
            logger.warning("MagicDNS is off on the tailnet, so this node is known by its address: %s", found[0])
