"""How a router's requests reach its nodes: httpx over aiohttp's connections.

Of a thousand nodes each has connections of its own; httpx's own pool looks at all of them for every request, which
makes a burst of deliveries cost several times what this does.
"""

from urllib.request import getproxies

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

KEPT_S = 30.0
"""A connection that was idle for longer is not used again; nodes keep theirs open for longer than that."""


class NodeTransport(AiohttpTransport):
    """Requests to nodes. Whatever goes wrong on the way is an `httpx.TransportError`."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One request, one answer."""
        try:
            return await super().handle_async_request(request)
        except aiohttp.ClientError as trouble:
            # Bytes that are no HTTP; the transport passes aiohttp's word for it on as it is.
            raise httpx.RemoteProtocolError(str(trouble) or type(trouble).__name__, request=request) from trouble


def node_http(at_once: int) -> httpx.AsyncClient:
    """A client for all nodes, with `at_once` connections at most; through a proxy where the environment names one."""
    context = httpx.create_ssl_context()

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=at_once, ssl=context, keepalive_timeout=KEPT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            # aiohttp looks at the whole environment for each request, so only where there is something to be seen.
            trust_env=bool(getproxies()),
        )

    return httpx.AsyncClient(timeout=httpx.Timeout(15.0, connect=5.0), transport=NodeTransport(context, client=session))
