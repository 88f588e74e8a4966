"""Two hundred uploads whose connections break: the client comes again, and every file is there once, and whole."""

import asyncio
import os
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pyodm.api
import pytest
from pyodm import Node

from common.references import Reference, staged_images
from common.storage import PART_BYTES, Storage
from tests.client import JPEG, Wire
from tests.matrix.proxy import Proxy

BREAKS = 200
SEED = int(os.environ.get("SCALEODM_TEST_UPLOADS_SEED", "5"))
STAGING = Reference.parse("s3://staging/")
_HEAD_END = b"\r\n\r\n"
_BLOCK = 1 << 14


class BreakingProxy(Proxy):
    """Breaks off the first uploads that come through it, each at a byte of its own."""

    def __init__(self, target: str, breaks: int, chance: random.Random) -> None:
        """`breaks`: how many; every connection after them is left alone."""
        super().__init__(lambda: target)
        self._chance = chance
        self.left = breaks
        self.broken: Counter[str] = Counter()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(_HEAD_END)
        port = int(self._target().rpartition(":")[2])
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            if b"/task/new/upload/" in head and self.left > 0:
                self.left -= 1
                await self._break(head, reader, writer, server_reader, server_writer)
                return
            server_writer.write(head)
            await asyncio.wait(
                [
                    asyncio.create_task(self._pump(reader, server_writer)),
                    asyncio.create_task(self._pump(server_reader, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            server_writer.close()

    async def _break(
        self,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        """In the request, right after it, or once it is answered; of a part of an answer PyODM itself would die."""
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        assert length is not None, head
        total = len(head) + int(length.group(1))
        where = self._chance.choice(["in the request"] * 6 + ["after the request"] * 2 + ["after the answer"] * 2)
        cut = self._chance.randrange(total) if where == "in the request" else total
        sent = head[:cut]
        server_writer.write(sent)
        passed = len(sent)
        while passed < cut:
            block = await reader.read(min(_BLOCK, cut - passed))
            if not block:
                break
            server_writer.write(block)
            await server_writer.drain()
            passed += len(block)
        if where == "after the answer":
            assert await server_reader.read(_BLOCK)
        self.broken[where] += 1
        server_writer.transport.abort()
        writer.transport.abort()


def some_files(folder: Path, chance: random.Random) -> list[Path]:
    """Many small files, a few that go to S3 in parts, and two of each of some names."""
    sizes = [chance.randrange(1, 60_000) for _ in range(90)] + [PART_BYTES + chance.randrange(1000) for _ in range(3)]
    paths = []
    for number, size in enumerate(sizes):
        path = folder / f"{number:03}.jpg"
        path.write_bytes(JPEG + chance.randbytes(size))
        paths.append(path)
    twins = folder / "twins"
    twins.mkdir()
    for path in paths[:5]:
        twin = twins / path.name
        twin.write_bytes(JPEG + chance.randbytes(100))
        paths.append(twin)
    return paths


def stored_names(paths: Sequence[Path]) -> list[str]:
    """Under which names these files lie once they are uploaded."""
    counts = Counter(path.stem for path in paths)
    return sorted(f"{stem}{'_' * again}.jpg" for stem, count in counts.items() for again in range(count))


@pytest.mark.contract("2.10 broken off")
@pytest.mark.parametrize("address", ["router", "node"])
def test_every_file_of_two_hundred_broken_uploads_is_kept_once_and_whole(
    address: str,
    request: pytest.FixtureRequest,
    federation_storage: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection drops at random bytes, the unmodified PyODM retries as it does, only without its long pauses."""
    wire: Wire = request.getfixturevalue(f"{address}_wire")
    paths = some_files(tmp_path, random.Random(SEED))
    # PyODM waits 5 s times the number of the try.
    monkeypatch.setattr(pyodm.api, "time", SimpleNamespace(sleep=lambda seconds: time.sleep(seconds / 200)))
    with BreakingProxy(wire.url, BREAKS, random.Random(SEED)) as proxy:
        client = Node.from_url(f"{proxy.url}?token={wire.token}")
        task = client.create_task([str(path) for path in paths], {}, name="broken", max_retries=BREAKS)
    assert sum(proxy.broken.values()) == BREAKS, f"seed {SEED}: {proxy.broken}"
    assert len(proxy.broken) == 3
    images = staged_images(STAGING, task.uuid)
    listed = [each.reference for each in federation_storage.listing(images)]
    found = {each.name: federation_storage.read(each) for each in listed}
    assert sorted(found) == stored_names(paths), f"seed {SEED}"
    digests = Counter(sha256(content).hexdigest() for content in found.values())
    assert digests == Counter(sha256(path.read_bytes()).hexdigest() for path in paths), f"seed {SEED}"
    assert list(federation_storage.unfinished(images)) == []
    assert wire.ended(task.uuid)["imagesCount"] == len(paths)
    assert wire.act("remove", task.uuid) == {"success": True}
