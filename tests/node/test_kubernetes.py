"""A node whose tasks are Jobs, through what happens in clusters: real node processes, a stand-in cluster, real S3."""

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from kmock import KubernetesError
from kmock import Request as KmockRequest

from common.embedded.children import free_port
from common.embedded.object_store import ObjectStore
from common.references import Reference
from common.storage import Storage
from node.lifecycle import MOST_STARTS
from tests.client import JPEG, Wire
from tests.kubernetes_node import KubernetesNode, node_in
from tests.kubernetes_standin import OTHER_IMAGE, StandInCluster
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInCluster]:
    """A cluster of this module's own: it is treated badly."""
    running = StandInCluster(tmp_path_factory.mktemp("site"))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def s3(rclone: ObjectStore) -> Storage:
    """Its S3."""
    return rclone.storage()


class Nodes:
    """Makes nodes, and ends them."""

    def __init__(self, site: StandInCluster, store: ObjectStore, folder: Path, http: httpx.Client) -> None:
        self._site, self._store, self._folder, self._http = site, store, folder, http
        self._made: list[KubernetesNode] = []
        self.name = f"node-{uuid4().hex[:8]}"

    def __call__(self, **settings: str) -> KubernetesNode:
        """One more replica of this test's node."""
        folder = self._folder / f"replica-{len(self._made)}"
        folder.mkdir(parents=True)
        node = node_in(self._site, self._store, folder, dict(settings), self.name)
        self._made.append(node)
        return node.start()

    def wire(self, node: KubernetesNode) -> Wire:
        """Its API."""
        return node.wire(self._http)

    def end(self) -> None:
        """End them all."""
        for node in self._made:
            node.stop()


@pytest.fixture
def nodes(site: StandInCluster, rclone: ObjectStore, tmp_path: Path, http: httpx.Client) -> Iterator[Nodes]:
    """Nodes of one name, which no other test has."""
    made = Nodes(site, rclone, tmp_path, http)
    yield made
    made.end()


def text_of(s3: Storage, reference: Reference) -> str:
    """A small object."""
    return s3.read(reference).decode()


def test_a_job_and_its_products(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """S3 in, S3 out; the console is beside the products, in the archive and on the wire the same."""
    wire = nodes.wire(nodes())
    uuid, root = wire.by_reference(s3, "say hello from the engine")
    info = wire.ended(uuid)
    assert (info["status"]["code"], info["imagesCount"], info["progress"]) == (40, 1, 100), info
    lines = wire.output(uuid)
    assert lines[0].startswith("Fetching 2 files")
    assert "hello from the engine" in lines
    assert lines[-1] == "Done"
    kept = text_of(s3, root / "output/task_output.txt").splitlines()
    assert kept == lines[: len(kept)], "what publish says comes after"
    manifest = json.loads(text_of(s3, root / "output/manifest.json"))
    assert {"all.zip", "task_output.txt"} <= {each["name"] for each in manifest["objects"]}
    job = site.job(uuid)
    assert job is not None
    assert job["metadata"]["labels"]["scaleodm.org/task"] == uuid


def test_no_secret_is_in_any_object_or_log(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """I9."""
    node = nodes()
    wire = nodes.wire(node)
    uuid, _ = wire.by_reference(s3)
    wire.ended(uuid)
    secret = node.s3["AWS_SECRET_ACCESS_KEY"]
    everything = json.dumps([site.objects(plural) for plural in ("jobs", "pods", "configmaps", "secrets")])
    assert secret not in everything
    assert secret not in node.said()
    assert secret not in "\n".join(wire.output(uuid))


def test_a_console_is_exact_after_rotation_and_a_killed_node(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """What the kubelet no longer has is still answered by number, and no line is there twice."""
    node = nodes()
    wire = nodes.wire(node)
    uuid, _ = wire.by_reference(s3, "lines 3000\nsleep 4\nlines 500\nsay the end")
    wire.says(uuid, "line 2999")
    (pod,) = site.pods(uuid)
    before = wire.output(uuid)
    node.kill()
    site.call(site.controllers.logs[pod["metadata"]["name"], "engine"].rotate)
    node.start()
    wire.completed(uuid)
    after = wire.output(uuid)
    assert after[: len(before)] == before
    engine = [line for line in after if line.startswith("line ")]
    assert engine == [f"line {number}" for number in [*range(3000), *range(500)]]
    assert wire.output(uuid, line=str(len(after) - 1)) == [after[-1]]


def test_a_log_that_breaks_off_is_followed_on(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """The API server, or the kubelet, ends the stream in the middle."""
    wire = nodes.wire(nodes())
    uuid, _ = wire.by_reference(s3, "lines 10\nsleep 1\nlines 10\nsleep 1\nlines 10")
    wire.says(uuid, "line 9")
    (pod,) = site.pods(uuid)
    site.controllers.logs[pod["metadata"]["name"], "engine"].breaks = 2
    wire.ended(uuid)
    lines = [line for line in wire.output(uuid) if line.startswith("line ")]
    assert lines == [f"line {number}" for number in [*range(10)] * 3]


def test_a_killed_node_finds_its_jobs_again(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """It keeps nothing, so it loses nothing: running, waiting, ended and canceled tasks alike."""
    node = nodes()
    wire = nodes.wire(node)
    ended, _ = wire.by_reference(s3)
    wire.ended(ended)
    canceled, _ = wire.by_reference(s3, "sleep 30")
    wire.running(canceled)
    wire.act("cancel", canceled)
    running = [wire.by_reference(s3, "sleep 3")[0] for _ in range(2)]
    for uuid in running:
        wire.running(uuid)
    waiting, _ = wire.by_reference(s3)
    wait_until(lambda: wire.code(waiting) == 10, "the third task to wait")
    node.kill()
    node.start()
    assert (wire.code(ended), wire.code(canceled)) == (40, 50)
    assert "Done" in wire.output(ended)
    for uuid in (*running, waiting):
        wire.completed(uuid)
    starts = [name for name in site.controllers.started if any(uuid in name for uuid in (*running, waiting))]
    assert len(starts) == 3, "nothing was started twice"


def test_a_fresh_node_reads_ended_consoles_from_s3(nodes: Nodes, s3: Storage) -> None:
    """Its own disk may be a new one."""
    node = nodes()
    wire = nodes.wire(node)
    uuid, _ = wire.by_reference(s3, "say remember me")
    wire.ended(uuid)
    node.stop()
    other = nodes()
    assert "remember me" in nodes.wire(other).output(uuid)


def test_slots_and_the_order_of_arrival(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """At most the slots run, the rest waits suspended, first come first served."""
    wire = nodes.wire(nodes())
    uuids = [wire.by_reference(s3, "sleep 3")[0] for _ in range(2)]
    for uuid in uuids:
        wire.running(uuid)
    for _ in range(4):
        uuids.append(wire.by_reference(s3, "sleep 0.5", dateCreated=10_000 - len(uuids))[0])
        wait_until(lambda: site.job(uuids[-1]) is not None, "the task to have its Job")
    most = 0

    def all_ended() -> bool:
        nonlocal most
        alive = [pod for uuid in uuids for pod in site.pods(uuid) if pod["status"]["phase"] in ("Pending", "Running")]
        most = max(most, len(alive))
        return all(wire.code(uuid) == 40 for uuid in uuids)

    assert [(site.job(uuid) or {})["spec"]["suspend"] for uuid in uuids] == [False] * 2 + [True] * 4
    wait_until(all_ended, "six tasks to end", 60)
    assert most <= 2
    started = [
        next(uuid for uuid in uuids if uuid in name)
        for name in site.controllers.started
        if any(u in name for u in uuids)
    ]
    assert started[2:] == uuids[2:], "whatever date their clients gave them"


def test_cancel_leaves_no_pod_and_can_be_repeated(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """I7; the console up to then lies in S3."""
    wire = nodes.wire(nodes())
    uuid, root = wire.by_reference(s3, "say working\nignore-sigterm\nsleep 60")
    wire.says(uuid, "working")
    assert wire.act("cancel", uuid) == {"success": True}
    assert wire.code(uuid) == 50
    assert site.processes(uuid) == [], "nothing of the run is running"
    assert wire.act("cancel", uuid) == {"success": True}
    job = site.job(uuid)
    assert job is not None
    assert job["spec"]["suspend"] is True
    wait_until(lambda: s3.exists(root / "output/task_output.txt"), "the console to lie in S3")
    assert "working" in text_of(s3, root / "output/task_output.txt")
    assert not s3.exists(root / "output/manifest.json")


def test_remove_deletes_job_and_record(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """Nothing is left in the cluster."""
    wire = nodes.wire(nodes())
    uuid, _ = wire.by_reference(s3, "sleep 60")
    wire.running(uuid)
    assert wire.act("remove", uuid) == {"success": True}
    assert site.job(uuid) is None
    wait_until(lambda: not site.pods(uuid), "the pods to go")
    assert not [each for each in site.objects("configmaps") if uuid in each["metadata"]["name"]]


def test_restart_is_a_new_attempt_and_the_old_job_goes(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """Under the same uuid."""
    wire = nodes.wire(nodes())
    uuid, root = wire.by_reference(s3, "exit 1")
    assert wire.ended(uuid)["status"]["code"] == 30
    s3.delete(root / "gcp_list.txt")
    assert wire.act("restart", uuid) == {"success": True}
    wire.completed(uuid)
    assert site.job(uuid) is None
    job = site.job(uuid, 2)
    assert job is not None
    assert job["metadata"]["labels"]["scaleodm.org/attempt"] == "2"
    assert json.loads(text_of(s3, root / "output/manifest.json"))["attempt"] == 2


def test_an_engine_error_fails_at_once_with_its_last_complaint(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """One pod; the console lies in S3."""
    wire = nodes.wire(nodes())
    uuid, root = wire.by_reference(s3, "say [ERROR]   Not enough features\nexit 1")
    info = wire.ended(uuid)
    assert info["status"] == {"code": 30, "errorMessage": "Cannot process dataset: Not enough features"}
    assert len(site.pods(uuid)) == 1
    assert "[ERROR]   Not enough features" in text_of(s3, root / "output/task_output.txt")


def test_out_of_memory_is_told_and_not_tried_again(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """The exit code alone would be retried, as a lost machine is."""
    wire = nodes.wire(nodes())
    uuid, _ = wire.by_reference(s3, "oom")
    assert "Not enough memory" in wire.ended(uuid)["status"]["errorMessage"]
    job = site.job(uuid)
    assert job is not None
    assert job["spec"]["suspend"] is True
    assert site.controllers.started.count(job["metadata"]["name"]) == 1


def test_a_deleted_pod_costs_time_and_nothing_else(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """The engine ends with 1, as for an error: the node sees that it was told to."""
    wire = nodes.wire(nodes())
    uuid, _ = wire.by_reference(s3, "say begun\nsleep 2")
    wire.says(uuid, "begun")
    site.delete_pod(uuid)
    wait_until(lambda: len([n for n in site.controllers.started if uuid in n]) == 2, "another pod")
    wire.completed(uuid)


def test_an_eviction_is_not_counted(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """Another pod, the same Job; progress does not go back."""
    wire = nodes.wire(nodes(SCALEODM_JOB_BACKOFF_LIMIT="0"))
    uuid, _ = wire.by_reference(s3, "say begun\nsleep 2")
    wire.says(uuid, "begun")
    before = wire.info(uuid)["progress"]
    site.evict(uuid)
    wait_until(lambda: len([n for n in site.controllers.started if uuid in n]) == 2, "another pod")
    assert wire.info(uuid)["progress"] >= before
    wire.completed(uuid)


def test_a_full_disk_is_told(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """Evicted without a DisruptionTarget: another pod would fill its disk as well (kubernetes-facts, trap 3)."""
    wire = nodes.wire(nodes())
    uuid, _ = wire.by_reference(s3, "say begun\nsleep 60")
    wire.says(uuid, "begun")
    site.evict(uuid, disrupted=False, message='Usage of EmptyDir volume "workspace" exceeds the limit "10Gi". ')
    told = wire.ended(uuid)["status"]["errorMessage"]
    assert told.startswith(
        'Not enough scratch disk: Usage of EmptyDir volume "workspace" exceeds the limit "10Gi". Use'
    )


@pytest.mark.contract("7.1 max runtime")
def test_a_run_over_its_deadline_ends(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """The pod object goes and its log with it: what was said is in S3."""
    wire = nodes.wire(nodes(SCALEODM_JOB_DEADLINE_S="5"))
    uuid, root = wire.by_reference(s3, "say begun\nsleep 60")
    told = wire.ended(uuid)["status"]["errorMessage"]
    assert told == "The run took longer than 5 seconds, which is this node's limit, and was ended."
    assert "begun" in text_of(s3, root / "output/task_output.txt")
    assert site.processes(uuid) == []


def test_an_image_that_cannot_be_pulled(nodes: Nodes, s3: Storage) -> None:
    """First it is told what the task waits for, then it fails."""
    wire = nodes.wire(nodes(SCALEODM_JOB_PULL_PATIENCE_S="6"))
    uuid, _ = wire.by_reference(s3, odmImage="nowhere/odm:1")
    told = wait_until(lambda: wire.info(uuid).get("waitingFor"), "to be told what it waits for")
    wait_until(
        lambda: "nowhere/odm:1 cannot be pulled" in (wire.info(uuid).get("waitingFor") or told), "the image's name"
    )
    assert "The image nowhere/odm:1 cannot be pulled (ImagePullBackOff)" in wire.ended(uuid)["status"]["errorMessage"]


def test_images_come_from_an_allowlist(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """Another allowed one runs; what is not allowed is refused with what is."""
    wire = nodes.wire(nodes())
    uuid, root = wire.by_reference(s3, odmImage=OTHER_IMAGE)
    wire.completed(uuid)
    job = site.job(uuid)
    assert job is not None
    assert job["spec"]["template"]["spec"]["initContainers"][1]["image"] == OTHER_IMAGE
    told = wire.error("/task/new", json={"readS3Path": str(root), "odmImage": "evil/miner:latest"})
    assert "'evil/miner:latest' is not allowed on this node, which runs opendronemap/odm:3.6.0" in told


def test_a_task_that_no_machine_takes_says_so(nodes: Nodes, s3: Storage) -> None:
    """Unschedulable, with the scheduler's own words."""
    wire = nodes.wire(nodes(SCALEODM_JOB_NODE_SELECTOR='{"size": "impossible"}'))
    uuid, _ = wire.by_reference(s3)
    wait_until(lambda: "0/1 nodes are available" in (wire.info(uuid).get("waitingFor") or ""), "the scheduler's words")
    assert wire.info(uuid)["processingTime"] == -1
    assert wire.act("cancel", uuid) == {"success": True}


def test_a_quota_that_is_full_is_told(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """The Job controller says so in an event; when there is room again, the task runs."""
    wire = nodes.wire(nodes())
    site.controllers.quota = 'pods "x" is forbidden: exceeded quota: compute, requested: memory=18Gi'
    uuid, _ = wire.by_reference(s3)
    try:
        wait_until(lambda: "exceeded quota" in (wire.info(uuid).get("waitingFor") or ""), "the quota to be told")
    finally:
        site.controllers.quota = None
    wire.completed(uuid)


def test_a_secret_that_is_missing_is_told(nodes: Nodes, s3: Storage) -> None:
    """By its name."""
    wire = nodes.wire(nodes(SCALEODM_JOB_S3_SECRET="forgotten", SCALEODM_JOB_PULL_PATIENCE_S="3"))
    uuid, _ = wire.by_reference(s3)
    told = wire.ended(uuid)["status"]["errorMessage"]
    assert 'CreateContainerConfigError: secret "forgotten" not found' in told


def test_a_task_larger_than_the_largest_machine(nodes: Nodes, s3: Storage) -> None:
    """Refused with that sentence, and `/info` tells the limit."""
    wire = nodes.wire(nodes(SCALEODM_JOB_LARGEST_MEMORY_GIB="10"))
    assert wire.get("/info").json()["maxImages"] >= 1
    uuid, _ = wire.by_reference(s3)
    told = wire.ended(uuid)["status"]["errorMessage"]
    assert "1 images need about 16 GiB of memory, and the largest machine of this node has 10 GiB." in told


def test_input_that_is_not_there(nodes: Nodes, site: StandInCluster) -> None:
    """No Job is made for it; the record stays, also over a restart."""
    node = nodes()
    wire = nodes.wire(node)
    nowhere = wire.post("/task/new", json={"readS3Path": "s3://no-such-bucket-anywhere/x/"}).json()["uuid"]
    empty = wire.post("/task/new", json={"readS3Path": f"s3://staging/{uuid4()}/"}).json()["uuid"]
    assert "does not exist" in wire.ended(nowhere)["status"]["errorMessage"]
    assert "No images in" in wire.ended(empty)["status"]["errorMessage"]
    assert site.job(empty) is None
    assert wire.act("restart", empty) == {"success": True}
    assert "No images in" in wire.ended(empty)["status"]["errorMessage"]
    node.kill()
    node.start()
    assert wire.code(empty) == 30


def test_three_images_among_20000_keys(nodes: Nodes, rclone: ObjectStore, s3: Storage) -> None:
    """Counted in the background: the submit itself is answered before that."""
    root = Reference.parse(f"s3://staging/{uuid4()}/")
    s3.write(root / "a.jpg", JPEG)
    folder = rclone.folder / root.bucket / root.key
    for number in range(20_000):
        (folder / f"note-{number}.md").write_bytes(b"")
    for name in ("b.jpg", "c.jpg"):
        s3.write(root / name, JPEG + name.encode())
    wire = nodes.wire(nodes())
    uuid = wire.post("/task/new", json={"readS3Path": str(root)}).json()["uuid"]
    first = wire.info(uuid)
    assert (first["status"]["code"], first["imagesCount"]) == (20, 0), "nobody has counted yet"
    info = wire.ended(uuid, 60)
    assert (info["status"]["code"], info["imagesCount"]) == (40, 3)


def _circle(points: int) -> list[list[float]]:
    """A closed ring of longitudes and latitudes."""
    angles = [2 * math.pi * number / points for number in range(points)]
    ring = [[round(math.cos(angle), 7), round(math.sin(angle), 7)] for angle in angles]
    return [*ring, ring[0]]


def test_what_is_too_large_for_an_annotation_lies_in_s3(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """A boundary of 300 kB reaches the engine as a file, and `/info` tells it after a restart too."""
    node = nodes()
    wire = nodes.wire(node)
    polygon = {"type": "Polygon", "coordinates": [_circle(15_000)]}
    features = [{"type": "Feature", "properties": {}, "geometry": polygon}]
    boundary = json.dumps({"type": "FeatureCollection", "features": features})
    assert len(boundary) > 300_000
    options = [{"name": "boundary", "value": boundary}, {"name": "dsm", "value": True}]
    uuid = wire.init({"name": "a large one", "options": json.dumps(options)})
    wire.upload(uuid, ("a.jpg", JPEG))
    wire.commit(uuid)
    wire.completed(uuid)
    first = next(line for line in wire.output(uuid) if "Initializing" in line)
    assert "--boundary=" in first
    assert "options/boundary.json" in first
    job = site.job(uuid)
    assert job is not None
    assert len(json.dumps(job)) < 100_000
    node.kill()
    node.start()
    told = wire.info(uuid)["options"][0]
    assert (told["name"], json.loads(told["value"])) == ("boundary", json.loads(boundary))
    wire.act("remove", uuid)
    wait_until(
        lambda: not list(s3.listing(Reference.parse(f"s3://staging/{uuid}/"))), "everything of the upload to be deleted"
    )


def test_options_that_s3_could_not_tell_are_told_once_it_can(
    site: StandInCluster, tmp_path: Path, http: httpx.Client
) -> None:
    """The node starts without S3; no task runs without its options meanwhile, and with them afterwards."""
    store = ObjectStore(tmp_path / "s3", free_port(), "tester", "a secret of this test", tmp_path / "rclone.log")
    store.start("staging")
    (tmp_path / "node").mkdir()
    node = node_in(site, store, tmp_path / "node", name=f"node-{uuid4().hex[:8]}")
    try:
        wire = node.start().wire(http)
        boundary = json.dumps({"type": "Polygon", "coordinates": [_circle(9_000)]})
        uuid = wire.init({"name": "a large one", "options": json.dumps([{"name": "boundary", "value": boundary}])})
        wire.upload(uuid, ("a.jpg", JPEG))
        wire.commit(uuid)
        options = wire.ended(uuid)["options"]
        node.kill()
        store.crash()
        node.start()
        assert (wire.code(uuid), wire.info(uuid)["options"]) == (40, [])
        with pytest.raises(httpx.RemoteProtocolError):
            wire.act("restart", uuid)
        assert wire.code(uuid) == 40
        store.start()
        wait_until(lambda: wire.info(uuid)["options"] == options, "the options to be read after all")
        assert wire.act("restart", uuid) == {"success": True}
        wire.completed(uuid)
        assert any("--boundary=" in line for line in wire.output(uuid))
    finally:
        node.stop()
        store.stop()


def test_a_job_that_somebody_deletes_is_made_again(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """A task goes when it is removed, and by no other way."""
    wire = nodes.wire(nodes())
    uuid, _ = wire.by_reference(s3, "say begun\nsleep 1")
    wire.says(uuid, "begun")
    job = site.job(uuid)
    assert job is not None
    site.call(lambda: site.api.discard("jobs", job))
    wire.completed(uuid)


def test_a_namespace_without_permission(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """Told to whoever submits, with what to do; nothing is accepted that could be lost."""
    node = nodes()
    wire = nodes.wire(node)
    allowed = site.api.allowed
    root = Reference.parse(f"s3://staging/{uuid4()}/")
    s3.write(root / "a.jpg", JPEG)
    site.api.allowed = {each for each in allowed if each[1] != "create"}
    try:
        told = wire.error("/task/new", json={"readS3Path": str(root)})
    finally:
        site.api.allowed = allowed
    assert "Give its service account the Role in deploy/kubernetes" in told
    assert wire.get("/task/list").json() == []


def refusing_jobs(site: StandInCluster, status: int, reason: str, message: str, *of: str) -> Callable[[], None]:
    """Let the API server take no Job of these tasks (of all of them, where none is named); gives what ends it."""

    def refuse(request: KmockRequest) -> KubernetesError | None:
        if request.resource is None or request.resource.plural != "jobs" or str(request.method.value).upper() != "POST":
            return None
        name = request.data["metadata"]["name"]
        if of and not any(uuid in name for uuid in of):
            return None
        return KubernetesError(status=status, reason=reason, message=message.format(name=name))

    site.call(lambda: site.api.faults.append(refuse))
    return lambda: site.call(lambda: site.api.faults.remove(refuse))


@pytest.mark.parametrize(
    ("status", "reason", "sentence"),
    [
        (
            422,
            "Invalid",
            "jobs.batch \"{name}\" is forbidden: ValidatingAdmissionPolicy 'owners' denied request: no owner",
        ),
        (403, "Forbidden", 'admission webhook "validate.policy" denied the request: no owner'),
        (400, "BadRequest", 'admission webhook "validate.policy" denied the request: no owner'),
    ],
)
def test_a_job_that_a_rule_refuses_fails_its_task_alone(
    nodes: Nodes, site: StandInCluster, s3: Storage, status: int, reason: str, sentence: str
) -> None:
    """With the API server's own sentence; those behind it run, and once the rule is gone it can be restarted."""
    wire = nodes.wire(nodes(SCALEODM_NODE_SLOTS="1"))
    refused = str(uuid4())
    lift = refusing_jobs(site, status, reason, sentence, refused)
    try:
        root = Reference.parse(f"s3://staging/{refused}/")
        s3.write(root / "a.jpg", JPEG)
        wire.post("/task/new", json={"readS3Path": str(root)}, headers={"set-uuid": refused})
        behind, _ = wire.by_reference(s3)
        wire.completed(behind)
        ended = wire.ended(refused)["status"]
        assert (ended["code"], ended["errorMessage"]) == (
            30,
            "Kubernetes does not take this task's run: " + sentence.format(name=f"odm-{refused}-1"),
        )
        assert site.job(refused) is None
    finally:
        lift()
    assert wire.act("restart", refused) == {"success": True}
    wire.completed(refused)


@pytest.mark.parametrize("what", ["quota", "rights"])
def test_jobs_that_cannot_be_made_for_now_wait_and_say_why(
    nodes: Nodes, site: StandInCluster, s3: Storage, what: str
) -> None:
    """However often it was tried: neither a full quota nor a Role that somebody took away is the task's fault."""
    node = nodes()
    wire = nodes.wire(node)
    told = {
        "quota": 'jobs.batch "{name}" is forbidden: exceeded quota: compute, requested: count/jobs.batch=1, used: 9',
        "rights": 'jobs.batch is forbidden: User "system:serviceaccount:odm:node" cannot create resource "jobs"',
    }[what]
    lift = refusing_jobs(site, 403, "Forbidden", told)
    try:
        uuid, _ = wire.by_reference(s3)
        waiting = wait_until(lambda: wire.info(uuid).get("waitingFor"), "to be told why it waits")
        assert ("exceeded quota" in waiting) == (what == "quota")
        assert ("Give its service account the Role" in waiting) == (what == "rights")
        wait_until(lambda: node.said().count(f"task {uuid}: Kubernetes") >= MOST_STARTS, "it to be tried often")
        assert wire.code(uuid) == 20
    finally:
        lift()
    wire.completed(uuid)
    assert sum(uuid in name for name in site.controllers.started) == 1


def test_what_the_cluster_refuses_is_answered_with_its_reason(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """Cancel, restart and remove: an error that a person can read, nothing half done, and no traceback in the log."""
    wire = nodes.wire(nodes())
    running, _ = wire.by_reference(s3, "say begun\nsleep 600")
    wire.says(running, "begun")
    ended, _ = wire.by_reference(s3)
    wire.ended(ended)
    allowed = site.api.allowed
    site.api.allowed = {each for each in allowed if each[1] not in ("create", "patch", "delete")}
    try:
        for what, uuid in (("cancel", running), ("restart", ended), ("remove", ended), ("remove", running)):
            answer = wire.act(what, uuid)
            assert answer["success"] is False, (what, answer)
            assert "Give its service account the Role in deploy/kubernetes" in answer["error"]
        assert (wire.code(running), wire.code(ended)) == (20, 40)
    finally:
        site.api.allowed = allowed
    assert wire.act("cancel", running) == {"success": True}
    assert wire.act("restart", ended) == {"success": True}
    wire.completed(ended)


def started(site: StandInCluster, folder: Path, **settings: str) -> tuple[int, str]:
    """Run a node that cannot start; gives its exit code and its log."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SCALEODM_", "AWS_"))}
    own = {
        "SCALEODM_NODE_BACKEND": "kubernetes",
        "SCALEODM_NODE_USER_TOKEN": "x",
        "SCALEODM_NODE_DATA": str(folder),
        "SCALEODM_STAGING": "s3://staging/",
        "SCALEODM_JOB_STAGES_IMAGE": "x",
        "SCALEODM_JOB_KUBECONFIG": str(site.kubeconfig),
    }
    argv = [sys.executable, "-m", "node"]
    done = subprocess.run(argv, env=clean | own | settings, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"SCALEODM_JOB_KUBECONFIG": "/nowhere/config"}, "SCALEODM_JOB_KUBECONFIG is /nowhere/config, and there is no"),
        (
            {"SCALEODM_JOB_NAMESPACE": "others"},
            "Kubernetes lets this node not GET /apis/batch/v1/namespaces/others/jobs",
        ),
        ({"SCALEODM_S3_STS_ROLE_ARN": "arn:x"}, "SCALEODM_JOB_SECRET_KEY (at least 32 characters)"),
        ({"SCALEODM_JOB_TOLERATIONS": "x"}, "SCALEODM_JOB_TOLERATIONS: expected JSON, such as"),
        ({"SCALEODM_JOB_USER": "0"}, "SCALEODM_JOB_USER: Input should be greater than or equal to 1"),
    ],
)
def test_a_node_that_cannot_start_says_why(
    site: StandInCluster, tmp_path: Path, settings: dict[str, str], told: str
) -> None:
    """One line with what to do, no traceback."""
    code, log = started(site, tmp_path, **settings)
    assert code == 2
    assert told in log
    assert "Traceback" not in log


def test_an_api_server_that_goes_away(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """Running tasks run on, polls are answered from memory, and what came meanwhile is seen."""
    wire = nodes.wire(nodes())
    uuid, _ = wire.by_reference(s3, "say begun\nsleep 3")
    wire.says(uuid, "begun")

    def away(is_away: bool) -> None:
        site.api.is_away = is_away
        site.api.break_watches()

    site.call(lambda: away(True))
    try:
        for _ in range(20):
            assert wire.code(uuid) == 20
            time.sleep(0.25)
    finally:
        site.call(lambda: away(False))
    wire.completed(uuid, 60)


def test_expired_watches_errors_and_slow_answers(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """410 in the middle, every third request a 500, 429 or 409, each answer late: the tasks run all the same."""
    wire = nodes.wire(nodes())
    requests = 0

    def every_third(_: object) -> KubernetesError | None:
        nonlocal requests
        requests += 1
        if requests % 3:
            return None
        return KubernetesError(status=(500, 429, 409)[requests // 3 % 3], reason="InternalError", message="planted")

    site.call(lambda: site.api.faults.append(every_third))
    site.api.delay_s = 0.05
    try:
        uuids = [wire.by_reference(s3, "sleep 1")[0] for _ in range(2)]
        for _ in range(4):
            site.call(site.api.forget_history)
            site.call(site.api.break_watches)
            time.sleep(0.3)
        for uuid in uuids:
            wire.completed(uuid, 60)
    finally:
        site.call(site.api.faults.clear)
        site.api.delay_s = 0.0
    for uuid in uuids:
        assert sum(uuid in name for name in site.controllers.started) == 1, "nothing was started twice"


def test_two_replicas_do_nothing_twice(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """Both answer, one leads; the leader is killed, and the other goes on."""
    first, second = nodes(), nodes()
    wires = [nodes.wire(first), nodes.wire(second)]
    uuids = [wires[number % 2].by_reference(s3, "say begun\nsleep 1")[0] for number in range(6)]
    for wire in wires:
        for uuid in uuids[:3]:
            wait_until(lambda wire=wire, uuid=uuid: "error" not in wire.info(uuid), "both replicas to know the task")  # type: ignore[misc]
            wire.says(uuid, "begun")
    assert wires[0].act("cancel", uuids[5]) == {"success": True}
    first.kill()
    for uuid in uuids[:5]:
        wires[1].completed(uuid, 90)
    assert wires[1].code(uuids[5]) == 50
    started = [name for name in site.controllers.started if any(uuid in name for uuid in uuids)]
    assert len(started) == len(set(started)), "nothing was started twice"


def test_kueue_decides_when_it_is_there(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """The Job is born suspended and labelled, and runs when Kueue says so; canceled it goes, lest Kueue start it."""
    wire = nodes.wire(nodes(SCALEODM_JOB_KUEUE_QUEUE="imagery"))
    uuid, _ = wire.by_reference(s3)
    wait_until(lambda: "Kueue" in (wire.info(uuid).get("waitingFor") or ""), "to wait for Kueue")
    job = site.job(uuid)
    assert job is not None
    assert (job["spec"]["suspend"], job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]) == (True, "imagery")

    def admit() -> None:
        admitted = site.api.store["jobs"][job["metadata"]["name"]]
        admitted["spec"]["suspend"] = False
        site.api.keep("jobs", admitted)

    site.call(admit)
    wire.completed(uuid)
    other, _ = wire.by_reference(s3)
    wait_until(lambda: site.job(other) is not None, "the other's Job")
    assert wire.act("cancel", other) == {"success": True}
    assert site.job(other) is None
    assert wire.code(other) == 50


ODM_CONFIG = """
import argparse

def config(argv=None, parser=None):
    parser.add_argument("--project-path", metavar="<path>")
    parser.add_argument("name", metavar="<dataset name>", default="code", nargs="?")
    stages = ["dataset", "odm_postprocess"]
    parser.add_argument("--end-with", "-e", choices=stages, default="odm_postprocess", help="Where to end.")
    rerun = parser.add_mutually_exclusive_group()
    rerun.add_argument("--rerun-from", choices=["dataset", "odm_postprocess"], help="Where to begin.")
    rerun.add_argument("--rerun-all", action="store_true", default=False)
    parser.add_argument("--crop", metavar="<positive float>", type=float, default=3, help="Crop.")
    parser.add_argument("--brand-new", action="store_true", default=False, help="New in this version.")
    parser.parse_known_args(argv)
    raise AssertionError("the asker stops before anything is parsed")
"""


def test_the_options_of_an_image_are_its_own(nodes: Nodes, site: StandInCluster, tmp_path: Path) -> None:
    """Asked of the image by a small Job; kept by its digest, so that a restarted node has them at once."""
    code = tmp_path / "code"
    (code / "opendm").mkdir(parents=True)
    (code / "opendm" / "config.py").write_text(ODM_CONFIG)
    (code / "VERSION").write_text("4.2.0\n")
    site.controllers.code = code
    try:
        node = nodes(SCALEODM_JOB_DISCOVER_OPTIONS="on")
        wire = nodes.wire(node)
        assert len(wire.get("/options").json()) in (4, 82), "until it is known, the built-in catalogue serves"
        wait_until(lambda: len(wire.get("/options").json()) == 4, "the image to be asked")
        options = {each["name"]: each for each in wire.get("/options").json()}
        assert options["crop"] == {
            "name": "crop",
            "type": "float",
            "value": "3",
            "domain": "positive float",
            "help": "Crop.",
        }
        assert options["rerun-from"]["domain"] == ["", "dataset", "odm_postprocess"]
        assert (options["brand-new"]["type"], options["brand-new"]["value"]) == ("bool", "false")
        assert wire.get("/info").json()["engineVersion"] == "4.2.0"
        wait_until(lambda: not [j for j in site.objects("jobs") if "options" in j["metadata"]["name"]], "the Job to go")
        node.kill()
        (code / "opendm" / "config.py").write_text("raise SystemExit('gone')")
        node.start()
        wait_until(lambda: len(wire.get("/options").json()) == 4, "what was learned to be remembered")
    finally:
        site.controllers.code = Path("/code")


def test_an_image_that_does_not_tell_its_options(nodes: Nodes) -> None:
    """The built-in catalogue goes on serving, and the log says why."""
    node = nodes(SCALEODM_JOB_DISCOVER_OPTIONS="on", SCALEODM_JOB_ENGINE_IMAGE=OTHER_IMAGE)
    wait_until(lambda: "the options of opendronemap/odm:gpu are not known" in node.said(), "the reason in the log")
    assert len(nodes.wire(node).get("/options").json()) == 82


def test_an_image_that_could_not_be_asked_is_asked_again(nodes: Nodes, site: StandInCluster, tmp_path: Path) -> None:
    """A quota was full when the node started: nobody needs to start it again."""
    code = tmp_path / "code"
    (code / "opendm").mkdir(parents=True)
    (code / "opendm" / "config.py").write_text(ODM_CONFIG)
    site.controllers.code = code
    lift = refusing_jobs(site, 403, "Forbidden", 'jobs.batch "{name}" is forbidden: exceeded quota: compute')
    try:
        node = nodes(SCALEODM_JOB_DISCOVER_OPTIONS="on", SCALEODM_JOB_ENGINE_IMAGE=OTHER_IMAGE)
        wait_until(lambda: "exceeded quota: compute); those of" in node.said(), "to be refused")
        lift()
        wait_until(lambda: len(nodes.wire(node).get("/options").json()) == 4, "the image to be asked")
    finally:
        site.controllers.code = Path("/code")
        with contextlib.suppress(ValueError):
            lift()


@pytest.mark.contract("7.1 old tasks")
def test_ended_tasks_are_forgotten_by_age(nodes: Nodes, site: StandInCluster, s3: Storage) -> None:
    """A suspended Job has no TTL of its own: the node cleans up (design 4.5)."""
    node = nodes()
    wire = nodes.wire(node)
    uuid, _ = wire.by_reference(s3, "sleep 60")
    wire.running(uuid)
    wire.act("cancel", uuid)
    node.stop()

    def long_ago() -> None:
        job = site.api.store["jobs"][f"odm-{uuid}-1"]
        record = json.loads(job["metadata"]["annotations"]["scaleodm.org/record"])
        record["ended_ms"] -= 8 * 86_400_000
        job["metadata"]["annotations"]["scaleodm.org/record"] = json.dumps(record)

    site.call(long_ago)
    node.start()
    wait_until(lambda: site.job(uuid) is None, "the old task to be forgotten")
    assert wire.info(uuid) == {"error": f"{uuid} not found"}


def test_the_role_has_nothing_that_the_node_does_not_use(site: StandInCluster, request: pytest.FixtureRequest) -> None:
    """The last of these tests: what all of them used is what the Role allows."""
    assert site.api.used <= site.api.allowed
    if sum(item.path == request.path for item in request.session.items) < 30:
        pytest.skip("tells something only after all tests of this file")
    unused = site.api.allowed - site.api.used
    assert unused <= {("secrets", "create")}, f"only short-lived credentials need more: {unused}"
