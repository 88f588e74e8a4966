"""NodeODM's limits on a node, seen from the node and through a router (contract 7.1)."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from common.embedded.stack import Stack
from tests.client import JPEG, Wire
from tests.conftest import STANDIN
from tests.kubernetes_node import node_in
from tests.kubernetes_standin import StandInCluster

TIMED_OUT = "Task timed out after 0.05 minutes."


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A router and one node that allow little, and keep no workspace."""
    node_settings = {
        "SCALEODM_NODE_ENGINE": "odm",
        "SCALEODM_NODE_ENGINE_COMMAND": f"{sys.executable} {STANDIN}",
        "SCALEODM_NODE_SLOTS": "2",
        "SCALEODM_NODE_MAX_RUNTIME_MIN": "0.05",
        "SCALEODM_NODE_MAX_CONCURRENCY": "3",
        "SCALEODM_NODE_KEEP_WORKSPACE_H": "0",
    }
    router_settings = {"SCALEODM_ROUTER_MAX_IMAGES": "4", "SCALEODM_ROUTER_QUARANTINE_S": "0"}
    folder = tmp_path_factory.mktemp("limited")
    with Stack(folder, nodes=1, node_settings=node_settings, router_settings=router_settings) as stack:
        yield stack


@pytest.fixture
def router(limited: Stack, http: httpx.Client) -> Wire:
    """That router."""
    return Wire(limited.router_url, limited.user_token, http)


@pytest.fixture
def node(limited: Stack, http: httpx.Client) -> Wire:
    """That node, used directly."""
    return Wire(limited.node_urls["node-1"], limited.node_user_token("node-1"), http)


def check_timed_out(wire: Wire) -> None:
    """A run that takes too long ends as NodeODM ends it."""
    uuid = wire.task("say begun\nsleep 60")
    info = wire.ended(uuid, within_s=60)
    assert info["status"] == {"code": 50, "errorMessage": TIMED_OUT}
    assert "begun" in wire.says(uuid, TIMED_OUT)
    assert wire.act("restart", uuid) == {"success": True}
    wire.act("cancel", uuid)


@pytest.mark.timeout(150)
def test_a_run_that_takes_too_long_is_canceled_by_its_node(node: Wire) -> None:
    """Contract 7.1: the line, then 50."""
    check_timed_out(node)


@pytest.mark.timeout(150)
def test_a_run_that_its_node_canceled_for_its_length_is_canceled_on_the_router(router: Wire) -> None:
    """Not failed, and not tried again elsewhere."""
    check_timed_out(router)


@pytest.mark.timeout(150)
def test_a_run_that_takes_too_long_in_a_cluster_is_canceled(
    cluster: StandInCluster, limited: Stack, tmp_path: Path, http: httpx.Client
) -> None:
    """Its pod is gone then."""
    node = node_in(
        cluster, limited.object_store, tmp_path, {"SCALEODM_NODE_MAX_RUNTIME_MIN": "0.05"}, name="of-short-runs"
    )
    node.start()
    try:
        check_timed_out(node.wire(http))
    finally:
        node.stop()


@pytest.mark.timeout(120)
def test_max_concurrency_is_set_and_capped_by_the_node(node: Wire) -> None:
    """Contract 4.4: it shows up in the task's info, and the engine is told."""
    for options in ([], [{"name": "max-concurrency", "value": 16}]):
        uuid = node.task(options=options)
        assert {"name": "max-concurrency", "value": 3} in node.ended(uuid)["options"]
        assert any("--max-concurrency=3" in line for line in node.says(uuid, "Done"))


@pytest.mark.timeout(120)
def test_the_routers_own_limit_of_images_holds_whatever_its_nodes_take(router: Wire) -> None:
    """In NodeODM's words, after a commit that was accepted (contract 2.11)."""
    assert router.get("/info").json()["maxImages"] == 4
    uuid = router.init()
    router.upload(uuid, *((f"{number}.jpg", JPEG) for number in range(5)))
    assert router.commit(uuid) == {"uuid": uuid}
    assert router.ended(uuid)["status"] == {
        "code": 30,
        "errorMessage": "5 images uploaded, but this node can only process up to 4.",
    }


@pytest.mark.timeout(120)
def test_where_no_workspace_is_kept_the_console_says_so_and_the_run_begins_at_the_start(router: Wire) -> None:
    """Which costs time and nothing else."""
    uuid = router.task()
    router.ended(uuid)
    options = json.dumps([{"name": "rerun-from", "value": "odm_report"}])
    assert router.act("restart", uuid, options=options) == {"success": True}
    router.completed(uuid)
    lines = router.says(uuid, "Done")
    assert (
        "[INFO] rerun-from odm_report: the workspace of attempt 1 was not kept, so this run begins at the start"
        in lines
    )
    assert not any("--rerun-from" in line for line in lines)
