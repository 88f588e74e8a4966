"""S3 → project folder."""

import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from common.nodeodm.options import Setting
from common.references import Reference, link_in
from common.storage import Storage
from common.tasks import Wishes
from node.stages.fetch import InputUnusable, fetch
from node.stages.links import Links
from node.stages.option_files import with_files
from tests.web import Page, web_server

JPEG = b"\xff\xd8\xff picture"


def fetched(storage: Storage, source: Reference, project: Path) -> list[str]:
    """Fetch, and give what was said."""
    said: list[str] = []
    fetch(storage, source, source / "output/", project, said.append)
    return said


@pytest.mark.contract("5 images")
def test_images_side_files_and_names_that_clash(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """Contract 5; two folders may hold images of one name."""
    for name in ("a.jpg", "b/a.jpg", "gcp_list.txt", "geo.txt", "align.laz", "output/old.tif"):
        storage.write(bucket / name, JPEG)
    said: list[str] = []
    assert fetch(storage, bucket, bucket / "output/", tmp_path, said.append) == 2
    assert {path.name for path in (tmp_path / "images").iterdir()} == {"a.jpg", "a_.jpg"}
    beside = {path.name for path in tmp_path.iterdir()}
    assert beside == {"images", "align.laz", "gcp_list.txt", "geo.txt"}, "where ODM looks by itself (contract 9.1)"


def test_only_what_the_client_wishes_is_fetched(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """Scan depth and exclude patterns, as ScaleODM's clients give them (contract 8.5)."""
    for name in ("a.jpg", "one/b.jpg", "one/thumbs/c.jpg", "one/two/three/d.jpg", "skip_me.jpg"):
        storage.write(bucket / name, JPEG)
    wishes = Wishes(scan_depth=3, exclude=("thumbs/**", "skip_*"))
    assert fetch(storage, bucket, bucket / "output/", tmp_path, lambda _: None, wishes) == 2
    assert {path.name for path in (tmp_path / "images").iterdir()} == {"a.jpg", "b.jpg"}


@pytest.mark.contract("5 gcp")
def test_the_first_of_several_gcp_files_counts(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """Contract 5."""
    for name in ("a.jpg", "z.txt", "b.TXT"):
        storage.write(bucket / name, JPEG + name.encode())
    said: list[str] = []
    fetch(storage, bucket, bucket / "output/", tmp_path, said.append)
    assert (tmp_path / "gcp_list.txt").read_bytes().endswith(b"b.TXT")
    assert "[WARNING] z.txt is left out: gcp_list.txt is there already." in said


@pytest.mark.contract("5 seed")
def test_a_seed_merges_into_the_project(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """Contract 5, 8.3: empty files included; seeded images count."""
    archive = tmp_path / "seed.zip"
    with zipfile.ZipFile(archive, "w") as seed:
        seed.writestr("opensfm/reconstruction.json", "[]")
        seed.writestr("opensfm/exif/empty", "")
        seed.writestr("images/seeded.jpg", JPEG)
    storage.upload(archive, bucket / "seed.zip")
    storage.write(bucket / "a.jpg", JPEG)
    assert fetch(storage, bucket, bucket / "output/", tmp_path / "project", lambda _: None) == 2
    assert (tmp_path / "project/opensfm/exif/empty").read_bytes() == b""


@pytest.mark.contract("5 safe archives")
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


def zip_of(path: Path, *members: str) -> Path:
    """A zip of images."""
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(member, JPEG + member.encode())
    return path


def test_archives_in_a_prefix_are_unpacked_among_the_images(
    storage: Storage, bucket: Reference, tmp_path: Path
) -> None:
    """Zips and tars, and one of each name in two folders; `all.zip` is what an earlier run left."""
    storage.upload(zip_of(tmp_path / "one.zip", "x/b.jpg", "x/gcp_list.txt"), bucket / "one.zip")
    storage.upload(zip_of(tmp_path / "two.zip", "a.jpg", "c.jpg"), bucket / "deeper/one.zip")
    storage.upload(zip_of(tmp_path / "three.zip", "product.jpg"), bucket / "all.zip")
    with tarfile.open(tmp_path / "t.tgz", "w:gz") as archive:
        archive.add(tmp_path / "one.zip", "inner.zip")
        (tmp_path / "d.jpg").write_bytes(JPEG)
        archive.add(tmp_path / "d.jpg", "deep/d.jpg")
    storage.upload(tmp_path / "t.tgz", bucket / "t.TGZ")
    storage.write(bucket / "a.jpg", JPEG)
    project = tmp_path / "project"
    said: list[str] = []
    assert fetch(storage, bucket, bucket / "output/", project, said.append) == 5
    assert {path.name for path in (project / "images").iterdir()} == {"a.jpg", "a_.jpg", "b.jpg", "c.jpg", "d.jpg"}
    assert {path.name for path in project.iterdir()} == {"images", "gcp_list.txt"}, "no archive stays"


def test_one_archive_as_input_is_unpacked(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """`zipurl=s3://…` of a zip or a tar (contract 5)."""
    with tarfile.open(tmp_path / "t.tar.xz", "w:xz") as archive:
        (tmp_path / "d.jpg").write_bytes(JPEG)
        archive.add(tmp_path / "d.jpg", "../../d.jpg")
    storage.upload(tmp_path / "t.tar.xz", bucket / "t.tar.xz")
    assert fetch(storage, bucket / "t.tar.xz", bucket / "out/", tmp_path / "project", lambda _: None) == 1
    assert (tmp_path / "project/images/d.jpg").read_bytes() == JPEG


def test_a_fetch_that_is_tried_again_leaves_nothing_of_the_first(
    storage: Storage, bucket: Reference, tmp_path: Path
) -> None:
    """Else each image would be there twice."""
    storage.upload(zip_of(tmp_path / "one.zip", "b.jpg"), bucket / "one.zip")
    storage.write(bucket / "a.jpg", JPEG)
    for _ in range(2):
        assert fetch(storage, bucket, bucket / "output/", tmp_path / "project", lambda _: None) == 2


@pytest.mark.contract("5 zipurl http")
def test_a_link_is_followed_and_what_it_leads_to_unpacked(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """The console names neither the address nor its signature (I9)."""
    with web_server() as web:
        url = web.url("/download?signature=secret")
        web.pages["/download"] = [Page(zip_of(tmp_path / "one.zip", "x/b.jpg").read_bytes())]
        source = link_in(bucket, "u", url)
        storage.write(source, json.dumps({"url": url}).encode())
        said: list[str] = []
        links = Links(private_allowed=True, most_bytes=1 << 20)
        assert fetch(storage, source, bucket / "o/", tmp_path / "project", said.append, links=links) == 1
    assert not any("secret" in line or "127.0.0.1" in line for line in said)


def test_a_link_to_a_web_page_is_told(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """A share's page with a button, or a login."""
    with web_server() as web:
        web.pages["/a.zip"] = [Page(b"\n<!DOCTYPE html><p>Please log in</p>")]
        source = link_in(bucket, "u", web.url("/a.zip"))
        storage.write(source, json.dumps({"url": web.url("/a.zip")}).encode())
        links = Links(private_allowed=True, most_bytes=1 << 20)
        with pytest.raises(InputUnusable, match="leads to a web page, not to an archive"):
            fetch(storage, source, bucket / "o/", tmp_path, lambda _: None, links=links)


@pytest.mark.contract("5 gcp", "5 align")
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("GEO.TXT", "geo.txt"),
        ("image_groups.txt", "image_groups.txt"),
        ("gcp_list.txt", "gcp_list.txt"),
        ("My Points.Txt", "gcp_list.txt"),
        ("align.TIF", "align.tif"),
        ("align.las", "align.las"),
        ("align.laz", "align.laz"),
    ],
)
def test_side_files_lie_where_odm_looks_for_them(
    name: str, place: str, storage: Storage, bucket: Reference, tmp_path: Path
) -> None:
    """Contract 5 and 9.1: by their names, whatever their case."""
    storage.write(bucket / "a.jpg", JPEG)
    storage.write(bucket / name, b"side file")
    assert fetch(storage, bucket, bucket / "output/", tmp_path, lambda _: None) == 1
    assert (tmp_path / place).read_bytes() == b"side file"


@pytest.mark.contract("5 align")
def test_of_several_files_to_align_with_the_first_counts(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """Contract 5: ODM would choose in an order of its own."""
    for name in ("a.jpg", "align.tif", "align.laz"):
        storage.write(bucket / name, JPEG)
    assert any("align.tif is left out" in line for line in fetched(storage, bucket, tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"images", "align.laz"}


def test_uploaded_points_go_over_those_of_a_seed(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """NodeODM names the uploaded ones to the engine (contract 5)."""
    with zipfile.ZipFile(tmp_path / "seed.zip", "w") as seed:
        seed.writestr("gcp_list.txt", "of the seed")
    storage.upload(tmp_path / "seed.zip", bucket / "seed.zip")
    storage.write(bucket / "a.jpg", JPEG)
    storage.write(bucket / "gcp_list.txt", b"uploaded")
    fetch(storage, bucket, bucket / "output/", tmp_path / "project", lambda _: None)
    assert (tmp_path / "project/gcp_list.txt").read_bytes() == b"uploaded"


def test_a_boundary_in_s3_is_read_checked_and_given_as_a_file(
    storage: Storage, bucket: Reference, tmp_path: Path
) -> None:
    """One that is none ends the task with a sentence."""
    polygon = {"type": "Polygon", "coordinates": [[[1, 1], [2, 1], [2, 2], [1, 1]]]}
    storage.write(bucket / "area.geojson", json.dumps(polygon).encode())
    storage.write(bucket / "two.geojson", b'{"type": "MultiPolygon", "coordinates": []}')
    options = (Setting("dsm", value=True), Setting("boundary", str(bucket / "area.geojson")))
    dsm, boundary = with_files(storage, options, tmp_path)
    assert dsm == Setting("dsm", value=True)
    assert json.loads(Path(str(boundary.value)).read_text()) == polygon
    with pytest.raises(InputUnusable, match=r"two\.geojson: The boundary is of type 'MultiPolygon'"):
        with_files(storage, [Setting("boundary", str(bucket / "two.geojson"))], tmp_path)
