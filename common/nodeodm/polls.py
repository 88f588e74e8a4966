"""`GET /task/{uuid}/info` and `GET /info`, which every client repeats every few seconds, answered from memory.

A poll needs no router, no validation and no dependency injection, and those are what a framework's request
costs. So this ASGI wrapper answers the plain form of the poll itself and lets everything else through,
among it every poll that ends in an error.
"""

import time
from collections.abc import Callable
from time import perf_counter
from urllib.parse import unquote_to_bytes

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from common.counting import Durations
from common.nodeodm.messages import task_info
from common.nodeodm.surface import TaskSurface
from common.tokens import Gate, token_in

POLL = "/task/{uuid}/info"
INFO = "/info"
"""The routes that are answered here, as their templates."""
_START = "/task/"
_JSON = (b"content-type", b"application/json; charset=utf-8")
_CORS = (b"access-control-allow-origin", b"*")


def token_of(query: bytes, headers: list[tuple[bytes, bytes]]) -> str | None:
    """The token of a request whose query holds at most a token; None when there is none."""
    if query:
        return unquote_to_bytes(query[6:]).decode("utf-8", "replace")
    for name, value in headers:
        if name == b"authorization":
            return token_in(value.decode("latin-1"))
    return None


def _is_plain(query: bytes) -> bool:
    return not query or (query.startswith(b"token=") and b"&" not in query and b"+" not in query)


class Polls:
    """Answers plain polls; everything else goes to `app`."""

    def __init__(
        self, app: ASGIApp, surface: TaskSurface, gate: Gate, durations: Callable[[str, str, str], Durations]
    ) -> None:
        """`surface` knows the tasks, `gate` the callers; `durations` by method, route and status count what is answered
        here."""
        self._count_poll = durations("GET", POLL, "2xx").count
        self._count_info = durations("GET", INFO, "2xx").count
        self._app = app
        self._surface = surface
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        began = perf_counter()
        body = self._answer(scope) if scope["type"] == "http" else None
        if body is None:
            await self._app(scope, receive, send)
            return
        headers = [_JSON, (b"content-length", b"%d" % len(body)), _CORS]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        (self._count_info if scope["path"] == INFO else self._count_poll)(perf_counter() - began)

    def _answer(self, scope: Scope) -> bytes | None:
        path: str = scope["path"]
        query: bytes = scope["query_string"]
        if scope["method"] != "GET" or not path.endswith(INFO) or not _is_plain(query):
            return None
        caller = self._gate.caller(token_of(query, scope["headers"]))
        if caller is None:
            return None
        if path == INFO:
            return orjson.dumps(self._surface.node_info()) if caller.may_use_tasks() else None
        task = self._surface.peek(path[len(_START) : -len(INFO)]) if path.startswith(_START) else None
        if task is None or not caller.may_see(task.tenant, task.family):
            return None
        return orjson.dumps(task_info(task, time.time_ns() // 1_000_000))
