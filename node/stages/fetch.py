"""S3 → project folder: the images of one task, laid out as ODM wants them (contract 5, 9.1)."""

import zipfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from common.nodeodm.messages import clean_name, next_name
from common.references import Reference, inputs_under, is_image
from common.storage import Storage, StoredObject

PARALLEL_DOWNLOADS = 8
_ALIGNMENTS = ("align.tif", "align.laz", "align.las")
_SIGNATURES = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG",
    b"II",  # TIFF, DNG, NEF
    b"MM",
    b"BM",
    b"\xff\x0a",  # JPEG XL
    b"\x00\x00\x00\x0cJXL",
)


class InputUnusable(Exception):
    """The input cannot be processed as it is, wherever it is tried."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the project holds now."""

    images_count: int
    files: Mapping[str, Path] = field(default_factory=dict)
    """Engine flag → file: ground control points, geolocation, image groups, alignment (contract 5)."""


def fetch(storage: Storage, source: Reference, output: Reference, project: Path, say: Callable[[str], None]) -> Fetched:
    """Fill `project` from `source`. Raises `InputUnusable` where no engine could work with what is there."""
    images = project / "images"
    side_files = project / "gcp"
    for folder in (images, side_files):
        folder.mkdir(parents=True, exist_ok=True)
    objects = _objects(storage, source, output)
    say(f"Fetching {len(objects)} files ({sum(each.size for each in objects) / 1e6:.1f} MB) from {source}")
    _download(storage, objects, images)
    if not source.is_prefix:
        _unpack_flat(images / _name(source), images)
    _unpack_seed(images / "seed.zip", project)
    _set_aside(images, side_files)
    return Fetched(_check_images(images, source, say), engine_files(side_files))


def _objects(storage: Storage, source: Reference, output: Reference) -> list[StoredObject]:
    if source.is_prefix:
        return list(inputs_under(storage.listing(source), source, output))
    return [each for each in storage.listing(source) if each.reference == source]


def _download(storage: Storage, objects: Iterable[StoredObject], images: Path) -> None:
    taken: set[str] = set()
    with ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
        downloads = []
        for each in objects:
            name = _name(each.reference)
            # Two folders of one prefix may hold images of one name; both are kept.
            while name.lower() in taken:
                name = next_name(name)
            taken.add(name.lower())
            downloads.append(pool.submit(storage.download, each.reference, images / name))
        for download in downloads:
            download.result()


def _name(reference: Reference) -> str:
    return clean_name(PurePosixPath(reference.key).name)


def _unpack_flat(archive: Path, images: Path) -> None:
    """A zip of images: folder names are dropped, so no member can leave the folder."""
    with _opened(archive) as members:
        for member in members.infolist():
            if not member.is_dir():
                target = images / clean_name(PurePosixPath(member.filename).name)
                target.write_bytes(members.read(member))
    archive.unlink()


def _unpack_seed(archive: Path, project: Path) -> None:
    """`seed.zip` merges into the project tree; a member that points outside it is refused."""
    if not archive.exists():
        return
    with _opened(archive) as members:
        for member in members.namelist():
            if not (project / member).resolve().is_relative_to(project.resolve()):
                raise InputUnusable(f"seed.zip names {member!r}, which lies outside the project; pack relative paths.")
        members.extractall(project)
    archive.unlink()


def _opened(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except zipfile.BadZipFile as broken:
        raise InputUnusable(
            f"Could not extract {archive.name}: {broken}. Pack it again and upload it anew."
        ) from broken


def _set_aside(images: Path, side_files: Path) -> None:
    for path in sorted(images.iterdir()):
        name = path.name.lower()
        if name.endswith(".txt") or name in _ALIGNMENTS:
            path.rename(side_files / path.name)
        elif name.endswith(".zip"):
            path.unlink()


def _check_images(images: Path, source: Reference, say: Callable[[str], None]) -> int:
    """Count the images; those that only bear an image's name are told, and none at all ends the task."""
    present = sorted(path for path in images.iterdir() if is_image(path.name))
    if not present:
        raise InputUnusable(
            f"No images in {source}: expected files named .jpg, .jpeg, .png, .tif, .tiff, .dng or the like."
        )
    unreadable = [path.name for path in present if not has_image_signature(path)]
    if len(unreadable) == len(present):
        raise InputUnusable(
            f"No usable images: {_some(unreadable)} bear the name of an image, but their content is not one. "
            "Check the files and upload them again."
        )
    if unreadable:
        say(f"[WARNING] {_some(unreadable)}: the content is not an image; the engine will leave it out.")
    return sum(1 for _ in images.iterdir())


def has_image_signature(path: Path) -> bool:
    """Whether the first bytes are those of an image file."""
    with path.open("rb") as file:
        return file.read(12).startswith(_SIGNATURES)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def engine_files(side_files: Path) -> dict[str, Path]:
    """Engine flag → file, the first by name where several would serve (contract 5)."""
    found: dict[str, Path] = {}
    for path in sorted(side_files.iterdir()):
        found.setdefault(_flag(path.name.lower()), path)
    return found


def _flag(name: str) -> str:
    if name in _ALIGNMENTS:
        return "align"
    return {"geo.txt": "geo", "image_groups.txt": "split-image-groups"}.get(name, "gcp")
