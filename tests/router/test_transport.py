"""The router's way to its nodes: whatever a node does to a connection is one kind of trouble."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from common.embedded.children import free_port
from common.nodeodm.client import NodeClient, NodeUnreachable
from router.transport import node_http

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def _node(handle: Handler) -> AsyncIterator[NodeClient]:
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, node_http(4) as http:
        yield NodeClient(f"http://127.0.0.1:{port}", "secret", http)


def _says(data: bytes) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()
        writer.close()

    return handle


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"what is this\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\n: odd\r\n\r\n",
    ],
    ids=["closes", "no HTTP", "half an answer", "broken header"],
)
async def test_a_broken_connection_is_an_unreachable_node(data: bytes) -> None:
    """Which is tried again, and at last told as such."""
    async with _node(_says(data)) as client:
        with pytest.raises(NodeUnreachable, match=r"POST http://127\.0\.0\.1:\d+/task/new got no answer"):
            await client.submit({}, "u")


async def test_a_refused_connection_is_an_unreachable_node() -> None:
    """A node that has ended."""
    async with node_http(4) as http:
        with pytest.raises(NodeUnreachable, match="got no answer"):
            await NodeClient(f"http://127.0.0.1:{free_port()}", "secret", http).submit({}, "u")


async def test_a_node_that_never_answers_times_out() -> None:
    """Without holding its caller (I10)."""

    ended = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        ended.set()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with server, node_http(4) as http:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(httpx.TimeoutException):
            await http.get(url, timeout=0.2)
        await ended.wait()


async def test_a_connection_serves_many_requests_and_outlives_the_nodes_end_of_it() -> None:
    """A node that has closed an idle connection costs nothing but another connection."""
    opened = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"uuid":"u"}')
        writer.close()

    async with _node(handle) as client:
        for _ in range(6):
            assert await client.submit({}, "u") == "u"
    assert opened == 3
