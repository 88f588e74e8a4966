"""Archives → files: whatever strangers pack, nothing lands outside the folder and memory stays bounded."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import resource
import struct
import tarfile
import tempfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.stages.archives import Bounds, DiskTooSmall, InputUnusable, Names, Quota, unpack_flat, unpack_tree
from tests.client import JPEG
from tests.fuzzing import TIMEOUT_S, fuzzed

MIB = 1 << 20


def zipped(path: Path, members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip of these members."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return path


def tarred(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar of these members, compressed as its name says."""
    kind = {".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}.get(path.suffix, "w")
    with tarfile.open(path, kind) as archive:  # type: ignore[call-overload]
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def flat(archive: Path, folder: Path, bounds: Bounds | None = None) -> tuple[dict[str, bytes], list[str]]:
    """Unpack into a new folder; gives what is there then, and what was said."""
    folder.mkdir(parents=True, exist_ok=True)
    said: list[str] = []
    unpack_flat(archive, folder, Names(folder), Quota(folder, bounds or Bounds()), said.append)
    return {path.name: path.read_bytes() for path in folder.iterdir()}, said


ARCHIVES = ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz"]


def packed(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """An archive of the kind that its name says."""
    return zipped(path, members) if path.suffix == ".zip" else tarred(path, members)


@pytest.mark.contract("5 zipurl")
@pytest.mark.parametrize("name", ARCHIVES)
def test_zips_and_tars_are_unpacked_with_their_folders_dropped(name: str, tmp_path: Path) -> None:
    """Contract 5; of two members with one name both are kept."""
    archive = packed(tmp_path / name, [("100/a.jpg", JPEG), ("101/a.jpg", JPEG + b"2"), ("empty.txt", b"")])
    found, said = flat(archive, tmp_path / "out")
    assert found == {"a.jpg": JPEG, "a_.jpg": JPEG + b"2", "empty.txt": b""}
    assert said == []


def test_what_a_tar_is_compressed_with_is_seen_and_not_believed(tmp_path: Path) -> None:
    """A `.tar` that is gzipped is read all the same."""
    archive = tarred(tmp_path / "a.tar.gz", [("a.jpg", JPEG)])
    assert flat(archive.rename(tmp_path / "b.tar"), tmp_path / "out")[0] == {"a.jpg": JPEG}


def test_a_tar_in_several_compressed_streams_is_read_whole(tmp_path: Path) -> None:
    """As pigz, pbzip2 and pixz write them."""
    plain = tarred(tmp_path / "a.tar", [("a.jpg", JPEG), ("b.jpg", JPEG * 1000)]).read_bytes()
    ways: list[Callable[[bytes], bytes]] = [gzip.compress, bz2.compress, lzma.compress]
    for number, compress in enumerate(ways):
        archive = tmp_path / f"{number}.tar.gz"
        archive.write_bytes(compress(plain[:700]) + compress(plain[700:]))
        assert set(flat(archive, tmp_path / str(number))[0]) == {"a.jpg", "b.jpg"}


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_names_in_cyrillic_arabic_and_emoji_are_kept(name: str, tmp_path: Path) -> None:
    """As they are."""
    names = ["снимок-01.jpg", "صورة.jpg", "🚁🌍.jpg", "ä ö.jpg"]
    assert set(flat(packed(tmp_path / name, [(each, JPEG) for each in names]), tmp_path / "out")[0]) == set(names)


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_two_names_that_differ_in_case_only_are_both_kept(name: str, tmp_path: Path) -> None:
    """Each with its own content."""
    found, _ = flat(packed(tmp_path / name, [("IMG.JPG", b"1"), ("img.jpg", b"2")]), tmp_path / "out")
    assert sorted(found.values()) == [b"1", b"2"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_a_name_of_300_characters_is_shortened_and_keeps_its_extension(name: str, tmp_path: Path) -> None:
    """File systems take no more than 255 bytes."""
    found, _ = flat(
        packed(tmp_path / name, [("x" * 300 + ".jpg", JPEG), ("y/" + "ж" * 300 + ".jpg", JPEG)]), tmp_path / "o"
    )
    assert len(found) == 2
    assert all(each.endswith(".jpg") and len(each.encode()) <= 255 for each in found)


HOSTILE = ["/etc/evil.jpg", "../../evil.jpg", "a/../../../evil.jpg", "..\\..\\evil.jpg", "C:\\evil.jpg", "//evil.jpg"]


@pytest.mark.contract("5 safe archives")
@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_no_member_leaves_the_folder(hostile: str, name: str, tmp_path: Path) -> None:
    """Absolute names, `..`, and Windows' own."""
    deep = tmp_path / "one" / "two" / "three"
    found, _ = flat(packed(tmp_path / name, [(hostile, JPEG)]), deep)
    assert found == {"evil.jpg": JPEG}
    assert list(tmp_path.rglob("evil.jpg")) == [deep / "evil.jpg"]
    assert not Path("/etc/evil.jpg").exists()


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("name", ["seed.zip", "seed.tar"])
def test_a_tree_whose_member_leaves_the_folder_is_refused(hostile: str, name: str, tmp_path: Path) -> None:
    """A seed has no business outside."""
    deep = tmp_path / "one" / "two" / "three"
    deep.mkdir(parents=True)
    archive = packed(tmp_path / name, [("opensfm/a", b""), (hostile, JPEG)])
    with pytest.raises(InputUnusable, match="lies outside the project; pack relative paths"):
        unpack_tree(archive, deep, Quota(deep), lambda _: None)
    assert not list(tmp_path.rglob("evil.jpg"))


def test_links_devices_and_pipes_are_left_out_and_told(tmp_path: Path) -> None:
    """In tars and in zips; what is written through a link would land elsewhere."""
    secret = tmp_path / "secret"
    secret.write_text("s")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo(f"{kind.decode()}.jpg")
            entry.type, entry.linkname = kind, str(secret)
            archive.addfile(entry)
        entry = tarfile.TarInfo("2.jpg")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    found, said = flat(tmp_path / "a.tar", tmp_path / "out")
    assert found == {"2.jpg": b"x"}
    assert secret.read_text() == "s"
    assert "'2.jpg', which is a link, a device or has holes" in said[0]
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = (0o120777) << 16
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive_of_link:
        archive_of_link.writestr(link, str(secret))
    found, said = flat(tmp_path / "b.zip", tmp_path / "out2")
    assert (found, len(said)) == ({}, 1)


def test_what_archivers_leave_behind_is_no_image(tmp_path: Path) -> None:
    """macOS packs a `._a.jpg` beside each image."""
    members = [("a.jpg", JPEG), ("__MACOSX/._a.jpg", b"mac"), ("._b.jpg", b"mac")]
    assert set(flat(zipped(tmp_path / "a.zip", members), tmp_path / "out")[0]) == {"a.jpg"}


def test_an_archive_inside_an_archive_stays_shut(tmp_path: Path) -> None:
    """So nested bombs never go off."""
    inner = zipped(tmp_path / "inner.zip", [("b.jpg", JPEG)]).read_bytes()
    found, said = flat(zipped(tmp_path / "a.zip", [("a.jpg", JPEG), ("inner.zip", inner)]), tmp_path / "out")
    assert set(found) == {"a.jpg"}
    assert said == ["[WARNING] Left out of a.zip: 'inner.zip', an archive inside an archive."]


SMALL = Bounds(members=10, bytes=4 * MIB, ratio=20, ratio_from=MIB)


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_bomb_ends_with_a_sentence_and_little_on_disk(name: str, tmp_path: Path) -> None:
    """Two GiB of zeros, or whatever: it ends at the bounds."""
    archive = packed(tmp_path / name, [("a.jpg", bytes(3 * MIB)), ("b.jpg", bytes(3 * MIB))])
    with pytest.raises(InputUnusable, match="unpacks to more than"):
        flat(archive, tmp_path / "out", SMALL)
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= 4 * MIB


def test_a_zip_that_lies_about_its_sizes_is_stopped_while_it_unpacks(tmp_path: Path) -> None:
    """It says 1 byte, and brings 3 MiB: no more than it said is read of it, and that is noticed."""
    archive = zipped(tmp_path / "a.zip", [("a.jpg", bytes(3 * MIB))])
    raw = bytearray(archive.read_bytes())
    at = raw.rindex(b"PK\x01\x02")
    struct.pack_into("<L", raw, at + 24, 1)
    archive.write_bytes(raw)
    with pytest.raises(InputUnusable, match=r"Could not extract a\.zip: Bad CRC-32"):
        flat(archive, tmp_path / "out", SMALL)
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= 1


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_too_many_members_are_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    """Also folders full of nothing."""
    archive = packed(tmp_path / name, [(f"{number}.jpg", b"") for number in range(11)])
    with pytest.raises(InputUnusable, match=r"brings more than 10 files.*make several tasks of it"):
        flat(archive, tmp_path / "out", SMALL)


@pytest.mark.timeout(300)
def test_100_000_empty_files_take_little_memory(tmp_path: Path) -> None:
    """They are unpacked; one more would be too many."""
    archive = zipped(tmp_path / "a.zip", ((f"{number}.jpg", b"") for number in range(100_000)))
    folder = tmp_path / "out"
    folder.mkdir()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unpack_flat(archive, folder, Names(folder), Quota(folder), lambda _: None)
    assert sum(1 for _ in os.scandir(folder)) == 100_000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 150


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_memory_stays_small_however_large_a_member_is(name: str, tmp_path: Path) -> None:
    """32 MiB through a few."""
    archive = packed(tmp_path / name, [("a.jpg", bytes(32 * MIB))])
    folder = tmp_path / "out"
    folder.mkdir()
    tracemalloc.start()
    try:
        unpack_flat(archive, folder, Names(folder), Quota(folder), lambda _: None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (folder / "a.jpg").stat().st_size == 32 * MIB
    assert peak < 16 * MIB


def test_a_tar_header_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    """Python reads a name as long as the header says it is."""
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    archive = tmp_path / "a.tar"
    archive.write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(InputUnusable, match="header of a member is larger than any"):
        flat(archive, tmp_path / "out")


def test_an_encrypted_zip_is_told_with_what_to_do(tmp_path: Path) -> None:
    """Not by a stack trace."""
    archive = zipped(tmp_path / "a.zip", [("a.jpg", JPEG)])
    raw = bytearray(archive.read_bytes())
    raw[6] |= 1
    raw[raw.rindex(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(raw)
    with pytest.raises(InputUnusable, match=r"a\.zip is encrypted \('a\.jpg' needs a password\)\. Pack it without one"):
        flat(archive, tmp_path / "out")


def test_a_zip_packed_in_another_way_is_told(tmp_path: Path) -> None:
    """LZMA may ask for any amount of memory."""
    archive = zipped(tmp_path / "a.zip", [("a.jpg", JPEG)], zipfile.ZIP_LZMA)
    with pytest.raises(InputUnusable, match=r"packed with method 14.*Pack it with the usual one"):
        flat(archive, tmp_path / "out")


def test_a_zip_whose_directory_points_before_its_start_is_told(tmp_path: Path) -> None:
    """One changed byte in the end record moves every member by as much."""
    archive = zipped(tmp_path / "a.zip", [("a.jpg", JPEG)])
    raw = bytearray(archive.read_bytes())
    raw[raw.rindex(b"PK\x05\x06") + 17] += 1
    archive.write_bytes(raw)
    with pytest.raises(InputUnusable, match=r"Could not extract a\.zip: "):
        flat(archive, tmp_path / "out")


@pytest.mark.contract("5 seed")
@pytest.mark.parametrize("name", ARCHIVES)
def test_a_truncated_archive_is_told(name: str, tmp_path: Path) -> None:
    """Wherever it was cut off."""
    archive = packed(tmp_path / name, [("a.jpg", os.urandom(3000)), ("b.jpg", os.urandom(3000))])
    whole = archive.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.7):
        archive.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputUnusable, match=f"Could not extract {name}: .*pack it again and upload it anew"):
            flat(archive, tmp_path / f"out{share}")


def test_a_disk_that_is_too_small_is_no_fault_of_the_input(tmp_path: Path) -> None:
    """Another machine may have the room: the run is tried elsewhere."""
    archive = zipped(tmp_path / "a.zip", [("a.jpg", JPEG)])
    with pytest.raises(DiskTooSmall, match="Use a node with a larger disk"):
        flat(archive, tmp_path / "out", Bounds(disk_reserve=1 << 60))


def test_a_thousand_files_of_one_name_are_all_kept(tmp_path: Path) -> None:
    """Drones begin anew at DJI_0001 in every folder."""
    names = Names(tmp_path)
    claimed = [names.claim(f"{number}/DJI_0001.JPG") for number in range(1000)]
    assert len(set(claimed)) == 1000
    assert max(map(len, claimed)) < 30


# Fuzzing

NAMES = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="./\\ab:~", max_size=30),
    st.sampled_from(
        [*HOSTILE, "a" * 300, "a/b/a", "a", "A", ".", "..", "", "seed.zip", "x/.", "🚁.jpg", "con", "a\x00b"]
    ),
)
MEMBERS = st.lists(st.tuples(NAMES, st.binary(max_size=200)), max_size=6)
KINDS = st.sampled_from(["a.zip", "a.tar", "a.tar.gz"])


def hostile_archive(path: Path, members: list[tuple[str, bytes]], types: list[bytes], links: list[str]) -> Path:
    """An archive as no tool would write it: any names, and in tars any types."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, content in members:
                entry = zipfile.ZipInfo("x")
                entry.filename = name
                archive.writestr(entry, content)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w", errors="surrogateescape") as tar:
        for (name, content), kind, link in zip(members, types, links, strict=False):
            entry_of_tar = tarfile.TarInfo(name)
            entry_of_tar.type, entry_of_tar.linkname = kind, link
            entry_of_tar.size = len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(entry_of_tar, io.BytesIO(content))
    return path


TYPES = st.sampled_from([tarfile.REGTYPE] * 4 + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])


@given(
    kind=KINDS,
    members=MEMBERS,
    types=st.lists(TYPES, min_size=6, max_size=6),
    links=st.lists(st.sampled_from(["..", "/etc", "a", "../../.."]), min_size=6, max_size=6),
    tree=st.booleans(),
    damage=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=4),
)
@fuzzed(120)
@pytest.mark.timeout(TIMEOUT_S)
def test_any_archive_is_unpacked_inside_its_folder_or_refused(
    kind: str,
    members: list[tuple[str, bytes]],
    types: list[bytes],
    links: list[str],
    tree: bool,
    damage: list[tuple[int, int]],
) -> None:
    """Hostile names, types and damaged bytes: no crash, and no file outside."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        folder = root / "one" / "two"
        folder.mkdir(parents=True)
        try:
            archive = hostile_archive(root / kind, members, types, links)
        except (ValueError, UnicodeError):
            return  # no such archive can be written
        raw = bytearray(archive.read_bytes())
        for at, value in damage:
            raw[at % len(raw)] = value
        archive.write_bytes(raw)
        with contextlib.suppress(InputUnusable):
            if tree:
                unpack_tree(archive, folder, Quota(folder, SMALL), lambda _: None)
            else:
                unpack_flat(archive, folder, Names(folder), Quota(folder, SMALL), lambda _: None)
        files = [path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()]
        assert all(path == archive or (path.is_relative_to(folder) and path.is_file()) for path in files)
        assert not any(path.is_symlink() for path in files)


@given(
    name=KINDS, raw=st.binary(max_size=2000), lead=st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b\x08"])
)
@fuzzed(60)
@pytest.mark.timeout(TIMEOUT_S)
def test_any_bytes_are_no_archive_and_told_so(name: str, raw: bytes, lead: bytes) -> None:
    """Whatever lies there under an archive's name."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "out"
        folder.mkdir()
        archive = Path(place) / name
        archive.write_bytes(lead + raw)
        with pytest.raises(InputUnusable, match="Could not extract"):
            unpack_flat(archive, folder, Names(folder), Quota(folder, SMALL), lambda _: None)


@given(st.lists(NAMES, max_size=30))
@fuzzed(60)
@pytest.mark.timeout(TIMEOUT_S)
def test_any_names_are_given_names_of_their_own(paths: list[str]) -> None:
    """That a file system takes."""
    with tempfile.TemporaryDirectory() as place:
        names = Names(Path(place))
        claimed = [names.claim(path) for path in paths]
        assert len(set(claimed)) == len(paths)
        for name in claimed:
            assert name not in ("", ".", "..")
            assert "/" not in name
            assert len(name.encode("utf-8", "surrogatepass")) <= 255
