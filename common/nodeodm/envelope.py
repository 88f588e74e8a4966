"""What holds for every answer of the NodeODM API, whatever the endpoint (contract 1).

One ASGI wrapper around the application: paths without regard to case or a trailing slash, CORS, and above all
the last resort: a request that cannot be answered gets a **dropped connection**, never a 5xx. PyODM retries a
dropped connection; it gives up on a status, and WebODM then marks a healthy task as failed (design 6).
"""

import logging
from collections.abc import Callable

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

    def __init__(self, app: ASGIApp) -> None:
        """`app`: the application with all its routes."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or drop its connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await _answer_preflight(scope, send)
            return
        scope["path"] = canonical_path(scope["path"])
        try:
            await self._app(scope, receive, _with_cors(send))
        except ConnectionDropped as reason:
            logger.warning("dropped %s %s: %s", scope["method"], scope["path"], reason)
            _drop(scope)
        except Exception:
            logger.exception("dropped %s %s", scope["method"], scope["path"])
            _drop(scope)


def _drop(scope: Scope) -> None:
    drop: Callable[[], None] | None = scope.get("extensions", {}).get(DROP)
    if drop is None:
        raise ConnectionDropped("this server cannot drop a connection; run the program with common.server")
    drop()


def _with_cors(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
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
