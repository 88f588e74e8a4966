"""A cluster joins the federation: PyODM uploads to the router, the task becomes a Job, the products come back."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from pyodm import Node
from pyodm.types import TaskStatus

from common.embedded.stack import Stack
from common.families import claimed_family
from tests.client import JPEG, Wire
from tests.kubernetes_node import KubernetesNode, node_in
from tests.kubernetes_standin import SPLIT_IMAGE, StandInCluster
from tests.stories.test_a_large_survey import Watch, check_nothing_left, check_product, survey, why
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A router without nodes, with its Postgres and S3."""
    with Stack(tmp_path_factory.mktemp("federation-of-clusters"), nodes=0) as stack:
        yield stack


@pytest.fixture
def joined(router: Stack, cluster: StandInCluster, tmp_path: Path) -> Iterator[KubernetesNode]:
    """A node whose tasks are Jobs, member of that federation."""
    with _member(router, cluster, tmp_path, "cluster-of-berlin") as node:
        yield node


@contextmanager
def _member(
    router: Stack, cluster: StandInCluster, folder: Path, name: str, **settings: str
) -> Iterator[KubernetesNode]:
    joining = {"SCALEODM_NODE_ROUTER_URL": router.router_url, "SCALEODM_NODE_JOIN_TOKEN": router.node_token}
    node = node_in(cluster, router.object_store, folder, joining | settings, name)
    try:
        yield node.join(router)
    finally:
        node.stop()
        # For a while it would still be healthy, and be given what the next test submits.
        bearer = {"Authorization": f"Bearer {router.admin_token}"}
        httpx.delete(f"{router.router_url}/admin/nodes/{name}", headers=bearer, timeout=10).raise_for_status()


def test_from_upload_to_products(
    router: Stack, joined: KubernetesNode, cluster: StandInCluster, tmp_path: Path
) -> None:
    """The client sees one NodeODM, the cluster one Job; the node is killed in between, and nobody minds."""
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(JPEG + name.encode())
    (tmp_path / "gcp_list.txt").write_text("say begun\nsleep 4\nsay and on")
    node = Node.from_url(f"{router.router_url}?token={router.user_token}")
    files = [str(tmp_path / name) for name in ("a.jpg", "b.jpg", "gcp_list.txt")]
    task = node.create_task(files, {"dsm": True}, name="a field")
    wait_until(lambda: "begun" in task.output(), "the engine's words to reach the client")
    assert task.info().status is TaskStatus.RUNNING
    joined.kill()
    joined.start()
    task.wait_for_completion(status_callback=None, interval=1)
    info = task.info(with_output=0)
    assert (info.status, info.progress, info.images_count) == (TaskStatus.COMPLETED, 100, 2)
    assert info.output[-1] == "Done"
    assert info.output.count("begun") == info.output.count("and on") == 1
    products = Path(task.download_assets(str(tmp_path / "products")))
    assert (products / "odm_orthophoto/odm_orthophoto.tif").exists()
    assert "begun" in (products / "task_output.txt").read_text()
    assert cluster.job(task.uuid) is None or task.remove()
    wait_until(lambda: cluster.job(task.uuid) is None, "the router to let the node forget its Job")


def test_cancel_reaches_the_cluster(
    router: Stack, joined: KubernetesNode, cluster: StandInCluster, tmp_path: Path
) -> None:
    """Through the router and the node to the pod."""
    assert joined.child is not None
    (tmp_path / "a.jpg").write_bytes(JPEG)
    (tmp_path / "gcp_list.txt").write_text("say begun\nsleep 600")
    node = Node.from_url(f"{router.router_url}?token={router.user_token}")
    task = node.create_task([str(tmp_path / "a.jpg"), str(tmp_path / "gcp_list.txt")], {}, name="a mistake")
    wait_until(lambda: "begun" in task.output(), "the engine to work")
    assert task.cancel()
    assert task.info().status is TaskStatus.CANCELED
    wait_until(lambda: cluster.processes(task.uuid) == [], "the pod to go")


def test_a_split_task_and_its_parts_are_jobs(router: Stack, cluster: StandInCluster, tmp_path: Path) -> None:
    """The run in one pod sends parts to the router, which makes Jobs of them beside it; what they make is merged.

    The file by which it may send them is its pod's alone: no object that others read holds what is in it (I9).
    """
    settings = {"SCALEODM_JOB_ENGINE_IMAGE": SPLIT_IMAGE, "SCALEODM_NODE_SLOTS": "3"}
    with (
        httpx.Client(timeout=30) as http,
        _member(router, cluster, tmp_path, "cluster-of-split", **settings),
    ):
        wire = Wire(router.router_url, router.user_token, http)
        go_on = tmp_path / "go on"
        uuid = survey(wire, "k", orders=f"part until {go_on}", split=6)
        watch = Watch(wire, uuid)

        def part_is_job() -> bool:
            assert not watch.look(), wire.output(uuid)
            return any(cluster.job(part) is not None for part in watch.parts)

        wait_until(part_is_job, "a part to be a Job", within_s=60)
        proof = _proof_of(cluster, uuid)
        told = json.dumps([cluster.objects(kind) for kind in ("jobs", "pods", "configmaps")])
        go_on.touch()
        wait_until(watch.look, "the survey to end", within_s=120)
        assert wire.info(uuid)["status"] == {"code": 40}, wire.output(uuid)[-20:]
        assert proof not in told + json.dumps([why(wire, uuid), wire.output(uuid)])
        places = check_product(wire, uuid, "k", tmp_path / "product")
        assert sorted(places) == ["submodel_0000", "submodel_0001"]
        assert any(place.endswith("there") for each in places.values() for place in each)
        check_nothing_left(router, wire, uuid, watch.parts)
        wait_until(lambda: not any(cluster.job(part) for part in watch.parts), "the parts' Jobs to go")
        assert wire.act("remove", uuid) == {"success": True}
        wait_until(lambda: cluster.job(uuid) is None, "the survey's Job to go")


def _proof_of(cluster: StandInCluster, uuid: str) -> str:
    """What only the run of a split task knows: the secret half of its token, as its engine's pod has it."""
    token = cluster.file_of(uuid, "netrc").read_text().split()[-1]
    family = claimed_family(token)
    assert family is not None
    assert family.uuid == uuid
    return token.rpartition(".")[2]
