"""`GET /task/{uuid}/info`, the request that every client repeats every few seconds, answered from memory.

A poll needs no router, no validation and no dependency injection, and those are what a framework's request
costs. So this ASGI wrapper answers the plain form of the poll itself and lets everything else through,
among it every poll that ends in an error.
"""

import time
from urllib.parse import unquote_to_bytes

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from common.nodeodm.messages import task_info
from common.nodeodm.surface import TaskSurface
from common.tokens import Gate

_START = "/task/"
_END = "/info"
_JSON = (b"content-type", b"application/json; charset=utf-8")
_CORS = (b"access-control-allow-origin", b"*")


def token_of(query: bytes, headers: list[tuple[bytes, bytes]]) -> str | None:
    """The token of a request whose query holds at most a token; None when there is none."""
    if query:
        return unquote_to_bytes(query[6:]).decode("utf-8", "replace")
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].decode("latin-1").strip()
    return None


def _is_plain(query: bytes) -> bool:
    return not query or (query.startswith(b"token=") and b"&" not in query and b"+" not in query)


class Polls:
    """Answers plain polls; everything else goes to `app`."""

    def __init__(self, app: ASGIApp, surface: TaskSurface, gate: Gate) -> None:
        """`surface` knows the tasks, `gate` the callers."""
        self._app = app
        self._surface = surface
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = self._answer(scope) if scope["type"] == "http" else None
        if body is None:
            await self._app(scope, receive, send)
            return
        headers = [_JSON, (b"content-length", b"%d" % len(body)), _CORS]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, scope: Scope) -> bytes | None:
        path: str = scope["path"]
        if scope["method"] != "GET" or not (path.startswith(_START) and path.endswith(_END)):
            return None
        query: bytes = scope["query_string"]
        task = self._surface.peek(path[len(_START) : -len(_END)]) if _is_plain(query) else None
        if task is None:
            return None
        caller = self._gate.caller(token_of(query, scope["headers"]))
        if caller is None or not caller.may_see(task.tenant):
            return None
        return orjson.dumps(task_info(task, time.time_ns() // 1_000_000))
