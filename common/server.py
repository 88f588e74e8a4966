"""uvicorn as both programs run it: quiet, able to drop a connection, ended by SIGTERM or SIGINT."""

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from common.nodeodm.envelope import DROP

logger = logging.getLogger(__name__)


class _Droppable(HttpToolsProtocol):
    """Offers every request the means to drop its connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        extensions: dict[str, Any] = {DROP: self.transport.abort}
        self.scope["extensions"] = extensions


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
        http=_Droppable,
        access_log=False,
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=3,
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
