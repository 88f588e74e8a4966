"""ClusterODM as a client of a node: what its code does on the wire, as the contract describes it (8.4)."""

import json
import re
import uuid as uuids
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from common.embedded.stack import Stack
from tests.client import JPEG, Wire
from tests.contract.alone import node_alone

pytestmark = pytest.mark.timeout(120)

DOMAINS = re.compile(
    r"|integer|float|(positive|negative) (integer|float)|percent|json|string|path"
    r"|(float|integer): -?[\d.]+ <= x <= -?[\d.]+|(float|integer) (>=|>|<=|<) -?[\d.]+"
)
"""What its own check of options can handle."""


@pytest.fixture(scope="module")
def url(federation: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A node without a token, as ClusterODM's users run them."""
    with node_alone(tmp_path_factory.mktemp("alone"), federation.storage_environment(), {}) as running:
        yield running


@pytest.fixture(params=["", "undefined"])
def wire(url: str, http: httpx.Client, request: pytest.FixtureRequest) -> Wire:
    """That node with the token of a ClusterODM that knows none."""
    return Wire(url, str(request.param), http)


def transferred(wire: Wire, uuid: str, requests: list[list[str]], commits: bool = True) -> None:
    """Init, upload by 20 connections with several files each, commit; every answer is 200 and without an error."""
    fields = {
        "name": "from a cluster",
        "options": json.dumps([{"name": "dsm", "value": True}]),
        "dateCreated": "1700000000123",
        "skipPostProcessing": "true",
        "webhook": "",
        "outputs": "[]",
    }
    assert wire.init(fields, uuid) == uuid, "byte for byte"

    def send(names: list[str]) -> dict[str, object]:
        with httpx.Client(timeout=30) as http:
            files = [(name, JPEG + name.encode()) for name in names]
            return Wire(wire.url, wire.token, http).upload(uuid, *files)

    with ThreadPoolExecutor(20) as connections:
        assert list(connections.map(send, requests)) == [{"success": True}] * len(requests)
    if commits:
        headers = {"content-type": "multipart/form-data"}
        answer = wire.post(f"/task/new/commit/{uuid}", content=b"", headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"uuid": uuid})


@pytest.mark.contract("8.4 transfer", "8.4 many files", "8.4 commit", "1 no token needed")
def test_clusterodm_transfers_a_task(wire: Wire) -> None:
    """Twenty connections, four files each, an empty commit that calls itself multipart."""
    uuid = str(uuids.uuid4())
    transferred(wire, uuid, [[f"{number}-{letter}.jpg" for letter in "abcd"] for number in range(20)])
    info = wire.ended(uuid)
    assert (info["status"]["code"], info["imagesCount"], info["dateCreated"]) == (40, 80, 1700000000123)
    assert info["options"] == [{"name": "dsm", "value": True}], "nothing is added with skipPostProcessing"


@pytest.mark.contract("8.4 transfer", "2.9 again")
def test_clusterodm_begins_the_whole_transfer_again_with_the_same_uuid(wire: Wire) -> None:
    """It gave up after some files; none of them is doubled."""
    uuid = str(uuids.uuid4())
    transferred(wire, uuid, [["a.jpg", "b.jpg"], ["c.jpg"]], commits=False)
    transferred(wire, uuid, [["a.jpg", "b.jpg"], ["c.jpg", "d.jpg"]])
    assert wire.ended(uuid)["imagesCount"] == 4


def test_clusterodm_finds_free_slots(wire: Wire) -> None:
    """Numbers, all of them: it counts a missing one as 0 and sends nothing."""
    info = wire.get("/info").json()
    assert info["maxParallelTasks"] - info["taskQueueCount"] >= 1
    assert info["maxImages"] is None
    assert re.fullmatch(r"\d+\.\d+\.\d+", info["version"])


@pytest.mark.contract("2.4 types")
def test_clusterodm_can_check_every_option(wire: Wire) -> None:
    """Types and domains are those that its own copy of the rules knows."""
    for option in wire.get("/options").json():
        assert option["type"] in {"int", "float", "string", "bool", "enum"}, option
        if option["type"] == "enum":
            assert all(isinstance(each, str) for each in option["domain"]), option
        else:
            assert DOMAINS.fullmatch(option["domain"]), option


@pytest.mark.contract("8.4 admin")
def test_clusterodms_admin_speaks_json(wire: Wire) -> None:
    """Cancel, restart and remove."""
    uuid = wire.task("sleep 60")
    wire.running(uuid)
    for what in ("cancel", "restart", "remove"):
        assert wire.post(f"/task/{what}", json={"uuid": uuid}).json() == {"success": True}, what
    assert wire.info(uuid) == {"error": f"{uuid} not found"}, "by which it drops the uuid from its list"


def test_clusterodm_reads_the_uuid_out_of_our_paths(wire: Wire) -> None:
    """Five groups of word characters; also in the answers to its clients."""
    uuid = wire.task()
    assert re.fullmatch(r"\w+-\w+-\w+-\w+-\w+", uuid)
    assert {"uuid": uuid} in wire.get("/task/list").json()
    wire.ended(uuid)


@pytest.mark.contract("8.4 ranges")
def test_what_clusterodm_passes_on_from_its_clients_reaches_us(wire: Wire) -> None:
    """Their `Range` and other headers, its own token: the archive, whole or a part, by a redirect or at once."""
    uuid = wire.task()
    wire.ended(uuid)
    address = f"{wire.url}/task/{uuid}/download/all.zip"
    whole = wire.http.get(address, params={"token": wire.token}, follow_redirects=True)
    assert whole.content.startswith(b"PK")
    headers = {"Range": "bytes=0-3", "X-Forwarded-For": "203.0.113.7", "Host": "cluster.example"}
    part = wire.http.get(address, params={"token": wire.token}, headers=headers)
    location = part.headers["location"]
    assert part.status_code == 302
    assert "cluster.example" not in location
    got = wire.http.get(location, headers={"Range": "bytes=0-3"})
    assert got.content in (whole.content[:4], whole.content), "a part where S3 knows ranges"
