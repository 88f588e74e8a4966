"""The products of a foreign node → S3, fenced, with the manifest last (design 4.3). Blocking: for threads."""

import hashlib
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from common import products, publishing
from common.fencing import Fence
from common.products import Expected
from common.publishing import ManifestUnreadable, Measured, ProductsMissing, Published
from common.references import ALL_ZIP, ATTEMPT, MANIFEST, TASK_OUTPUT, Reference
from common.storage import ObjectMissing, Storage
from router.foreign_reports import product_name

_BLOCK = 1 << 20
_MOST_UNPACKED = 50
"""How many times its own size an archive may unpack to, beside `_ALWAYS_UNPACKED`: NodeODM's are hardly compressed."""
_ALWAYS_UNPACKED = 4 * 2**30
_FIRST_PERCENT, _LAST_PERCENT = 96.0, 99.0


class ArchiveBroken(Exception):
    """What the node gave as `all.zip` is not a whole zip file."""


class Publication:
    """One attempt's products on their way to its output."""

    def __init__(
        self,
        storage: Storage,
        output: Reference,
        fence: Fence,
        identity: Mapping[str, object],
        asked: Sequence[str],
        progressed: Callable[[float], None],
        check: Callable[[], None],
        wanted: Sequence[Expected] = (),
    ) -> None:
        """`wanted`: what must be among the products.

        `check` raises when nobody wants them any more; it and `fence.look` are asked between blocks.
        """
        self._storage = storage
        self._output = output
        self._fence = fence
        self._identity = identity
        self._asked = asked
        self._wanted = wanted
        self._progressed = progressed
        self._check = check

    def from_archive(self, path: Path, console: Sequence[str]) -> None:
        """Of an `all.zip`: the archive, and every member. `console` is put into it where it holds none, and that file
        must be ours to change: NodeODM leaves the console out where a client names its outputs, and we never do.

        Raises `ArchiveBroken`, `ProductsMissing`, `Outdated`, `AlreadyPublished`, `StorageFault`.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                self._look_over(archive, path)
            _add_console(path, console)
            with zipfile.ZipFile(path) as archive:
                self._publish_members(path, archive)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as broken:
            raise ArchiveBroken(f"all.zip cannot be read: {broken}") from broken

    def _look_over(self, archive: zipfile.ZipFile, path: Path) -> None:
        members = _members(archive, path.stat().st_size)
        self._check_sizes({name: member.file_size for name, member in members.items()})
        for name, member in members.items():
            if products.is_raster(name):
                self._check_raster(archive, member, name, path.parent)

    def _check_sizes(self, sizes: Mapping[str, int]) -> None:
        publishing.check_sizes(sizes, self._asked)
        products.check_made(sizes, self._wanted)

    def _check_raster(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, folder: Path) -> None:
        """As a file of its own, for a while: to look into the middle of what is packed is to unpack it each time."""
        with tempfile.TemporaryFile(dir=folder) as file:
            with archive.open(member) as content:
                while block := content.read(_BLOCK):
                    self._check()
                    file.write(block)
            products.check_raster(name, file, file.tell())

    def _publish_members(self, path: Path, archive: zipfile.ZipFile) -> None:
        members = _members(archive, path.stat().st_size)
        publishing.begin(self._storage, self._output, self._fence)
        published = [self._upload(path)]
        done, total = 0, sum(member.file_size for member in members.values()) or 1
        for name, member in members.items():
            published.append(self._publish_member(archive, member, name))
            done += member.file_size
            self._progressed(_FIRST_PERCENT + (_LAST_PERCENT - _FIRST_PERCENT) * done / total)
        for each in publishing.replaced(self._storage, self._output, published):
            self._publish_member(archive, members[each.name], each.name)
        publishing.finish(self._storage, self._output, self._fence, self._identity, published)

    def _upload(self, path: Path) -> Published:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        self._look()
        self._storage.upload(path, self._output / ALL_ZIP)
        return Published(ALL_ZIP, path.stat().st_size, digest.hexdigest())

    def _publish_member(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Published:
        writer = self._storage.stream_to(self._output / name)
        measured = Measured(writer.write)
        try:
            with archive.open(member) as content:
                while block := content.read(_BLOCK):
                    self._look()
                    measured.write(block)
            self._look()
            writer.finish()
        except BaseException:
            writer.abort()
            raise
        return measured.published(name)

    def from_prefix(self, source: Reference) -> None:
        """Of what a node that writes S3 has put below `source`: copied within S3, the archive too. Raises as above."""
        found = {
            each.reference.key.removeprefix(source.key): each.size
            for each in self._storage.listing(source)
            if each.reference.name not in (MANIFEST, "") and not each.reference.key.endswith(ATTEMPT)
        }
        sizes = {name: size for name, size in sorted(found.items()) if name == ALL_ZIP or product_name(name)}
        self._check_sizes({name: size for name, size in sizes.items() if name != ALL_ZIP})
        if ALL_ZIP not in sizes:
            raise ProductsMissing(f"The node has put no {ALL_ZIP} beside its products in {source}.")
        digests = _digests(self._storage, source)
        publishing.begin(self._storage, self._output, self._fence)
        published = [self._copy(source, name, size, digests.get((name, size))) for name, size in sizes.items()]
        for each in publishing.replaced(self._storage, self._output, published):
            self._copy(source, each.name, each.size, each.sha256)
        publishing.finish(self._storage, self._output, self._fence, self._identity, published)

    def _copy(self, source: Reference, name: str, size: int, sha256: str | None) -> Published:
        self._look()
        self._storage.copy(source / name, self._output / name)
        return Published(name, size, sha256 or self._digest(self._output / name))

    def _digest(self, reference: Reference) -> str:
        digest = hashlib.sha256()
        for block in self._storage.blocks(reference):
            self._look()
            digest.update(block)
        return digest.hexdigest()

    def _look(self) -> None:
        self._check()
        self._fence.look()


def _add_console(path: Path, console: Sequence[str]) -> None:
    """In place: the archive's list of members is at its end, and is written anew."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        if TASK_OUTPUT not in archive.namelist():
            archive.writestr(TASK_OUTPUT, "".join(f"{line}\n" for line in console).encode("utf-8", "replace"))


def holds_console(path: Path) -> bool:
    """Whether an `all.zip` has the console among its members; NodeODM leaves it out where outputs are asked for."""
    try:
        with zipfile.ZipFile(path) as archive:
            return TASK_OUTPUT in archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError) as broken:
        raise ArchiveBroken(f"all.zip cannot be read: {broken}") from broken


def _digests(storage: Storage, source: Reference) -> dict[tuple[str, int], str]:
    """What the node's own manifest says of its products, where it writes one as we do."""
    try:
        listed = publishing.read_manifest(storage, source)["objects"]
        return {(each["name"], each["size"]): str(each["sha256"]) for each in listed}
    except (ObjectMissing, ManifestUnreadable, KeyError):
        return {}


def _members(archive: zipfile.ZipFile, archive_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """The files of an archive by their names below the output; what would leave it, or be ours, is left out."""
    members = {}
    for member in archive.infolist():
        name = product_name(member.filename)
        if name is not None and not member.is_dir():
            members[name] = member
    unpacked = sum(member.file_size for member in members.values())
    if unpacked > _ALWAYS_UNPACKED + _MOST_UNPACKED * archive_bytes:
        raise ArchiveBroken(f"all.zip has {archive_bytes} bytes and would unpack to {unpacked}.")
    return members
