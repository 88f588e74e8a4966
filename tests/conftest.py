"""Real servers for tests: Postgres, S3, a router, nodes. Started once, on free ports, stopped at the end."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from moto.server import ThreadedMotoServer

from common.embedded.children import free_port
from common.embedded.object_store import ObjectStore, storage_at
from common.embedded.postgres import EmbeddedPostgres
from common.embedded.stack import Stack
from common.references import Reference
from common.storage import Storage
from tests.arrangements import ENGINE, PATIENT_ROUTER, STANDIN, FurtherRouter, router_of_one, router_of_routers
from tests.client import Wire
from tests.kubernetes_node import KubernetesNode, node_in
from tests.kubernetes_standin import StandInCluster

# Tests on a real cluster need one: `make test-cluster`.
collect_ignore = [] if os.environ.get("SCALEODM_TEST_NODE_IMAGE") else ["cluster"]
# Those that build the images take long, and root or a container engine: `make test-images`.
if not os.environ.get("SCALEODM_TEST_IMAGES"):
    collect_ignore.append("images")
__all__ = ["STANDIN"]


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the servers' data."""
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def postgres_url(scratch: Path) -> Iterator[str]:
    """A real Postgres."""
    server = EmbeddedPostgres(scratch / "postgres")
    yield server.start()
    server.stop()


@pytest.fixture(scope="session")
def rclone(scratch: Path) -> Iterator[ObjectStore]:
    """A real S3 server, the embedded default: answers ranges with 200."""
    store = ObjectStore(scratch / "rclone" / "s3", free_port(), "tester", secrets.token_hex(16), scratch / "rclone.log")
    store.start("staging")
    yield store
    store.stop()


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """Another S3 server, in memory: answers ranges with 206."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["rclone", "moto"])
def storage(request: pytest.FixtureRequest) -> Storage:
    """S3, on both servers."""
    if request.param == "rclone":
        store: ObjectStore = request.getfixturevalue("rclone")
        return store.storage()
    return storage_at(request.getfixturevalue("moto_url"), "tester", "tester")


@pytest.fixture
def bucket(storage: Storage) -> Reference:
    """A fresh bucket."""
    name = f"test-{secrets.token_hex(6)}"
    storage.make_bucket(name)
    return Reference(name, "")


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A router and two nodes of two slots with the stand-in engine, all real processes."""
    settings = {**ENGINE, "SCALEODM_NODE_SLOTS": "2", "SCALEODM_INPUT_PRIVATE": "on"}
    folder = tmp_path_factory.mktemp("federation")
    with Stack(folder, node_settings=settings, router_settings=PATIENT_ROUTER) as stack:
        yield stack


@pytest.fixture(scope="session")
def federation_storage(federation: Stack) -> Storage:
    """The S3 of that federation."""
    return federation.storage()


@pytest.fixture(scope="session")
def http() -> Iterator[httpx.Client]:
    """An HTTP client that takes its time, and follows no redirects by itself."""
    with httpx.Client(timeout=30) as client:
        yield client


@pytest.fixture
def router_wire(federation: Stack, http: httpx.Client) -> Wire:
    """The router's NodeODM API."""
    return Wire(federation.router_url, federation.user_token, http)


@pytest.fixture
def node_wire(federation: Stack, http: httpx.Client) -> Wire:
    """One node's NodeODM API, used directly."""
    return Wire(federation.node_urls["node-1"], federation.node_user_token("node-1"), http)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInCluster]:
    """A stand-in for a Kubernetes cluster, whose pods are processes."""
    running = StandInCluster(tmp_path_factory.mktemp("cluster"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def kubernetes_node(
    cluster: StandInCluster, federation: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KubernetesNode]:
    """A node that runs its tasks as Jobs, over the federation's S3."""
    node = node_in(cluster, federation.object_store, tmp_path_factory.mktemp("kubernetes-node"))
    yield node.start()
    node.stop()


@pytest.fixture
def kubernetes_wire(kubernetes_node: KubernetesNode, http: httpx.Client) -> Wire:
    """The NodeODM API of that node."""
    return kubernetes_node.wire(http)


@pytest.fixture(scope="session")
def one(federation: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FurtherRouter]:
    """A router over one node, on the federation's Postgres and S3."""
    with router_of_one(federation, tmp_path_factory.mktemp("router-of-one")) as router:
        yield router


@pytest.fixture
def one_wire(one: FurtherRouter, http: httpx.Client) -> Wire:
    """The NodeODM API of that router."""
    return one.wire(http)


@pytest.fixture(scope="session")
def above(federation: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FurtherRouter]:
    """A router over the federation's router."""
    with router_of_routers(federation, tmp_path_factory.mktemp("router-of-routers")) as router:
        yield router


@pytest.fixture
def above_wire(above: FurtherRouter, http: httpx.Client) -> Wire:
    """The NodeODM API of that router."""
    return above.wire(http)


@pytest.fixture(params=["node", "kubernetes", "one", "router", "above"])
def wire(request: pytest.FixtureRequest) -> Wire:
    """A NodeODM API: the same tests for a node, one whose tasks are Jobs, and routers over one, two and a router."""
    found: Wire = request.getfixturevalue(f"{request.param}_wire")
    return found


@pytest.fixture(autouse=True, scope="session")
def clean_environment() -> None:
    """Settings of the machine that runs the tests must not reach them."""
    for name in [name for name in os.environ if name.startswith(("SCALEODM_", "AWS_"))]:
        del os.environ[name]
