"""Project folder → S3: what is published, and that the manifest comes last."""

import hashlib
import io
import json
import os
import subprocess
import threading
import tracemalloc
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from common import fencing, publishing
from common.fencing import Fence, Mark, Outdated
from common.products import Expected
from common.publishing import Measured, ProductsMissing, Published, read_manifest
from common.references import MANIFEST, Reference
from common.storage import MOST_READ_BYTES, PART_BYTES, ObjectMissing, Storage
from node.stages.publish import products, publish, write_archive
from tests.standin_odm import save_raster


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
        if path.suffix == ".tif":
            save_raster(path, 2048)
        else:
            path.write_text(name)
    return tmp_path / "project"


def fence(storage: Storage, bucket: Reference, attempt: int, first_attempt: int = 1) -> Fence:
    """The hold of an attempt on the bucket's `out/`."""
    return Fence(storage, bucket / "out/", Mark("u", attempt), first_attempt)


@pytest.mark.contract("6.3 members", "6.3 console", "10 20")
def test_the_usual_members_are_nodeodms(project: Path) -> None:
    """Contract 6.3."""
    assert [str(path) for path in products(project, [])] == [
        "images.json",
        "odm_dem/dsm.tif",
        "odm_orthophoto/odm_orthophoto.tif",
        "odm_report/stats.json",
        "task_output.txt",
    ]


@pytest.mark.contract("6.3 outputs", "6.3 console", "10 20")
def test_asked_outputs_replace_them_with_the_console_and_cannot_leave_the_project(project: Path) -> None:
    """Contract 6.3: files and folders; the console goes with any of them; a link that leads out gives nothing away."""
    secret = project.parent / "secret.txt"
    secret.write_text("secret")
    (project / "odm_report" / "link.txt").symlink_to(secret)
    asked = ["opensfm", "odm_report", "../secret.txt", "nothing"]
    assert [str(path) for path in products(project, asked)] == [
        "odm_report/stats.json",
        "opensfm/reconstruction.json",
        "task_output.txt",
    ]


def test_what_stands_in_the_place_of_our_own_objects_is_not_published(project: Path) -> None:
    """A seed may bring files of any name, and a manifest that comes too early would be taken for ours."""
    for name in ("manifest.json", "all.zip", ".scaleodm/attempt.json", "odd\nname.txt"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("not ours")
    asked = ["manifest.json", "all.zip", ".scaleodm", "odd\nname.txt", "images.json"]
    assert [str(path) for path in products(project, asked)] == ["images.json", "task_output.txt"]


@pytest.mark.contract("6.3 s3")
def test_what_is_published_is_what_the_manifest_says(storage: Storage, bucket: Reference, project: Path) -> None:
    """Design 4.3: size and SHA-256 of every object, the archive's too."""
    percents: list[float] = []
    identity: dict[str, object] = {"uuid": "u", "attempt": 2}
    publish(storage, project, bucket / "out/", [], fence(storage, bucket, 2), identity, percents.append)
    manifest = json.loads(storage.read(bucket / "out/manifest.json"))
    assert (manifest["uuid"], manifest["attempt"], percents) == ("u", 2, [97])
    for entry in manifest["objects"]:
        content = storage.read(bucket / "out/" / entry["name"])
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["size"], entry["sha256"]), entry
    with zipfile.ZipFile(io.BytesIO(storage.read(bucket / "out/all.zip"))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [str(path) for path in products(project, [])]


@pytest.mark.timeout(180)
def test_tiles_are_published_many_at_a_time(
    storage: Storage, bucket: Reference, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a request; and the manifest that lists them all can be read again."""
    for number in range(300):
        path = project / f"orthophoto_tiles/20/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x89PNG %d" % number)
    busy: set[int] = set()
    upload = storage.upload

    def seen(path: Path, reference: Reference) -> None:
        busy.add(threading.get_ident())
        upload(path, reference)

    monkeypatch.setattr(storage, "upload", seen)
    publish(storage, project, bucket / "out/", [], fence(storage, bucket, 1), {"uuid": "u"}, lambda _: None)
    assert len(busy) > 1
    listed = {each["name"] for each in read_manifest(storage, bucket / "out/")["objects"]}
    assert listed == {str(path) for path in products(project, [])} | {"all.zip"}
    assert {each.reference.key for each in storage.listing(bucket / "out/")} >= {f"out/{name}" for name in listed}


def test_a_manifest_of_hundreds_of_thousands_of_tiles_is_read(storage: Storage, bucket: Reference) -> None:
    """It has more bytes than our other documents may have."""
    published = [Published(f"orthophoto_tiles/20/{number}/345678.png", 9, "0" * 64) for number in range(150_000)]
    publishing.finish(storage, bucket / "out/", fence_taken(storage, bucket), {"uuid": "u"}, published)
    assert next(each.size for each in storage.listing(bucket / "out/manifest.json")) > MOST_READ_BYTES
    assert len(read_manifest(storage, bucket / "out/")["objects"]) == 150_000


def fence_taken(storage: Storage, bucket: Reference) -> Fence:
    """Of an attempt that publishes."""
    taken = fence(storage, bucket, 1)
    taken.begin()
    return taken


_ZEROS = bytes(1 << 20)


class Sink:
    """Can only be written to, as a stream to S3; keeps blocks of zeros as holes in a file."""

    def __init__(self, path: Path) -> None:
        """A new file."""
        self._file = path.open("wb")

    def write(self, data: bytes | bytearray) -> int:
        """Append."""
        if data == _ZEROS[: len(data)]:
            self._file.seek(len(data), 1)
        else:
            self._file.write(data)
        return len(data)

    def close(self) -> None:
        """All of it is there."""
        self._file.close()


def archived(project: Path, path: Path, found: list[PurePosixPath]) -> zipfile.ZipFile:
    """The archive of a project, opened again."""
    sink = Sink(path)
    write_archive(Measured(sink.write), project, found, lambda: None)
    sink.close()
    return zipfile.ZipFile(path)


@pytest.mark.timeout(180)
def test_an_archive_of_more_than_four_gigabytes_is_whole(tmp_path: Path) -> None:
    """A product as large as that, and one that begins behind it."""
    project = tmp_path / "project"
    project.mkdir()
    size = 2**32 + 5
    with (project / "a.tif").open("wb") as large:
        large.truncate(size)
    (project / "b.txt").write_text("behind")
    names = [PurePosixPath("a.tif"), PurePosixPath("b.txt")]
    with archived(project, tmp_path / "all.zip", names) as archive:
        large_member, small = archive.infolist()
        assert (large_member.file_size, large_member.compress_size) == (size, size)
        assert small.header_offset > size
        assert archive.read("b.txt") == b"behind"
    told = subprocess.run(["unzip", "-l", tmp_path / "all.zip"], capture_output=True, text=True, check=False)
    assert str(size) in told.stdout


@pytest.mark.timeout(180)
def test_an_archive_of_more_than_65535_members_is_whole(tmp_path: Path) -> None:
    """As the tiles of a large orthophoto are."""
    project = tmp_path / "project"
    names = [PurePosixPath(f"tiles/{number // 1000}/{number}.png") for number in range(66_000)]
    for folder in {name.parent for name in names}:
        (project / folder).mkdir(parents=True)
    for name in names:
        (project / name).write_bytes(b"x")
    with archived(project, tmp_path / "all.zip", names) as archive:
        assert archive.namelist() == [str(name) for name in names]
        assert archive.read("tiles/65/65999.png") == b"x"


def test_files_older_than_the_format_go_into_the_archive(project: Path, tmp_path: Path) -> None:
    """A seed may bring files without a date; zip files know none before 1980."""
    os.utime(project / "images.json", (0, 0))
    with archived(project, tmp_path / "all.zip", [PurePosixPath("images.json")]) as archive:
        assert archive.read("images.json") == b"images.json"


@pytest.mark.contract("6.3 members")
@pytest.mark.parametrize("storage", ["rclone"], indirect=True)
def test_the_archive_is_never_whole_in_memory_nor_on_disk(
    storage: Storage, bucket: Reference, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products of 160 MB take a few parts' worth of memory, and no file beside them."""
    with (project / "odm_report/large.bin").open("wb") as large:
        large.truncate(160 * 2**20)
    monkeypatch.setenv("TMPDIR", "/nowhere")
    before = set(project.rglob("*"))
    tracemalloc.start()
    publish(storage, project, bucket / "out/", ["odm_report"], fence(storage, bucket, 1), {}, lambda _: None)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 12 * PART_BYTES
    assert set(project.rglob("*")) == before
    assert next(each.size for each in storage.listing(bucket / "out/all.zip")) > 160 * 2**20


@pytest.mark.contract("6.3 nothing made")
def test_a_run_whose_orthophoto_is_missing_or_broken_publishes_nothing(
    storage: Storage, bucket: Reference, project: Path
) -> None:
    """Before anything is put into S3."""
    target = project / "odm_orthophoto/odm_orthophoto.tif"
    wanted = [Expected("odm_orthophoto/odm_orthophoto.tif", "skip-orthophoto is not set")]
    os.truncate(target, 1000)
    with pytest.raises(ProductsMissing, match="cannot be read: its picture would end at byte 2048, and"):
        publish(storage, project, bucket / "out/", [], fence(storage, bucket, 1), {}, lambda _: None, wanted)
    target.unlink()
    with pytest.raises(ProductsMissing, match=r"did not make odm_orthophoto/odm_orthophoto\.tif, although skip-"):
        publish(storage, project, bucket / "out/", [], fence(storage, bucket, 1), {}, lambda _: None, wanted)
    assert list(storage.listing(bucket)) == []


@pytest.mark.contract("6.3 nothing made")
def test_an_engine_that_made_nothing_has_not_succeeded(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """Exit code 0 is not enough; and nothing is published."""
    (tmp_path / "task_output.txt").write_text("all fine")
    with pytest.raises(ProductsMissing, match="made none of"):
        publish(storage, tmp_path, bucket / "out/", [], fence(storage, bucket, 1), {}, lambda _: None)
    (tmp_path / "odm_orthophoto").mkdir()
    (tmp_path / "odm_orthophoto/odm_orthophoto.tif").touch()
    with pytest.raises(ProductsMissing, match=r"odm_orthophoto\.tif empty"):
        publish(storage, tmp_path, bucket / "out/", [], fence(storage, bucket, 1), {}, lambda _: None)
    assert list(storage.listing(bucket)) == []


def test_an_attempt_whose_place_is_taken_in_the_middle_leaves_no_manifest(
    storage: Storage, bucket: Reference, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2: it stops before its next object; and what the later one publishes stands."""
    monkeypatch.setattr(fencing, "LOOK_EVERY_S", 0.0)
    later = fence(storage, bucket, 2)
    with pytest.raises(Outdated, match="attempt 2 has taken its output"):
        publish(storage, project, bucket / "out/", [], fence(storage, bucket, 1), {}, lambda _: later.take())
    with pytest.raises(ObjectMissing):
        storage.read(bucket / "out" / MANIFEST)
    publish(storage, project, bucket / "out/", [], later, {"attempt": 2}, lambda _: None)
    assert json.loads(storage.read(bucket / "out" / MANIFEST))["attempt"] == 2


def test_the_manifest_of_whoever_came_in_between_is_let_stand(
    storage: Storage, bucket: Reference, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place is taken after the last look: ours is withdrawn, and theirs is not."""
    earlier, later = fence(storage, bucket, 1), fence(storage, bucket, 2)
    finish = earlier.finish

    def late() -> None:
        later.take()
        publish(storage, project, bucket / "out/", [], later, {"attempt": 2}, lambda _: None)
        finish()

    monkeypatch.setattr(earlier, "finish", late)
    with pytest.raises(Outdated):
        publish(storage, project, bucket / "out/", [], earlier, {"attempt": 1}, lambda _: None)
    assert json.loads(storage.read(bucket / "out" / MANIFEST))["attempt"] == 2
