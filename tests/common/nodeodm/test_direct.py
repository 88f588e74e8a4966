"""Announced files: what may be announced, and what becomes of it on both S3 servers."""

from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.embedded.object_store import ObjectStore
from common.nodeodm import direct
from common.nodeodm.direct import (
    MOST_AT_ONCE,
    MOST_PARTS,
    DirectUploads,
    Wanted,
    announcements,
    part_sizes,
    wanted_files,
)
from common.nodeodm.refusals import Refused
from common.nodeodm.surface import OpenUpload
from common.nodeodm.uploads import MemoryInbox
from common.references import Reference
from common.storage import Storage, StorageFault
from tests.matrix.proxy import Proxy

MIB = 1 << 20


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of the least size that S3 takes: tests need not send more."""
    monkeypatch.setattr(direct, "LARGEST_PUT_BYTES", 5 * MIB)
    monkeypatch.setattr(direct, "SMALLEST_PART_BYTES", 5 * MIB)


@pytest.fixture
def opened(bucket: Reference) -> OpenUpload:
    """An upload that is open."""
    return OpenUpload(MemoryInbox(), bucket / "uuid/images/")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (None, 'Expected {"files"'),
        ([], 'Expected {"files"'),
        (["a.jpg"], "files[0] is no object"),
        ([{"size": 1}], "files[0].name must be"),
        ([{"name": "a" * 2000, "size": 1}], "files[0].name must be"),
        ([{"name": "\ud83d.jpg", "size": 1}], "half a character"),
        ([{"name": "a.jpg"}], "files[0].size must be"),
        ([{"name": "a.jpg", "size": -1}], "files[0].size must be"),
        ([{"name": "a.jpg", "size": True}], "files[0].size must be"),
        ([{"name": "a.jpg", "size": 1.5}], "files[0].size must be"),
        ([{"name": "a.jpg", "size": 2**60}], "files[0].size must be"),
        ([{"name": "a.jpg", "size": 1, "type": "text/html\r\nx: y"}], "files[0].type must be"),
        ([{"name": "a.jpg", "size": 1, "type": 7}], "files[0].type must be"),
        ([{"name": "a.jpg", "size": 1}] * (MOST_AT_ONCE + 1), "at most 1000 at once"),
        ([{"name": "a.jpg", "size": 2**39}] * 9, "ask for fewer files at once"),
    ],
)
def test_what_cannot_be_announced_is_refused_in_words(files: object, told: str) -> None:
    """The field, and what it must be."""
    with pytest.raises(Refused) as refused:
        wanted_files({"files": files})
    assert told in str(refused.value)


@given(st.integers(direct.LARGEST_PUT_BYTES + 1, direct.MOST_FILE_BYTES))
def test_parts_make_up_the_file_and_s3_takes_each(size: int) -> None:
    """At least 5 MiB but for the last, at most 5 GiB, and no more than our own number of links."""
    parts = part_sizes(size)
    assert sum(parts) == size
    assert len(parts) <= MOST_PARTS
    assert len(set(parts[:-1])) <= 1
    assert 5 * MIB <= parts[0] <= 5 * 1024**3
    assert 0 < parts[-1] <= parts[0]


def put(url: object, content: bytes, kind: str | None = None) -> int:
    """Send a file or part; the status that S3 answers."""
    headers = {"Content-Type": kind} if kind else {}
    return httpx.put(str(url), content=content, headers=headers, timeout=30).status_code


@pytest.mark.usefixtures("small_parts")
async def test_a_file_in_parts_is_completed_by_the_commit(storage: Storage, opened: OpenUpload) -> None:
    """No client needs `complete`; and the announcement is gone afterwards."""
    uploads = DirectUploads(storage)
    content = b"1" * (5 * MIB) + b"2" * (5 * MIB) + b"3"
    (entry,) = await uploads.announce(opened, [Wanted("a.tif", len(content), "image/tiff")], None)
    parts = entry["parts"]
    assert isinstance(parts, list)
    for part in reversed(parts):
        with pytest.raises(Refused, match=r"1 announced file is not here yet: a\.tif\."):
            await uploads.settle(opened)
        assert put(part["url"], content[part["offset"] : part["offset"] + part["size"]]) == 200
    assert await uploads.settle(opened)
    assert await uploads.settle(opened), "again, as after a lost answer"
    await uploads.forget(opened)
    assert announcements(storage, opened.prefix) == {}
    assert storage.read(opened.prefix / "a.tif") == content
    assert not await uploads.settle(opened)


@pytest.mark.usefixtures("small_parts")
async def test_an_upload_in_parts_that_s3_has_forgotten_begins_anew(storage: Storage, opened: OpenUpload) -> None:
    """Servers may abort them by age, or lose them in a restart."""
    uploads, wanted = DirectUploads(storage), [Wanted("a.tif", 5 * MIB + 1, "image/tiff")]
    await uploads.announce(opened, wanted, None)
    storage.abort_left_uploads(opened.prefix)
    with pytest.raises(Refused, match="not here yet"):
        await uploads.settle(opened)
    (entry,) = await uploads.announce(opened, wanted, None)
    assert entry["name"] == "a.tif"
    parts = entry["parts"]
    assert isinstance(parts, list)
    for part in parts:
        assert put(part["url"], bytes(part["size"])) == 200
    assert await uploads.complete(opened, ["a.tif"]) == [{"name": "a.tif", "stored": True, "missingParts": []}]
    await uploads.forget(opened)
    assert list(storage.unfinished(opened.prefix)) == []


async def test_a_file_of_another_size_is_not_what_was_announced(storage: Storage, opened: OpenUpload) -> None:
    """However it came there: a server that does not check sizes, or a file that was cut short."""
    uploads = DirectUploads(storage)
    await uploads.announce(opened, [Wanted("a.jpg", 10, "image/jpeg")], None)
    storage.write(opened.prefix / "a.jpg", b"short")
    with pytest.raises(Refused, match=r"a\.jpg \(5 bytes of 10\)"):
        await uploads.settle(opened)


async def test_many_missing_files_are_counted_and_a_few_named(storage: Storage, opened: OpenUpload) -> None:
    """An error text that people can read."""
    uploads = DirectUploads(storage)
    await uploads.announce(opened, [Wanted(f"{number:03}.jpg", 1, "image/jpeg") for number in range(30)], None)
    with pytest.raises(Refused, match=r"30 announced files are not here yet: 000\.jpg, .*, 009\.jpg and 20 more"):
        await uploads.settle(opened)


async def test_a_name_is_free_again_when_announcing_fails(
    storage: Storage, opened: OpenUpload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 goes away between the name and the record: the client's next try gets the name."""
    uploads, wanted = DirectUploads(storage), [Wanted("a.jpg", 1, "image/jpeg")]
    with monkeypatch.context() as patched:
        patched.setattr(storage, "write", _broken)
        with pytest.raises(StorageFault):
            await uploads.announce(opened, wanted, None)
    (entry,) = await uploads.announce(opened, wanted, None)
    assert entry["name"] == "a.jpg"


def _broken(*_: object) -> None:
    raise StorageFault("gone")


@pytest.fixture
def public(rclone: ObjectStore) -> Iterator[str]:
    """Another address of the same S3."""
    with Proxy(lambda: rclone.url) as proxy:
        yield proxy.url


async def test_links_are_made_for_the_public_address(rclone: ObjectStore, public: str) -> None:
    """A signature is valid for the host that it was made for: `SCALEODM_S3_PUBLIC_ENDPOINT_URL`."""
    storage = rclone.storage(public)
    opened = OpenUpload(MemoryInbox(), Reference.parse("s3://staging/public/images/"))
    (entry,) = await DirectUploads(storage).announce(opened, [Wanted("a.jpg", 3, "image/jpeg")], None)
    link = entry["put"]
    assert isinstance(link, dict)
    assert link["url"].startswith(public + "/")
    assert put(link["url"], b"abc", "image/jpeg") == 200
    assert put(link["url"].replace(public, rclone.url), b"abc", "image/jpeg") == 403
    assert storage.read(opened.prefix / "a.jpg") == b"abc"
