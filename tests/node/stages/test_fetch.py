"""S3 → project folder."""

import zipfile
from pathlib import Path

import pytest

from common.references import Reference
from common.storage import Storage
from node.stages.fetch import InputUnusable, fetch

JPEG = b"\xff\xd8\xff picture"


def fetched(storage: Storage, source: Reference, project: Path) -> list[str]:
    """Fetch, and give what was said."""
    said: list[str] = []
    fetch(storage, source, source / "output/", project, said.append)
    return said


def test_images_side_files_and_names_that_clash(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """Contract 5; two folders may hold images of one name."""
    for name in ("a.jpg", "b/a.jpg", "gcp_list.txt", "geo.txt", "align.laz", "left.zip", "output/old.tif"):
        storage.write(bucket / name, JPEG)
    said: list[str] = []
    found = fetch(storage, bucket, bucket / "output/", tmp_path, said.append)
    assert {path.name for path in (tmp_path / "images").iterdir()} == {"a.jpg", "a_.jpg"}
    assert found.images_count == 2
    assert {flag: path.name for flag, path in found.files.items()} == {
        "align": "align.laz",
        "gcp": "gcp_list.txt",
        "geo": "geo.txt",
    }


def test_the_first_of_several_gcp_files_counts(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """Contract 5."""
    for name in ("a.jpg", "z.txt", "b.TXT"):
        storage.write(bucket / name, JPEG)
    found = fetch(storage, bucket, bucket / "output/", tmp_path, lambda _: None)
    assert found.files["gcp"].name == "b.TXT"


def test_a_seed_merges_into_the_project(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """Contract 5, 8.3: empty files included; seeded images count."""
    archive = tmp_path / "seed.zip"
    with zipfile.ZipFile(archive, "w") as seed:
        seed.writestr("opensfm/reconstruction.json", "[]")
        seed.writestr("opensfm/exif/empty", "")
        seed.writestr("images/seeded.jpg", JPEG)
    storage.upload(archive, bucket / "seed.zip")
    storage.write(bucket / "a.jpg", JPEG)
    found = fetch(storage, bucket, bucket / "output/", tmp_path / "project", lambda _: None)
    assert found.images_count == 2
    assert (tmp_path / "project/opensfm/exif/empty").read_bytes() == b""


def test_a_seed_that_points_outside_is_refused(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """No file outside its folder (design 10)."""
    archive = tmp_path / "seed.zip"
    with zipfile.ZipFile(archive, "w") as seed:
        seed.writestr("../../evil.txt", "boo")
    storage.upload(archive, bucket / "seed.zip")
    storage.write(bucket / "a.jpg", JPEG)
    with pytest.raises(InputUnusable, match=r"'\.\./\.\./evil\.txt', which lies outside the project"):
        fetched(storage, bucket, tmp_path / "deep" / "project")
    assert not list(tmp_path.rglob("evil.txt"))


def test_files_that_only_bear_an_images_name(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """One among others is told; all of them end the task."""
    storage.write(bucket / "one/a.jpg", JPEG)
    storage.write(bucket / "one/b.jpg", b"text")
    assert any("b.jpg: the content is not an image" in line for line in fetched(storage, bucket / "one/", tmp_path))
    for number in range(5):
        storage.write(bucket / f"none/{number}.jpg", b"text")
    with pytest.raises(InputUnusable, match=r"No usable images: 0\.jpg, 1\.jpg, 2\.jpg and 2 more"):
        fetched(storage, bucket / "none/", tmp_path / "other")
