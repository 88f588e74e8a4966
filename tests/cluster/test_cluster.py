"""A node on a real cluster: nothing is taken for granted but the API server's public behaviour."""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from common.embedded.flight import render_flight
from common.references import Reference
from tests.client import Wire
from tests.cluster.conftest import S3, SOON_S, Given, Site, is_there
from tests.kubernetes_node import KubernetesNode
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(1800)

Nodes = Callable[..., KubernetesNode]


def says(wire: Wire, uuid: str, line: str) -> None:
    """Wait until the console holds this line."""
    wait_until(lambda: line in wire.output(uuid), f"task {uuid} to say {line!r}", SOON_S)


def test_a_whole_task_with_real_products(
    given: Given, nodes: Nodes, s3: S3, patient_http: httpx.Client, tmp_path: Path
) -> None:
    """Uploaded images in, an orthophoto out, by the engine's own image; progress and console while it runs."""
    settings = {"SCALEODM_JOB_ENGINE_IMAGE": given.engine_image or given.node_image, "SCALEODM_NODE_ENGINE_COMMAND": ""}
    if given.engine_image in ("", given.node_image) or given.engine == "orthomosaic":
        settings["SCALEODM_NODE_ENGINE"] = "orthomosaic"
    # Twelve small images; ODM itself takes more for them than the embedded engine.
    factor = "0.1" if "SCALEODM_NODE_ENGINE" in settings else "0.3"
    settings |= {"SCALEODM_JOB_MEMORY_FACTOR": factor, "SCALEODM_JOB_DISK_MIN_GIB": "2"}
    wire = nodes(**settings).wire(patient_http)
    images = render_flight(tmp_path / "images")
    uuid = wire.init({"name": "a flight", "options": '[{"name": "fast-orthophoto", "value": true}]'})
    for path in images:
        assert wire.upload(uuid, (path.name, path.read_bytes())) == {"success": True}
    wire.commit(uuid)
    percents, live = [0.0], 0

    def has_ended() -> bool:
        nonlocal live
        info = wire.info(uuid, with_output="0")
        percents.append(info["progress"])
        if info["status"]["code"] == 20 and info["processingTime"] >= 0:
            live = max(live, len(info["output"]))
        return info["status"]["code"] in (30, 40)

    wait_until(has_ended, "the flight to be processed", 1500)
    info = wire.info(uuid)
    assert info["status"]["code"] == 40, wire.output(uuid)[-20:]
    assert info["imagesCount"] == len(images)
    assert percents == sorted(percents)
    assert live > 0, "the console was to be read while the engine worked"
    output = Reference.parse(f"s3://staging/{uuid}/output/")
    archive = tmp_path / "all.zip"
    s3.storage.download(output / "all.zip", archive)
    names = zipfile.ZipFile(archive).namelist()
    assert "odm_orthophoto/odm_orthophoto.tif" in names
    assert "task_output.txt" in names
    manifest = json.loads(s3.storage.read(output / "manifest.json"))
    assert manifest["uuid"] == uuid


def test_progress_and_live_output(nodes: Nodes, s3: S3, patient_http: httpx.Client) -> None:
    """While the engine works, not after."""
    wire = nodes().wire(patient_http)
    uuid, _ = wire.by_reference(s3.storage, "say one\nsleep 8\nsay two\nsleep 4")
    says(wire, uuid, "one")
    wait_until(lambda: 0 < wire.info(uuid)["progress"] < 90, "progress while the engine works", 10)
    assert wire.code(uuid) == 20
    assert "two" not in wire.output(uuid)
    wait_until(lambda: "two" in wire.output(uuid), "the second word", 60)
    assert wire.ended(uuid, SOON_S)["progress"] == 100


def test_cancel_leaves_no_pod(nodes: Nodes, site: Site, s3: S3, patient_http: httpx.Client) -> None:
    """The record stays, the pod goes; repeating is safe; the console is in S3."""
    wire = nodes().wire(patient_http)
    uuid, root = wire.by_reference(s3.storage, "say begun\nsleep 600")
    says(wire, uuid, "begun")
    assert wire.act("cancel", uuid) == {"success": True}
    assert wire.code(uuid) == 50
    assert [pod for pod in site.pods(uuid) if pod.status.phase == "Running"] == []
    assert wire.act("cancel", uuid) == {"success": True}
    assert site.job(uuid).spec.suspend is True
    wait_until(lambda: is_there(s3.storage, root / "output/task_output.txt"), "the console in S3", 60)
    assert wire.act("remove", uuid) == {"success": True}
    assert site.job(uuid) is None


def test_restart_is_a_new_attempt(nodes: Nodes, site: Site, s3: S3, patient_http: httpx.Client) -> None:
    """Under the same uuid, in a new Job."""
    wire = nodes().wire(patient_http)
    uuid, root = wire.by_reference(s3.storage, "exit 1")
    assert wire.ended(uuid, SOON_S)["status"]["code"] == 30
    s3.storage.delete(root / "gcp_list.txt")
    assert wire.act("restart", uuid) == {"success": True}
    wire.completed(uuid, SOON_S)
    assert site.job(uuid) is None
    assert site.job(uuid, 2) is not None


def test_an_engine_failure(nodes: Nodes, site: Site, s3: S3, patient_http: httpx.Client) -> None:
    """At once, with one pod, in the engine's own words."""
    wire = nodes().wire(patient_http)
    uuid, root = wire.by_reference(s3.storage, "say [ERROR]   Not enough overlap\nexit 1")
    told = wire.ended(uuid, SOON_S)["status"]
    assert told == {"code": 30, "errorMessage": "Cannot process dataset: Not enough overlap"}
    assert len(site.pods(uuid)) == 1
    assert "Not enough overlap" in s3.storage.read(root / "output/task_output.txt").decode()


def test_a_memory_kill(nodes: Nodes, site: Site, s3: S3, patient_http: httpx.Client) -> None:
    """Told as that, and not tried again."""
    wire = nodes().wire(patient_http)
    uuid, _ = wire.by_reference(s3.storage, "hog 4000")
    assert "Not enough memory" in wire.ended(uuid, SOON_S)["status"]["errorMessage"]
    assert len(site.pods(uuid)) <= 1


def test_a_pod_deleted_in_the_middle(nodes: Nodes, site: Site, s3: S3, patient_http: httpx.Client) -> None:
    """It costs time and nothing else."""
    wire = nodes().wire(patient_http)
    uuid, _ = wire.by_reference(s3.storage, "say begun\nsleep 10")
    says(wire, uuid, "begun")
    before = wire.info(uuid)["progress"]
    site.delete_pods(uuid)
    info = wire.ended(uuid, SOON_S)
    assert info["status"]["code"] == 40
    assert info["progress"] >= before
    assert wire.output(uuid).count("begun") == 2


def test_a_node_killed_in_the_middle(nodes: Nodes, site: Site, s3: S3, patient_http: httpx.Client) -> None:
    """SIGKILL, and started again: the Job went on, the console is exact, nothing was started twice."""
    node = nodes()
    wire = node.wire(patient_http)
    uuid, _ = wire.by_reference(s3.storage, "lines 500\nsleep 20\nlines 500")
    says(wire, uuid, "line 499")
    node.kill()
    node.start()
    assert wire.code(uuid) == 20
    wire.completed(uuid, SOON_S)
    numbers = [line for line in wire.output(uuid) if re.fullmatch(r"line \d+", line)]
    assert numbers == [f"line {number}" for number in [*range(500)] * 2]
    assert len(site.pods(uuid)) == 1


def test_a_deadline(nodes: Nodes, site: Site, s3: S3, patient_http: httpx.Client) -> None:
    """The run ends, and says why; what it had said is kept."""
    wire = nodes(SCALEODM_JOB_DEADLINE_S="45").wire(patient_http)
    uuid, root = wire.by_reference(s3.storage, "say begun\nsleep 600")
    told = wire.ended(uuid, SOON_S)["status"]["errorMessage"]
    assert told == "The run took longer than 45 seconds, which is this node's limit, and was ended."
    assert "begun" in s3.storage.read(root / "output/task_output.txt").decode()
    wait_until(lambda: not [pod for pod in site.pods(uuid) if pod.status.phase == "Running"], "the pod to go", 60)


def test_thirty_tasks_on_four_slots(nodes: Nodes, site: Site, s3: S3, patient_http: httpx.Client) -> None:
    """Never more than four at once; all of them end."""
    wire = nodes().wire(patient_http)
    uuids = [wire.by_reference(s3.storage, "sleep 1")[0] for _ in range(30)]
    most = 0

    def all_ended() -> bool:
        nonlocal most
        most = max(most, len([pod for pod in site.working() if pod.metadata.labels["scaleodm.org/task"] in uuids]))
        return all(wire.code(uuid) in (30, 40) for uuid in uuids)

    wait_until(all_ended, "thirty tasks to end", 1500)
    assert [wire.code(uuid) for uuid in uuids] == [40] * 30
    assert 0 < most <= 4


def test_bad_input(nodes: Nodes, site: Site, s3: S3, patient_http: httpx.Client) -> None:
    """Each with its reason: no such bucket, no images, an image that cannot be pulled."""
    wire = nodes(SCALEODM_JOB_PULL_PATIENCE_S="30").wire(patient_http)
    nowhere = wire.post("/task/new", json={"readS3Path": "s3://no-such-bucket-anywhere/x/"}).json()["uuid"]
    empty = wire.post("/task/new", json={"readS3Path": f"s3://staging/{uuid4()}/"}).json()["uuid"]
    pulled, _ = wire.by_reference(s3.storage, odmImage="registry.invalid/odm:1")
    assert "does not exist" in wire.ended(nowhere, SOON_S)["status"]["errorMessage"]
    assert "No images in" in wire.ended(empty, SOON_S)["status"]["errorMessage"]
    wait_until(lambda: "cannot be pulled" in (wire.info(pulled).get("waitingFor") or ""), "the pull to fail", SOON_S)
    told = wire.ended(pulled, SOON_S)["status"]["errorMessage"]
    assert "The run could not start: The image registry.invalid/odm:1 cannot be pulled" in told
    assert site.job(empty) is None
