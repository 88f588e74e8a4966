"""What a node with a thousand Jobs costs, and how fast it answers; against the stand-in cluster."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import httpx
import psutil

from common.embedded.children import free_port
from common.embedded.object_store import ObjectStore
from common.references import Reference
from common.tasks import State, Task
from node.engines.odm import image_engine
from node.manifests import Site, job
from node.records import Record
from node.settings import JobSettings
from tests.client import JPEG, Wire
from tests.kubernetes_node import KubernetesNode, node_in
from tests.kubernetes_standin import ENGINE_IMAGE, NAMESPACE, STAGES_IMAGE, StandInCluster
from tests.waiting import wait_until

JOBS = 1_000
IDLE_S = 15.0
SUBMITS = 50
LOG_BYTES = 100_000_000


def kubernetes() -> None:
    """Measure everything once."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, httpx.Client(timeout=60) as http:
        scratch = Path(folder)
        cluster = StandInCluster(scratch / "cluster")
        cluster.start()
        store = ObjectStore(scratch / "s3" / "data", free_port(), "bench", "bench-secret", scratch / "s3.log")
        store.start("staging")
        node = node_in(cluster, store, scratch / "node", name="bench")
        try:
            _measure(node, cluster, store, http)
        finally:
            node.stop()
            store.stop()
            cluster.stop()


def _measure(node: KubernetesNode, cluster: StandInCluster, store: ObjectStore, http: httpx.Client) -> None:
    storage = store.storage()
    root = Reference.parse("s3://staging/flight/")
    storage.write(root / "a.jpg", JPEG)
    storage.write(root / "gcp_list.txt", b"sleep 600")
    wire = node.start().wire(http)
    running = [wire.post("/task/new", json={"readS3Path": str(root)}).json()["uuid"] for _ in range(2)]
    for uuid in running:
        wire.running(uuid)
    node.stop()
    logged = _make_jobs(node, cluster)
    process = psutil.Process(_started(node))
    wait_until(lambda: len(wire.get("/task/list").json()) == JOBS, "the node to know every Job", 60)
    print(f"\nA node with {JOBS:,} Jobs, two of them running, nothing changing for {IDLE_S:.0f} s")
    before = process.cpu_times()
    time.sleep(IDLE_S)
    after = process.cpu_times()
    share = (after.user + after.system - before.user - before.system) / IDLE_S
    print(f"  memory                            {process.memory_info().rss / 2**20:6.0f} MiB")
    print(f"  of a core                         {share * 100:6.1f} %")
    reference = _median_ms(lambda: http.get(node.url + "/auth/info"), SUBMITS)
    submit = _median_ms(lambda: wire.post("/task/new", json={"readS3Path": str(root)}), SUBMITS)
    print(f"\nMedian of {SUBMITS} requests, one after the other")
    print(f"  a request that does nothing       {reference:6.1f} ms   1.00")
    print(f"  submit by reference               {submit:6.1f} ms   {submit / reference:.2f}")
    total = _lines_of_console(wire, logged)
    poll = _median_ms(lambda: wire.get(f"/task/{logged}/output", line=str(total - 20)), SUBMITS)
    print(f"  output?line=N of a {LOG_BYTES / 1e6:.0f} MB console  {poll:6.1f} ms   {poll / reference:.2f}")


def _make_jobs(node: KubernetesNode, cluster: StandInCluster) -> str:
    """All but two Jobs, as an earlier life of the node left them; gives the uuid of one with a long console."""
    settings = JobSettings(stages_image=STAGES_IMAGE)
    site, engine = Site(node.name, NAMESPACE, {}), image_engine(ENGINE_IMAGE, None)
    now = time.time_ns() // 1_000_000
    uuids = [str(uuid4()) for _ in range(JOBS - 2)]
    for number, uuid in enumerate(uuids):
        task = Task(
            uuid=uuid,
            tenant="direct",
            name=f"task {number}",
            created_ms=now + number,
            state=State.CANCELED if number == 0 else State.QUEUED,
            input="s3://staging/flight/",
            output=f"s3://staging/out/{uuid}/",
            images_count=500,
            input_bytes=1,
            attempt=1,
        )
        made = job(Record(task, version=1), engine, settings, site)
        made["metadata"]["uid"] = uuid
        cluster.call(lambda made=made: cluster.api.keep("jobs", made, "ADDED"))  # type: ignore[misc]
    console = node.folder / "consoles" / uuids[0] / "1" / "console.log"
    console.parent.mkdir(parents=True)
    line = b"[INFO]    a line of console as engines write them, a hundred bytes long with everything that is in it.\n"
    with console.open("wb") as file:
        for _ in range(LOG_BYTES // len(line) // 1000):
            file.write(line * 1000)
    return uuids[0]


def _started(node: KubernetesNode) -> int:
    node.start()
    assert node.child is not None
    return node.child.process.pid


def _lines_of_console(wire: Wire, uuid: str) -> int:
    """The first look reads the whole file once; from then on only what is new."""
    low, high = 0, LOG_BYTES
    while low < high:
        middle = (low + high + 1) // 2
        if wire.get(f"/task/{uuid}/output", line=str(middle - 1)).json():
            low = middle
        else:
            high = middle - 1
        if high - low <= 1000:
            return low + len(wire.get(f"/task/{uuid}/output", line=str(low)).json())
    return low


def _median_ms(work: Callable[[], object], times: int) -> float:
    seen = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seen.append((time.perf_counter() - began) * 1000)
    return statistics.median(seen)
