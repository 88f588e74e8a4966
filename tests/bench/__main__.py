"""`make bench`, or `python -m tests.bench NAME…` for some of it: figures beside references of the same run.

`router`: what a router does in a second, and what an upload through it costs; `uneven`: how well four unequal nodes are
used; `scale`: a thousand nodes and a hundred thousand tasks; `dashboard`: the same, watched in a browser; `kubernetes`:
what a thousand Jobs cost a node; `products`: what it takes to load and to publish large products.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import httpx
import psutil
import uvloop
from pyodm import Node

from common.embedded.children import free_port, start_child
from common.embedded.stack import Stack, answers
from common.references import Reference
from tests.bench.dashboard import dashboard
from tests.bench.federation import ENGINE, scale, uneven
from tests.bench.kubernetes import kubernetes
from tests.bench.load import load
from tests.bench.products import products
from tests.client import Wire
from tests.waiting import wait_until

SECONDS = 5
FILES, FILE_BYTES, PARALLEL = 100, 3_000_000, 10


def main(names: Sequence[str]) -> None:
    """Measure what is named, or everything, once."""
    unknown = set(names) - set(BENCHES)
    if unknown:
        sys.exit(f"no bench is named {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    for name in names or BENCHES:
        BENCHES[name]()


def router() -> None:
    """What one router does in a second, and what an upload through it costs."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        with Stack(scratch / "stack", node_settings=ENGINE) as stack, httpx.Client(timeout=60) as http:
            polls(Wire(stack.router_url, stack.user_token, http), scratch)
            uploads(stack, scratch)


def polls(wire: Wire, scratch: Path) -> None:
    """Requests a second at 64 connections; the load itself takes the other core."""
    print(f"\nRequests a second, {SECONDS} s at 64 connections")
    port = free_port()
    child = start_child("bare", [sys.executable, "-m", "tests.bench.bare", str(port)], os.environ, scratch / "bare.log")
    child.wait_until(lambda: answers(f"http://127.0.0.1:{port}/"))
    bare = uvloop.run(load(f"http://127.0.0.1:{port}/", SECONDS))
    child.stop()
    print(f"  {'bare ASGI hello':<34}{bare.rate:>9,.0f}/s   p99 {bare.percentile_ms(99):5.1f} ms   1.00")
    uuid = wire.task()
    wire.ended(uuid)
    query = f"?token={wire.token}"
    for path in (f"/task/{uuid}/info{query}", f"/info{query}", f"/task/{uuid}/info{query}&with_output=0"):
        seen = uvloop.run(load(wire.url + path, SECONDS))
        name = path.replace(uuid, "{uuid}").replace(query, "?…")
        ratio = seen.rate / bare.rate
        print(f"  {name:<34}{seen.rate:>9,.0f}/s   p99 {seen.percentile_ms(99):5.1f} ms   {ratio:.2f}")


def uploads(stack: Stack, scratch: Path) -> None:
    """The same bytes by boto3 straight to S3, as it comes and as we set it up, and by PyODM through the router."""
    folder = scratch / "files"
    folder.mkdir()
    files = [folder / f"{number:04d}.jpg" for number in range(FILES)]
    for file in files:
        file.write_bytes(b"\xff\xd8\xff" + os.urandom(FILE_BYTES - 3))
    print(f"\nUpload of {FILES * FILE_BYTES / 1e6:.0f} MB in {FILES} files, {PARALLEL} at once")
    storage = stack.storage()
    storage.make_bucket("bench")
    node = Node.from_url(f"{stack.router_url}?token={stack.user_token}")
    router = next(process for process in psutil.Process().children() if "router" in process.cmdline())

    environment = stack.object_store.environment("s3://staging/")
    usual = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )

    def straight() -> None:
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(lambda file: usual.upload_file(str(file), "bench", file.name), files))

    def ours_straight() -> None:
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(lambda file: storage.write(Reference("bench", file.name), file.read_bytes()), files))

    tasks = []

    def through_router() -> None:
        tasks.append(node.create_task([str(file) for file in files], {}, name="bench", parallel_uploads=PARALLEL))

    through_router_memory = _growing(router, through_router)
    reference, tuned, ours = _best(straight), _best(ours_straight), _best(through_router)
    for task in tasks:
        task.remove()
    print(f"  boto3 straight to S3              {reference:6.2f} s   1.00")
    print(f"  our own S3 client straight        {tuned:6.2f} s   {tuned / reference:.2f}")
    print(f"  PyODM through the router          {ours:6.2f} s   {ours / reference:.2f}")
    print(f"  the router's memory grew by       {through_router_memory / 2**20:6.0f} MiB at most")


def _best(work: Callable[[], None], times: int = 3) -> float:
    """Machines are shared: the best of a few tries is the least disturbed."""
    seen = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seen.append(time.perf_counter() - began)
    return min(seen)


def _growing(process: psutil.Process, work: Callable[[], None]) -> int:
    """Bytes by which a process grows at most while `work` is done."""
    before = process.memory_info().rss
    highest = before
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)

        def look() -> bool:
            nonlocal highest
            highest = max(highest, process.memory_info().rss)
            return working.done()

        wait_until(look, "the upload to end", 300)
        working.result()
    return highest - before


BENCHES: dict[str, Callable[[], None]] = {
    "router": router,
    "uneven": uneven,
    "scale": scale,
    "dashboard": dashboard,
    "kubernetes": kubernetes,
    "products": products,
}


if __name__ == "__main__":
    main(sys.argv[1:])
