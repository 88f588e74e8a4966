"""Project folder → S3: what is published, and that the manifest comes last."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest

from common.references import Reference
from common.storage import Storage
from node.stages.publish import ProductsMissing, products, publish


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with some of ODM's tree, and some that is never published."""
    for name in (
        "odm_orthophoto/odm_orthophoto.tif",
        "odm_orthophoto/odm_orthophoto.original.tif",
        "odm_report/stats.json",
        "odm_dem/dsm.tif",
        "images/a.jpg",
        "opensfm/reconstruction.json",
        "images.json",
        "task_output.txt",
    ):
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "project"


def test_the_usual_members_are_nodeodms(project: Path) -> None:
    """Contract 6.3."""
    assert [str(path) for path in products(project, [])] == [
        "images.json",
        "odm_dem/dsm.tif",
        "odm_orthophoto/odm_orthophoto.tif",
        "odm_report/stats.json",
        "task_output.txt",
    ]


def test_asked_outputs_replace_them_and_cannot_leave_the_project(project: Path) -> None:
    """Contract 6.3: files and folders; a link that leads out gives nothing away."""
    secret = project.parent / "secret.txt"
    secret.write_text("secret")
    (project / "odm_report" / "link.txt").symlink_to(secret)
    asked = ["opensfm", "odm_report", "../secret.txt", "nothing"]
    assert [str(path) for path in products(project, asked)] == ["odm_report/stats.json", "opensfm/reconstruction.json"]


def test_what_is_published_is_what_the_manifest_says(storage: Storage, bucket: Reference, project: Path) -> None:
    """Design 4.3: size and SHA-256 of every object, the archive's too."""
    percents: list[float] = []
    publish(storage, project, bucket / "out/", [], {"uuid": "u", "attempt": 2}, percents.append)
    manifest = json.loads(storage.read(bucket / "out/manifest.json"))
    assert (manifest["uuid"], manifest["attempt"], percents) == ("u", 2, [97])
    for entry in manifest["objects"]:
        content = storage.read(bucket / "out/" / entry["name"])
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["size"], entry["sha256"]), entry
    with zipfile.ZipFile(io.BytesIO(storage.read(bucket / "out/all.zip"))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [str(path) for path in products(project, [])]


def test_an_engine_that_made_nothing_has_not_succeeded(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """Exit code 0 is not enough; and nothing is published."""
    (tmp_path / "task_output.txt").write_text("all fine")
    with pytest.raises(ProductsMissing, match="made none of"):
        publish(storage, tmp_path, bucket / "out/", [], {}, lambda _: None)
    (tmp_path / "odm_orthophoto").mkdir()
    (tmp_path / "odm_orthophoto/odm_orthophoto.tif").touch()
    with pytest.raises(ProductsMissing, match=r"odm_orthophoto\.tif empty"):
        publish(storage, tmp_path, bucket / "out/", [], {}, lambda _: None)
    assert list(storage.listing(bucket)) == []
