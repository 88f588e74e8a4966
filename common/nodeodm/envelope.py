"""What holds for every answer of the NodeODM API, whatever the endpoint (contract 1).

One ASGI wrapper around the application: paths without regard to case or a trailing slash, CORS, and above all
the last resort: a request that cannot be answered gets a **dropped connection**, never a 5xx. PyODM retries a
dropped connection; it gives up on a status, and WebODM then marks a healthy task as failed (design 6).
"""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

DROP = "scaleodm.drop"
"""ASGI extension under which the server offers to drop the connection of a request."""
_CORS = [(b"access-control-allow-origin", b"*")]
_LITERAL_TASK_PATHS = frozenset({"new", "list", "cancel", "remove", "restart"})


class ConnectionDropped(Exception):
    """Raised by whoever can answer a request neither truthfully nor now: the connection is dropped."""


def canonical_path(path: str) -> str:
    """The path as the routes spell it: fixed words in lower case, no trailing slash, ids and names as given."""
    words = path.strip("/").split("/")
    fixed = [word.lower() for word in words]
    if fixed[0] == "task" and len(words) > 1:
        if fixed[1] not in _LITERAL_TASK_PATHS:
            fixed[1] = words[1]
        fixed[3:] = words[3:]
    elif fixed[0] not in {"", "info", "options", "auth", "swagger.json"}:
        return path
    return "/" + "/".join(fixed)


class Envelope:
    """Wraps the whole application."""

    def __init__(self, app: ASGIApp, outages: tuple[type[Exception], ...] = (OSError,)) -> None:
        """`app`: the application with all its routes; `outages`: what its parts raise while something is away."""
        self._app = app
        self._outages = outages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or drop its connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await _answer_preflight(scope, send)
            return
        # No name has a NUL, and no database takes one: read as the sign for what is no character, it is not found.
        scope["path"] = canonical_path(scope["path"]).replace("\0", "\ufffd")
        try:
            await self._app(scope, receive, _with_manners(send))
        except asyncio.CancelledError:
            # The server's own answer would be a 500, at which clients give up a task that they could upload again.
            logger.warning("dropped %s %s: this program ends", scope["method"], scope["path"])
            _drop(scope)
        except Exception as raised:  # noqa: BLE001 - told, and the connection dropped: nothing is swallowed
            # The framework's own 500 page was on its way when we stopped it: what it hides is the reason.
            reason = raised.__context__ if isinstance(raised, ConnectionDropped) and raised.__context__ else raised
            self._tell(scope, reason)
            _drop(scope)

    def _tell(self, scope: Scope, reason: BaseException) -> None:
        """An outage, or a client that has gone, is a line; a bug is a traceback."""
        request = f"{scope['method']} {scope['path']}"
        if isinstance(reason, (ConnectionDropped, ClientDisconnect, *self._outages)):
            logger.warning("dropped %s: %s", request, str(reason).split("\n")[0] or type(reason).__name__)
        else:
            logger.error("dropped %s", request, exc_info=reason)


def _drop(scope: Scope) -> None:
    drop: Callable[[], None] | None = scope.get("extensions", {}).get(DROP)
    if drop is None:
        raise ConnectionDropped("this server cannot drop a connection; run the program with common.server")
    drop()


def _with_manners(send: Send) -> Send:
    """CORS on every answer; and the answer of last resort of any framework, a 500, is not one of ours."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] == HTTPStatus.INTERNAL_SERVER_ERROR:
                raise ConnectionDropped("an unexpected error")
            message = {**message, "headers": [*message.get("headers", []), *_CORS]}
        await send(message)

    return sending


async def _answer_preflight(scope: Scope, send: Send) -> None:
    asked = next((value for name, value in scope["headers"] if name == b"access-control-request-headers"), b"")
    headers = [
        *_CORS,
        (b"access-control-allow-methods", b"GET,HEAD,PUT,PATCH,POST,DELETE"),
        (b"vary", b"Access-Control-Request-Headers"),
        (b"content-length", b"0"),
    ]
    if asked:
        headers.append((b"access-control-allow-headers", asked))
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
