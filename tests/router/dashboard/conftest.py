"""A federation to look at: two replicas of the router, two nodes that may be killed."""

from collections.abc import Iterator

import httpx
import pytest

from common.embedded.stack import Stack
from tests.arrangements import ENGINE, PATIENT_ROUTER
from tests.client import Wire
from tests.waiting import wait_until

SHORT = "router-2"
"""The replica whose sessions last for seconds."""


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Replicas that call a node late after two seconds."""
    node_settings = {**ENGINE, "SCALEODM_NODE_SLOTS": "1", "SCALEODM_INPUT_PRIVATE": "on"}
    router_settings = {**PATIENT_ROUTER, "SCALEODM_ROUTER_LATE_AFTER_S": "2"}
    own = {
        SHORT: {"SCALEODM_ROUTER_DASHBOARD_SESSION_H": "0.0015"},
        "node-1": {"SCALEODM_NODE_LABELS": '{"region": "eu"}'},
    }
    folder = tmp_path_factory.mktemp("dashboard")
    with Stack(folder, 2, None, lambda _: None, node_settings, router_settings, 2, own) as running:
        yield running


@pytest.fixture(scope="session")
def admin(stack: Stack) -> Iterator[httpx.Client]:
    """The router's API, for an administrator."""
    headers = {"Authorization": f"Bearer {stack.admin_token}"}
    with httpx.Client(base_url=stack.router_url, headers=headers, timeout=30) as client:
        yield client


@pytest.fixture
def wire(stack: Stack, http: httpx.Client) -> Wire:
    """The router's NodeODM API, for a user."""
    return Wire(stack.router_url, stack.user_token, http)


@pytest.fixture(autouse=True)
def tidy(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test leaves the nodes idle, unlocked and in the federation; those that never had them are left alone."""
    if "stack" not in request.fixturenames:
        yield
        return
    client: httpx.Client = request.getfixturevalue("admin")
    yield
    for task in client.get("/admin/tasks", params={"state": ["waiting", "active"]}).json()["tasks"]:
        client.post("/task/cancel", json={"uuid": task["uuid"]})
    for node in client.get("/admin/nodes").json():
        for action in ("unlock", "undrain"):
            client.post(f"/admin/nodes/{node['name']}/{action}")

    def is_idle() -> bool:
        nodes = client.get("/admin/nodes").json()
        return len(nodes) == 2 and all(node["health"] == "healthy" and not node["placed"] for node in nodes)

    wait_until(is_idle, "both nodes to be idle", 30)
