"""A TCP proxy of the tests' own: between router and node it passes bytes on, loses them, or answers nonsense."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from enum import Enum
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from common.embedded.children import free_port

R = TypeVar("R")

_BLOCK = 1 << 16


class Way(Enum):
    """What becomes of what is sent. The value of some is the answer that the proxy gives itself."""

    THROUGH = b""
    LOST = b"lost"
    """Connections are taken and stay open, and every byte of either side is dropped."""
    GARBAGE = bytes(range(0x80, 0x100)) * 4
    """What is no HTTP at all."""
    PAGE = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 13\r\nconnection: close\r\n\r\n<p>Hello.</p>"
    """HTTP, but not what was asked for: some other server stands at that address."""
    ERROR = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 6\r\nconnection: close\r\n\r\nbroken"


class Proxy:
    """One listening port, on a thread of its own. A context manager."""

    def __init__(self, target: Callable[[], str]) -> None:
        """`target`: URL of the server behind; asked for with each connection, so it need not be known yet."""
        self._target = target
        self._way = Way.THROUGH
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._connections: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._taken, "127.0.0.1", self._port))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every connection, and listen no more."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def turn(self, way: Way) -> None:
        """From now on. Connections that are open are lost with their bytes, or, where `way` loses none, broken off."""
        self._do(self._turned(way))

    def _do(self, work: Coroutine[Any, Any, R]) -> R:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _turned(self, way: Way) -> None:
        self._way = way
        if way is not Way.LOST:
            await self._break_off()

    async def _end(self) -> None:
        self._server.close()
        await self._break_off()

    async def _break_off(self) -> None:
        connections = list(self._connections)
        for each in connections:
            each.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # One that is broken off before it has begun never comes to its own end.
        task.add_done_callback(lambda _: writer.close())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._way is Way.LOST:
                await self._lose(reader)
            elif self._way is Way.THROUGH:
                await self._pass_on(reader, writer)
            else:
                await _read_request(reader)
                writer.write(self._way.value)
                await writer.drain()
        except OSError:
            writer.transport.abort()  # the same is done to the other side
        finally:
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = urlsplit(self._target())
        their_reader, their_writer = await asyncio.open_connection(behind.hostname, behind.port)
        both = (self._pump(reader, their_writer), self._pump(their_reader, writer))
        pumps = [asyncio.create_task(each) for each in both]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in pumps:
                each.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            their_writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while (data := await source.read(_BLOCK)) and self._way is not Way.LOST:
                sink.write(data)
                await sink.drain()
        if self._way is Way.LOST:
            await self._lose(source)

    async def _lose(self, source: asyncio.StreamReader) -> None:
        """Until the connection is broken off: who closes it on one side is not noticed on the other."""
        with contextlib.suppress(OSError):
            while await source.read(_BLOCK):
                continue
        await asyncio.get_running_loop().create_future()


async def _read_request(reader: asyncio.StreamReader) -> None:
    """A request, whole: who is answered too early sees a broken connection instead of the answer."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        _, _, length = head.partition(b"content-length:")
        await reader.readexactly(int(length.split(b"\r\n")[0] or 0))
