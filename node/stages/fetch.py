"""S3, or a link → project folder: the images of one task, laid out as ODM wants them (contract 5, 9.1)."""

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from common.nodeodm.messages import clean_name
from common.references import Reference, inputs_under, is_archive, is_image, is_link
from common.settings import InputSettings, Switch, read_settings
from common.storage import Storage, StoredObject
from common.tasks import NO_WISHES, Wishes
from node.stages.archives import Bounds, InputUnusable, Names, Quota, unpack_flat, unpack_tree

if TYPE_CHECKING:
    from node.stages.links import Links

__all__ = ["InputUnusable", "fetch", "has_image_signature"]

PARALLEL_DOWNLOADS = 8
SEED = "seed.zip"
_ALIGNMENTS = ("align.tif", "align.laz", "align.las")
_NAMED = ("geo.txt", "image_groups.txt", *_ALIGNMENTS)
_SIGNATURES = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG",
    b"II",  # TIFF, DNG, NEF
    b"MM",
    b"BM",
    b"\xff\x0a",  # JPEG XL
    b"\x00\x00\x00\x0cJXL",
)


def fetch(
    storage: Storage,
    source: Reference,
    output: Reference,
    project: Path,
    say: Callable[[str], None],
    wishes: Wishes = NO_WISHES,
    links: "Links | None" = None,
    bounds: Bounds | None = None,
    objects: Sequence[StoredObject] | None = None,
) -> int:
    """Fill `project` from `source`; gives how many images it holds then.

    `objects`: what `objects_of` has found there, where that was asked already. `links` and `bounds` come from the
    environment's `InputSettings` unless given. Raises `InputUnusable` where no engine could work with what is there,
    `DiskTooSmall` where another machine could.
    """
    settings = read_settings(InputSettings)
    most_bytes = int(settings.most_gib * 2**30)
    images, packed = project / "images", project / ".archives"
    for folder in (images, packed):
        # What an earlier try left would be taken for a file of the same name.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    quota = Quota(project, bounds or Bounds(bytes=most_bytes))
    if is_link(source):
        link: Reference | None = source
        names, archives = Names(images), list[Path]()
    else:
        found = objects_of(storage, source, output, wishes) if objects is None else objects
        link = next((each.reference for each in found if is_link(each.reference)), None)
        files = [each for each in found if not is_link(each.reference)]
        names, archives = _download(storage, files, source, images, quota, say)
    if link is not None:
        # Few runs follow a link, and each one would wait for what that takes to be read in.
        from node.stages.links import Links

        links = links or Links(settings.private is Switch.ON, most_bytes)
        archives.append(_follow(storage, link, _room(packed, len(archives)), links, quota, say))
    seeds = [each for each in archives if each.name.lower() == SEED]
    for archive in archives:
        if archive not in seeds:
            say(f"Unpacking {archive.name}")
            unpack_flat(archive, images, names, quota, say)
            archive.unlink()
    for seed in seeds:
        unpack_tree(seed, project, quota, say)
    shutil.rmtree(packed)
    _set_aside(images, project, say)
    return _check_images(images, source, say)


def objects_of(storage: Storage, source: Reference, output: Reference, wishes: Wishes) -> list[StoredObject]:
    """The objects that are the input."""
    if source.is_prefix:
        return list(inputs_under(storage.listing(source), source, output, wishes))
    return [each for each in storage.listing(source) if each.reference == source]


def _download(
    storage: Storage,
    objects: Sequence[StoredObject],
    source: Reference,
    images: Path,
    quota: Quota,
    say: Callable[[str], None],
) -> tuple[Names, list[Path]]:
    """Bring the objects here: archives aside, to be unpacked, all else among the images."""
    total = sum(each.size for each in objects)
    say(f"Fetching {len(objects)} files ({total / 1e6:.1f} MB) from {source}")
    quota.check_disk(total)
    names, downloads = Names(images), []
    archives: list[Path] = []
    with ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
        for each in objects:
            if is_archive(each.reference.name):
                # Two folders of one prefix may hold archives of one name.
                path = _room(images.parent / ".archives", len(archives)) / clean_name(each.reference.name)
                archives.append(path)
            else:
                path = images / names.claim(each.reference.name)
            downloads.append(pool.submit(storage.download, each.reference, path))
        for download in downloads:
            download.result()
    return names, archives


def _room(packed: Path, number: int) -> Path:
    folder = packed / str(number)
    folder.mkdir()
    return folder


def _follow(
    storage: Storage, source: Reference, room: Path, links: "Links", quota: Quota, say: Callable[[str], None]
) -> Path:
    """Bring what a link leads to."""
    url = str(json.loads(storage.read(source))["url"])
    name = clean_name(unquote(urlsplit(url).path))
    path = room / (name if is_archive(name) and name.lower() != SEED else "zipurl")
    say("Fetching the archive that zipurl leads to")
    links.fetch(url, path, quota, say)
    say(f"Fetched {path.stat().st_size / 1e6:.1f} MB")
    with path.open("rb") as file:
        if file.read(256).lstrip()[:1] == b"<":
            raise InputUnusable(
                "zipurl leads to a web page, not to an archive: it may be a page with a button, or ask for a login. "
                "Give the address of the file itself."
            )
    return path


def _set_aside(images: Path, project: Path, say: Callable[[str], None]) -> None:
    """What lies beside the images goes where ODM finds it without being told: the project's root (contract 9.1).

    Of several files that would serve for the same, the first by name does (contract 5); it goes over one of a seed.
    """
    taken: dict[str, str] = {}
    for path in sorted(images.iterdir()):
        name = path.name.lower()
        if not name.endswith(".txt") and name not in _ALIGNMENTS:
            continue
        place = name if name in _NAMED else "gcp_list.txt"
        purpose = "align" if name in _ALIGNMENTS else place
        if purpose in taken:
            say(f"[WARNING] {path.name} is left out: {taken[purpose]} is there already.")
            path.unlink()
            continue
        if name in _ALIGNMENTS:
            for other in _ALIGNMENTS:
                (project / other).unlink(missing_ok=True)
        path.replace(project / place)
        taken[purpose] = place


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
