"""What a client of a router over a router must not notice, and what the router underneath must not be left with."""

import io
import json
import os
import secrets
import signal
import zipfile
from collections.abc import Iterator

import httpx
import psutil
import pytest

from common.embedded.stack import Stack
from common.references import Reference
from common.storage import Storage
from tests.arrangements import STANDIN, UNDER, FurtherRouter
from tests.client import JPEG, Wire
from tests.waiting import wait_until

FILES_ONLY = "files-only"
"""The same router, known as one that is given files and no S3 references, as a plain NodeODM is."""


@pytest.fixture(params=[UNDER, FILES_ONLY])
def way(request: pytest.FixtureRequest, above: FurtherRouter, federation: Stack) -> Iterator[str]:
    """By which of two ways the upper router gives the lower one its tasks: the name of the node for `nodes`."""
    if request.param == FILES_ONLY:
        order = {"name": FILES_ONLY, "url": federation.router_url, "token": federation.user_token, "readsS3": False}
        assert above.admin("POST", "/admin/nodes", json=order).status_code == httpx.codes.OK
        above.waits_for(FILES_ONLY)
    yield request.param
    if request.param == FILES_ONLY:
        above.admin("DELETE", f"/admin/nodes/{FILES_ONLY}")


def on(name: str) -> str:
    """The field by which a task is to run there."""
    return json.dumps([name])


def below(wire: Wire) -> list[str]:
    """Tasks of the lower router."""
    return [each["uuid"] for each in wire.get("/task/list").json()]


def engines(stack: Stack) -> list[psutil.Process]:
    """Every engine that works on a node of this federation."""
    folder = str(stack.secrets_file.parent)
    found = psutil.process_iter(["cmdline", "status"])
    working = [each for each in found if each.info["status"] != psutil.STATUS_ZOMBIE]
    return [each for each in working if _is_of(folder, each.info["cmdline"] or [])]


def _is_of(folder: str, words: list[str]) -> bool:
    return str(STANDIN) in words and any(word.startswith(folder) for word in words)


@pytest.mark.contract("2.6 fields", "6.3 members")
def test_from_upload_to_products(above_wire: Wire, router_wire: Wire, federation_storage: Storage, way: str) -> None:
    """Options, console, count and products are those of the run two routers below; nothing is left there."""
    before = set(below(router_wire))
    uuid = above_wire.task("say hello\nlines 500", [{"name": "dsm", "value": True}], nodes=on(way))
    info = above_wire.ended(uuid, 60)
    assert (info["status"], info["imagesCount"], info["progress"]) == ({"code": 40}, 2, 100)
    console = above_wire.output(uuid)
    assert console.count("hello") == 1
    assert [line for line in console if line.startswith("line ")] == [f"line {number}" for number in range(500)]
    link = above_wire.get(f"/task/{uuid}/download/all.zip").headers["location"]
    with zipfile.ZipFile(io.BytesIO(httpx.get(link).content)) as archive:
        assert {"task_output.txt", "odm_orthophoto/odm_orthophoto.tif"} <= set(archive.namelist())
        assert "--dsm" in json.loads(archive.read("odm_report/stats.json"))["arguments"]
    manifest = json.loads(federation_storage.read(Reference.parse(f"s3://staging/{uuid}/output/manifest.json")))
    assert manifest["uuid"] == uuid
    wait_until(lambda: set(below(router_wire)) <= before, "the lower router to have been told to forget it")


@pytest.mark.contract("6.2 source", "10 12")
def test_the_console_and_the_progress_come_while_it_runs(above_wire: Wire, way: str) -> None:
    """Not at the end only."""
    uuid = above_wire.task("say begun\nsleep 60", nodes=on(way))
    above_wire.says(uuid, "begun")
    wait_until(lambda: 0 < above_wire.info(uuid)["progress"] < 100, "the progress to come up two routers")
    info = above_wire.info(uuid)
    assert info["status"]["code"] == 20
    assert info["processingTime"] >= 0
    above_wire.act("remove", uuid)


@pytest.mark.contract("3.5 cancel", "3.5 remove")
@pytest.mark.parametrize("what", ["cancel", "remove"])
def test_what_ends_a_task_ends_its_engine_two_routers_below(
    above_wire: Wire, router_wire: Wire, federation: Stack, way: str, what: str
) -> None:
    """And the lower router forgets it."""
    wait_until(lambda: not engines(federation), "what other tests have left to end")
    before = set(below(router_wire))
    uuid = above_wire.task("say begun\nsleep 60", nodes=on(way))
    above_wire.says(uuid, "begun")
    assert engines(federation)
    assert above_wire.act(what, uuid) == {"success": True}
    wait_until(lambda: not engines(federation), "the engine to have ended")
    wait_until(lambda: set(below(router_wire)) <= before, "the lower router to have forgotten it")
    if what == "cancel":
        assert above_wire.code(uuid) == 50


@pytest.mark.contract("3.5 restart options")
def test_restart_brings_new_options_down(above_wire: Wire, federation_storage: Storage, way: str) -> None:
    """The same uuid above, another run below; its console replaces the first."""
    uuid = above_wire.task("say hello", [{"name": "dsm", "value": True}], nodes=on(way))
    above_wire.completed(uuid, 60)
    assert above_wire.act("restart", uuid, options='[{"name": "dtm", "value": true}]') == {"success": True}
    above_wire.completed(uuid, 60)
    assert above_wire.output(uuid).count("hello") == 1
    output = Reference.parse(f"s3://staging/{uuid}/output/")
    arguments = json.loads(federation_storage.read(output / "odm_report/stats.json"))["arguments"]
    assert "--dtm" in arguments
    assert "--dsm" not in arguments
    assert json.loads(federation_storage.read(output / "manifest.json"))["attempt"] == 2


@pytest.mark.contract("3.3 exit codes", "3.3 after the engine")
@pytest.mark.parametrize(
    ("orders", "told"),
    [
        ("say [ERROR]   The reconstruction is empty\nexit 1", "Cannot process dataset: The reconstruction is empty"),
        ("exit 137", "Not enough memory: Use fewer images"),
        ("exit 42", "Processing failed (42)"),
        ("no-products", "The engine ended well but made none of"),
    ],
)
def test_why_a_task_failed_is_told_all_the_way_up(above_wire: Wire, orders: str, told: str) -> None:
    """In the words of whoever knows it, and after one try."""
    uuid = above_wire.task(orders)
    info = above_wire.ended(uuid, 60)
    assert info["status"]["code"] == 30
    assert told in info["status"]["errorMessage"], info
    assert above_wire.output(uuid)


@pytest.mark.contract("2.12 reference", "6.3 outputs")
def test_products_of_a_reference_lie_where_the_client_wants_them(
    above_wire: Wire, federation_storage: Storage, way: str
) -> None:
    """Beside the images, or in `writeS3Path`; nothing of the way there is left."""
    uuid, root = above_wire.by_reference(federation_storage, "megabytes 12", nodes=[way])
    above_wire.completed(uuid, 60)
    manifest = json.loads(federation_storage.read(root / "output/manifest.json"))
    sizes = {each["name"]: each["size"] for each in manifest["objects"]}
    assert sizes["odm_dem/dsm.tif"] >= 12 * 2**20
    place = Reference.parse(f"s3://staging/products-{secrets.token_hex(4)}/")
    order = {"readS3Path": str(root), "writeS3Path": str(place), "outputs": ["odm_report"], "nodes": [way]}
    again = above_wire.post("/task/new", json=order).json()["uuid"]
    above_wire.completed(again, 60)
    manifest = json.loads(federation_storage.read(place / "manifest.json"))
    assert {each["name"] for each in manifest["objects"]} == {"all.zip", "odm_report/stats.json", "task_output.txt"}
    scratch = [place / ".scaleodm/attempts/", root / "output/.scaleodm/attempts/"]
    wait_until(
        lambda: not [each for prefix in scratch for each in federation_storage.listing(prefix)],
        "nothing of the way to be left",
    )


def test_a_tenant_above_is_nobody_below(above: FurtherRouter, above_wire: Wire, http: httpx.Client, way: str) -> None:
    """The lower router sees one user; who that is for is the upper one's to know (I12)."""
    order = {"kind": "user", "name": secrets.token_hex(4), "tenant": "acme"}
    acme = Wire(above.url, above.admin("POST", "/admin/tokens", json=order).json()["token"], http)
    uuid = acme.task(nodes=on(way))
    acme.completed(uuid, 60)
    missing = {"error": f"{uuid} not found"}
    assert above_wire.info(uuid) == missing
    assert above_wire.act("remove", uuid) == {"success": False, **missing}


@pytest.mark.contract("1 wrong token")
def test_no_token_of_either_router_opens_the_other(
    above: FurtherRouter, above_wire: Wire, federation: Stack, router_wire: Wire
) -> None:
    """And the upper one never tells the lower one's (I9)."""
    refused = {"error": "Invalid authentication token: token does not match."}
    assert above_wire.http.get(f"{federation.router_url}/info", params={"token": above_wire.token}).json() == refused
    assert router_wire.http.get(f"{above.url}/info", params={"token": federation.user_token}).json() == refused
    for path in ("/admin/nodes", "/federation/nodes"):
        assert federation.user_token not in above.admin("GET", path).text
    uuid = above_wire.task()
    above_wire.ended(uuid, 60)
    for path in (f"/admin/tasks/{uuid}/why", f"/task/{uuid}/why"):
        assert federation.user_token not in above.admin("GET", path).text
    assert federation.user_token not in above.said()


def test_more_tasks_than_slots_wait_above_and_all_end(above_wire: Wire, router_wire: Wire) -> None:
    """They bind late: the lower router never has more than it runs at once."""
    wait_until(lambda: router_wire.get("/info").json()["taskQueueCount"] == 0, "what other tests have left to end")
    uuids = [above_wire.task("sleep 1.5") for _ in range(7)]
    most = 0
    while any(above_wire.code(uuid) in (10, 20) for uuid in uuids):
        most = max(most, int(router_wire.get("/info").json()["taskQueueCount"]))
    assert [above_wire.code(uuid) for uuid in uuids] == [40] * len(uuids)
    assert 1 < most <= 4


@pytest.mark.contract("7.1 restart of the server")
@pytest.mark.timeout(120)
def test_a_killed_router_below_costs_no_task(above_wire: Wire, federation: Stack) -> None:
    """SIGKILL while it runs; the run goes on beneath, and its end is told when the router is back."""
    uuid = above_wire.task("say begun\nsleep 4\nsay done")
    above_wire.says(uuid, "begun")
    os.kill(federation.pid_of("router"), signal.SIGKILL)
    try:
        assert above_wire.info(uuid)["status"]["code"] == 20
    finally:
        federation.start_again("router")
    info = above_wire.ended(uuid, 60)
    assert info["status"] == {"code": 40}, info
    console = above_wire.output(uuid)
    assert (console.count("begun"), console.count("done")) == (1, 1)


def test_an_upload_under_a_uuid_of_its_own(above_wire: Wire) -> None:
    """What the client chose stays, whatever the task is called below."""
    wanted = "6F1A1C7E-7B1F-4C6B-8A55-0123456789AB"
    assert above_wire.init(uuid=wanted) == wanted
    above_wire.upload(wanted, ("a.jpg", JPEG))
    above_wire.commit(wanted)
    assert above_wire.ended(wanted, 60)["uuid"] == wanted
    above_wire.act("remove", wanted)
