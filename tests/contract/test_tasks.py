"""The life of a task on the wire, against router and node alike (contract 2, 3, 11)."""

import json
import uuid as uuids
from typing import Any

import pytest

from common.references import Reference
from common.storage import Storage
from tests.client import JPEG, Wire
from tests.waiting import wait_until


@pytest.mark.contract("2.6 fields", "2.9 fields", "3.4 hundred", "10 7")
def test_a_task_goes_from_upload_to_products(wire: Wire) -> None:
    """The whole way: init, upload, commit, poll, download."""
    uuid = wire.task()
    info = wire.ended(uuid)
    assert info["status"] == {"code": 40}
    assert info["progress"] == 100
    assert info["imagesCount"] == 2
    assert info["name"] == "a task"
    assert info["processingTime"] >= 0
    assert len(str(info["dateCreated"])) == 13, "milliseconds"
    assert "output" not in info


@pytest.mark.contract("3.5 commit", "8.3 accepted", "10 13")
def test_right_after_commit_a_task_is_running_not_queued(wire: Wire) -> None:
    """ODM's split-merge takes 10 for a refusal (contract 8.3), so a free slot must never show it."""
    uuid = wire.init()
    wire.upload(uuid, ("a.jpg", JPEG), ("b.jpg", JPEG + b"b"))
    wire.commit(uuid)
    seen = []
    while (info := wire.info(uuid))["status"]["code"] not in (30, 40):
        seen.append(info["status"]["code"])
    assert set(seen) <= {20}


@pytest.mark.contract("2.11 twice")
def test_committing_twice_answers_the_same(wire: Wire) -> None:
    """A client that lost the first answer asks again (design 4.5)."""
    uuid = wire.task()
    assert wire.commit(uuid) == {"uuid": uuid}


@pytest.mark.contract("2.10 not open")
def test_an_upload_that_was_never_opened_is_refused(wire: Wire) -> None:
    """Contract 2.10, 2.11."""
    unknown = str(uuids.uuid4())
    assert wire.upload(unknown, ("a.jpg", JPEG)) == {"error": "Invalid uuid (not found)"}
    assert wire.commit(unknown) == {"error": "Invalid uuid (not found)"}


@pytest.mark.contract("2.10 no files", "2.11 empty", "1 three shapes")
def test_an_upload_without_files_is_final(wire: Wire) -> None:
    """Contract 1.3, the third error shape."""
    uuid = wire.init()
    answer = wire.post(f"/task/new/upload/{uuid}", files={"name": (None, "x")}).json()
    assert answer == {"error": "Need at least 1 file.", "noRetry": True}
    assert wire.commit(uuid) == {"error": "Need at least 1 file."}
    assert wire.commit(uuid) == {"error": "Invalid uuid (not found)"}, "an empty commit ends the upload"


@pytest.mark.contract("2.10 other field")
def test_a_file_under_another_field_name_is_refused(wire: Wire) -> None:
    """Contract 1.2."""
    uuid = wire.init()
    assert wire.error(f"/task/new/upload/{uuid}", files={"photos": ("a.jpg", JPEG)}) == "Unexpected field"


@pytest.mark.contract("2.9 no files")
def test_init_takes_no_files(wire: Wire) -> None:
    """Contract 2.9."""
    assert wire.error("/task/new/init", files={"images": ("a.jpg", JPEG)}) == "Unexpected field"


@pytest.mark.contract("2.9 again", "2.15 echoed", "8.4 transfer", "10 17")
def test_init_may_be_repeated_and_keeps_the_files(wire: Wire) -> None:
    """ClusterODM begins again with the same uuid (contract 8.4)."""
    wanted = str(uuids.uuid4()).upper()
    assert wire.init(uuid=wanted) == wanted, "echoed exactly"
    wire.upload(wanted, ("a.jpg", JPEG))
    assert wire.init({"name": "another name"}, uuid=wanted) == wanted
    wire.upload(wanted, ("a.jpg", JPEG), ("b.jpg", JPEG + b"b"))
    wire.commit(wanted)
    info = wire.ended(wanted)
    assert info["name"] == "another name"
    assert info["imagesCount"] == 2, "a.jpg came twice and is kept once"


@pytest.mark.contract("2.15 refused")
@pytest.mark.parametrize("bad", ["nonsense", "00000000-0000-0000-0000-000000000000", "../../etc"])
def test_a_uuid_that_is_none_is_refused(wire: Wire, bad: str) -> None:
    """Contract 2.15."""
    assert wire.error("/task/new/init", headers={"set-uuid": bad}) == f"Invalid set-uuid: {bad}"


@pytest.mark.contract("2.15 refused")
def test_the_uuid_of_a_task_cannot_be_taken_again(wire: Wire) -> None:
    """Contract 2.15."""
    uuid = wire.task()
    assert wire.error("/task/new/init", headers={"set-uuid": uuid}) == f"Invalid set-uuid: {uuid}"


@pytest.mark.contract("2.10 twice", "2.10 safe names", "8.4 transfer")
def test_files_of_one_name_are_all_kept_and_repeats_only_once(wire: Wire, federation_storage: Storage) -> None:
    """Two cameras may both have a `a.jpg`; a client that repeats an upload must not double it (contract 2.10)."""
    uuid = wire.init()
    wire.upload(uuid, ("a.jpg", JPEG + b"one"))
    wire.upload(uuid, ("a.jpg", JPEG + b"two"))
    wire.upload(uuid, ("a.jpg", JPEG + b"one"))
    wire.upload(uuid, ("../../evil.jpg", JPEG), ("body.json", b"{}"))
    assert _staged(federation_storage, uuid) == {"a.jpg", "a_.jpg", "evil.jpg", "_body.json"}


def _staged(storage: Storage, uuid: str) -> set[str]:
    prefix = Reference.parse(f"s3://staging/{uuid}/images/")
    return {each.reference.key.removeprefix(prefix.key) for each in storage.listing(prefix)}


@pytest.mark.contract("2.12 files", "10 2")
def test_task_new_takes_files_and_fields_in_one_request(wire: Wire) -> None:
    """PyODM's way before version 1.4.0 (contract 2.12)."""
    fields = {"name": (None, "one shot"), "options": (None, "[]")}
    files = [("images", ("a.jpg", JPEG)), ("images", ("b.jpg", JPEG + b"b"))]
    uuid = wire.post("/task/new", files=[*fields.items(), *files]).json()["uuid"]
    assert wire.info(uuid)["name"] == "one shot"
    assert wire.ended(uuid)["imagesCount"] == 2


@pytest.mark.contract("2.12 nothing")
def test_task_new_needs_files_or_a_reference(wire: Wire) -> None:
    """Contract 2.12."""
    text = "Need at least 1 file or a zip file url."
    assert wire.error("/task/new", files={"name": (None, "x")}) == text
    assert wire.error("/task/new", json={"name": "x"}) == text


@pytest.mark.contract("2.12 reference", "6.3 s3", "10 2")
@pytest.mark.parametrize("form", ["json", "data"])
def test_a_task_by_reference_leaves_products_beside_its_input(
    wire: Wire, federation_storage: Storage, form: str
) -> None:
    """S3 in, S3 out, no byte through us; the manifest comes last."""
    root = Reference.parse(f"s3://staging/survey-{uuids.uuid4()}/")
    for name in ("a.jpg", "deeper/b.jpg", "notes.md"):
        federation_storage.write(root / name, JPEG)
    content: dict[str, Any] = {form: {"readS3Path": str(root), "name": "by reference"}}
    uuid = wire.post("/task/new", **content).json()["uuid"]
    info = wire.ended(uuid)
    assert (info["status"]["code"], info["imagesCount"]) == (40, 2)
    manifest = json.loads(federation_storage.read(root / "output/manifest.json"))
    names = {each["name"] for each in manifest["objects"]}
    assert {"all.zip", "task_output.txt", "odm_orthophoto/odm_orthophoto.tif"} <= names
    assert (manifest["uuid"], manifest["attempt"], manifest["engine"]) == (uuid, 1, "odm")
    wire.act("remove", uuid)
    assert federation_storage.exists(root / "output/manifest.json"), "what lies in the client's S3 is the client's"


@pytest.mark.contract("5 zipurl")
def test_a_zip_by_reference_is_unpacked(wire: Wire, federation_storage: Storage, tmp_path: Any) -> None:
    """`zipurl=s3://…/images.zip` (contract 5)."""
    import zipfile

    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("folder/a.jpg", JPEG)
        file.writestr("../b.jpg", JPEG)
    root = Reference.parse(f"s3://staging/zipped-{uuids.uuid4()}/")
    federation_storage.upload(archive, root / "images.zip")
    uuid = wire.post("/task/new", json={"zipurl": str(root / "images.zip")}).json()["uuid"]
    info = wire.ended(uuid)
    assert (info["status"]["code"], info["imagesCount"]) == (40, 2), info
    assert federation_storage.exists(root / "images-output/all.zip")


def test_the_same_reference_under_the_same_uuid_is_the_same_task(wire: Wire, federation_storage: Storage) -> None:
    """A client that lost the answer repeats itself (design 4.5); another task under that uuid is refused."""
    root = Reference.parse(f"s3://staging/again-{uuids.uuid4()}/")
    federation_storage.write(root / "a.jpg", JPEG)
    uuid = str(uuids.uuid4())
    for _ in range(2):
        answer = wire.post("/task/new", json={"readS3Path": str(root)}, headers={"set-uuid": uuid}).json()
        assert answer == {"uuid": uuid}
    other = {"readS3Path": "s3://staging/elsewhere/"}
    assert wire.error("/task/new", json=other, headers={"set-uuid": uuid}) == f"Invalid set-uuid: {uuid}"


@pytest.mark.contract("5 gcp", "5 images")
def test_gcp_and_geo_files_lie_where_the_engine_looks_for_them(wire: Wire) -> None:
    """Contract 5, 9.1: ODM finds them in the project by their names."""
    uuid = wire.init()
    files = [("a.jpg", JPEG), ("b.jpg", JPEG), ("gcp_list.txt", b"say hello"), ("geo.txt", b"EPSG:4326")]
    wire.upload(uuid, *files)
    wire.commit(uuid)
    wire.completed(uuid)
    first = next(line for line in wire.output(uuid) if "Initializing" in line)
    assert "['gcp_list.txt', 'geo.txt']" in first
    assert "hello" in wire.output(uuid)


def test_remove_deletes_the_output_where_that_is_asked_for(wire: Wire, federation_storage: Storage) -> None:
    """Only what the task has put there: the folder is the client's."""
    root = Reference.parse(f"s3://staging/removed-{uuids.uuid4()}/")
    federation_storage.write(root / "a.jpg", JPEG)
    federation_storage.write(root / "output/mine.txt", b"keep me")
    uuid = wire.post("/task/new", json={"readS3Path": str(root)}).json()["uuid"]
    wire.completed(uuid)
    wire.act("remove", uuid, deleteOutput="true")
    left = {each.reference.key.removeprefix(root.key) for each in federation_storage.listing(root)}
    assert left == {"a.jpg", "output/mine.txt"}


@pytest.mark.contract("8.5 submit")
def test_what_is_input_may_be_narrowed(wire: Wire, federation_storage: Storage) -> None:
    """ScaleODM's parameters (contract 8.5), through the router as well."""
    root = Reference.parse(f"s3://staging/narrowed-{uuids.uuid4()}/")
    for name in ("a.jpg", "b/c.jpg", "b/d/e.jpg", "thumbnails/f.jpg", "g_skip.jpg"):
        federation_storage.write(root / name, JPEG + name.encode())
    fields = {
        "readS3Path": str(root),
        "s3ScanDepth": 2,
        "excludePaths": ["*_skip.jpg"],
        "useDefaultExcludes": True,
    }
    uuid = wire.post("/task/new", json=fields).json()["uuid"]
    info = wire.ended(uuid)
    assert (info["status"]["code"], info["imagesCount"]) == (40, 2)


@pytest.mark.contract("8.5 submit")
@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("s3ScanDepth", "deep", "s3ScanDepth is 'deep'; expected a number of folders"),
        ("excludePaths", [1], "excludePaths: expected a list of patterns"),
        ("odmImage", "no such image!", "odmImage is 'no such image!'; expected a container image"),
        ("capacityType", "cheap", "capacityType is 'cheap'; expected spot or on-demand"),
    ],
)
def test_a_wish_that_cannot_be_read_is_told(wire: Wire, field: str, value: Any, told: str) -> None:
    """Bad input gets a clear error."""
    assert told in wire.error("/task/new", json={"readS3Path": "s3://staging/x/", field: value})


@pytest.mark.contract("2.5 list")
def test_every_task_is_listed(wire: Wire) -> None:
    """Contract 2.5; an open upload is not a task yet."""
    opened, uuid = wire.init(), wire.task()
    listed = [each["uuid"] for each in wire.get("/task/list").json()]
    assert uuid in listed
    assert opened not in listed


@pytest.mark.contract("2.13 cancel twice", "3.4 minus one", "3.5 cancel", "10 6")
def test_cancel_ends_the_run_and_may_be_repeated(wire: Wire) -> None:
    """Contract 2.13, 3.5; canceled it stays (I7)."""
    uuid = wire.task("sleep 60")
    wire.running(uuid)
    assert wire.act("cancel", uuid) == {"success": True}
    assert wire.act("cancel", uuid) == {"success": True}
    info = wire.info(uuid)
    assert info["status"]["code"] == 50
    assert info["processingTime"] == -1


@pytest.mark.contract("3.5 cancel a finished task", "8.2 conformance")
def test_cancel_of_a_finished_task_cancels_it(wire: Wire) -> None:
    """WebODM's own test expects it (contract 8.2)."""
    uuid = wire.task()
    wire.ended(uuid)
    assert wire.act("cancel", uuid) == {"success": True}
    assert wire.code(uuid) == 50


@pytest.mark.contract("2.13 remove twice", "3.5 remove", "8.2 conformance", "10 6")
def test_remove_forgets_and_cannot_be_repeated(wire: Wire, federation_storage: Storage) -> None:
    """Contract 2.13: nothing of the upload is left either."""
    uuid = wire.task("sleep 60")
    wire.running(uuid)
    assert wire.act("remove", uuid) == {"success": True}
    assert wire.act("remove", uuid) == {"success": False, "error": f"{uuid} not found"}
    assert wire.info(uuid) == {"error": f"{uuid} not found"}
    assert not list(federation_storage.listing(Reference.parse(f"s3://staging/{uuid}/")))


@pytest.mark.contract("3.5 restart", "3.5 restart options", "8.2 conformance", "7.2 numeric options", "10 5")
def test_restart_keeps_the_uuid_and_takes_new_options(wire: Wire) -> None:
    """Contract 3.5."""
    uuid = wire.task(options=[{"name": "dsm", "value": True}])
    before = wire.ended(uuid)
    assert wire.act("restart", uuid, options='[{"name":"mesh-size","value":"12345"}]') == {"success": True}
    after = wire.ended(uuid)
    assert after["status"]["code"] == 40
    assert after["dateCreated"] > before["dateCreated"]
    assert [each["name"] for each in after["options"]] == ["mesh-size", "pc-ept", "cog", "gltf"]
    assert after["options"][0]["value"] == 12345


@pytest.mark.contract("3.5 restart options", "4.4 skipped")
def test_restart_with_an_empty_list_clears_the_options(wire: Wire) -> None:
    """Contract 11.10."""
    uuid = wire.task(options=[{"name": "dsm", "value": True}], skipPostProcessing="true")
    wire.ended(uuid)
    assert wire.act("restart", uuid, options="[]") == {"success": True}
    assert wire.ended(uuid)["options"] == []


@pytest.mark.contract("2.13 restart refused", "2.13 restart options")
def test_restart_is_refused_while_a_task_runs_or_its_options_are_wrong(wire: Wire) -> None:
    """Contract 2.13."""
    uuid = wire.task("sleep 60")
    wire.running(uuid)
    assert wire.act("restart", uuid) == {"success": False, "error": "Task cannot be restarted"}
    answer = wire.act("restart", uuid, options='[{"name":"crop","value":"x"}]')
    assert set(answer) == {"error"}
    wire.act("remove", uuid)


@pytest.mark.contract("2.13 unknown", "2.13 no uuid", "2.13 forms", "1 three shapes", "10 4")
@pytest.mark.parametrize("what", ["cancel", "remove", "restart"])
def test_acting_on_an_unknown_task(wire: Wire, what: str) -> None:
    """Contract 1.3, the second error shape; forms and JSON alike, and a body of neither kind has no uuid."""
    refused = {"success": False, "error": "nonsense not found"}
    assert wire.act(what, "nonsense") == refused
    assert wire.post(f"/task/{what}", json={"uuid": "nonsense"}).json() == refused
    assert wire.post(f"/task/{what}").json() == {"error": "uuid param missing."}
    assert wire.post(f"/task/{what}", files={"uuid": (None, "x")}).json() == {"error": "uuid param missing."}


@pytest.mark.contract("3.5 queue", "3.4 minus one", "2.7 list", "10 11")
def test_a_task_that_no_slot_is_free_for_is_queued_and_then_runs(node_wire: Wire) -> None:
    """A node alone: first come, first served."""
    busy = [node_wire.task("sleep 60") for _ in range(2)]
    for uuid in busy:
        node_wire.running(uuid)
    waiting = node_wire.task()
    wait_until(lambda: node_wire.code(waiting) == 10, "the third task to wait")
    assert node_wire.info(waiting)["processingTime"] == -1
    assert node_wire.output(waiting) == []
    node_wire.act("remove", busy[0])
    node_wire.completed(waiting)
    node_wire.act("remove", busy[1])


@pytest.mark.contract("2.8 archive", "2.8 invalid asset", "10 19")
def test_downloads_are_sent_to_s3(wire: Wire) -> None:
    """Contract 2.8; the URL is made anew for each request and works without a token."""
    uuid = wire.task()
    assert wire.get(f"/task/{uuid}/download/nonsense").json() == {"error": "Invalid asset"}
    wire.ended(uuid)
    answer = wire.get(f"/task/{uuid}/download/all.zip")
    assert answer.status_code == 302
    assert wire.token not in answer.headers["location"]
    fetched = wire.http.get(answer.headers["location"])
    assert fetched.status_code == 200
    assert fetched.content.startswith(b"PK")


@pytest.mark.contract("2.8 not ready")
def test_an_archive_that_is_not_there_yet(wire: Wire) -> None:
    """Contract 2.8."""
    uuid = wire.task("sleep 60")
    assert wire.get(f"/task/{uuid}/download/all.zip").json() == {"error": "Asset not ready"}
    wire.act("remove", uuid)
