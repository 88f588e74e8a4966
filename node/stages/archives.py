"""Archives → files: zips and tars that strangers packed, unpacked in bounded memory and never outside one folder.

Members are read as streams. What is no plain file (links, devices, pipes) is left out; an archive inside an archive is
never opened, so nested bombs stay shut. Everything that one task unpacks counts against one `Quota`.
"""

import bz2
import gzip
import lzma
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from common.nodeodm.messages import clean_name, next_name
from common.references import is_archive

Say = Callable[[str], None]
_BLOCK = 1 << 20
_MOST_HEADER_BYTES = 256 * 1024
"""Of one tar member's headers: names are short, and Python reads them whole."""
_MOST_DIRECTORY_BYTES = 256 * 1024 * 1024
"""Of a zip's directory, which Python reads whole."""
_XZ_MEMORY = 256 * 1024 * 1024
"""What an .xz may ask for; `xz -9` needs 65 MiB."""
_LEFT_OUT_SHOWN = 5
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What is read in bounded memory; practically every zip is packed so."""
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    EOFError,
    LookupError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    ValueError,
    struct.error,
    OverflowError,
)


class InputUnusable(Exception):
    """The input cannot be processed as it is, wherever it is tried."""


class DiskTooSmall(OSError):
    """The input does not fit on this machine; another may have the room."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one task may unpack."""

    members: int = 100_000
    bytes: int = 1 << 40
    ratio: int = 100
    """How many times an archive's own size, from `ratio_from` on. Photographs hardly shrink; bombs do by a thousand."""
    ratio_from: int = 256 * 1024 * 1024
    disk_reserve: int = 256 * 1024 * 1024
    """Bytes of the disk that stay free."""


USUAL = Bounds()


class Quota:
    """Counts what a task unpacks; raises `InputUnusable` beyond its bounds, `DiskTooSmall` where the disk ends."""

    def __init__(self, folder: Path, bounds: Bounds = USUAL) -> None:
        """`folder`: lies on the disk that is filled."""
        self._folder = folder
        self._bounds = bounds
        self._members = 0
        self._bytes = 0
        self._checked_at = 0
        self._archive = ""
        self._packed = 0
        self._unpacked = 0

    def open(self, archive: str, packed: int) -> None:
        """From now on it is this archive that is unpacked, which has `packed` bytes itself."""
        self._archive, self._packed, self._unpacked = archive, packed, 0

    def member(self) -> None:
        """One more."""
        self._members += 1
        self.check_members(self._members)

    def check_members(self, members: int) -> None:
        """Whether so many are too many."""
        if members > self._bounds.members:
            raise InputUnusable(
                f"{self._archive} brings more than {self._bounds.members} files, which is the most that one task may "
                "have. Leave out what is no image, or make several tasks of it."
            )

    def take(self, count: int) -> None:
        """So many bytes more, before they are written."""
        self._bytes += count
        self._unpacked += count
        self.check(self._bytes, self._unpacked)
        if self._bytes - self._checked_at >= 64 * _BLOCK or self._checked_at == 0:
            self.check_disk(count)
            self._checked_at = self._bytes

    def check(self, total: int, unpacked: int) -> None:
        """Whether so many bytes of all archives, and of this one, are too many."""
        if total > self._bounds.bytes:
            raise InputUnusable(
                f"{self._archive} unpacks to more than {self._bounds.bytes / 1e9:.0f} GB, which is the most that one "
                "task may have. Make several tasks of it, or ask the administrator for more (SCALEODM_INPUT_MOST_GIB)."
            )
        if unpacked > max(self._bounds.ratio_from, self._packed * self._bounds.ratio):
            raise InputUnusable(
                f"{self._archive} unpacks to more than {self._bounds.ratio} times its {self._packed} bytes, as no "
                "archive of images does. Upload the images themselves."
            )

    def expect(self, unpacked: int) -> None:
        """The archive says that it has so many bytes: refuse now what cannot end well."""
        self.check(self._bytes + unpacked, unpacked)
        self.check_disk(unpacked)

    def check_disk(self, count: int) -> None:
        """Whether so many bytes more fit on the disk."""
        free = shutil.disk_usage(self._folder).free
        if count > free - self._bounds.disk_reserve:
            raise DiskTooSmall(
                f"The input needs {count / 1e9:.1f} GB more of disk, and this machine has {free / 1e9:.1f} GB left. "
                "Use a node with a larger disk, or fewer images."
            )


class Names:
    """Free names in one folder: of two files that would have the same one, both are kept."""

    _MOST_UNDERSCORES = 8

    def __init__(self, folder: Path) -> None:
        """`folder` is there, and holds nothing that anybody wants."""
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}
        probe = folder / ".scaleodm-case"
        probe.touch()
        self._folds = (folder / ".SCALEODM-CASE").exists()
        probe.unlink()

    def claim(self, path: str) -> str:
        """The name for what is called `path` where it comes from: its base name, or the next that is free."""
        asked = name = clean_name(path)
        tries = 0
        while self._key(name) in self._taken:
            tries += 1
            name = next_name(name) if tries <= self._MOST_UNDERSCORES else self._numbered(asked)
        self._taken.add(self._key(name))
        return name

    def _numbered(self, name: str) -> str:
        number = self._numbers[name] = self._numbers.get(name, self._MOST_UNDERSCORES) + 1
        stem, dot, extension = name.rpartition(".")
        return f"{stem}_{number}.{extension}" if stem and dot else f"{name}_{number}"

    def _key(self, name: str) -> str:
        return name.casefold() if self._folds else name


@dataclass(frozen=True, slots=True)
class Member:
    """One plain file of an archive."""

    path: str
    read: Callable[[int], bytes]


def unpack_flat(archive: Path, folder: Path, names: Names, quota: Quota, say: Say) -> None:
    """Unpack the members into one folder, their own folders dropped, so that none can leave it."""
    left_out = _LeftOut(archive.name, say)
    for member in members_of(archive, quota, left_out.add):
        base = PurePosixPath(member.path.replace("\\", "/")).name
        if _is_litter(member.path, base):
            continue
        if is_archive(base):
            left_out.add(f"{member.path!r}, an archive inside an archive")
            continue
        _write(member, folder / names.claim(member.path), quota)
    left_out.tell()


def unpack_tree(archive: Path, folder: Path, quota: Quota, say: Say) -> None:
    """Unpack the members into a tree, over what is there; one that points outside of it is refused."""
    left_out = _LeftOut(archive.name, say)
    for member in members_of(archive, quota, left_out.add):
        target = _inside(folder, member.path, archive.name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(member, target, quota)
        except (FileExistsError, IsADirectoryError, NotADirectoryError) as clash:
            raise InputUnusable(
                f"{archive.name} names {member.path!r}, which is a file and a folder at once. Pack it again."
            ) from clash
    left_out.tell()


def members_of(archive: Path, quota: Quota, left_out: Say) -> Iterator[Member]:
    """The plain files of an archive, each to be read before the next is asked for."""
    packed = archive.stat().st_size
    quota.open(archive.name, packed)
    with _told(archive.name):
        with archive.open("rb") as file:
            is_zip = archive.name.lower().endswith(".zip") or file.read(4) == b"PK\x03\x04"
        for member in _zip_members(archive, quota, left_out) if is_zip else _tar_members(archive, quota, left_out):
            yield Member(member.path, _telling(archive.name, member.read))


def _telling(name: str, read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    def told(size: int) -> bytes:
        with _told(name):
            return read(size)

    return told


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Whatever a library says of a broken archive, as one sentence of ours."""
    try:
        yield
    except _BROKEN as broken:
        raise InputUnusable(
            f"Could not extract {name}: {broken or type(broken).__name__}. It is broken, or was cut off on its way; "
            "pack it again and upload it anew."
        ) from broken


class _LeftOut:
    """What is left out, told in one line and not in a hundred thousand."""

    def __init__(self, archive: str, say: Say) -> None:
        self._archive = archive
        self._say = say
        self._some: list[str] = []
        self._count = 0

    def add(self, what: str) -> None:
        self._count += 1
        if len(self._some) < _LEFT_OUT_SHOWN:
            self._some.append(what[:300])

    def tell(self) -> None:
        if self._count:
            more = f" and {self._count - len(self._some)} more" if self._count > len(self._some) else ""
            self._say(f"[WARNING] Left out of {self._archive}: {', '.join(self._some)}{more}.")


def _is_litter(path: str, base: str) -> bool:
    """What macOS packs beside every file: it bears the names of images and is none."""
    return base.startswith("._") or "__MACOSX" in path.split("/")


_DRIVE = re.compile(r"^[A-Za-z]:")


def _inside(folder: Path, path: str, archive: str) -> Path:
    """Where a member of a tree goes. Its path is read as text: the tree holds no link that could lead elsewhere."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or "\x00" in path or _DRIVE.match(path):
        raise InputUnusable(f"{archive} names {path!r}, which lies outside the project; pack relative paths.")
    if any(len(part.encode("utf-8", "surrogateescape")) > 255 for part in parts) or len(path) > 3000:
        raise InputUnusable(f"{archive} names {path[:60]!r}…, which is longer than a file's name can be. Shorten it.")
    target = folder.joinpath(*parts)
    if not target.resolve().is_relative_to(folder.resolve()):
        raise InputUnusable(f"{archive} names {path!r}, which lies outside the project; pack relative paths.")
    return target


def _write(member: Member, target: Path, quota: Quota) -> None:
    with target.open("wb") as file:
        while block := member.read(_BLOCK):
            quota.take(len(block))
            file.write(block)


# Zips


def _zip_members(path: Path, quota: Quota, left_out: Say) -> Iterator[Member]:
    with path.open("rb") as file:
        quota.check_members(_count_entries(file))
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        _check_entries(path.name, entries)
        quota.expect(sum(entry.file_size for entry in entries))
        for entry in entries:
            quota.member()
            mode = entry.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                left_out(f"{entry.filename!r}, which is a link or a device")
                continue
            with archive.open(entry) as content:
                yield Member(entry.filename, content.read)


def _check_entries(name: str, entries: list[zipfile.ZipInfo]) -> None:
    for entry in entries:
        if entry.header_offset < 0:
            raise zipfile.BadZipFile(f"its directory has {entry.filename!r} begin before the archive does")
        if entry.flag_bits & 0x1:
            raise InputUnusable(f"{name} is encrypted ({entry.filename!r} needs a password). Pack it without one.")
        if entry.compress_type not in _METHODS:
            raise InputUnusable(
                f"{name} is packed with method {entry.compress_type} ({entry.filename!r}), which is not read here. "
                "Pack it with the usual one (deflate), or store its files as they are."
            )


_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")


def _count_entries(file: BinaryIO) -> int:
    """How many entries a zip's directory holds, before Python reads it whole: what it says of itself may be a lie."""
    file.seek(0, 2)
    size = file.tell()
    tail_from = max(0, size - _END.size - 65536)
    file.seek(tail_from)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise zipfile.BadZipFile("it has no directory of its files")
    end = tail_from + at
    directory: int = _END.unpack_from(tail, at)[5]
    file.seek(max(0, end - _LOCATOR.size))
    locator = file.read(_LOCATOR.size)
    if locator.startswith(b"PK\x06\x07") and len(locator) == _LOCATOR.size:
        file.seek(max(0, end - _LOCATOR.size - _END64.size))
        found = file.read(_END64.size)
        if found.startswith(b"PK\x06\x06") and len(found) == _END64.size:
            directory = max(directory if directory != 0xFFFFFFFF else 0, _END64.unpack(found)[8])
            end -= _LOCATOR.size + _END64.size
    if directory > min(end, _MOST_DIRECTORY_BYTES):
        raise zipfile.BadZipFile(f"its directory has {directory} bytes, which cannot be")
    file.seek(end - directory)
    count, left, before = 0, directory, b""
    while left and (block := file.read(min(_BLOCK, left))):
        left -= len(block)
        count += (before + block).count(b"PK\x01\x02")
        before = block[-3:]
    return count


# Tars


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Xz:
    """Reads an .xz, or several in a row, within the memory that one may take."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._unpacker = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)

    def read(self, size: int) -> bytes:
        while True:
            raw = b""
            if self._unpacker.eof:
                raw = self._unpacker.unused_data.lstrip(b"\0") or self._file.read(_BLOCK).lstrip(b"\0")
                if not raw:
                    return b""
                self._unpacker = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
            elif self._unpacker.needs_input:
                raw = self._file.read(_BLOCK)
                if not raw:
                    raise EOFError("the compressed data end in their middle")
            if data := self._unpacker.decompress(raw, size):
                return data


class _Forward:
    """A stream as `tarfile` wants it, which can only go forward, and hands out no more at once than it is allowed."""

    def __init__(self, stream: _Readable) -> None:
        self._stream = stream
        self._at = 0
        self._last = b""
        """The byte before `_at`: `tarfile` looks at it once more to see that the member before is whole."""
        self._back = False
        self.allowance = 0
        """Bytes that may be read before the next look at what comes."""
        self.ended_well = False
        """The last block was one of zeros, as the end of a tar is."""
        self.skipped: Callable[[int], None] = lambda _count: None

    def tell(self) -> int:
        return self._at - self._back

    def seek(self, target: int) -> int:
        here = self.tell()
        if target == here - 1 and not self._back and self._last:
            self._back = True
            return target
        if target < here:
            raise tarfile.ReadError("its members overlap")
        while (left := target - self.tell()) > 0:
            block = self._read(min(left, _BLOCK))
            if not block:
                break
            self.skipped(len(block))
        return self.tell()

    def read(self, size: int) -> bytes:
        self.allowance -= size
        if size < 0 or self.allowance < 0:
            raise tarfile.ReadError("the header of a member is larger than any that is needed")
        parts, left = [], size
        while left > 0 and (block := self._read(left)):
            parts.append(block)
            left -= len(block)
        data = b"".join(parts)
        self.ended_well = bool(data) and not data.strip(b"\0") and size == tarfile.BLOCKSIZE
        return data

    def _read(self, size: int) -> bytes:
        if self._back:
            self._back = False
            return self._last
        block = self._stream.read(size)
        if block:
            self._at += len(block)
            self._last = block[-1:]
        return block


def _tar_members(path: Path, quota: Quota, left_out: Say) -> Iterator[Member]:
    with path.open("rb") as file, closing(_unpacked(file)) as stream:
        forward = _Forward(stream)
        # What is passed over takes no disk, but time: it counts for the ratio.
        passed = 0

        def skipped(count: int) -> None:
            nonlocal passed
            passed += count
            quota.check(0, passed)

        forward.skipped = skipped
        forward.allowance = _MOST_HEADER_BYTES
        with tarfile.open(fileobj=forward, mode="r:", errors="surrogateescape") as archive:  # type: ignore[call-overload]
            yield from _each_of_tar(archive, forward, quota, left_out)
        if not forward.ended_well:
            raise tarfile.ReadError("it ends in its middle")


def _each_of_tar(archive: tarfile.TarFile, forward: _Forward, quota: Quota, left_out: Say) -> Iterator[Member]:
    while (entry := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # it would keep every one
        if len(archive.pax_headers) > 1000:
            raise tarfile.ReadError("it has more global headers than any tar needs")
        if not entry.isdir():
            quota.member()
            if entry.isreg() and not entry.issparse():
                yield Member(_text(entry.name), _reader(archive, entry, forward))
            else:
                left_out(f"{_text(entry.name)!r}, which is a link, a device or has holes")
        forward.allowance = _MOST_HEADER_BYTES


def _text(name: str) -> str:
    """A name that can be printed and written: tars may hold any bytes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _reader(archive: tarfile.TarFile, entry: tarfile.TarInfo, forward: _Forward) -> Callable[[int], bytes]:
    content = archive.extractfile(entry)
    assert content is not None
    left = entry.size

    def read(size: int) -> bytes:
        nonlocal left
        forward.allowance = 2 * _BLOCK
        block = content.read(min(size, left))
        left -= len(block)
        if not block and left:
            raise EOFError("it ends in its middle")
        return block

    return read


def _unpacked(file: BinaryIO) -> "_Closable":
    """The tar itself, whatever it is compressed with: what it begins with says so, not its name."""
    head = file.read(6)
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return _Closable(gzip.GzipFile(fileobj=file))
    if head.startswith(b"BZh"):
        return _Closable(bz2.BZ2File(file))
    return _Closable(_Xz(file) if head == b"\xfd7zXZ\0" else file)


class _Closable:
    """A stream that is closed with what it reads from."""

    def __init__(self, stream: _Readable) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        return self._stream.read(size)

    def close(self) -> None:
        if isinstance(self._stream, gzip.GzipFile | bz2.BZ2File):
            self._stream.close()
