"""Project folder → S3: products, `all.zip`, the console, and last of all the manifest (design 4.3)."""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO

from common import publishing
from common.fencing import Fence, Mark
from common.products import Expected
from common.publishing import ARCHIVED, Measured, Published
from common.references import ALL_ZIP, MANIFEST, TASK_OUTPUT, Reference
from common.storage import Storage
from node.products import check
from node.runs import Order

UPLOADS_AT_ONCE = 8
"""Of small files: tiles come by the ten thousand, and each is a request."""
_SMALL_BYTES = 8 << 20
_BLOCK = 1 << 20


def products(project: Path, asked: Sequence[str]) -> list[PurePosixPath]:
    """Files of the project to publish, as sorted relative paths. `asked` replaces the usual list when not empty.

    The console goes with them in any case. NodeODM leaves it out where a client names its outputs, and nobody counts on
    that: split-merge, which does, unpacks over a part's folder, where no program reads a file of this name.
    """
    root = project.resolve()
    found: set[PurePosixPath] = set()
    for name in [*asked, TASK_OUTPUT] if asked else ARCHIVED:
        for path in _files(project / name):
            relative = PurePosixPath(path.relative_to(project).as_posix())
            # A name from outside may be a link or climb; what is not in the project is not ours to give.
            if _is_publishable(relative) and path.resolve().is_relative_to(root):
                found.add(relative)
    return sorted(found)


def _is_publishable(path: PurePosixPath) -> bool:
    """Not in the place of what we write ourselves, and of a name that S3 and zip files know."""
    text = str(path)
    has_odd_letters = any(ord(each) < 32 or 0xD800 <= ord(each) < 0xE000 for each in text)
    return text not in (MANIFEST, ALL_ZIP) and path.parts[0] != ".scaleodm" and not has_odd_letters


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from (each for each in sorted(path.rglob("*")) if each.is_file())


def fence_of(order: Order, storage: Storage) -> Fence:
    """The hold that a run's attempt has on its output."""
    mine = Mark(order.uuid, order.attempt)
    return Fence(storage, Reference.parse(order.output), mine, order.first_attempt)


def publish(
    storage: Storage,
    project: Path,
    output: Reference,
    asked: Sequence[str],
    fence: Fence,
    identity: dict[str, object],
    progressed: Callable[[float], None],
    expected: Sequence[Expected] = (),
) -> None:
    """Publish the project. `identity` (uuid, attempt, engine) stands in the manifest, which is written last.

    Raises `Outdated`, and leaves no manifest, when another attempt takes the output meanwhile; `ProductsMissing` where
    something `expected` is not there, or a product is broken.
    """
    found = products(project, asked)
    check(project, found, asked, expected)
    publishing.begin(storage, output, fence)
    published = _publish_archive(storage, project, found, output / ALL_ZIP, fence)
    progressed(97)
    _upload_all(storage, project, found, output, fence)
    # Where a late request of an outdated attempt has put another object in place of ours, ours comes back.
    for each in publishing.replaced(storage, output, published):
        storage.upload(project / each.name, output / each.name)
    publishing.finish(storage, output, fence, identity, published)


def _upload_all(
    storage: Storage, project: Path, found: Sequence[PurePosixPath], output: Reference, fence: Fence
) -> None:
    """Large files one by one, each of which takes many connections; small ones many at a time."""

    def upload(path: PurePosixPath) -> None:
        storage.upload(project / path, output / str(path))

    small = [path for path in found if (project / path).stat().st_size <= _SMALL_BYTES]
    for path in sorted(set(found) - set(small)):
        fence.look()
        upload(path)
    waiting = iter(small)
    with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
        while batch := list(islice(waiting, UPLOADS_AT_ONCE * 4)):
            fence.look()
            for uploaded in [pool.submit(upload, path) for path in batch]:
                uploaded.result()


def _publish_archive(
    storage: Storage, project: Path, found: Sequence[PurePosixPath], target: Reference, fence: Fence
) -> list[Published]:
    """`all.zip`, built on its way to S3: neither whole in memory nor on disk. Gives it and its members as published."""
    about_bytes = sum((project / path).stat().st_size for path in found)
    writer = storage.stream_to(target, "application/zip", about_bytes)
    measured = Measured(writer.write)
    try:
        members = write_archive(measured, project, found, fence.look)
        fence.look()
        writer.finish()
    except BaseException:
        writer.abort()
        raise
    return [measured.published(target.name), *members]


def write_archive(
    target: Measured | IO[bytes], project: Path, found: Sequence[PurePosixPath], look: Callable[[], None]
) -> list[Published]:
    """The project's files as a zip file, into what can only be written to; `look` is called now and then.

    Products are compressed already, so the archive stores them. What has more than 4 GiB, or 65,535 members, is told in
    the format's larger fields.
    """
    members = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in found:
            look()
            # Files from a seed may be older than the format can tell.
            info = zipfile.ZipInfo.from_file(project / path, str(path), strict_timestamps=False)
            with (project / path).open("rb") as file, archive.open(info, "w") as member:
                copied = Measured(member.write)
                while block := file.read(_BLOCK):
                    look()
                    copied.write(block)
            members.append(copied.published(str(path)))
    return members
