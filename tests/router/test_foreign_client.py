"""A foreign node that breaks off, lies, or says too much: over real sockets, byte by byte."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from common.nodeodm.client import NodeAnswerUnreadable, NodeRefused, NodeUnreachable, TokenRefused
from router.foreign_client import MOST_ANSWER_BYTES, ForeignClient, TaskUnknown, new_http

UUID = "01234567-89ab-5000-a000-0123456789ab"
Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def node(answer: Answer) -> AsyncIterator[ForeignClient]:
    """A server that reads the head of each request and lets `answer` do the rest; and a client of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(await reader.readuntil(b"\r\n\r\n"), writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    http = new_http()
    try:
        yield ForeignClient(f"http://127.0.0.1:{port}", "a-secret", http)
    finally:
        await http.aclose()
        server.close()
        await server.wait_closed()


def says(body: bytes, status: str = "200 OK", kind: str = "application/json") -> Answer:
    """Always the same answer."""

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        del head
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n".encode()
            + body
        )

    return answer


class Archive:
    """Serves `all.zip`, and breaks off after a while, again and again."""

    def __init__(self, content: bytes, breaks_after: int, ranges: bool, breaks: int = 1000) -> None:
        self.content = content
        self.breaks_after = breaks_after
        self.ranges = ranges
        self.breaks = breaks
        self.asked: list[int] = []

    async def __call__(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        """One request."""
        lines = head.decode().lower().split("\r\n")
        asked = next((line for line in lines if line.startswith("range:")), "")
        begin = int(asked.partition("bytes=")[2].rstrip("-")) if asked and self.ranges else 0
        self.asked.append(begin)
        total = len(self.content)
        status = f"206 Partial Content\r\nContent-Range: bytes {begin}-{total - 1}/{total}" if begin else "200 OK"
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: application/zip\r\nContent-Length: {total - begin}\r\n\r\n".encode()
        )
        self.breaks -= 1
        end = begin + self.breaks_after if self.breaks >= 0 else total
        writer.write(self.content[begin:end])


async def test_a_download_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    """At a node that knows ranges no byte is fetched twice, however often it breaks off."""
    archive, seen = Archive(os.urandom(5_000_000), 600_000, ranges=True), list[float]()
    async with node(archive) as client:
        await client.fetch_archive(UUID, tmp_path / "all.zip", seen.append)
    assert (tmp_path / "all.zip").read_bytes() == archive.content
    assert len(archive.asked) == 9
    assert archive.asked == sorted(set(archive.asked))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


async def test_a_download_begins_anew_at_a_node_without_ranges(tmp_path: Path) -> None:
    """NodeODM itself ignores them (contract 2.8): what came before is thrown away, not appended to."""
    archive = Archive(os.urandom(3_000_000), 1_000_000, ranges=False, breaks=2)
    async with node(archive) as client:
        await client.fetch_archive(UUID, tmp_path / "all.zip", lambda _: None)
    assert (tmp_path / "all.zip").read_bytes() == archive.content
    assert archive.asked == [0, 0, 0]


async def test_a_download_that_never_gets_further_is_given_up(tmp_path: Path) -> None:
    """With the reason."""
    archive = Archive(os.urandom(100_000), 0, ranges=True)
    async with node(archive) as client:
        with pytest.raises(NodeUnreachable, match="broke"):
            await client.fetch_archive(UUID, tmp_path / "all.zip", lambda _: None)


async def test_an_archive_that_is_not_there(tmp_path: Path) -> None:
    """NodeODM says so with 200 and JSON."""
    async with node(says(b'{"error":"Asset not ready"}')) as client:
        with pytest.raises(NodeRefused, match="Asset not ready"):
            await client.fetch_archive(UUID, tmp_path / "all.zip", lambda _: None)
    assert not (tmp_path / "all.zip").exists()


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (b'{"error":"Invalid authentication token: token does not match."}', "200 OK", TokenRefused),
        (b"", "401 Unauthorized", TokenRefused),
        (f'{{"error":"{UUID} not found"}}'.encode(), "200 OK", TaskUnknown),
        (b'{"error":"no"}', "200 OK", NodeRefused),
        (b"<html>", "200 OK", NodeAnswerUnreadable),
        (b"{}", "500 Internal Server Error", NodeAnswerUnreadable),
        (b"3", "200 OK", NodeAnswerUnreadable),
        (b"\xff\xfe", "200 OK", NodeAnswerUnreadable),
        (b"[" * 100_000, "200 OK", NodeAnswerUnreadable),
        (b'"' + b"x" * MOST_ANSWER_BYTES + b'"', "200 OK", NodeAnswerUnreadable),
    ],
    ids=["token", "401", "unknown", "refused", "html", "500", "number", "not utf-8", "deep", "long"],
)
async def test_answers_are_told_apart(body: bytes, status: str, expected: type[Exception]) -> None:
    """Each as what it is; the token is in none of the texts."""
    async with node(says(body, status)) as client:
        with pytest.raises(expected) as raised:
            await client.task(UUID)
    assert raised.type is expected
    assert "a-secret" not in str(raised.value)


async def test_a_file_is_sent_in_blocks_and_under_its_name() -> None:
    """One multipart request whose length is told beforehand; the body is what it should be, to the byte."""
    content, received = os.urandom(3_000_000), bytearray()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].split("\r\n")[0])
        received.extend(await reader.readexactly(length))
        body = json.dumps({"success": True}).encode()
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    async def blocks() -> AsyncIterator[bytes]:
        for begin in range(0, len(content), 500_000):
            yield content[begin : begin + 500_000]

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    http = new_http()
    client = ForeignClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", None, http)
    await client.upload(UUID, 'a "quoted" näme.jpg', len(content), blocks)
    await http.aclose()
    server.close()
    await server.wait_closed()
    head, _, rest = bytes(received).partition(b"\r\n\r\n")
    assert 'name="images"; filename="a %22quoted%22 näme.jpg"' in head.decode()
    assert rest.startswith(content)
    assert rest[len(content) :].startswith(b"\r\n--")


async def test_an_upload_that_breaks_off_is_not_sent_again() -> None:
    """NodeODM would keep the broken file beside the whole one (contract 2.10): the whole upload begins anew."""
    requests = 0

    async def breaks_off(head: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        del head
        requests += 1
        writer.transport.abort()

    async def blocks() -> AsyncIterator[bytes]:
        yield bytes(2_000_000)

    async with node(breaks_off) as client:
        with pytest.raises(NodeUnreachable):
            await client.upload(UUID, "a.jpg", 2_000_000, blocks)
    assert requests == 1


async def test_a_node_that_hangs_is_not_waited_for_longer_than_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took the connection, and says nothing."""
    monkeypatch.setattr("router.foreign_client.ASK_S", 0.1)
    forever = asyncio.Event()

    async def hang(head: bytes, writer: asyncio.StreamWriter) -> None:
        del head, writer
        await forever.wait()

    async with node(hang) as client:
        with pytest.raises(NodeUnreachable, match="did not answer in time"):
            await client.info()
        forever.set()
