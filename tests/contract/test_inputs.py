"""What a task is made of, on the wire: parameters in three kinds of body, archives, links, boundaries."""

import io
import json
import tarfile
import uuid as uuids
import zipfile
from pathlib import Path
from typing import Any

import pytest

from common.references import Reference
from common.storage import Storage
from tests.client import JPEG, Wire
from tests.web import Page, web_server

POLYGON = {"type": "Polygon", "coordinates": [[[1, 1], [2, 1], [2, 2], [1, 1]]]}


@pytest.fixture
def root() -> Reference:
    """A folder in S3 of its own."""
    return Reference.parse(f"s3://staging/inputs-{uuids.uuid4()}/")


def zip_of(*names: str) -> bytes:
    """A zip of images."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            archive.writestr(name, JPEG + name.encode())
    return packed.getvalue()


def multipart(fields: dict[str, str]) -> dict[str, Any]:
    """As NodeODM's clients send them."""
    return {"files": {name: (None, value) for name, value in fields.items()}}


BODIES: dict[str, Any] = {
    "multipart": multipart,
    "form": lambda fields: {"data": fields},
    "json": lambda fields: {"json": fields},
}


def test_the_same_submission_in_each_kind_of_body_makes_the_same_task(
    wire: Wire, federation_storage: Storage, root: Reference
) -> None:
    """NodeODM's and ScaleODM's parameters alike, by their camelCase names."""
    for name in ("a.jpg", "b/c.jpg", "b/d/e/f.jpg", "b/skip/g.jpg", "odm_orthophoto/old.tif"):
        federation_storage.write(root / name, JPEG)
    seen = []
    for kind, body in BODIES.items():
        fields = {
            "name": "Поле №1",
            "options": json.dumps(
                [{"name": "dsm", "value": "true"}, {"name": "boundary", "value": json.dumps(POLYGON)}]
            ),
            "dateCreated": "1700000000000",
            "outputs": json.dumps(["odm_orthophoto"]),
            "skipPostProcessing": "true",
            "readS3Path": str(root),
            "writeS3Path": str(root / f"products-{kind}/"),
            "s3ScanDepth": "3",
            "excludePaths": json.dumps(["skip/**", "products-*/**"]),
            "useDefaultExcludes": "true",
            "processingMode": "standard",
        }
        answer = wire.post("/task/new", **body(fields)).json()
        info = wire.ended(answer["uuid"])
        assert info["status"] == {"code": 40}, info
        products = json.loads(federation_storage.read(root / f"products-{kind}/manifest.json"))["objects"]
        told = ("name", "options", "dateCreated", "imagesCount")
        seen.append([*(info[each] for each in told), sorted(each["name"] for each in products)])
    assert seen[0] == seen[1] == seen[2]
    name, options, created, count, products = seen[0]
    assert (name, created, count) == ("Поле №1", 1700000000000, 2)
    assert options == [
        {"name": "boundary", "value": json.dumps(POLYGON, separators=(",", ":"))},
        {"name": "dsm", "value": True},
    ]
    assert "odm_orthophoto/odm_orthophoto.tif" in products


def test_json_bodies_may_hold_values_themselves(wire: Wire, federation_storage: Storage, root: Reference) -> None:
    """Numbers, lists and objects where forms have text."""
    federation_storage.write(root / "a.jpg", JPEG)
    fields: dict[str, Any] = {
        "readS3Path": str(root),
        "name": "x",
        "options": [{"name": "boundary", "value": POLYGON}, {"name": "mesh-size", "value": 7}],
        "dateCreated": 1700000000000,
        "outputs": ["odm_orthophoto"],
        "skipPostProcessing": True,
        "s3ScanDepth": 1,
        "excludePaths": ["x/**"],
        "useDefaultExcludes": False,
    }
    info = wire.info(wire.post("/task/new", json=fields).json()["uuid"])
    assert {each["name"] for each in info["options"]} == {"boundary", "mesh-size"}
    assert info["dateCreated"] == 1700000000000


def test_archives_in_a_prefix_are_unpacked(
    wire: Wire, federation_storage: Storage, root: Reference, tmp_path: Path
) -> None:
    """Zips and tars; their images count."""
    with tarfile.open(tmp_path / "t.tar.gz", "w:gz") as archive:
        (tmp_path / "c.jpg").write_bytes(JPEG)
        archive.add(tmp_path / "c.jpg", "deep/c.jpg")
    federation_storage.upload(tmp_path / "t.tar.gz", root / "t.tar.gz")
    federation_storage.write(root / "z.zip", zip_of("x/a.jpg", "../../b.jpg"))
    info = wire.ended(wire.post("/task/new", json={"readS3Path": str(root)}).json()["uuid"])
    assert (info["status"]["code"], info["imagesCount"]) == (40, 3), info


def test_a_zipurl_over_http_is_fetched_by_the_run(wire: Wire, federation_storage: Storage) -> None:
    """Contract 2.12; its products go to staging, and nothing that is kept or told names the address (I9)."""
    with web_server() as web:
        web.pages["/images.zip"] = [Page(zip_of("a.jpg", "b.jpg"))]
        url = web.url("/images.zip?signature=very-secret")
        uuid = wire.post("/task/new", json={"zipurl": url, "name": "by link"}).json()["uuid"]
        info = wire.ended(uuid)
        assert (info["status"], info["imagesCount"]) == ({"code": 40}, 2), info
        assert [path for path, _ in web.asked] == ["/images.zip?signature=very-secret"], "asked once, by the run"
    assert "very-secret" not in json.dumps([info, wire.output(uuid)])
    assert wire.get(f"/task/{uuid}/download/all.zip").status_code in (200, 302)
    output = Reference.parse(f"s3://staging/{uuid}/output/")
    found = [each.reference for each in federation_storage.listing(Reference("staging", ""))]
    assert any(uuid in str(each) and each.key.endswith("output/manifest.json") for each in found), output
    wire.act("remove", uuid)


def test_a_zipurl_that_comes_with_an_upload_is_fetched_beside_its_files(wire: Wire) -> None:
    """Contract 2.9: kept with the other fields, acted on once the upload is committed, no file by itself."""
    with web_server() as web:
        web.pages["/images.zip"] = [Page(zip_of("b.jpg", "deep/c.jpg"))]
        fields = {"name": "both", "zipurl": web.url("/images.zip?signature=very-secret")}
        alone = wire.init(fields)
        assert wire.error(f"/task/new/commit/{alone}") == "Need at least 1 file."
        uuid = wire.init(fields)
        wire.upload(uuid, ("a.jpg", JPEG))
        wire.commit(uuid)
        assert wire.info(uuid)["status"]["code"] in (10, 20, 40)
        info = wire.ended(uuid)
        assert (info["status"], info["imagesCount"]) == ({"code": 40}, 3), info
        assert [path for path, _ in web.asked] == ["/images.zip?signature=very-secret"]
        assert "very-secret" not in json.dumps([info, wire.output(uuid)])
    assert wire.act("remove", uuid) == {"success": True}


def test_new_fields_of_an_upload_take_its_zipurl_back(wire: Wire) -> None:
    """Contract 2.9: what init says last holds; the files stay."""
    uuid = wire.init({"name": "x", "zipurl": "http://127.0.0.1:1/gone.zip"})
    wire.upload(uuid, ("a.jpg", JPEG))
    wire.init({"name": "x", "zipurl": ""}, uuid)
    wire.commit(uuid)
    info = wire.ended(uuid)
    assert (info["status"], info["imagesCount"]) == ({"code": 40}, 1), info
    wire.act("remove", uuid)


def test_a_zipurl_that_leads_nowhere_fails_the_task_without_naming_it(wire: Wire) -> None:
    """NodeODM reads the error page as an archive."""
    with web_server() as web:
        uuid = wire.post("/task/new", data={"zipurl": web.url("/gone.zip?signature=very-secret")}).json()["uuid"]
        info = wire.ended(uuid)
        assert info["status"]["code"] == 30
        assert f"http://127.0.0.1:{web.port} answered 404" in info["status"]["errorMessage"]
        assert "very-secret" not in json.dumps([info, wire.output(uuid)])


@pytest.mark.parametrize("url", ["http://", "https://a b/", "http://[::1"])
def test_a_zipurl_that_is_no_url_is_refused_at_once(wire: Wire, url: str) -> None:
    """With what is expected."""
    assert "expected https://host/images.zip" in wire.error("/task/new", json={"zipurl": url})
    assert "expected https://host/images.zip" in wire.error("/task/new/init", files={"zipurl": (None, url)})


def test_a_bad_boundary_is_refused_in_the_shape_of_option_errors(wire: Wire) -> None:
    """Contract 4.3."""
    options = json.dumps([{"name": "boundary", "value": '{"type": "Point", "coordinates": [1, 2]}'}])
    (problem,) = json.loads(wire.error("/task/new/init", files={"options": (None, options)}))
    assert problem["name"] == "boundary"
    assert "is of type 'Point'; it must be one Polygon" in problem["error"]


def test_a_boundary_in_s3_is_checked_by_the_run(wire: Wire, federation_storage: Storage, root: Reference) -> None:
    """A good one is used; one that is missing, or none, fails the task and says so."""
    federation_storage.write(root / "images/a.jpg", JPEG)
    federation_storage.write(root / "good.geojson", json.dumps(POLYGON).encode())
    federation_storage.write(root / "bad.geojson", b'{"type": "Point"}')
    ends = {}
    for name in ("good", "bad", "missing"):
        options = [{"name": "boundary", "value": str(root / f"{name}.geojson")}]
        fields = {"readS3Path": str(root / "images/"), "writeS3Path": str(root / f"{name}/"), "options": options}
        ends[name] = wire.ended(wire.post("/task/new", json=fields).json()["uuid"])["status"]
    assert ends["good"] == {"code": 40}
    assert "bad.geojson: The boundary is of type 'Point'" in ends["bad"]["errorMessage"]
    assert "missing.geojson does not exist" in ends["missing"]["errorMessage"]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"processingMode": "thermal"}, "reserved by ScaleODM"),
        ({"processingMode": ["standard"]}, "expected standard"),
        ({"s3Endpoint": "https://elsewhere.example"}, "SCALEODM_S3_ENDPOINTS"),
        ({"capacityType": "free"}, "expected spot or on-demand"),
        ({"s3ScanDepth": "deep"}, "expected a number of folders"),
        ({"excludePaths": [1]}, "expected a list of patterns"),
    ],
)
def test_parameters_that_cannot_be_used_are_refused_in_words(
    wire: Wire, root: Reference, fields: dict[str, Any], word: str
) -> None:
    """At once, as NodeODM refuses: 200 with an error."""
    assert word in wire.error("/task/new", json={"readS3Path": str(root), **fields})


def test_text_that_no_database_holds_makes_no_5xx(wire: Wire, federation_storage: Storage, root: Reference) -> None:
    """NUL and half characters in a name; numbers beyond any; text nested without end."""
    federation_storage.write(root / "a.jpg", JPEG)
    body = '{"readS3Path": "%s", "name": "a\\u0000b\\ud800", "options": [{"name": "mesh-size", "value": %d}]}'
    answer = wire.post("/task/new", content=body % (root, 2**70), headers={"Content-Type": "application/json"}).json()
    info = wire.info(answer["uuid"])
    assert info["name"] == "ab?"
    assert info["options"][0] == {"name": "mesh-size", "value": float(2**70)}
    nested = "[" * 50_000
    assert "nested too deeply" in wire.error("/task/new", content=nested, headers={"Content-Type": "application/json"})
    assert "nested too deeply" in wire.error("/task/new/init", files={"options": (None, nested)})
