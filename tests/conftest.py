"""Real servers for tests: Postgres, S3, a router, nodes. Started once, on free ports, stopped at the end."""

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from common.embedded.children import free_port
from common.embedded.object_store import ObjectStore
from common.embedded.postgres import EmbeddedPostgres
from common.embedded.stack import Stack
from common.references import Reference
from common.settings import S3Settings
from common.storage import Storage
from tests.client import Wire

STANDIN = Path(__file__).with_name("standin_odm.py")


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
    return Storage.from_settings(
        S3Settings.model_construct(
            endpoint=request.getfixturevalue("moto_url"),
            public_endpoint=None,
            region="us-east-1",
            access_key_id="tester",
            secret_access_key=SecretStr("tester"),
            session_token=None,
            staging="s3://staging/",
        )
    )


@pytest.fixture
def bucket(storage: Storage) -> Reference:
    """A fresh bucket."""
    name = f"test-{secrets.token_hex(6)}"
    storage.make_bucket(name)
    return Reference(name, "")


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A router and two nodes of two slots with the stand-in engine, all real processes."""
    settings = {
        "SCALEODM_NODE_ENGINE": "odm",
        "SCALEODM_NODE_ENGINE_COMMAND": f"{sys.executable} {STANDIN}",
        "SCALEODM_NODE_SLOTS": "2",
    }
    with Stack(tmp_path_factory.mktemp("federation"), node_settings=settings) as stack:
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


@pytest.fixture(params=["router", "node"])
def wire(request: pytest.FixtureRequest) -> Wire:
    """A NodeODM API: the same tests for router and node."""
    found: Wire = request.getfixturevalue(f"{request.param}_wire")
    return found


@pytest.fixture(autouse=True, scope="session")
def clean_environment() -> None:
    """Settings of the machine that runs the tests must not reach them."""
    for name in [name for name in os.environ if name.startswith(("SCALEODM_", "AWS_"))]:
        del os.environ[name]
