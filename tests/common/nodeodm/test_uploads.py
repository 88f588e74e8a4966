"""Forms are read in any chunks; broken ones leave nothing behind."""

from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.nodeodm.uploads import FileReceiver, FormUnreadable, MemoryInbox, StagedFile, read_form
from common.references import Reference
from common.storage import PART_BYTES, Storage

CONTENT_TYPE = 'multipart/form-data; boundary="xx"'


class Kept:
    """Keeps files in memory, and what became of them."""

    def __init__(self) -> None:
        self.whole: dict[str, bytes] = {}
        self.aborted: list[str] = []

    async def open(self, name: str) -> FileReceiver:
        """A receiver for one file."""
        return _Keeping(self, name)


class _Keeping:
    def __init__(self, kept: Kept, name: str) -> None:
        self._kept, self._name, self._data = kept, name, b""

    async def write(self, data: bytes | memoryview) -> None:
        self._data += data

    async def finish(self) -> None:
        self._kept.whole[self._name] = self._data

    async def abort(self) -> None:
        self._kept.aborted.append(self._name)


def form(fields: dict[str, str], files: dict[str, bytes], field: str = "images") -> bytes:
    """A multipart body."""
    parts = [
        f'--xx\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    parts += [
        f'--xx\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode() + data + b"\r\n"
        for name, data in files.items()
    ]
    return b"".join(parts) + b"--xx--\r\n"


async def chunked(body: bytes, size: int) -> AsyncIterator[bytes]:
    """The body in pieces."""
    for begin in range(0, len(body), size):
        yield body[begin : begin + size]


@given(
    size=st.integers(1, 200),
    data=st.binary(max_size=300),
    value=st.text(st.characters(codec="ascii", exclude_characters="\r\n-"), max_size=50),
)
async def test_chunks_make_no_difference(size: int, data: bytes, value: str) -> None:
    """Whatever the network does to a body, the same files and fields come out."""
    if b"\r\n--xx" in data:
        return
    kept = Kept()
    body = form({"name": value}, {"a.jpg": data, "b.jpg": b"--x\r\n"})
    fields = await read_form(chunked(body, size), CONTENT_TYPE, kept.open)
    assert fields == {"name": value}
    assert kept.whole == {"a.jpg": data, "b.jpg": b"--x\r\n"}


@pytest.mark.contract("2.10 broken off")
@given(st.integers(0, 400))
async def test_a_body_that_ends_early_keeps_only_whole_files(cut: int) -> None:
    """No partial file survives (contract 2.10)."""
    body = form({}, {"a.jpg": b"a" * 100, "b.jpg": b"b" * 100})
    kept = Kept()
    if cut >= len(body) - 2:
        return
    with pytest.raises(FormUnreadable, match="Unexpected end of multipart data"):
        await read_form(chunked(body[:cut], 50), CONTENT_TYPE, kept.open)
    assert all(len(data) == 100 for data in kept.whole.values())


async def test_a_client_that_hangs_up_leaves_no_open_file() -> None:
    """The receiver is told."""

    async def breaking() -> AsyncIterator[bytes]:
        yield form({}, {"a.jpg": b"a" * 100})[:120]
        raise ConnectionResetError

    kept = Kept()
    with pytest.raises(ConnectionResetError):
        await read_form(breaking(), CONTENT_TYPE, kept.open)
    assert (kept.whole, kept.aborted) == ({}, ["a.jpg"])


async def test_a_wrong_field_is_refused_and_the_rest_is_read() -> None:
    """A client that is still sending would not read the answer."""
    body = chunked(form({}, {"a.jpg": b"a" * 1000}, field="photos"), 100)
    with pytest.raises(FormUnreadable, match="Unexpected field"):
        await read_form(body, CONTENT_TYPE, Kept().open)
    assert [rest async for rest in body] == []


async def test_another_kind_of_body_has_no_fields() -> None:
    """Contract 2.9."""
    assert await read_form(chunked(b'{"name": "x"}', 5), "application/json", None) == {}


@pytest.mark.contract("2.10 twice")
@pytest.mark.parametrize("size", [10, PART_BYTES + 10])
async def test_files_are_staged_once_whatever_clients_do(storage: Storage, bucket: Reference, size: int) -> None:
    """Same name, other content: both. Same name, same content: one. Given up: none. Small and large alike."""
    inbox, prefix = MemoryInbox(), bucket / "images/"

    async def send(name: str, filling: bytes, whole: bool = True) -> None:
        staged = StagedFile(name, inbox, storage, prefix)
        await staged.write(filling * size)
        await (staged.finish() if whole else staged.abort())

    await send("a.jpg", b"1")
    await send("../a.jpg", b"2")
    await send("a.jpg", b"1")
    await send("a.jpg", b"2")
    await send("a.jpg", b"3", whole=False)
    names = {each.reference.name: each.size for each in storage.listing(prefix)}
    assert names == {"a.jpg": size, "a_.jpg": size}
    assert inbox.names() == ["a.jpg", "a_.jpg"]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
async def test_no_body_breaks_the_parser(body: bytes) -> None:
    """Fields, or a refusal."""
    try:
        await read_form(chunked(body, 7), CONTENT_TYPE, Kept().open)
    except FormUnreadable:
        return
