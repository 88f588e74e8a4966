"""Project folder → S3: products, `all.zip`, the console, and last of all the manifest (design 4.3)."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from typing_extensions import Buffer

from common.references import ALL_ZIP, MANIFEST, TASK_OUTPUT, Reference
from common.storage import Storage

ARCHIVED = (
    "odm_orthophoto/odm_orthophoto.tif",
    "odm_orthophoto/odm_orthophoto.tfw",
    "odm_orthophoto/odm_orthophoto.png",
    "odm_orthophoto/odm_orthophoto.wld",
    "odm_orthophoto/odm_orthophoto.mbtiles",
    "odm_orthophoto/odm_orthophoto.kmz",
    "odm_orthophoto/odm_orthophoto_extent.dxf",
    "odm_orthophoto/cutline.gpkg",
    "odm_georeferencing",
    "odm_texturing",
    "odm_dem/dsm.tif",
    "odm_dem/dtm.tif",
    "odm_dem/dsm.euclideand.tif",
    "odm_dem/dtm.euclideand.tif",
    "dsm_tiles",
    "dtm_tiles",
    "orthophoto_tiles",
    "potree_pointcloud",
    "entwine_pointcloud",
    "3d_tiles",
    "odm_report",
    "images.json",
    "cameras.json",
    "task_output.txt",
    "log.json",
)
"""What goes into `all.zip` unless the client names its own outputs (contract 6.3)."""


class ProductsMissing(Exception):
    """The engine said it succeeded, but what it should have made is not there."""


@dataclass(frozen=True, slots=True)
class Published:
    """One object of the output, as the manifest lists it."""

    name: str
    size: int
    sha256: str


def products(project: Path, asked: Sequence[str]) -> list[PurePosixPath]:
    """Files of the project to publish, as sorted relative paths. `asked` replaces the usual list when not empty."""
    found: set[PurePosixPath] = set()
    for name in asked or ARCHIVED:
        for path in _files(project / name):
            # A name from outside may be a link or climb; what is not in the project is not ours to give.
            if path.resolve().is_relative_to(project.resolve()):
                found.add(PurePosixPath(path.relative_to(project).as_posix()))
    return sorted(found)


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from (each for each in sorted(path.rglob("*")) if each.is_file())


def check_products(found: Iterable[PurePosixPath], project: Path, asked: Sequence[str]) -> None:
    """Exit code 0 is not enough: a run that lost a stage to lack of memory may end so too."""
    files = [path for path in found if path.name != TASK_OUTPUT]
    empty = [str(path) for path in files if path.suffix in {".tif", ".laz"} and not (project / path).stat().st_size]
    if empty:
        raise ProductsMissing(f"The engine ended well but left {', '.join(empty)} empty; see the console.")
    if not files:
        wanted = ", ".join(asked) or "an orthophoto or any other product"
        raise ProductsMissing(f"The engine ended well but made none of: {wanted}. See the console for what it skipped.")


def publish(
    storage: Storage,
    project: Path,
    output: Reference,
    asked: Sequence[str],
    identity: dict[str, object],
    progressed: Callable[[float], None],
) -> None:
    """Publish the project. `identity` (uuid, attempt, engine) stands in the manifest, which is written last.

    An output without its manifest is not finished, so the old one goes before anything new comes.
    """
    found = products(project, asked)
    check_products(found, project, asked)
    storage.delete(output / MANIFEST)
    published = [_publish_archive(storage, project, found, output / ALL_ZIP)]
    progressed(97)
    for path in found:
        storage.upload(project / path, output / str(path))
        published.append(_described(project / path, str(path)))
    manifest = {
        **identity,
        "objects": [{"name": p.name, "size": p.size, "sha256": p.sha256} for p in published],
    }
    storage.write(output / MANIFEST, json.dumps(manifest, indent=1).encode(), "application/json")


def _described(path: Path, name: str) -> Published:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return Published(name, path.stat().st_size, digest.hexdigest())


class _Measured:
    """What a zip file is written through: counts and digests the bytes on their way to S3."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self.size = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: Buffer, /) -> int:
        """Pass on."""
        block = bytes(data)
        self._write(block)
        self.sha256.update(block)
        self.size += len(block)
        return len(block)

    def flush(self) -> None:
        """Nothing is held back here."""

    def close(self) -> None:
        """The writer below is finished or aborted by whoever made it."""


def _publish_archive(storage: Storage, project: Path, found: Iterable[PurePosixPath], target: Reference) -> Published:
    """Products are compressed already, so the archive stores them, and is built on its way to S3."""
    writer = storage.stream_to(target, "application/zip")
    measured = _Measured(writer.write)
    try:
        with zipfile.ZipFile(measured, "w", zipfile.ZIP_STORED) as archive:
            for path in found:
                archive.write(project / path, str(path))
        writer.finish()
    except BaseException:
        writer.abort()
        raise
    return Published(target.key.rpartition("/")[2], measured.size, measured.sha256.hexdigest())
