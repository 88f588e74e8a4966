"""What a run should have made, and whether it is whole: looked at before a task is called completed.

An engine may end with exit code 0 and still leave a product out, empty, or broken off where its disk was full. The same
for what our own runs make and for what comes from foreign nodes.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from common.nodeodm.catalogue import STAGES
from common.nodeodm.options import Setting
from common.publishing import ProductsMissing

ORTHOPHOTO = "odm_orthophoto/odm_orthophoto.tif"
DSM, DTM = "odm_dem/dsm.tif", "odm_dem/dtm.tif"
RECONSTRUCTION = "opensfm/reconstruction.json"
_RASTERS = ("odm_orthophoto/", "odm_dem/")
"""Where what is named `.tif` is a raster that users open."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A product that must be there."""

    path: str
    why: str
    """What of the task makes it so."""


def expected(
    engine: str, settings: Sequence[Setting], outputs: Sequence[str], stops_early: bool = False
) -> list[Expected]:
    """What `engine` must have made, given the task's options, and of that what is among the `outputs` asked for.

    `stops_early`: at the reconstruction, as a seed of ODM's split-merge may tell it to.
    """
    made = _made(engine, {each.name: each.value for each in settings}, stops_early)
    return [each for each in made if not outputs or _is_among(each.path, outputs)]


def _made(engine: str, options: Mapping[str, object], stops_early: bool) -> Iterator[Expected]:
    if stops_early:
        yield Expected(RECONSTRUCTION, "the run ends at the reconstruction")
        return
    merged = options.get("merge", "all")
    # Without a surface this engine makes an orthophoto and nothing else; ODM makes one of the sparse points.
    has_surface = engine != "orthomosaic" or not options.get("fast-orthophoto")
    if _reaches(options, "odm_dem") and merged in ("all", "dem") and has_surface:
        for name, path in (("dsm", DSM), ("dtm", DTM)):
            if options.get(name):
                yield Expected(path, f"the option {name} is set")
    if _reaches(options, "odm_orthophoto") and merged in ("all", "orthophoto") and not options.get("skip-orthophoto"):
        yield Expected(ORTHOPHOTO, "skip-orthophoto is not set")


def _reaches(options: Mapping[str, object], stage: str) -> bool:
    last = options.get("end-with")
    return last not in STAGES or STAGES.index(str(last)) >= STAGES.index(stage)


def _is_among(path: str, asked: Iterable[str]) -> bool:
    return any(PurePosixPath(path).is_relative_to(each) for each in asked)


def check_made(sizes: Mapping[str, int], wanted: Iterable[Expected]) -> None:
    """Whether everything that is wanted is there and not empty; `sizes` in bytes by name. Raises `ProductsMissing`."""
    for each in wanted:
        if each.path not in sizes:
            raise ProductsMissing(
                f"The engine ended well but did not make {each.path}, although {each.why}. See the console for why."
            )
        if not sizes[each.path]:
            raise ProductsMissing(f"The engine ended well but left {each.path} empty; see the console.")


def is_raster(name: str) -> bool:
    """Whether a product of this name is a raster that users open."""
    return name.startswith(_RASTERS) and PurePosixPath(name).suffix.lower() in (".tif", ".tiff")


def check_raster(name: str, file: BinaryIO, size: int) -> None:
    """Whether a raster of `size` bytes is whole. Raises `ProductsMissing`."""
    try:
        check_tiff(file, size)
    except TiffBroken as broken:
        raise ProductsMissing(
            f"The engine ended well but {name} cannot be read: {broken}. "
            "See the console; a disk that was full leaves such files."
        ) from broken


# TIFF, as far as it takes to tell a whole file from a broken one

_MOST_DIRECTORIES = 4096
_MOST_ENTRIES = 4096
_MOST_PIECES = 1 << 26
"""More tiles or strips than this in one picture are no picture of ours."""
_WIDTH, _LENGTH = 256, 257
_STRIPS, _TILES = (273, 279), (324, 325)
"""Tags of where the pieces of a picture begin, and of how many bytes each has."""
_LETTERS = {3: "H", 4: "I", 16: "Q"}
"""Types of entries that tell places and sizes: 2, 4 and 8 bytes."""
_ONE_NUMBER = frozenset({_WIDTH, _LENGTH})


class TiffBroken(Exception):
    """A file is not a TIFF, or not a whole one."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One tag of a directory: `count` numbers of the type `letter` at `place`."""

    letter: str
    count: int
    place: int


class _Tiff:
    """An open file, read only where its structure is."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        head = self.read(0, 8, "its header")
        self._order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        version = struct.unpack(f"{self._order}H", head[2:4])[0] if self._order else 0
        if version not in (42, 43):
            raise TiffBroken("it does not begin as a TIFF does")
        self._is_big = version == 43
        self._first = self._number(8, "Q", "its header") if self._is_big else self._number(4, "I", "its header")

    def read(self, place: int, count: int, what: str) -> bytes:
        """Bytes of the file, or `TiffBroken` in words for `what`."""
        if place + count > self._size:
            raise TiffBroken(f"{what} would end at byte {place + count}, and the file has {self._size}")
        self._file.seek(place)
        return self._file.read(count)

    def _number(self, place: int, letter: str, what: str) -> int:
        return int(struct.unpack(self._order + letter, self.read(place, struct.calcsize(f"={letter}"), what))[0])

    def numbers(self, entry: _Entry, what: str) -> list[int]:
        """All numbers of an entry."""
        if entry.count > _MOST_PIECES:
            raise TiffBroken(f"{what} has {entry.count} entries")
        raw = self.read(entry.place, entry.count * struct.calcsize(f"={entry.letter}"), what)
        return list(struct.unpack(f"{self._order}{entry.count}{entry.letter}", raw))

    def directories(self) -> Iterator[dict[int, _Entry]]:
        """The directories of the file, one after another: the picture, its overviews and masks."""
        place, seen = self._first, set[int]()
        while place:
            if place in seen or len(seen) > _MOST_DIRECTORIES:
                raise TiffBroken("its directories lead in a circle")
            seen.add(place)
            entries, place = self._directory(place)
            yield entries

    def _directory(self, place: int) -> tuple[dict[int, _Entry], int]:
        what = "its directory"
        count_letter, entry_size, room = ("Q", 20, 8) if self._is_big else ("H", 12, 4)
        count = self._number(place, count_letter, what)
        if not 0 < count <= _MOST_ENTRIES:
            raise TiffBroken(f"a directory of it has {count} entries")
        begin = place + struct.calcsize(f"={count_letter}")
        raw = self.read(begin, count * entry_size, what)
        number = "Q" if self._is_big else "I"
        entries = {}
        for index in range(count):
            tag, kind, many = struct.unpack_from(f"{self._order}HH{number}", raw, index * entry_size)
            letter = _LETTERS.get(kind)
            if letter is None:
                continue
            value = begin + index * entry_size + entry_size - room
            inline = many * struct.calcsize(f"={letter}") <= room
            entries[tag] = _Entry(letter, many, value if inline else self._number(value, number, what))
        return entries, self._number(begin + count * entry_size, number, what)

    def size_of_picture(self, entries: Mapping[int, _Entry]) -> tuple[int, int]:
        """Width and height in pixels."""
        if not entries.keys() >= _ONE_NUMBER:
            raise TiffBroken("a directory of it does not say how large its picture is")
        width, height = (self.numbers(entries[tag], "the size of its picture")[:1] for tag in (_WIDTH, _LENGTH))
        return (width or [0])[0], (height or [0])[0]


def check_tiff(file: BinaryIO, size: int) -> None:
    """Whether a file of `size` bytes is a TIFF or BigTIFF all of whose pieces lie within it. Raises `TiffBroken`.

    Reads its directories and no pixels, so it takes no longer for a large file.
    """
    tiff = _Tiff(file, size)
    pictures = 0
    for entries in tiff.directories():
        pictures += 1
        width, height = tiff.size_of_picture(entries)
        if not width or not height:
            raise TiffBroken(f"its picture has {width} times {height} pixels")
        _check_pieces(tiff, entries, size, is_main=pictures == 1)
    if not pictures:
        raise TiffBroken("it holds no picture")


def _check_pieces(tiff: _Tiff, entries: Mapping[int, _Entry], size: int, is_main: bool) -> None:
    tags = next((pair for pair in (_TILES, _STRIPS) if entries.keys() >= set(pair)), None)
    if tags is None:
        raise TiffBroken("a directory of it does not say where its picture lies")
    places, sizes = (tiff.numbers(entries[tag], "the list of its pieces") for tag in tags)
    if len(places) != len(sizes):
        raise TiffBroken(f"it has {len(places)} pieces and the sizes of {len(sizes)}")
    furthest = max((place + length for place, length in zip(places, sizes, strict=True)), default=0)
    if furthest > size:
        raise TiffBroken(f"its picture would end at byte {furthest}, and the file has {size}")
    # A piece of no bytes is one without data, which GDAL may leave out; a picture of nothing else shows nothing.
    if is_main and not any(sizes):
        raise TiffBroken("its picture has no data at all")
