"""uvicorn as both programs run it: quiet, able to drop a connection, ended by SIGTERM or SIGINT."""

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi.telemetry import TelemetryConfig
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from common.nodeodm.envelope import DROP

logger = logging.getLogger(__name__)

NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
"""FastAPI would look for providers in the environment at every request, a seventh of what a heartbeat costs."""
_CONNECTION = "scaleodm.connection"
KEEP_ALIVE_S = 75
"""A connection that is idle is closed by the other side first: nodes report every 5 s, and requests that come just as
their connection is closed get no answer."""
BODY_BLOCK = 512 * 1024
"""Bytes of a body that are handed on at once: each time costs as much as to copy some hundred KiB."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection, as long as it lasts."""

    peer: tuple[str, int] | None
    """Who is really at its other end, whatever headers say; None where there is no telling."""
    notes: dict[str, object] = field(default_factory=dict)
    """What is kept of it, and goes with it."""


def connection_of(scope: Scope) -> Connection | None:
    """The connection that a request came by; None where another server than ours runs."""
    found = scope.get("extensions", {}).get(_CONNECTION)
    return found if isinstance(found, Connection) else None


class _Protocol(HttpToolsProtocol):
    """Offers every request its connection, and the means to drop it; takes bodies in large blocks."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the base has it
        super().connection_made(transport)
        self.connection = Connection(self.client)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        extensions: dict[str, Any] = {DROP: self._drop, _CONNECTION: self.connection}
        self.scope["extensions"] = extensions

    def _drop(self) -> None:
        if self.cycle is not None:
            self.cycle.disconnected = True  # or uvicorn would miss an answer, and say so
        self.transport.abort()

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if cycle is None or cycle.response_complete or self.parser.should_upgrade():
            super().on_body(body)
            return
        cycle.body += body
        # What is left over is told when the message is complete, or its connection lost.
        if len(cycle.body) >= BODY_BLOCK:
            self.flow.pause_reading()
            cycle.message_event.set()


class Server(uvicorn.Server):
    """A uvicorn server that leaves the signals to `serve`."""

    def capture_signals(self) -> Any:  # noqa: ANN401 - a context manager of uvicorn's own type
        """Signals belong to the program, which has more to end than its server."""
        import contextlib

        return contextlib.nullcontext()


def configured(app: ASGIApp, host: str, port: int) -> uvicorn.Config:
    """uvicorn's configuration for `app` on this address."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_Protocol,
        access_log=False,
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=3,
        timeout_keep_alive=KEEP_ALIVE_S,
        server_header=False,
        backlog=4096,
    )


async def serve(app: ASGIApp, host: str, port: int, running: Callable[[str], Coroutine[Any, Any, None]]) -> None:
    """Serve `app` until a signal ends it or `running`, called with the URL once the port is open, ends or fails."""
    server = Server(configured(app, host, port))
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    serving = asyncio.create_task(server.serve(), name="server")
    try:
        await until_open(server, serving, host, port)
        # What is there now stays: the collector need not look through all of it again and again. Nor need it come
        # every 700 objects, which a single request makes: almost all of them go without it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        bound = server.servers[0].sockets[0].getsockname()
        url = f"http://{host}:{bound[1]}"
        logger.info("listening on %s", url)
        background = asyncio.create_task(running(url), name="running")
        stopping = asyncio.create_task(stopped.wait(), name="signals")
        await asyncio.wait({serving, background, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await _ended(background, stopping)
    finally:
        server.should_exit = True
        await serving


async def until_open(server: uvicorn.Server, serving: "asyncio.Task[None]", host: str, port: int) -> None:
    """Wait until the port is open; raises `OSError` when the server has ended instead."""
    while not server.started:
        if serving.done():
            raise OSError(f"cannot listen on {host}:{port}: the address is taken or not ours; choose another port")
        await asyncio.sleep(0.01)


async def _ended(background: "asyncio.Task[None]", stopping: "asyncio.Task[bool]") -> None:
    """Cancel what still runs; what failed by itself is raised, for a program whose loop died must end loudly."""
    stopping.cancel()
    failed = background.exception() if background.done() else None
    background.cancel()
    await asyncio.gather(background, stopping, return_exceptions=True)
    if failed is not None:
        raise failed
