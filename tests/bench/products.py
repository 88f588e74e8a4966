"""What it takes to load the products of a task, beside boto3 straight from the same S3 server."""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import urllib3
from pyodm import Node

from common.embedded.stack import Stack
from common.references import ALL_ZIP, Reference
from common.storage import Storage
from tests.bench.federation import ENGINE
from tests.client import ENDED, Wire
from tests.standin_odm import save_raster
from tests.waiting import wait_until

ARCHIVE_BYTES = 2_000_000_000
PRODUCT_MIB = 256
TIMES = 2
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Loaded:
    """One download. Times in seconds."""

    began_s: float
    """Until its first byte was here."""
    took_s: float
    count: int


def products() -> None:
    """`all.zip` of 2 GB through the router, and the publishing of a large product."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        with Stack(scratch / "stack", node_settings=ENGINE) as stack, httpx.Client(timeout=60) as http:
            wire = Wire(stack.router_url, stack.user_token, http)
            _downloads(stack, wire, scratch)
            _publishing(stack, wire, scratch)


def _downloads(stack: Stack, wire: Wire, scratch: Path) -> None:
    uuid = wire.task()
    wire.ended(uuid)
    storage, archive = stack.storage(), Reference.parse(f"s3://staging/{uuid}/output/") / ALL_ZIP
    _fill(storage, archive)
    print(f"\nDownload of an all.zip of {ARCHIVE_BYTES / 1e9:.0f} GB, the best of {TIMES}")
    # rclone digests an object when it is asked for first; publishing ends with a list, so no client waits for that.
    began = time.perf_counter()
    list(storage.listing(archive))
    print(f"  rclone's own digest of it took {time.perf_counter() - began:.1f} s")
    straight, ours = [], []
    for _ in range(TIMES):  # by turns: what disturbs one disturbs the other
        straight.append(_loaded(lambda: storage.blocks(archive)))
        ours.append(_loaded(lambda: _through_router(wire, uuid)))
    assert {each.count for each in (*straight, *ours)} == {ARCHIVE_BYTES}
    reference, seen = (min(each.took_s for each in some) for some in (straight, ours))
    _say("boto3 straight from S3", reference, ARCHIVE_BYTES, reference)
    _say("by the router's link", seen, ARCHIVE_BYTES, reference)
    latest = [max(each.began_s for each in some) * 1000 for some in (straight, ours)]
    print(f"  its first byte after {latest[1]:.0f} ms at most, straight from S3 after {latest[0]:.0f}")
    began = time.perf_counter()
    path = Node.from_url(f"{wire.url}?token={wire.token}").get_task(uuid).download_zip(str(scratch))
    took = time.perf_counter() - began
    assert Path(path).stat().st_size == ARCHIVE_BYTES
    _say("PyODM, written to disk", took, ARCHIVE_BYTES, reference)
    Path(path).unlink()
    wire.act("remove", uuid)


def _fill(storage: Storage, target: Reference) -> None:
    block = os.urandom(_BLOCK)
    writer = storage.stream_to(target, "application/zip")
    left = ARCHIVE_BYTES
    while left:
        left -= writer.write(block[: min(left, _BLOCK)])
    writer.finish()


def _loaded(blocks: Callable[[], Iterator[bytes]]) -> Loaded:
    began = time.perf_counter()
    first, count = 0.0, 0
    for block in blocks():
        first = first or time.perf_counter() - began
        count += len(block)
    return Loaded(first, time.perf_counter() - began, count)


def _through_router(wire: Wire, uuid: str) -> Iterator[bytes]:
    """As a client loads it: ask, follow, read; by the library that boto3 reads with, so that it does not count."""
    url = f"{wire.url}/task/{uuid}/download/{ALL_ZIP}?token={wire.token}"
    with urllib3.PoolManager() as pool:
        answer = pool.request("GET", url, preload_content=False)
        yield from answer.stream(_BLOCK)
        answer.release_conn()


def _publishing(stack: Stack, wire: Wire, scratch: Path) -> None:
    """A product goes to S3 twice: in the archive, and by itself."""
    storage, product = stack.storage(), scratch / "product"
    save_raster(product, PRODUCT_MIB * 2**20)
    began = time.perf_counter()
    for name in ("once", "twice"):
        storage.upload(product, Reference("staging", f"bench/{name}"))
    reference = time.perf_counter() - began
    product.unlink()
    uuid = wire.task(f"megabytes {PRODUCT_MIB}")
    wait_until(lambda: "Compressing all.zip" in wire.output(uuid), f"{uuid} to publish", 120)
    began = time.perf_counter()
    run = next(each for each in psutil.process_iter(["cmdline"]) if _is_run_of(each, uuid))
    memory = 0

    def look() -> bool:
        nonlocal memory
        with contextlib.suppress(psutil.NoSuchProcess):
            memory = max(memory, run.memory_info().rss)
        return wire.code(uuid) in ENDED

    wait_until(look, f"{uuid} to end", 300)
    took = time.perf_counter() - began
    assert wire.code(uuid) == 40
    print(f"\nPublishing a product of {PRODUCT_MIB} MiB, and all.zip with it")
    _say("boto3, the same file twice", reference, 2 * PRODUCT_MIB * 2**20, reference)
    _say("a node, SHA-256 and CRC with it", took, 2 * PRODUCT_MIB * 2**20, reference)
    print(f"  its process took {memory / 2**20:.0f} MiB of memory at most")
    wire.act("remove", uuid)


def _is_run_of(process: psutil.Process, uuid: str) -> bool:
    title = " ".join(process.info["cmdline"] or [])
    return title.startswith("scaleodm run ") and uuid in title


def _say(what: str, took_s: float, count: int, reference_s: float) -> None:
    print(f"  {what:<34}{took_s:6.2f} s  {count / took_s / 1e6:6,.0f} MB/s   {took_s / reference_s:.2f}")
