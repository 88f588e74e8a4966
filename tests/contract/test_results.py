"""What a task gives: the archive, single products by their names, ranges, and that no broken product is called one."""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from pyodm import Node

from common.embedded.object_store import storage_at
from common.embedded.stack import Stack
from common.storage import Storage
from tests.client import Wire
from tests.contract.test_tenants import wire_of
from tests.lone_node import LoneNode, lone_node, moto_environment

ORTHOPHOTO = "odm_orthophoto/odm_orthophoto.tif"


def fetched(wire: Wire, uuid: str, asset: str, **headers: str) -> httpx.Response:
    """The asset, as a client gets it that follows the link."""
    link = wire.get(f"/task/{uuid}/download/{asset}")
    assert link.status_code == 302, link.text
    return wire.http.get(link.headers["location"], headers=headers)


def refused(wire: Wire, uuid: str, asset: str) -> Any:
    """What is said instead."""
    answer = wire.get(f"/task/{uuid}/download/{asset}")
    assert answer.status_code == 200
    return answer.json()["error"]


@pytest.mark.contract("6.3 outputs", "6.3 console")
def test_the_archive_of_asked_outputs_holds_them_and_the_console(wire: Wire) -> None:
    """Paths as NodeODM reads them; what is not there is left out."""
    outputs = json.dumps(["../odm_report/./stats.json", "/images.json", "nothing/of/the/kind"])
    uuid = wire.task("say hello", outputs=outputs)
    wire.completed(uuid)
    with zipfile.ZipFile(io.BytesIO(fetched(wire, uuid, "all.zip").content)) as archive:
        assert sorted(archive.namelist()) == ["images.json", "odm_report/stats.json", "task_output.txt"]
        assert "hello" in archive.read("task_output.txt").decode()


@pytest.mark.contract("2.8 single assets", "10 19")
def test_products_are_loaded_one_by_one_under_every_name_that_clients_have_for_them(wire: Wire) -> None:
    """ScaleODM's words, WebODM's file names, and the paths of the archive."""
    uuid = wire.task(options=[{"name": "dsm", "value": True}])
    wire.completed(uuid)
    with zipfile.ZipFile(io.BytesIO(fetched(wire, uuid, "all.zip").content)) as archive:
        products = {name: archive.read(name) for name in archive.namelist()}
    names = {
        "orthophoto": ORTHOPHOTO,
        "orthophoto.tif": ORTHOPHOTO,
        ORTHOPHOTO: ORTHOPHOTO,
        "dsm": "odm_dem/dsm.tif",
        "dsm.tif": "odm_dem/dsm.tif",
        "odm_report/stats.json": "odm_report/stats.json",
        "task_output.txt": "task_output.txt",
    }
    for asset, path in names.items():
        answer = fetched(wire, uuid, asset)
        assert (answer.status_code, answer.content) == (200, products[path]), asset
        assert "content-encoding" not in answer.headers
        assert answer.headers["content-disposition"] == f"attachment; filename={Path(path).name}"


@pytest.mark.contract("2.8 invalid asset", "2.8 not ready", "2.8 single assets")
def test_nothing_but_a_tasks_products_can_be_loaded(wire: Wire, federation_storage: Storage) -> None:
    """Not what lies beside them, not what lies above them, and not what this task has not made."""
    uuid, root = wire.by_reference(federation_storage, "sleep 1")
    for asset in ("all.zip", "orthophoto", "dtm.tif", "odm_georeferencing/odm_georeferenced_model.laz"):
        assert refused(wire, uuid, asset) == "Asset not ready", asset
    for asset in ("nonsense", "images/a.jpg", "manifest.json"):
        assert refused(wire, uuid, asset) == "Invalid asset", asset
    wire.ended(uuid)
    federation_storage.write(root / "output/mine.txt", b"mine")
    inner = ("mine.txt", "manifest.json", ".scaleodm/attempt.json", "dtm.tif", "odm_orthophoto", "ORTHOPHOTO")
    for asset in (*inner, "..%2Fa.jpg", "%2E%2E/a.jpg", "odm_report%2F..%2F..%2Fa.jpg", "%00"):
        assert refused(wire, uuid, asset) == "Invalid asset", asset
    wire.act("remove", uuid)
    assert refused(wire, uuid, "orthophoto") == f"{uuid} not found"
    assert refused(wire, uuid, "all.zip") == f"{uuid} not found"


@pytest.mark.contract("2.8 single assets", "10 19")
def test_what_can_be_loaded_is_listed_as_scaleodm_lists_it(wire: Wire) -> None:
    """The main products always, the others on demand; each link works as it stands."""
    uuid = wire.task()
    wire.ended(uuid)
    listed = wire.get(f"/task/{uuid}/assets").json()
    assert [(each["id"], each["exists"]) for each in listed["primary"]] == [
        ("all_zip", True),
        ("orthophoto", True),
        ("dsm", False),
        ("dtm", False),
        ("point_cloud", False),
    ]
    assert listed["primary"][1]["asset"] == ORTHOPHOTO
    assert "downloadUrl" not in listed["primary"][2]
    assert "additional" not in listed
    more = wire.get(f"/task/{uuid}/assets", includeAdditional="true").json()
    others = {"images.json", "log.json", "odm_report/stats.json", "task_output.txt"}
    assert {each["asset"] for each in more["additional"]} == others
    few = wire.get(f"/task/{uuid}/assets", includeAdditional="true", additionalLimit="2").json()
    assert (len(few["additional"]), few["additionalTotal"]) == (2, len(others))
    for each in (*(each for each in listed["primary"] if each["exists"]), *more["additional"]):
        location = wire.get(each["downloadUrl"]).headers["location"]
        assert len(wire.http.get(location).content) == each["size"]


@pytest.mark.contract("2.8 single assets")
def test_a_task_that_works_has_nothing_to_load_yet(wire: Wire) -> None:
    """And one that nobody knows is told of as everywhere."""
    uuid = wire.task("sleep 60")
    primary = wire.get(f"/task/{uuid}/assets").json()["primary"]
    assert [each["exists"] for each in primary] == [False] * 5
    wire.act("remove", uuid)
    assert wire.get(f"/task/{uuid}/assets").json() == {"error": f"{uuid} not found"}


@pytest.mark.contract("1 kind paths")
def test_head_of_a_product_tells_its_size_without_its_bytes(wire: Wire) -> None:
    """The link of a HEAD answers HEAD: a signature is good for one method."""
    uuid = wire.task()
    wire.ended(uuid)
    for asset in ("all.zip", "orthophoto"):
        link = wire.http.head(f"{wire.url}/task/{uuid}/download/{asset}", params={"token": wire.token})
        assert (link.status_code, link.content) == (302, b"")
        told = wire.http.head(link.headers["location"])
        assert told.status_code == 200
        assert int(told.headers["content-length"]) == len(fetched(wire, uuid, asset).content)
    assert wire.http.head(f"{wire.url}/task/{uuid}/assets", params={"token": wire.token}).status_code == 200


def test_i12_another_tenant_neither_lists_nor_loads_a_product(federation: Stack, http: httpx.Client) -> None:
    """Whatever it calls it."""
    acme, other = wire_of(federation, http, "acme"), wire_of(federation, http, "other")
    uuid = acme.task()
    acme.ended(uuid)
    assert fetched(acme, uuid, "orthophoto").status_code == 200
    missing = {"error": f"{uuid} not found"}
    for path in ("assets", "download/orthophoto", f"download/{ORTHOPHOTO}", "download/all.zip"):
        assert other.get(f"/task/{uuid}/{path}").json() == missing


def test_what_another_task_has_published_in_the_same_place_is_not_ours(
    router_wire: Wire, federation_storage: Storage
) -> None:
    """A task's products are those of its own manifest."""
    first, root = router_wire.by_reference(federation_storage)
    router_wire.ended(first)
    assert fetched(router_wire, first, "orthophoto").status_code == 200
    second = router_wire.post("/task/new", json={"readS3Path": str(root)}).json()["uuid"]
    router_wire.ended(second)
    assert refused(router_wire, first, "orthophoto") == "Asset not ready"
    assert fetched(router_wire, second, "orthophoto").status_code == 200


def test_what_a_restart_makes_anew_takes_the_place_of_the_old(router_wire: Wire) -> None:
    """The list follows the output, and no copy of it in somebody's memory."""
    uuid = router_wire.task()
    router_wire.ended(uuid)
    assert refused(router_wire, uuid, "dsm") == "Invalid asset"
    options = json.dumps([{"name": "dsm", "value": True}])
    assert router_wire.act("restart", uuid, options=options) == {"success": True}
    router_wire.completed(uuid)
    assert fetched(router_wire, uuid, "dsm").status_code == 200


@pytest.mark.parametrize(
    ("orders", "says"),
    [
        ("cut odm_orthophoto/odm_orthophoto.tif", "odm_orthophoto/odm_orthophoto.tif cannot be read: its picture"),
        ("lose odm_orthophoto/odm_orthophoto.tif", "did not make odm_orthophoto/odm_orthophoto.tif, although skip-"),
        ("no-products", "made none of: an orthophoto or any other product"),
    ],
)
@pytest.mark.contract("6.3 nothing made")
def test_a_task_with_a_broken_product_fails_and_says_which(wire: Wire, orders: str, says: str) -> None:
    """Exit code 0 is not enough; nothing of it is published."""
    uuid = wire.task(orders)
    info = wire.ended(uuid)
    assert info["status"]["code"] == 30
    assert says in info["status"]["errorMessage"]
    assert refused(wire, uuid, "all.zip") == "Asset not ready"


def test_a_broken_product_is_held_against_the_engine(router_wire: Wire) -> None:
    """So the task is not run again elsewhere, where it would end the same."""
    uuid = router_wire.task("cut odm_orthophoto/odm_orthophoto.tif")
    router_wire.ended(uuid)
    attempts = router_wire.get(f"/task/{uuid}/why").json()["attempts"]
    assert [each["cause"] for each in attempts] == ["engine"]


@pytest.mark.parametrize("option", ["skip-orthophoto", "end-with"])
def test_a_task_that_shall_make_no_orthophoto_needs_none(router_wire: Wire, option: str) -> None:
    """What is expected follows from the options."""
    value = True if option == "skip-orthophoto" else "odm_dem"
    uuid = router_wire.task("lose odm_orthophoto/odm_orthophoto.tif", [{"name": option, "value": value}])
    router_wire.completed(uuid)


# An S3 server that knows ranges, and one behind another address


@pytest.fixture(scope="module")
def moto_node(moto_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoneNode]:
    """A node over moto."""
    storage_at(moto_url, "tester", "tester").make_bucket("staging")
    with lone_node(tmp_path_factory.mktemp("moto-node"), moto_environment(moto_url)) as node:
        yield node


@pytest.mark.contract("2.8 ranges", "8.1 ranges", "8.1 large archive")
@pytest.mark.timeout(300)
def test_pyodm_loads_a_large_archive_by_ranges(moto_node: LoneNode, http: httpx.Client, tmp_path: Path) -> None:
    """Sixteen connections at once, each a 206 of exactly what was asked for; both of PyODM's ways to load."""
    wire = moto_node.wire(http)
    uuid = wire.task("megabytes 25")
    wire.completed(uuid, 120)
    part = fetched(wire, uuid, "all.zip", Range="bytes=10-29")
    whole = fetched(wire, uuid, "all.zip")
    assert (part.status_code, part.content) == (206, whole.content[10:30])
    assert part.headers["content-range"] == f"bytes 10-29/{len(whole.content)}"
    assert whole.headers["accept-ranges"] == "bytes"
    task = Node.from_url(f"{wire.url}?token={wire.token}").get_task(uuid)
    archive = Path(task.download_zip(str(tmp_path / "zip")))
    assert hashlib.sha256(archive.read_bytes()).digest() == hashlib.sha256(whole.content).digest()
    folder = Path(task.download_assets(str(tmp_path / "assets"), parallel_downloads=8, parallel_chunks_size=3))
    with zipfile.ZipFile(archive) as opened:
        for name in opened.namelist():
            assert (folder / name).read_bytes() == opened.read(name), name


@pytest.mark.contract("2.8 ranges")
def test_a_single_product_is_loaded_by_ranges(moto_node: LoneNode, http: httpx.Client) -> None:
    """As viewers of cloud optimised rasters do."""
    wire = moto_node.wire(http)
    uuid = wire.task()
    wire.ended(uuid)
    whole = fetched(wire, uuid, "orthophoto").content
    part = fetched(wire, uuid, "orthophoto", Range="bytes=-100")
    assert (part.status_code, part.content) == (206, whole[-100:])


@pytest.mark.timeout(180)
def test_pyodm_loads_a_large_archive_from_a_server_without_ranges(node_wire: Wire, tmp_path: Path) -> None:
    """rclone answers a range with the whole, status 200: PyODM goes on with its first answer."""
    uuid = node_wire.task("megabytes 25")
    node_wire.completed(uuid, 60)
    assert fetched(node_wire, uuid, "all.zip", Range="bytes=0-9").status_code in (200, 206)
    task = Node.from_url(f"{node_wire.url}?token={node_wire.token}").get_task(uuid)
    archive = Path(task.download_zip(str(tmp_path)))
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        assert opened.getinfo("odm_dem/dsm.tif").file_size == 25 * 2**20


def test_links_are_for_the_address_at_which_clients_reach_s3(
    federation: Stack, http: httpx.Client, tmp_path: Path
) -> None:
    """The signature is made for that host, so the link works there as it is."""
    port = urlsplit(federation.storage_environment()["AWS_ENDPOINT_URL_S3"]).port
    public = {"SCALEODM_S3_PUBLIC_ENDPOINT_URL": f"http://localhost:{port}"}
    with lone_node(tmp_path, {**federation.storage_environment(), **public}) as node:
        wire = node.wire(http)
        uuid, _ = wire.by_reference(federation.storage())
        wire.ended(uuid)
        location = wire.get(f"/task/{uuid}/download/all.zip").headers["location"]
        assert urlsplit(location).netloc == f"localhost:{port}"
        assert http.get(location).content.startswith(b"PK")
        assert http.get(location.replace("localhost", "127.0.0.1")).status_code == 403
