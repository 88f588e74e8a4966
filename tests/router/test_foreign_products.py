"""What a foreign node gives as its products → what lies at the output, on real S3 servers."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from common.fencing import AlreadyPublished, Fence, Mark, Outdated
from common.nodeodm.options import Setting
from common.products import DSM, ORTHOPHOTO, expected
from common.publishing import ProductsMissing
from common.references import Reference
from common.storage import Storage
from router.foreign_products import ArchiveBroken, Publication

UUID = "3f0e4bd2-5b0d-4a6e-9d3f-0a1b2c3d4e5f"
IDENTITY = {"uuid": UUID, "attempt": 2, "engine": "odm", "engineVersion": "3.6.0"}


def raster(side: int = 20) -> bytes:
    """A whole TIFF."""
    made = io.BytesIO()
    Image.new("L", (side, side), "grey").save(made, "TIFF")
    return made.getvalue()


RASTER = raster()


def publication(
    storage: Storage, output: Reference, attempt: int = 2, check: Callable[[], None] = lambda: None
) -> Publication:
    """Of one attempt of the task."""
    fence = Fence(storage, output, Mark(UUID, attempt), 1)
    return Publication(storage, output, fence, IDENTITY | {"attempt": attempt}, (), lambda _: None, check)


def archive(folder: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """An `all.zip`."""
    path = folder / "all.zip"
    with zipfile.ZipFile(path, "w", compression) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


def names(storage: Storage, prefix: Reference) -> set[str]:
    """What lies below a prefix."""
    return {each.reference.key.removeprefix(prefix.key) for each in storage.listing(prefix)}


def manifest(storage: Storage, output: Reference) -> dict[str, tuple[int, str]]:
    """Sizes and digests by name."""
    found = json.loads(storage.read(output / "manifest.json"))
    assert {key: found[key] for key in IDENTITY} == IDENTITY
    return {each["name"]: (each["size"], each["sha256"]) for each in found["objects"]}


def test_an_archive_becomes_the_output(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """The archive, each member, the console in it too where the node left it out; each digest is true."""
    output = bucket / "out/"
    path = archive(tmp_path, {ORTHOPHOTO: RASTER, "log.json": b"{}"})
    publication(storage, output).from_archive(path, ["one", "two"])
    expected = {
        "all.zip": path.read_bytes(),
        ORTHOPHOTO: RASTER,
        "log.json": b"{}",
        "task_output.txt": b"one\ntwo\n",
    }
    assert {name: storage.read(output / name) for name in expected} == expected
    assert manifest(storage, output) == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in expected.items()
    }
    assert names(storage, output) == expected.keys() | {"manifest.json", ".scaleodm/attempt.json"}
    with zipfile.ZipFile(path) as packed:
        assert packed.testzip() is None
        assert packed.namelist() == [ORTHOPHOTO, "log.json", "task_output.txt"]


@pytest.mark.parametrize("storage", ["rclone"], indirect=True)
def test_the_console_is_with_asked_outputs_too(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """NodeODM leaves it out of their archive; ours has it always."""
    output = bucket / "out/"
    path = archive(tmp_path, {"odm_report/stats.json": b"{}"})
    fence = Fence(storage, output, Mark(UUID, 2), 1)
    Publication(storage, output, fence, IDENTITY, ("odm_report",), lambda _: None, lambda: None).from_archive(
        path, ["one"]
    )
    with zipfile.ZipFile(io.BytesIO(storage.read(output / "all.zip"))) as packed:
        assert packed.read("task_output.txt") == b"one\n"
    assert storage.read(output / "task_output.txt") == b"one\n"


def test_no_member_leaves_the_output_or_stands_for_our_own(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """What climbs, and what would be a manifest of its own making, is left out."""
    output = bucket / "deep/out/"
    bad = ["../climbed.txt", "/etc/absolute", "a/../../b", "manifest.json", "all.zip", ".scaleodm/attempt.json"]
    path = archive(tmp_path, {ORTHOPHOTO: RASTER, "task_output.txt": b"x", **dict.fromkeys(bad, b"evil")})
    publication(storage, output).from_archive(path, [])
    assert names(storage, bucket) == {
        f"deep/out/{name}"
        for name in (ORTHOPHOTO, "task_output.txt", "all.zip", "manifest.json", ".scaleodm/attempt.json")
    }
    assert b"evil" not in storage.read(output / "manifest.json")


def test_archives_that_cannot_be_used(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """Broken ones, empty ones, and one that would fill a disk; nothing is published of any."""
    output = bucket / "out/"
    broken = tmp_path / "broken.zip"
    broken.write_bytes(archive(tmp_path, {ORTHOPHOTO: RASTER}).read_bytes()[:-30])
    damaged = bytearray(archive(tmp_path, {ORTHOPHOTO: raster(100)}).read_bytes())
    damaged[200] ^= 0xFF
    (tmp_path / "damaged.zip").write_bytes(damaged)
    for path in (broken, tmp_path / "damaged.zip"):
        with pytest.raises(ArchiveBroken):
            publication(storage, output).from_archive(path, [])
    with pytest.raises(ArchiveBroken, match="would unpack to"):
        publication(storage, output).from_archive(_bomb(tmp_path), [])
    with pytest.raises(ProductsMissing):
        publication(storage, output).from_archive(archive(tmp_path, {"task_output.txt": b"x"}), [])
    with pytest.raises(ProductsMissing, match="empty"):
        publication(storage, output).from_archive(archive(tmp_path, {ORTHOPHOTO: b""}), [])
    assert "manifest.json" not in names(storage, output)


def _bomb(folder: Path) -> Path:
    """A small archive that says that it holds 6 TB."""
    content = bytearray(archive(folder, {ORTHOPHOTO: b"x" * 64}).read_bytes())
    packed = io.BytesIO(content)
    with zipfile.ZipFile(packed, "a") as opened:
        for member in opened.infolist():
            member.file_size = 6 * 10**12
        opened.writestr("more.txt", b"x")
    path = folder / "bomb.zip"
    path.write_bytes(packed.getvalue())
    return path


def test_i2_an_outdated_attempt_publishes_nothing(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """Before it begins, and in the middle of it."""
    output = bucket / "out/"
    path = archive(tmp_path, {ORTHOPHOTO: RASTER, "log.json": b"{}"})
    Fence(storage, output, Mark(UUID, 3), 1).take()
    with pytest.raises(Outdated):
        publication(storage, output).from_archive(path, [])
    assert names(storage, output) == {".scaleodm/attempt.json"}
    publication(storage, output, attempt=3).from_archive(path, [])
    with pytest.raises(AlreadyPublished):
        publication(storage, output, attempt=4).from_archive(path, [])


def test_a_publication_that_nobody_wants_any_more_stops(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """And leaves no manifest."""

    class Canceled(Exception):
        """What the check raises."""

    def check() -> None:
        raise Canceled

    output = bucket / "out/"
    with pytest.raises(Canceled):
        publication(storage, output, check=check).from_archive(archive(tmp_path, {ORTHOPHOTO: RASTER}), [])
    assert "manifest.json" not in names(storage, output)


@pytest.mark.parametrize("storage", ["rclone"], indirect=True)
def test_products_are_checked_as_those_of_our_own_runs(storage: Storage, bucket: Reference, tmp_path: Path) -> None:
    """What the options ask for is there; rasters are whole, packed or not; nothing is published of what is not."""
    output = bucket / "out/"
    fence = Fence(storage, output, Mark(UUID, 2), 1)
    wanted = expected("odm", [Setting("dsm", value=True)], ())

    def refused(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> str:
        path = archive(tmp_path, members, compression)
        checked = Publication(storage, output, fence, IDENTITY, (), lambda _: None, lambda: None, wanted)
        with pytest.raises(ProductsMissing) as told:
            checked.from_archive(path, [])
        assert [each.name for each in tmp_path.iterdir()] == ["all.zip"]
        return str(told.value)

    assert f"did not make {DSM}, although the option dsm is set" in refused({ORTHOPHOTO: RASTER, "log.json": b"{}"})
    assert f"did not make {ORTHOPHOTO}, although skip-orthophoto is not set" in refused({DSM: RASTER})
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        told = refused({ORTHOPHOTO: raster(100)[:500], DSM: RASTER}, compression)
        assert told.startswith(f"The engine ended well but {ORTHOPHOTO} cannot be read: ")
        told = refused({ORTHOPHOTO: RASTER, DSM: b"no TIFF at all"}, compression)
        assert f"{DSM} cannot be read: it does not begin as a TIFF does" in told
    assert not names(storage, output)


@pytest.mark.parametrize("with_manifest", [True, False])
def test_products_that_a_node_has_put_into_s3_are_copied(
    storage: Storage, bucket: Reference, with_manifest: bool
) -> None:
    """Within S3; digests from the node's manifest where it has written one."""
    output, source = bucket / "out/", bucket / "out/.scaleodm/attempts/2/"
    contents = {ORTHOPHOTO: b"II*\x00", "all.zip": b"PK and so on", "log.json": b"{}"}
    for name, content in contents.items():
        storage.write(source / name, content)
    storage.write(source / ".scaleodm/attempt.json", b"{}")
    listed = [
        {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    ]
    if with_manifest:
        storage.write(source / "manifest.json", json.dumps({"uuid": "another", "objects": listed}).encode())
    publication(storage, output).from_prefix(source)
    assert manifest(storage, output) == {each["name"]: (each["size"], each["sha256"]) for each in listed}
    assert {name: storage.read(output / name) for name in contents} == contents
