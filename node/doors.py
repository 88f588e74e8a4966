"""Places where the node is served beside its own: the tailnet's addresses, where it listens on loopback alone."""

import asyncio
import errno
import logging
import socket
from collections.abc import Collection
from contextlib import AsyncExitStack

from starlette.types import ASGIApp

from common.server import Server, configured
from common.tailnet import plain

logger = logging.getLogger(__name__)


class Doors:
    """Places where an application is served beside its own: they are opened and closed as addresses come and go."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        """None is open yet."""
        self._app = app
        self._port = port
        self._open: dict[str, AsyncExitStack] = {}

    async def open_at(self, addresses: Collection[str]) -> None:
        """Be open at these, as far as they are this machine's, and at no others."""
        for address in [each for each in self._open if each not in addresses]:
            await self._open.pop(address).aclose()
        for address in addresses:
            if address not in self._open:
                self._begin(address)

    async def close(self) -> None:
        """Close them all."""
        await self.open_at(())

    def _begin(self, address: str) -> None:
        try:
            listening = _listening(address, self._port)
        except OSError as refused:
            # In userspace mode tailscaled has the address to itself, and hands on to loopback.
            if refused.errno != errno.EADDRNOTAVAIL:
                logger.warning("cannot listen on %s, port %d: %s", address, self._port, refused.strerror)
            return
        server = Server(configured(self._app, address, self._port))
        serving = asyncio.create_task(server.serve([listening]), name=f"door at {address}")
        stack = AsyncExitStack()
        stack.push_async_callback(_ended, server, serving)
        self._open[address] = stack
        logger.info("listening on %s, port %d, too", address, self._port)


async def _ended(server: Server, serving: "asyncio.Task[None]") -> None:
    server.should_exit = True
    await serving


def _listening(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = socket.socket(family)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((address, port))
    except OSError:
        found.close()
        raise
    return found


def is_loopback(host: str) -> bool:
    """Whether a host to listen on is this machine's own loopback."""
    try:
        return plain(host).is_loopback
    except ValueError:
        return host == "localhost"
